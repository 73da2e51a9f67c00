"""The offline store beside Feast's own DuckDB store, on the same files: every row the same."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import polars as pl
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
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

sites, units = st.sampled_from(["x", "y", None]), st.sampled_from([1, 2, None])
known = st.lists(
    st.tuples(sites, units, ticks, st.one_of(st.none(), ticks), st.one_of(st.none(), st.floats(-1, 1))),
    max_size=14,
    unique_by=lambda row: row[:4],
)
asked = st.lists(st.tuples(sites, units, ticks), min_size=1, max_size=10)
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


def written(folder: Path, rows: list[tuple[Any, ...]]) -> tuple[FileSource, FileSource]:
    """Sources of two views: by site and unit with created timestamps, and by unit alone without."""
    schema = {"site": pl.String, "unit": pl.Int64, "ts": UTC_TIME, "made": UTC_TIME, "value": pl.Float64}
    moments = [
        (site, unit, T0 + _us(ts), None if made is None else T0 + _us(made), value)
        for site, unit, ts, made, value in rows
    ]
    frame = pl.DataFrame(moments, schema=schema, orient="row")
    frame.write_parquet(folder / "pairs.parquet")
    by_unit = frame.unique(["unit", "ts"], maintain_order=True).select("unit", "ts", size="value")
    by_unit.write_parquet(folder / "units.parquet")
    return (
        FileSource(path=str(folder / "pairs.parquet"), timestamp_field="ts", created_timestamp_column="made"),
        FileSource(path=str(folder / "units.parquet"), timestamp_field="ts"),
    )


def _us(ticks: int) -> timedelta:
    return timedelta(microseconds=ticks)


def answers(job: Any) -> list[tuple[Any, ...]]:
    found = pl.from_arrow(job.to_arrow())
    assert isinstance(found, pl.DataFrame)
    return found.select("row", "value", "size").sort("row").rows()


@settings(max_examples=40, deadline=None)
@given(rows=known, entities=asked, ttl=ttls, bounds=st.booleans())
def test_every_row_is_as_the_stock_store_has_it(
    rows: list[tuple[Any, ...]], entities: list[tuple[Any, ...]], ttl: timedelta, bounds: bool
) -> None:
    site = Entity(name="site", join_keys=["site"], value_type=ValueType.STRING)
    unit = Entity(name="unit", join_keys=["unit"], value_type=ValueType.INT64)
    site_key, unit_key = Field(name="site", dtype=String), Field(name="unit", dtype=Int64)
    frame = pd.DataFrame(
        {
            "row": range(len(entities)),
            "site": pd.array([site for site, _, _ in entities], dtype="string"),
            "unit": pd.array([unit for _, unit, _ in entities], dtype="Int64"),
            "event_timestamp": pd.to_datetime([T0 + _us(moment) for _, _, moment in entities], utc=True),
        }
    )
    found = []
    with TemporaryDirectory() as folder:
        pairs, units_ = written(Path(folder), rows)
        for name, offline in (("ours", OURS), ("stock", STOCK)):
            (Path(folder) / name).mkdir()
            made = store(Path(folder) / name, offline)
            both = [
                FeatureView(
                    name="pairs",
                    entities=[site, unit],
                    ttl=ttl,
                    schema=[site_key, unit_key, Field(name="value", dtype=Float64)],
                    source=pairs,
                ),
                FeatureView(
                    name="units",
                    entities=[unit],
                    ttl=ttl,
                    schema=[unit_key, Field(name="size", dtype=Float64)],
                    source=units_,
                ),
            ]
            made.apply([site, unit, *both])
            job = made.get_historical_features(frame, ["pairs:value", "units:size"], filter_by_created_timestamp=bounds)
            found.append(answers(job))
    assert found[0] == found[1]
