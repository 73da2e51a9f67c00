"""The offline store beside Feast's own DuckDB store on the same files, and beside the definition: every row the same.

Sources are one Parquet file or several whose rows and times overlap in any order, and for ours Delta tables of as many
commits; the stock store reads Delta by an extension that it would download.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import polars as pl
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.data_format import DeltaFormat, ParquetFormat
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = [pytest.mark.timeout(400), pytest.mark.filterwarnings("ignore")]

T0 = datetime(2024, 5, 1, tzinfo=UTC)
UTC_TIME = pl.Datetime("us", "UTC")
OURS = {"type": "ml_platform.stores.asof_store.AsOfOfflineStore", "step_rows": 3, "history_rows": 2}
STOCK = {"type": "duckdb"}

ticks = st.sampled_from([-2, -1, 0, 1, 2, 59_999_999, 60_000_000, 60_000_001, 119_999_999, 120_000_000, 120_000_001])
"""Microseconds around moments that TTLs of a minute or two reach exactly."""

sites, units = st.sampled_from(["x"] * 6 + ["y", None]), st.sampled_from([1] * 6 + [2, None])
"""Mostly the same: rows that never meet say nothing of a join."""

known = st.lists(
    st.tuples(sites, units, ticks, st.one_of(st.none(), ticks), st.one_of(st.none(), st.floats(-1, 1))),
    max_size=14,
    unique_by=lambda row: row[:4],
)
ages = st.sampled_from([0, -1, 1, 59_999_999, 60_000_000, 60_000_001, 119_999_999, 120_000_000, 120_000_001])
asked = st.lists(st.tuples(st.integers(0, 13), ages, st.sampled_from([False] * 7 + [True])), min_size=1, max_size=10)
"""Rows of an entity frame: the feature row whose keys they have, how much later they ask, whether nobody knows them."""

forms = st.sampled_from(["parquet", "delta"])
ttls = st.sampled_from([timedelta(0), timedelta(minutes=1), timedelta(minutes=2)])


def store(folder: Path, offline: dict[str, Any]) -> FeatureStore:
    config = RepoConfig(
        project="both",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store=offline,
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    return FeatureStore(config=config)


def frames(rows: list[tuple[Any, ...]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of two views: by site and unit with created timestamps, and by unit alone without."""
    schema = {"site": pl.String, "unit": pl.Int64, "ts": UTC_TIME, "made": UTC_TIME, "value": pl.Float64}
    moments = [
        (site, unit, T0 + _us(ts), None if made is None else T0 + _us(made), value)
        for site, unit, ts, made, value in rows
    ]
    frame = pl.DataFrame(moments, schema=schema, orient="row")
    return frame, frame.unique(["unit", "ts"], maintain_order=True).select("unit", "ts", size="value")


def questions(rows: list[tuple[Any, ...]], asking: list[tuple[int, int, bool]]) -> list[dict[str, Any]]:
    """Entity rows, as ``asked`` describes them."""
    found = []
    for number, age, unknown in asking:
        site, unit, moment, *_ = rows[number % len(rows)] if rows else ("x", 1, 0)
        at = T0 + _us(moment) + _us(age)
        found.append({"site": "nobody" if unknown else site, "unit": unit, "event_timestamp": at})
    return found


def written(place: Path, frame: pl.DataFrame, parts: int, form: str) -> FileSource:
    """A source of these rows in so many files or commits, each row in the one that its place says."""
    about = {"timestamp_field": "ts", "created_timestamp_column": "made" if "made" in frame.columns else ""}
    split = [frame.gather_every(parts, offset) for offset in reversed(range(parts))]
    if form == "delta":
        for part in split:
            write_deltalake(place, part, mode="append")
        return FileSource(path=str(place), file_format=DeltaFormat(), **about)
    if parts == 1:
        frame.write_parquet(place.with_suffix(".parquet"))
        return FileSource(path=str(place.with_suffix(".parquet")), **about)
    for number, part in enumerate(split):
        part.write_parquet(place / f"{number}.parquet", mkdir=True)
    # The stock store takes a pattern, and no folder.
    return FileSource(path=f"{place}/*.parquet", file_format=ParquetFormat(), **about)


