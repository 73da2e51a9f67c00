"""What Feast's documentation and interface promise of an offline store, asked of ours through Feast alone."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import (
    BatchFeatureView,
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    PushSource,
    RequestSource,
    StreamFeatureView,
)
from feast.data_source import PushMode
from feast.dqm.errors import ValidationFailed
from feast.dqm.profilers.profiler import Profile, Profiler, ValidationError, ValidationReport
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.repo_config import MaterializationConfig
from feast.types import Array, Bytes, Float64, Int32, Int64, Json, Map, String, Struct, UnixTimestamp

from ml_platform_tests.stores.test_asof_store import (
    ASKED,
    DAY,
    DRIVER,
    RATES,
    STATS,
    T0,
    asked,
    project,
    stats_view,
    stored,
)

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]

TRIPS = Field(name="trips", dtype=Int64)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = project(tmp_path)
    made.apply([DRIVER, stats_view(stored(STATS, tmp_path / "stats", "file"))])
    return made


# Logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("partition_by", [None, ["__log_date"], ["driver"]], ids=["whole", "by day", "by key"])
@pytest.mark.parametrize("from_folder", [False, True], ids=["table", "folder"])
def test_logs_of_a_service_are_read_back_as_they_were_written(
    tmp_path: Path, store: FeatureStore, partition_by: list[str] | None, from_folder: bool
) -> None:
    destination = FileLoggingDestination(path=str(tmp_path / "logs"), partition_by=partition_by)
    service = FeatureService(
        name="served", features=[store.get_feature_view("stats")], logging_config=LoggingConfig(destination=destination)
    )
    store.apply([service])
    schema = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    logged = [T0, T0 + DAY, T0 + 2 * DAY]
    rows = [
        {
            "driver": number,
            "stats__rate": number / 10,
            "stats__rate__timestamp": T0,
            "stats__rate__status": 2,
            "stats__trips": None,
            "stats__trips__timestamp": T0,
            "stats__trips__status": 1,
            "__log_timestamp": moment,
            "__log_date": moment.date(),
            "__request_id": f"request {number}",
        }
        for number, moment in enumerate(logged)
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    if from_folder:
        (tmp_path / "buffered").mkdir()
        pq.write_table(table, tmp_path / "buffered" / "part.parquet")
        store.write_logged_features(tmp_path / "buffered", service)
    else:
        for row in rows:
            store.write_logged_features(pa.Table.from_pylist([row], schema=schema), service)
    read = store.provider.retrieve_feature_service_logs(service, T0, T0 + DAY, store.config, store.registry).to_arrow()
    assert sorted(read.column_names) == sorted(schema.names)
    expected = table.slice(0, 2)
    found = read.select(schema.names).sort_by("__log_timestamp")
    assert found.to_pylist() == expected.to_pylist()


# Validation ------------------------------------------------------------------------------------------------------


class _Failure(ValidationReport):
    def __init__(self, errors: list[ValidationError]) -> None:
        self._errors = errors

    @property
    def is_success(self) -> bool:
        return not self._errors

    @property
    def errors(self) -> list[ValidationError]:
        return self._errors


class _GreatestRate(Profile):
    """Rates may not be greater than those of the reference."""

    def __init__(self, greatest: float) -> None:
        self._greatest = greatest

    def validate(self, dataset: pd.DataFrame) -> ValidationReport:
        many = int((dataset["rate"] > self._greatest).sum())
        return _Failure([ValidationError("at most", "rate", unexpected_count=many)] if many else [])


class _RatesProfiler(Profiler):
    def analyze_dataset(self, dataset: pd.DataFrame) -> Profile:
        return _GreatestRate(dataset["rate"].max())


def test_an_answer_is_validated_against_a_saved_one(tmp_path: Path, store: FeatureStore) -> None:
    low = ASKED[ASKED["driver"] == 1]
    job = store.get_historical_features(low, ["stats:rate"])
    kept = store.create_saved_dataset(job, "kept", SavedDatasetFileStorage(path=str(tmp_path / "kept.parquet")))
    reference = kept.as_reference("as kept", _RatesProfiler())
    again = store.get_historical_features(low, ["stats:rate"])
    assert len(again.to_df(validation_reference=reference)) == len(low)
    with pytest.raises(ValidationFailed) as failed:
        store.get_historical_features(ASKED, ["stats:rate"]).to_df(validation_reference=reference)
    assert [error.unexpected_count for error in failed.value.report.errors] == [1]


# On-demand views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["short names", "full names"])
def test_on_demand_views_are_computed_alone_in_pandas_and_in_python(
    tmp_path: Path, store: FeatureStore, full: bool
) -> None:
    view = store.get_feature_view("stats")
    request = RequestSource(name="asking", schema=[Field(name="factor", dtype=Int64)])

    @on_demand_feature_view(sources=[view, request], schema=[Field(name="scaled", dtype=Float64)], mode="pandas")
    def by_pandas(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"scaled": inputs["rate"] * inputs["factor"]})

    @on_demand_feature_view(sources=[view, request], schema=[Field(name="more", dtype=Int64)], mode="python")
    def by_python(inputs: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(inputs["trips"], inputs["factor"], strict=True)
        return {"more": [None if trips is None else trips + factor for trips, factor in pairs]}

    @on_demand_feature_view(sources=[request], schema=[Field(name="twice", dtype=Int64)], mode="pandas")
    def of_the_request(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["factor"] * 2})

    store.apply([by_pandas, by_python, of_the_request])
    frame = ASKED.head(3).assign(factor=10)
    for feature, values in (
        ("by_pandas:scaled", [7.0, 2.5, 2.5]),
        ("by_python:more", [16, 13, 13]),
        ("of_the_request:twice", [20, 20, 20]),
    ):
        shown = feature.replace(":", "__") if full else feature.partition(":")[2]
        found = asked(store, frame, [feature], full_feature_names=full)
        assert found[shown].to_list() == pytest.approx(values), feature
        assert found["note"].to_list() == ["a", "b", "c"]


# Materialisation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latest", [False, True], ids=["of all rows", "of the latest"])
@pytest.mark.parametrize("batch_size", [None, 1])
def test_the_newest_rows_go_online_however_feast_pulls_them(tmp_path: Path, latest: bool, batch_size: int) -> None:
    store = project(tmp_path)
    store.config.materialization_config = MaterializationConfig(
        pull_latest_features=latest, online_write_batch_size=batch_size
    )
    rates = STATS.filter(pl.col("driver") == 1).select("ts", "made", general="rate")
    everyone = FeatureView(
        name="everyone",
        entities=[],
        schema=[Field(name="general", dtype=Float64)],
        source=stored(rates, tmp_path / "rates", "file"),
    )
    store.apply([DRIVER, stats_view(stored(STATS, tmp_path / "stats", "folder")), everyone])
    store.materialize(T0, T0 + 9 * DAY)
    served = store.get_online_features(["stats:rate", "stats:trips"], [{"driver": key} for key in (1, 2, 3, 4)])
    assert served.to_dict()["rate"] == [0.25, None, 0.7, None]
    assert served.to_dict()["trips"] == [3, 5, 6, None]
    assert store.get_online_features(["everyone:general"], [{"__dummy_id": ""}]).to_dict()["general"] == [0.25]


def test_a_view_that_computes_its_features_is_given_every_column(tmp_path: Path) -> None:
    def doubled(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(double=rows["rate"] * 2)

    store = project(tmp_path)
    view = BatchFeatureView(
        name="doubles",
        entities=[DRIVER],
        mode="python",
        schema=[Field(name="driver", dtype=Int64), Field(name="double", dtype=Float64)],
        source=stored(STATS, tmp_path / "stats", "file"),
        udf=doubled,
        udf_string="rows.assign(double=rows['rate'] * 2)",
        online=True,
    )
    store.apply([DRIVER, view])
    for latest in (False, True):
        store.config.materialization_config = MaterializationConfig(pull_latest_features=latest)
        store.materialize(T0, T0 + 9 * DAY)
        served = store.get_online_features(["doubles:double"], [{"driver": 1}, {"driver": 3}]).to_dict()
        assert served["double"] == [0.5, 1.4]
        store.teardown()
        store.apply([DRIVER, view])


# Streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["file", "folder", "delta"])
def test_what_is_pushed_to_a_stream_view_is_retrieved(tmp_path: Path, form: str) -> None:
    store = project(tmp_path)
    pushed = PushSource(name="pushed", batch_source=stored(STATS, tmp_path / "stats", form))
    view = StreamFeatureView(
        name="stats",
        entities=[DRIVER],
        ttl=timedelta(days=30),
        timestamp_field="ts",
        schema=[Field(name="driver", dtype=Int64), Field(name="rate", dtype=Float64), TRIPS],
        source=pushed,
    )
    store.apply([DRIVER, view])
    assert asked(store)["rate"].to_list() == RATES
    more = pd.DataFrame({"driver": [1], "ts": [T0 + 4 * DAY], "made": [T0 + 4 * DAY], "rate": [0.9], "trips": [9]})
    store.push("pushed", more, to=PushMode.ONLINE_AND_OFFLINE)
    assert asked(store)["rate"].to_list() == [0.7, 0.25, 0.9, *RATES[3:]]
    assert store.get_online_features(["stats:rate"], [{"driver": 1}]).to_dict()["rate"] == [0.9]


# Types -----------------------------------------------------------------------------------------------------------

TYPES: dict[str, tuple[Any, pa.DataType, list[Any]]] = {
    "struct": (
        Struct({"name": String, "size": Int64}),
        pa.struct({"name": pa.string(), "size": pa.int64()}),
        [{"name": "a", "size": 1}, {"name": "b", "size": None}],
    ),
    "map": (Map, pa.map_(pa.string(), pa.string()), [[("k", "v")], [("l", "w"), ("m", "x")]]),
    "json": (Json, pa.string(), [json.dumps({"a": [1, 2]}), json.dumps({"b": None})]),
    "numbers": (Array(Float64), pa.list_(pa.float64()), [[0.5], [1.5, 2.5]]),
    "vector": (Array(Float64), pa.list_(pa.float64(), 2), [[0.5, 1.0], [1.5, 2.5]]),
    "texts": (Array(String), pa.list_(pa.string()), [["a"], ["b", "c"]]),
    "bytes": (Array(Bytes), pa.list_(pa.binary()), [[b"a"], [b"b", b"c"]]),
    "moments": (Array(UnixTimestamp), pa.list_(pa.timestamp("us", "UTC")), [[T0], [T0, T0 + DAY]]),
}


@pytest.mark.parametrize("name", list(TYPES))
def test_features_of_every_type_are_retrieved_as_they_are_stored(tmp_path: Path, name: str) -> None:
    dtype, arrow, values = TYPES[name]
    moments = pa.array([T0] * 3, pa.timestamp("us", "UTC"))
    rows = pa.table({"driver": [1, 2, 3], "ts": moments, "value": pa.array([*values, None], arrow)})
    pq.write_table(rows, tmp_path / "rows.parquet")
    store = project(tmp_path)
    view = FeatureView(
        name="typed",
        entities=[DRIVER],
        schema=[Field(name="driver", dtype=Int64), Field(name="value", dtype=dtype)],
        source=FileSource(path=str(tmp_path / "rows.parquet"), timestamp_field="ts"),
    )
    store.apply([DRIVER, view])
    frame = pd.DataFrame({"driver": [3, 2, 1, 4], "event_timestamp": [T0] * 4})
    job = store.get_historical_features(frame, ["typed:value"])
    assert job.to_arrow()["value"].to_pylist() == [None, values[1], values[0], None]
    assert job.to_arrow().schema.field("value").type == arrow
    assert len(job.to_df()) == 4
    kept = store.create_saved_dataset(job, "kept", SavedDatasetFileStorage(path=str(tmp_path / "kept.parquet")))
    assert kept.to_arrow()["value"].to_pylist() == [None, values[1], values[0], None]


def test_types_of_entities_and_features_are_inferred_from_a_source(tmp_path: Path) -> None:
    rows = STATS.with_columns(small=pl.lit(1, pl.Int32), name=pl.lit("x"), many=pl.lit([1.0]))
    for form in ("file", "delta"):
        folder = tmp_path / form
        folder.mkdir()
        store, driver = project(folder), Entity(name="driver", join_keys=["driver"])
        view = FeatureView(name="inferred", entities=[driver], source=stored(rows, folder / "rows", form))
        store.apply([driver, view])
        read = store.get_feature_view("inferred")
        assert {field.name: field.dtype for field in read.entity_columns} == {"driver": Int64}
        assert {field.name: field.dtype for field in read.features} == {
            "rate": Float64,
            "trips": Int64,
            "small": Int32,
            "name": String,
            "many": Array(Float64),
        }
        assert asked(store, ASKED, ["inferred:rate"])["rate"].to_list() == RATES


# Entity frames ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("give", [lambda frame: frame, pa.Table.from_pandas, pl.from_pandas])
def test_the_moments_of_an_entity_frame_may_have_another_name(store: FeatureStore, give: Any) -> None:
    frame = ASKED.rename(columns={"event_timestamp": "asked_at"})
    found = asked(store, give(frame))
    assert found["rate"].to_list() == RATES
    assert found.columns == ["driver", "asked_at", "note", "rate"]


# Plain feast -----------------------------------------------------------------------------------------------------

_REPO = """
from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
stats = FeatureView(
    name="stats",
    entities=[driver],
    ttl=timedelta(0),
    schema=[Field(name="driver", dtype=Int64), Field(name="rate", dtype=Float64)],
    source=FileSource(path="stats.parquet", timestamp_field="ts", created_timestamp_column="made"),
)
"""


def test_plain_feast_commands_use_the_store_that_feature_store_yaml_names(tmp_path: Path) -> None:
    STATS.write_parquet(tmp_path / "stats.parquet")
    (tmp_path / "definitions.py").write_text(_REPO)
    (tmp_path / "feature_store.yaml").write_text(
        "project: plain\n"
        "registry: registry.db\n"
        "provider: local\n"
        "entity_key_serialization_version: 3\n"
        "online_store: {type: sqlite, path: online.db}\n"
        "offline_store: {type: ml_platform.stores.asof_store.AsOfOfflineStore}\n"
    )
    feast = [str(Path(sys.executable).with_name("feast")), "-c", str(tmp_path)]
    span = [moment.strftime("%Y-%m-%dT%H:%M:%S") for moment in (T0, T0 + 9 * DAY)]
    for command in (["apply"], ["materialize", *span]):
        done = subprocess.run([*feast, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    store = FeatureStore(repo_path=str(tmp_path))
    assert type(store.provider.offline_store).__name__ == "AsOfOfflineStore"
    assert asked(store)["rate"].to_list() == RATES
    assert store.get_online_features(["stats:rate"], [{"driver": 3}]).to_dict()["rate"] == [0.7]
