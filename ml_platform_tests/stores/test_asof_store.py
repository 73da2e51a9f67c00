"""The offline store in Feast projects that know nothing of the platform: Parquet and Delta, every kind of question."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from feast import (
    BigQuerySource,
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
)
from feast.data_format import DeltaFormat, ParquetFormat
from feast.errors import FeastEntityDFMissingColumnsError, SavedDatasetLocationAlreadyExists
from feast.feature_logging import LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.repo_config import RepoConfig
from feast.types import Array, Bool, Bytes, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from ml_platform.stores import asof_sources as sources
from ml_platform.stores.lake import Lake
from ml_platform.stores.sql import RefusedQueryError

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]

T0 = datetime(2024, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)

STATS = pl.DataFrame(
    {
        "driver": [1, 1, 1, 2, 2, 3],
        "ts": [T0, T0 + DAY, T0 + DAY, T0, T0 + 3 * DAY, T0 + 2 * DAY],
        "made": [T0, T0 + DAY, T0 + 2 * DAY, T0, T0 + 3 * DAY, T0 + 2 * DAY],
        "rate": [0.1, 0.2, 0.25, 0.5, None, 0.7],
        "trips": [1, 2, 3, 4, 5, 6],
    },
    schema_overrides={"ts": pl.Datetime("us", "UTC"), "made": pl.Datetime("us", "UTC")},
)
ASKED = pd.DataFrame(
    {
        "driver": [3, 1, 1, 2, 9, 1, 1],
        "event_timestamp": [T0 + 5 * DAY, T0 + DAY, T0 + 4 * DAY, T0 + 3 * DAY, T0 + DAY, T0 + DAY, T0 - DAY],
        "note": list("abcdefg"),
    }
)
RATES = [0.7, 0.25, 0.25, None, None, 0.25, None]
FORMATS = ("file", "folder", "delta")


def stored(frame: pl.DataFrame, place: Path, form: str, **about: Any) -> FileSource:
    """A source of these rows."""
    about = {"timestamp_field": "ts", "created_timestamp_column": "made", **about}
    if form == "delta":
        write_deltalake(str(place), frame)
        return FileSource(path=str(place), file_format=DeltaFormat(), **about)
    if form == "folder":
        place.mkdir()
        half = frame.height // 2
        frame.head(half).write_parquet(place / "one.parquet")
        frame.slice(half).write_parquet(place / "two.parquet")
        return FileSource(path=str(place), file_format=ParquetFormat(), **about)
    file = place.with_suffix(".parquet")
    frame.write_parquet(file)
    return FileSource(path=str(file), **about)


def project(folder: Path, **offline: Any) -> FeatureStore:
    """An empty Feast project with the store as its one line says."""
    config = RepoConfig(
        project="plain",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "ml_platform.stores.asof_store.AsOfOfflineStore", **offline},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    return FeatureStore(config=config)


DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)


def stats_view(source: FileSource | PushSource, ttl: timedelta = timedelta(0), **more: Any) -> FeatureView:
    return FeatureView(
        name="stats",
        entities=[DRIVER],
        ttl=ttl,
        schema=[Field(name="driver", dtype=Int64), Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int64)],
        source=source,
        **more,
    )


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path, form: str) -> FeatureStore:
    made = project(tmp_path)
    made.apply([DRIVER, stats_view(stored(STATS, tmp_path / "stats", form))])
    return made


def asked(store: FeatureStore, entities: Any = ASKED, features: Any = ("stats:rate",), **how: Any) -> pl.DataFrame:
    features = list(features) if isinstance(features, Sequence) else features
    return pl.from_arrow(store.get_historical_features(entities, features, **how).to_arrow())  # type: ignore[return-value]


def test_each_row_keeps_its_place_and_gets_what_was_known(store: FeatureStore) -> None:
    found = asked(store)
    assert found["note"].to_list() == list("abcdefg")
    assert found["rate"].to_list() == RATES


def test_what_was_written_later_is_not_known_where_that_counts(store: FeatureStore) -> None:
    found = asked(store, filter_by_created_timestamp=True)
    assert found["rate"].to_list() == [0.7, 0.2, 0.25, None, None, 0.2, None]


def test_a_few_rows_at_a_time_come_to_the_same(tmp_path: Path, form: str) -> None:
    source = stored(STATS, tmp_path / "stats", form)
    for rows in (1, 2, 100):
        (tmp_path / str(rows)).mkdir()
        store = project(tmp_path / str(rows), step_rows=rows)
        store.apply([DRIVER, stats_view(source)])
        assert asked(store)["rate"].to_list() == RATES


def test_a_row_counts_up_to_the_last_microsecond_of_its_ttl(tmp_path: Path, form: str) -> None:
    store = project(tmp_path)
    store.apply([DRIVER, stats_view(stored(STATS, tmp_path / "stats", form), ttl=DAY)])
    edge = T0 + 3 * DAY
    moments = [edge, edge + timedelta(microseconds=1), T0 + 2 * DAY - timedelta(microseconds=1)]
    found = asked(store, pd.DataFrame({"driver": [3, 3, 3], "event_timestamp": moments}))
    assert found["rate"].to_list() == [0.7, None, None]


@pytest.mark.parametrize(
    "given",
    [
        lambda frame, _: pa.Table.from_pandas(frame),
        lambda frame, _: pl.from_pandas(frame),
        lambda frame, folder: (
            pl.from_pandas(frame).write_parquet(folder / "asked.parquet")
            or f"SELECT * FROM '{folder}/asked.parquet' ORDER BY note"
        ),
    ],
    ids=["Arrow", "polars", "SQL"],
)
def test_an_entity_frame_may_be_arrow_polars_or_sql(
    tmp_path: Path, store: FeatureStore, given: Callable[[pd.DataFrame, Path], Any]
) -> None:
    assert asked(store, given(ASKED, tmp_path))["rate"].to_list() == RATES


@pytest.mark.parametrize(
    ("dtype", "values", "arrow", "pandas"),
    [
        (Array(Int64), [[1, 2], []], "list<item: int64>", "object"),
        (Array(String), [["a"], ["b", "c"]], "list<item: string>", "object"),
        (String, ["a", "b"], "string", "object"),
        (Bytes, [b"a", b"b"], "binary", "object"),
        (Int32, [1, 2], "int32", "int32"),
        (Bool, [True, False], "bool", "bool"),
        (UnixTimestamp, [T0, T0], "timestamp[us, tz=UTC]", "datetime64[us, UTC]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answers_have_the_types_that_other_stores_answer_in(
    tmp_path: Path, dtype: Any, values: list[Any], arrow: str, pandas: str
) -> None:
    rows = pl.DataFrame(
        {"driver": [1, 2], "ts": [T0, T0], "value": values}, schema_overrides={"ts": pl.Datetime("us", "UTC")}
    )
    if dtype is Int32:
        rows = rows.with_columns(pl.col("value").cast(pl.Int32))
    rows.write_parquet(tmp_path / "rows.parquet")
    store = project(tmp_path)
    view = FeatureView(
        name="typed",
        entities=[DRIVER],
        schema=[Field(name="driver", dtype=Int64), Field(name="value", dtype=dtype)],
        source=FileSource(path=str(tmp_path / "rows.parquet"), timestamp_field="ts"),
    )
    store.apply([DRIVER, view])
    job = store.get_historical_features(
        pd.DataFrame({"driver": [2, 1], "event_timestamp": [T0, T0], "note": ["x", "y"]}), ["typed:value"]
    )
    assert str(job.to_arrow().schema.field("value").type) == arrow
    assert str(job.to_arrow().schema.field("note").type) == "string"
    assert str(job.to_df().dtypes["value"]) == pandas
    assert job.to_arrow()["value"].to_pylist() == values[::-1]


def test_texts_are_usual_ones_inside_of_other_types_too(tmp_path: Path) -> None:
    types = {
        "map": (pa.map_(pa.string(), pa.list_(pa.string())), [[("a", ["x"])], []]),
        "category": (pa.dictionary(pa.int8(), pa.string()), ["a", "b"]),
        "pair": (pa.list_(pa.string(), 2), [["a", "b"], ["c", "d"]]),
        "parts": (pa.struct({"of": pa.map_(pa.string(), pa.binary())}), [{"of": [("a", b"x")]}, None]),
    }
    columns = {name: pa.array(values, dtype) for name, (dtype, values) in types.items()}
    rows = pa.table({"driver": [1, 2], "ts": pa.array([T0, T0], pa.timestamp("us", "UTC")), **columns})
    pq.write_table(rows, tmp_path / "rows.parquet")
    store = project(tmp_path)
    source = FileSource(path=str(tmp_path / "rows.parquet"), timestamp_field="ts")
    found = store.provider.offline_store.pull_all_from_table_or_query(
        store.config, source, ["driver"], list(types), "ts"
    ).to_arrow()
    assert "large" not in str(found.schema)
    assert {name: found[name].to_pylist() for name in types} == {name: values for name, (_, values) in types.items()}


def test_a_feature_that_a_view_has_not_is_a_key_error(store: FeatureStore) -> None:
    with pytest.raises(KeyError):
        asked(store, ASKED, ["stats:absent"])


def test_sql_that_does_more_than_read_is_refused(tmp_path: Path, store: FeatureStore) -> None:
    out = tmp_path / "out.csv"
    for statement in (f"COPY (SELECT 1) TO '{out}'", "SELECT 1; SELECT 2", "CREATE TABLE t AS SELECT 1"):
        with pytest.raises(RefusedQueryError):
            asked(store, statement)
    assert not out.exists()


@pytest.mark.parametrize(
    ("table", "extension"),
    [
        ("'s3://bucket/asked.parquet'", "httpfs"),
        ("'az://box/asked.parquet'", "azure"),
        ("delta_scan('asked')", "delta"),
    ],
)
def test_sql_over_what_duckdb_cannot_read_says_what_to_give(store: FeatureStore, table: str, extension: str) -> None:
    with pytest.raises(RefusedQueryError, match=rf"extension '{extension}', .* polars\.scan_delta\(\.\.\.\)\.collect"):
        asked(store, f"SELECT * FROM {table}")


def test_a_version_of_a_source_that_has_none_is_an_error(tmp_path: Path) -> None:
    store = project(tmp_path)
    source = stored(STATS, tmp_path / "stats", "file")
    store.apply([DRIVER, stats_view(source, ttl=DAY)])
    store.config.offline_store.versions = {source.path: 3}
    with pytest.raises(ValueError, match="`versions` is for Delta tables"):
        asked(store, ASKED)


@pytest.mark.parametrize(
    "change",
    [
        lambda moments: moments.dt.tz_convert("America/New_York"),
        lambda moments: moments.dt.tz_convert("+05:30"),
        lambda moments: moments.dt.tz_localize(None),
        lambda moments: moments.dt.tz_localize(None).astype("datetime64[ns]"),
        lambda moments: moments.dt.strftime("%Y-%m-%dT%H:%M:%S+00:00"),
    ],
    ids=["another zone", "a fixed offset", "no zone is UTC", "nanoseconds", "text"],
)
def test_moments_come_in_every_form(store: FeatureStore, change: Callable[[Any], Any]) -> None:
    frame = ASKED.assign(event_timestamp=change(pd.to_datetime(ASKED["event_timestamp"], utc=True)))
    assert asked(store, frame)["rate"].to_list() == RATES


@pytest.mark.parametrize(
    "dtype",
    [pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("us", "Asia/Tokyo"), pl.String],
    ids=["milliseconds", "nanoseconds", "another zone", "text"],
)
def test_sources_keep_moments_in_every_form(tmp_path: Path, dtype: Any) -> None:
    times = pl.col("ts", "made")
    if dtype == pl.String:
        times = times.dt.to_string("iso:strict")
    elif dtype.time_zone:
        times = times.dt.convert_time_zone(dtype.time_zone)
    else:
        times = times.dt.replace_time_zone(None).cast(dtype)
    store = project(tmp_path)
    store.apply([DRIVER, stats_view(stored(STATS.with_columns(times), tmp_path / "stats", "file"))])
    assert asked(store)["rate"].to_list() == RATES


@pytest.mark.parametrize("offset", ["+05:30", "-0800"])
@pytest.mark.parametrize("many", [False, True], ids=["file", "folder"])
def test_moments_at_a_fixed_offset_are_moments(tmp_path: Path, many: bool, offset: str) -> None:
    table, place = STATS.to_arrow(compat_level=pl.CompatLevel.oldest()), tmp_path / "stats.parquet"
    for name in ("ts", "made"):
        column = table[name].cast(pa.timestamp("us", offset))
        table = table.set_column(table.schema.get_field_index(name), name, column)
    if many:
        place.mkdir()
        pq.write_table(table.slice(0, 3), place / "one.parquet")
        pq.write_table(table.slice(3), place / "two.parquet")
    else:
        pq.write_table(table, place)
    store = project(tmp_path)
    source = FileSource(path=str(place), timestamp_field="ts", created_timestamp_column="made")
    store.apply([DRIVER, stats_view(source)])
    assert asked(store)["rate"].to_list() == RATES
    assert asked(store, filter_by_created_timestamp=True)["rate"].to_list() == [0.7, 0.2, 0.25, None, None, 0.2, None]
    store.materialize(T0, T0 + 9 * DAY)
    assert store.get_online_features(["stats:rate"], [{"driver": 1}]).to_dict()["rate"] == [0.25]
    moments = pa.array(ASKED["event_timestamp"]).cast(pa.timestamp("us", offset))
    frame = pa.Table.from_pandas(ASKED)
    frame = frame.set_column(frame.schema.get_field_index("event_timestamp"), "event_timestamp", moments)
    assert asked(store, frame)["rate"].to_list() == RATES


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_row_counts_from_its_own_tick_in_every_unit(tmp_path: Path, unit: Any) -> None:
    rows = STATS.with_columns(pl.col("ts", "made").cast(pl.Datetime(unit, "UTC")))
    store, tick = project(tmp_path), timedelta(microseconds=1)
    store.apply([DRIVER, stats_view(stored(rows, tmp_path / "stats", "file"), ttl=DAY)])
    newest = T0 + 2 * DAY
    for moment, rate in (
        (newest - tick, None),
        (newest, 0.7),
        (newest + tick, 0.7),
        (newest + DAY, 0.7),
        (newest + DAY + tick, None),
    ):
        assert asked(store, pd.DataFrame({"driver": [3], "event_timestamp": [moment]}))["rate"].to_list() == [rate]


def test_no_moment_at_all_is_asked_of_a_source_in_any_zone(tmp_path: Path) -> None:
    rows = STATS.with_columns(pl.col("ts").dt.convert_time_zone("America/New_York"))
    store = project(tmp_path)
    store.apply([DRIVER, stats_view(stored(rows, tmp_path / "stats", "file"))])
    assert asked(store, pl.from_pandas(ASKED).clear()).height == 0


def test_a_moment_or_key_that_is_missing_matches_nothing(store: FeatureStore) -> None:
    frame = pl.from_pandas(ASKED).with_columns(
        driver=pl.when(pl.col("note") == "a").then(None).otherwise("driver"),
        event_timestamp=pl.when(pl.col("note") == "b").then(None).otherwise("event_timestamp"),
    )
    assert asked(store, frame)["rate"].to_list() == [None, None, *RATES[2:]]


@pytest.mark.parametrize("dtype", ["int8", "uint64", "float64"])
def test_integer_keys_are_compared_as_numbers(store: FeatureStore, dtype: str) -> None:
    assert asked(store, ASKED.astype({"driver": dtype}))["rate"].to_list() == RATES


def test_keys_that_cannot_be_compared_are_refused(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="join key 'driver' of view 'stats' is String in the entity frame and Int64"):
        asked(store, ASKED.astype({"driver": "string"}))
    with pytest.raises(ValueError, match="join key 'driver' is an integer in the source, and has fractions"):
        asked(store, ASKED.assign(driver=1.5))


@pytest.mark.parametrize(
    "keys",
    [["x", "y", "x"], [b"x", b"y", b"x"], pd.Categorical(["x", "y", "x"])],
    ids=["text", "bytes", "categories"],
)
def test_composite_keys_of_text_and_bytes(tmp_path: Path, keys: Any) -> None:
    binary = isinstance(keys, list) and isinstance(keys[0], bytes)
    rows = pl.DataFrame({"site": [b"x", b"x", b"y"] if binary else ["x", "x", "y"], "unit": [1, 2, 1], "ts": [T0] * 3})
    rows = rows.with_columns(value=pl.Series([10, 20, 30]))
    site = Entity(name="site", join_keys=["site"], value_type=ValueType.BYTES if binary else ValueType.STRING)
    unit = Entity(name="unit", join_keys=["unit"], value_type=ValueType.INT64)
    source = stored(rows, tmp_path / "units", "file", created_timestamp_column="")
    store = project(tmp_path)
    view = FeatureView(name="units", entities=[site, unit], schema=[Field(name="value", dtype=Int64)], source=source)
    store.apply([site, unit, view])
    frame = pd.DataFrame({"site": keys, "unit": [2, 1, 3], "event_timestamp": [T0 + DAY] * 3})
    assert asked(store, frame, ["units:value"])["value"].to_list() == [20, 30, None]


def test_views_are_joined_under_other_names_and_keys(tmp_path: Path, form: str) -> None:
    source = stored(STATS.rename({"rate": "raw_rate"}), tmp_path / "stats", form, field_mapping={"raw_rate": "rate"})
    store, view = project(tmp_path), stats_view(source)

    @on_demand_feature_view(
        sources=[view, RequestSource(name="asking", schema=[Field(name="factor", dtype=Int64)])],
        schema=[Field(name="scaled", dtype=Float64)],
        mode="pandas",
    )
    def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"scaled": inputs["rate"] * inputs["factor"]})

    first = view.with_name("first").with_join_key_map({"driver": "one"})
    second = view.with_name("second").with_join_key_map({"driver": "other"})
    pair = FeatureService(name="pair", features=[first[["rate"]], second[["rate", "trips"]]])
    store.apply([DRIVER, view, scaled, pair])
    frame = pd.DataFrame({"one": [1, 2], "other": [3, 1], "event_timestamp": [T0 + 4 * DAY, T0 + DAY]})
    found = asked(store, frame, pair, full_feature_names=True)
    assert found.select("first__rate", "second__rate", "second__trips").rows() == [(0.25, 0.7, 6), (0.5, 0.25, 3)]
    frame = ASKED.assign(factor=10)
    assert asked(store, frame, ["stats:rate", "scaled:scaled"])["scaled"].to_list()[:3] == [7.0, 2.5, 2.5]


def test_without_an_entity_frame_every_row_of_a_span_is_asked_for(store: FeatureStore) -> None:
    found = asked(store, None, ["stats:rate", "stats:trips"], start_date=T0 + DAY, end_date=T0 + 3 * DAY)
    assert found.select("driver", "event_timestamp", "trips").rows() == [
        (1, T0 + DAY, 3),
        (3, T0 + 2 * DAY, 6),
        (2, T0 + 3 * DAY, 5),
    ]


def test_without_an_entity_frame_a_view_of_no_entity_is_joined_to_the_rows_of_the_others(tmp_path: Path) -> None:
    rates = STATS.filter(pl.col("driver") == 1).select("ts", "made", general="rate")
    everyone = FeatureView(
        name="everyone",
        entities=[],
        schema=[Field(name="general", dtype=Float64)],
        source=stored(rates, tmp_path / "rates", "file"),
    )
    store = project(tmp_path)
    store.apply([DRIVER, stats_view(stored(STATS, tmp_path / "stats", "file")), everyone])
    span = {"start_date": T0, "end_date": T0 + 2 * DAY}
    for features in (["everyone:general", "stats:trips"], ["stats:trips", "everyone:general"]):
        assert asked(store, None, features, **span).select("driver", "event_timestamp", "trips", "general").rows() == [
            (1, T0, 1, 0.1),
            (2, T0, 4, 0.1),
            (1, T0 + DAY, 3, 0.25),
            (3, T0 + 2 * DAY, 6, 0.25),
        ]
    assert asked(store, None, ["everyone:general"], **span)["general"].to_list() == [0.1, 0.25]


def test_a_span_may_reach_to_the_end_of_all_time(store: FeatureStore) -> None:
    found = asked(store, None, ["stats:trips"], start_date=T0 + DAY, end_date=datetime.max)
    assert found["trips"].to_list() == [3, 6, 5]
    last = datetime.max.replace(tzinfo=UTC)
    pulled = store.provider.offline_store.pull_all_from_table_or_query(
        store.config, store.get_feature_view("stats").batch_source, ["driver"], ["trips"], "ts", None, T0 + DAY, last
    )
    assert sorted(pulled.to_arrow()["trips"].to_pylist()) == [2, 3, 5, 6]


def test_rows_may_be_of_the_last_moment_of_all_time(tmp_path: Path) -> None:
    last = datetime.max.replace(tzinfo=UTC)
    rows = pl.DataFrame({"driver": [1, 1, 2], "ts": [T0, last, last], "made": [last] * 3, "rate": [0.1, 0.2, 0.3]})
    store = project(tmp_path, step_rows=1, history_rows=1)
    store.apply([DRIVER, stats_view(stored(rows.with_columns(trips=pl.lit(1)), tmp_path / "stats", "file"))])
    moments = pl.Series([last, last, last - timedelta(microseconds=1)], dtype=pl.Datetime("us", "UTC"))
    found = asked(store, pl.DataFrame({"driver": [2, 1, 1], "event_timestamp": moments}))
    assert found["rate"].to_list() == [0.3, 0.2, 0.1]


def test_a_view_of_no_entity_is_one_row_for_all(tmp_path: Path) -> None:
    source = stored(STATS.filter(pl.col("driver") == 1).drop("driver"), tmp_path / "rates", "file")
    store = project(tmp_path)
    store.apply([FeatureView(name="rates", entities=[], schema=[Field(name="rate", dtype=Float64)], source=source)])
    assert asked(store, ASKED, ["rates:rate"])["rate"].to_list() == [0.25] * 6 + [None]
    store.materialize(T0, T0 + 9 * DAY)
    assert store.get_online_features(["rates:rate"], [{"__dummy_id": ""}]).to_dict()["rate"] == [0.25]


def test_the_newest_row_of_each_key_goes_online(store: FeatureStore) -> None:
    store.materialize(T0, T0 + 9 * DAY)
    found = store.get_online_features(
        ["stats:rate", "stats:trips"], [{"driver": key} for key in (1, 2, 3, 4)]
    ).to_dict()
    assert found["rate"] == [0.25, None, 0.7, None]
    assert found["trips"] == [3, 5, 6, None]


def test_rows_are_added_to_a_source_in_its_own_order_of_columns(tmp_path: Path, form: str) -> None:
    source = stored(STATS, tmp_path / "stats", form)
    store = project(tmp_path)
    store.apply([DRIVER, stats_view(PushSource(name="pushed", batch_source=source))])
    more = pd.DataFrame({"driver": [1], "ts": [T0 + 4 * DAY], "made": [T0 + 4 * DAY], "rate": [0.9], "trips": [9]})
    store.write_to_offline_store("stats", more)
    store.write_to_offline_store("stats", more.assign(driver=3))
    assert asked(store)["rate"].to_list() == [0.9, 0.25, 0.9, *RATES[3:]]
    with pytest.raises(ValueError, match=r"has the columns \['driver', 'ts', .* in this order; given are \['rate'"):
        store.write_to_offline_store("stats", more[["rate", "driver", "ts", "made", "trips"]], reorder_columns=False)


def test_rows_that_two_writers_add_to_one_file_at_a_time_are_all_there(tmp_path: Path) -> None:
    source, config = stored(STATS, tmp_path / "stats", "file"), project(tmp_path).config
    with ThreadPoolExecutor(2) as writers:
        for done in [writers.submit(sources.append, config, source, STATS.head(1).to_arrow()) for _ in range(60)]:
            done.result()
    assert pl.read_parquet(source.path).height == STATS.height + 60


def test_rows_are_not_added_to_a_folder_that_holds_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    source = FileSource(path=str(folder), timestamp_field="ts")
    with pytest.raises(FileNotFoundError, match=r"the folder .*/empty holds no Parquet file, .* write a first one"):
        sources.append(project(tmp_path).config, source, STATS.to_arrow())


def test_rows_are_added_to_the_partitions_of_a_folder(tmp_path: Path) -> None:
    place, store = tmp_path / "stats", project(tmp_path)
    for trips, rows in STATS.with_columns(pl.col("trips") % 2).partition_by("trips", as_dict=True).items():
        rows.drop("trips").write_parquet(place / f"trips={trips[0]}" / "rows.parquet", mkdir=True)
    source = FileSource(path=str(place), timestamp_field="ts", created_timestamp_column="made")
    store.apply([DRIVER, stats_view(source)])
    more = pd.DataFrame({"driver": [1, 3], "ts": [T0 + 4 * DAY] * 2, "made": [T0 + 4 * DAY] * 2})
    store.write_to_offline_store("stats", more.assign(rate=[0.9, 0.8], trips=[1, 7]))
    found = asked(store, ASKED, ["stats:rate", "stats:trips"])
    assert found["rate"].to_list() == [0.8, 0.25, 0.9, *RATES[3:]]
    assert found["trips"].to_list()[:3] == [7, 1, 1]
    assert [file.name for file in place.glob("*.parquet")] == []


def test_a_result_is_not_exported(store: FeatureStore) -> None:
    with pytest.raises(NotImplementedError, match="exports no result: use persist"):
        store.get_historical_features(ASKED, ["stats:rate"]).to_remote_storage()


def test_a_log_and_a_saved_set_without_keys_have_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    rows = STATS.filter(pl.col("driver") == 1).drop("driver", "made").rename({"ts": "event_timestamp"})
    store = project(tmp_path)
    source = stored(rows, tmp_path / "rates", "file", timestamp_field="event_timestamp", created_timestamp_column="")
    store.apply([FeatureView(name="rates", entities=[], schema=[Field(name="rate", dtype=Float64)], source=source)])
    job = store.get_historical_features(ASKED[["event_timestamp"]], ["rates:rate"])
    kept = store.create_saved_dataset(job, "kept", SavedDatasetFileStorage(path=str(tmp_path / "kept.parquet")))
    assert kept.to_df().columns.tolist() == ["rate", "event_timestamp"]


@pytest.mark.parametrize(("name", "part"), [("stats.pq", ""), ("stats.parquet", "part-0.parquet")])
def test_a_file_or_folder_may_have_any_name(tmp_path: Path, name: str, part: str) -> None:
    place, store = tmp_path / name, project(tmp_path)
    STATS.write_parquet(place / part, mkdir=True)
    source = FileSource(path=str(place), timestamp_field="ts", created_timestamp_column="made")
    store.apply([DRIVER, stats_view(source)])
    more = pd.DataFrame({"driver": [1], "ts": [T0 + 4 * DAY], "made": [T0 + 4 * DAY], "rate": [0.9], "trips": [9]})
    store.write_to_offline_store("stats", more)
    assert asked(store)["rate"].to_list() == [0.7, 0.25, 0.9, *RATES[3:]]
    job = store.get_historical_features(ASKED.head(2), ["stats:rate"])
    job.persist(SavedDatasetFileStorage(path=str(place)), allow_overwrite=True)
    assert pl.read_parquet(place)["rate"].to_list() == [0.7, 0.25]


@pytest.mark.parametrize("saved", ["set.parquet", "set", "delta"])
def test_a_result_is_kept_and_read_again_and_not_overwritten_unless_asked(
    tmp_path: Path, store: FeatureStore, saved: str
) -> None:
    form = DeltaFormat() if saved == "delta" else ParquetFormat()
    storage = SavedDatasetFileStorage(path=str(tmp_path / saved), file_format=form)
    job = store.get_historical_features(ASKED, ["stats:rate"])
    store.create_saved_dataset(job, "kept", storage, allow_overwrite=False)
    again = store.get_saved_dataset("kept").to_df()
    assert again["driver"].tolist() == ASKED["driver"].tolist()
    assert again["rate"].fillna(-1).tolist() == [-1 if rate is None else rate for rate in RATES]
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    store.get_historical_features(ASKED.head(2), ["stats:rate"]).persist(storage, allow_overwrite=True)
    assert len(store.get_saved_dataset("kept").to_df()) == 2


def test_a_folder_that_is_overwritten_keeps_what_is_not_its_own_and_its_rows_if_writing_fails(
    tmp_path: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "set"
    storage = SavedDatasetFileStorage(path=str(folder))
    store.get_historical_features(ASKED, ["stats:rate"]).persist(storage)
    (folder / "notes.txt").write_text("who asked")
    job = store.get_historical_features(ASKED.head(2), ["stats:rate"])

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("pyarrow.parquet.ParquetWriter.write_table", full)
        with pytest.raises(OSError, match="no space"):
            job.persist(storage, allow_overwrite=True)
    assert pl.read_parquet(folder / "*.parquet").height == len(ASKED)
    job.persist(storage, allow_overwrite=True)
    assert pl.read_parquet(folder / "*.parquet").height == 2
    assert sorted(file.suffix for file in folder.iterdir()) == [".parquet", ".txt"]


def test_a_kept_result_is_read_when_its_rows_are_asked_for_and_once(tmp_path: Path, store: FeatureStore) -> None:
    file = tmp_path / "kept.parquet"
    job = store.get_historical_features(ASKED, ["stats:rate"])
    store.create_saved_dataset(job, "kept", SavedDatasetFileStorage(path=str(file)))
    read = store.get_saved_dataset("kept")
    rows = read.to_df()
    file.unlink()
    pd.testing.assert_frame_equal(read.to_df(), rows)
    # Feast asks for what it knows of a set, its profile say, where the rows are gone.
    gone = store.get_saved_dataset("kept")
    assert gone.features == ["stats:rate"]
    with pytest.raises(FileNotFoundError, match=r"no Parquet file or folder .*kept\.parquet"):
        gone.to_df()


def test_sources_are_read_when_an_answer_is_asked_for_and_once(tmp_path: Path) -> None:
    store, source = project(tmp_path), stored(STATS, tmp_path / "stats", "file")
    store.apply([DRIVER, stats_view(source)])
    file, away = Path(source.path), tmp_path / "away"
    file.rename(away)
    job = store.get_historical_features(ASKED, ["stats:rate"])
    assert job.metadata.min_event_timestamp == T0 - DAY
    assert job.metadata.max_event_timestamp == T0 + 5 * DAY
    with pytest.raises(FileNotFoundError, match="no Parquet file or folder"):
        job.to_arrow()
    away.rename(file)
    rates = job.to_arrow()["rate"]
    file.unlink()
    assert job.to_arrow()["rate"] == rates


def test_what_cannot_be_asked_is_refused_before_a_source_is_read(tmp_path: Path) -> None:
    store, source = project(tmp_path), stored(STATS, tmp_path / "stats", "file")
    store.apply([DRIVER, stats_view(source)])
    Path(source.path).unlink()
    with pytest.raises(FeastEntityDFMissingColumnsError, match=r"\{'driver'\} were missing"):
        store.get_historical_features(ASKED.drop(columns="driver"), ["stats:rate"])
    with pytest.raises(ValueError, match=r"features \['rate'\] of view 'stats' are already columns"):
        store.get_historical_features(ASKED.assign(rate=1.0), ["stats:rate"])


def test_served_features_are_logged_and_read_again(tmp_path: Path, store: FeatureStore) -> None:
    for name, partition_by in (("plain", None), ("parts", ["driver"])):
        destination = FileLoggingDestination(path=str(tmp_path / name), partition_by=partition_by)
        service = FeatureService(
            name=name, features=[store.get_feature_view("stats")], logging_config=LoggingConfig(destination=destination)
        )
        store.apply([service])
        logged = pa.table(
            {
                "driver": pa.array([1, 2]),
                "rate": [0.1, 0.2],
                "rate__timestamp": pa.array([T0, T0], pa.timestamp("us", "UTC")),
                "rate__status": pa.array([2, 2], pa.int32()),
                "trips": [1, 2],
                "trips__timestamp": pa.array([T0, T0], pa.timestamp("us", "UTC")),
                "trips__status": pa.array([2, 2], pa.int32()),
                "__log_timestamp": pa.array([T0, T0 + DAY], pa.timestamp("us", "UTC")),
                "__log_date": pa.array([T0.date(), (T0 + DAY).date()]),
                "__request_id": ["a", "b"],
            }
        )
        store.write_logged_features(logged, service)
        store.write_logged_features(logged, service)
        read = pl.scan_parquet(f"{tmp_path}/{name}/**/*.parquet", hive_partitioning=True).collect()
        assert sorted(read["driver"].cast(pl.Int64)) == [1, 1, 2, 2]


def test_what_is_wrong_with_a_question_is_named(tmp_path: Path, store: FeatureStore) -> None:
    with pytest.raises(FeastEntityDFMissingColumnsError, match=r"\{'driver'\} were missing"):
        asked(store, ASKED.drop(columns="driver"))
    with pytest.raises(ValueError, match=r"features \['rate'\] of view 'stats' are already columns"):
        asked(store, ASKED.assign(rate=1.0))
    with pytest.raises(ValueError, match=r"the entity frame: column 'event_timestamp' is Int32; a timestamp"):
        asked(store, pl.from_pandas(ASKED).with_columns(event_timestamp=pl.lit(1)))
    with pytest.raises(NotImplementedError, match="joins without SQL: use to_df, to_arrow or persist"):
        store.get_historical_features(ASKED, ["stats:rate"]).to_sql()


@pytest.mark.parametrize(
    ("table", "partitioned_by", "timestamp"),
    [
        ("features/stats", "event_timestamp", "event_timestamp"),
        ("raw/stats", "known_at", "known_at"),
        ("raw/stats", "known_at", "event_timestamp"),
        ("stats/labels", "known_at", "event_timestamp"),
    ],
)
def test_a_table_of_the_lake_is_found_by_another_time_than_its_days(
    tmp_path: Path, table: str, partitioned_by: str, timestamp: str
) -> None:
    rows = STATS.select(
        "driver", "rate", "trips", event_timestamp="ts", known_at=pl.col("ts") + pl.duration(days=pl.col("driver"))
    )
    by_day = rows.with_columns(day=pl.col(partitioned_by).dt.date().cast(pl.String)).partition_by(
        "day", as_dict=True, include_key=False
    )
    frames = {str(day): frame for (day,), frame in by_day.items()}
    lake = Lake(str(tmp_path / "lake"))
    lake.write_partitions(table, frames, sort_by=["driver", "trips"], inputs_hash=dict.fromkeys(frames, ""), inputs={})
    store = project(tmp_path, lake=str(tmp_path / "lake"))
    source = FileSource(path=table, file_format=DeltaFormat(), timestamp_field=timestamp)
    store.apply([DRIVER, stats_view(source, ttl=DAY)])
    moments = rows[timestamp].unique()
    for at in (*moments, *(moments + DAY)):
        found = asked(store, pd.DataFrame({"driver": [1, 2, 3], "event_timestamp": [at] * 3}), ["stats:trips"])
        for driver, trips in found.select("driver", "trips").rows():
            alive = rows.filter(
                pl.col("driver") == driver, pl.col(timestamp) <= at, pl.col(timestamp) >= at - DAY
            ).filter(pl.col(timestamp) == pl.col(timestamp).max())
            assert trips in (alive["trips"].to_list() or [None])


def test_what_is_wrong_with_a_source_is_named(tmp_path: Path) -> None:
    store = project(tmp_path)
    lacking = stored(STATS.drop("rate"), tmp_path / "lacking", "file")
    store.apply([DRIVER, stats_view(lacking)])
    with pytest.raises(ValueError, match=r"source '.*lacking.parquet' lacks the columns \['rate'\]; it has \['driver'"):
        asked(store)
    nowhere = FileSource(path=str(tmp_path / "nowhere"), timestamp_field="ts")
    with pytest.raises(FileNotFoundError, match=r"there is no Parquet file or folder .*nowhere"):
        store.apply([DRIVER, FeatureView(name="nowhere", entities=[DRIVER], source=nowhere)])
    elsewhere = BigQuerySource(table="a.b.c", timestamp_field="ts")
    with pytest.raises(
        NotImplementedError, match=r"BigQuerySource .* is not read here: declare a FileSource in Parquet or Delta"
    ):
        store.apply([DRIVER, FeatureView(name="elsewhere", entities=[DRIVER], source=elsewhere)])


def test_a_view_that_is_stored_nowhere_is_named(tmp_path: Path) -> None:
    store = project(tmp_path)
    schema = [Field(name="driver", dtype=Int64), Field(name="rate", dtype=Float64)]
    view = FeatureView(name="stats", entities=[DRIVER], schema=schema)
    store.apply([DRIVER, view])
    for question in (
        lambda: asked(store),
        lambda: asked(store, None, start_date=T0, end_date=T0 + DAY),
        lambda: store.provider.offline_store.offline_write_batch(store.config, view, STATS.to_arrow(), None),
    ):
        with pytest.raises(ValueError, match=r"view 'stats' has no batch source.*`source=FileSource\(\.\.\.\)`"):
            question()


def test_views_of_other_keys_need_an_entity_frame(tmp_path: Path) -> None:
    store, site = project(tmp_path), Entity(name="site", join_keys=["site"], value_type=ValueType.STRING)
    sites = stored(pl.DataFrame({"site": ["x"], "ts": [T0], "made": [T0], "size": [1]}), tmp_path / "sites", "file")
    view = FeatureView(
        name="sites",
        entities=[site],
        schema=[Field(name="site", dtype=String), Field(name="size", dtype=Int64)],
        source=sites,
    )
    store.apply([DRIVER, site, stats_view(stored(STATS, tmp_path / "stats", "file")), view])
    with pytest.raises(ValueError, match=r"views of the same join keys are needed .* \[\('driver',\), \('site',\)\]"):
        asked(store, None, ["stats:rate", "sites:size"], start_date=T0, end_date=T0 + DAY)