def defined(
    known: pl.DataFrame, keys: tuple[str, ...], value: str, asking: dict[str, Any], ttl: timedelta, bounds: bool
) -> set[Any]:
    """The values that may be the answer: those of the newest row known by then, or of rows that are as new."""
    best: tuple[Any, ...] | None = None
    found: set[Any] = set()
    for row in known.iter_rows(named=True):
        made, at = row.get("made"), asking["event_timestamp"]
        if any(asking[key] is None or row[key] != asking[key] for key in keys):
            continue
        if row["ts"] > at or (ttl and row["ts"] + ttl < at):
            continue
        if bounds and "made" in row and (made is None or made > at):
            continue
        rank = (row["ts"], made is not None, made)
        if best is None or rank[:2] > best[:2] or (rank[:2] == best[:2] and rank[1] and rank[2] > best[2]):
            best, found = rank, set()
        if rank == best:
            found.add(row[value])
    return found or {None}


def _us(ticks: int) -> timedelta:
    return timedelta(microseconds=ticks)


def answers(job: Any) -> list[tuple[Any, ...]]:
    found = pl.from_arrow(job.to_arrow())
    assert isinstance(found, pl.DataFrame)
    return found.select("row", "value", "size").sort("row").rows()


@settings(max_examples=60, deadline=None)
@given(rows=known, entities=asked, ttl=ttls, bounds=st.booleans(), parts=st.sampled_from([1, 2, 3]), form=forms)
def test_every_row_is_as_the_stock_store_and_the_definition_have_it(
    rows: list[tuple[Any, ...]],
    entities: list[tuple[int, int, bool]],
    ttl: timedelta,
    bounds: bool,
    parts: int,
    form: str,
) -> None:
    site = Entity(name="site", join_keys=["site"], value_type=ValueType.STRING)
    unit = Entity(name="unit", join_keys=["unit"], value_type=ValueType.INT64)
    site_key, unit_key = Field(name="site", dtype=String), Field(name="unit", dtype=Int64)
    asking = questions(rows, entities)
    frame = pd.DataFrame(
        {
            "row": range(len(asking)),
            "site": pd.array([row["site"] for row in asking], dtype="string"),
            "unit": pd.array([row["unit"] for row in asking], dtype="Int64"),
            "event_timestamp": pd.to_datetime([row["event_timestamp"] for row in asking], utc=True),
        }
    )
    pairs, units_ = frames(rows)
    found = {}
    with TemporaryDirectory() as folder:
        by_pair = written(Path(folder) / "pairs", pairs, parts, form)
        by_unit = written(Path(folder) / "units", units_, parts, form)
        for name, offline in (("ours", OURS), *([] if form == "delta" else [("stock", STOCK)])):
            (Path(folder) / name).mkdir()
            made = store(Path(folder) / name, offline)
            both = [
                FeatureView(
                    name="pairs",
                    entities=[site, unit],
                    ttl=ttl,
                    schema=[site_key, unit_key, Field(name="value", dtype=Float64)],
                    source=by_pair,
                ),
                FeatureView(
                    name="units",
                    entities=[unit],
                    ttl=ttl,
                    schema=[unit_key, Field(name="size", dtype=Float64)],
                    source=by_unit,
                ),
            ]
            made.apply([site, unit, *both])
            job = made.get_historical_features(frame, ["pairs:value", "units:size"], filter_by_created_timestamp=bounds)
            found[name] = answers(job)
    assert found["ours"] == found.get("stock", found["ours"])
    for (number, value, size), row in zip(found["ours"], asking, strict=True):
        assert value in defined(pairs, ("site", "unit"), "value", row, ttl, bounds), number
        assert size in defined(units_, ("unit",), "size", row, ttl, bounds), number
