"""Our online store beside Feast's SQLite store: the same answers, and only what is held is counted."""

import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.repo_config import RepoConfig
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from ml_platform.stores import online_store
from ml_platform.stores.online_store import OnlineWriteError, SqliteRowOnlineStore

OURS, STOCK = "ml_platform.stores.online_store.SqliteRowOnlineStore", "sqlite"
NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)

ROWS = pl.DataFrame(
    {
        "name": ["ä", "b" * 300, "", "d"],
        "number": [1, -7, 2**40, 0],
        "ts": [NOON, NOON + timedelta(microseconds=1), NOON - timedelta(days=400), NOON],
        "double": [0.0, -1.5e300, None, float("nan")],
        "single": pl.Series([0.1, None, -2.5, float("nan")], dtype=pl.Float32),
        "long": [None, 2**62, -1, 0],
        "short": pl.Series([1, None, -3, 0], dtype=pl.Int32),
        "text": ["x", None, "", "ÿ"],
        "flag": [True, False, None, True],
        "raw": [b"\x00\xff", b"", None, b"z"],
        "moment": [NOON, None, NOON - timedelta(days=9000), NOON],
        "list": [[1.0, 2.0], [], None, [0.5]],
    },
    schema_overrides={"ts": pl.Datetime("us", "UTC"), "moment": pl.Datetime("us", "UTC")},
)

SCHEMA = {
    "double": Float64,
    "single": Float32,
    "long": Int64,
    "short": Int32,
    "text": String,
    "flag": Bool,
    "raw": Bytes,
    "moment": UnixTimestamp,
    "list": Array(Float64),
}


def feast(folder: Path, online: str, schema: Mapping[str, Any] = SCHEMA) -> FeatureStore:
    """A feature store with one view of two join keys, whose rows are a Parquet file."""
    folder.mkdir(parents=True, exist_ok=True)
    ROWS.write_parquet(folder / "rows.parquet")
    store = FeatureStore(
        config=RepoConfig(
            project="test",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": online, "path": str(folder / "online.sqlite")},
            offline_store={"type": "ml_platform.stores.asof_store.AsOfOfflineStore"},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )
    entities = [
        Entity(name="number", join_keys=["number"], value_type=ValueType.INT64),
        Entity(name="name", join_keys=["name"], value_type=ValueType.STRING),
    ]
    view = FeatureView(
        name="many",
        entities=entities,
        ttl=timedelta(days=10_000),
        schema=[Field(name="number", dtype=Int64), Field(name="name", dtype=String)]
        + [Field(name=name, dtype=dtype) for name, dtype in schema.items()],
        source=FileSource(path=str(folder / "rows.parquet"), timestamp_field="ts"),
    )
    store.apply([*entities, view])
    return store


def push(store: FeatureStore, rows: pl.DataFrame = ROWS) -> int:
    online = store.provider.online_store
    assert isinstance(online, SqliteRowOnlineStore)
    return online.push(store.config, store.get_feature_view("many"), rows, moment="ts")


def write(store: FeatureStore, rows: pl.DataFrame = ROWS, created: datetime | None = None) -> None:
    """By Feast's interface and its own conversion of each value."""
    kinds = {name: kind.to_value_type() for name, kind in SCHEMA.items()}
    written = [
        (
            entity(row),
            {name: python_values_to_proto_values([row[name]], kind)[0] for name, kind in kinds.items()},
            row["ts"],
            created,
        )
        for row in rows.iter_rows(named=True)
    ]
    store.provider.online_write_batch(store.config, store.get_feature_view("many"), written, None)


def read(store: FeatureStore, rows: pl.DataFrame = ROWS, features: list[str] | None = None) -> list[Any]:
    """What the store answers for these keys: moments to the second, as Feast keeps them, and values as bytes."""
    keys = [entity(row) for row in rows.iter_rows(named=True)]
    answers = store.provider.online_read(store.config, store.get_feature_view("many"), keys, features)
    return [
        (moment and moment.replace(microsecond=0), values and {k: v.SerializeToString() for k, v in values.items()})
        for moment, values in answers
    ]


def texts(store: FeatureStore) -> list[str]:
    """The value of ``text`` that the store answers for each key."""
    answer = store.get_online_features(["many:text"], ROWS.select("number", "name").to_dicts())
    return list(answer.to_dict()["text"])


def entity(row: Mapping[str, Any]) -> EntityKey:
    return EntityKey(
        join_keys=["number", "name"],
        entity_values=[
            *python_values_to_proto_values([row["number"]], ValueType.INT64),
            *python_values_to_proto_values([row["name"]], ValueType.STRING),
        ],
    )


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_store, "_TOGETHER", 3)
    monkeypatch.setattr(online_store, "_ASKED_AT_ONCE", 3)


@pytest.fixture
def expected(tmp_path: Path) -> list[Any]:
    """What Feast's own store answers once the rows are written by its interface."""
    stock = feast(tmp_path / "stock", STOCK)
    write(stock)
    answers = read(stock)
    assert len(answers) == ROWS.height
    assert all(len(values) == len(SCHEMA) for _, values in answers)
    return answers


@pytest.mark.parametrize("by", [push, write])
def test_what_is_written_is_answered_as_by_feast(tmp_path: Path, expected: list[Any], by: Callable[..., Any]) -> None:
    ours = feast(tmp_path / "ours", OURS)
    assert by(ours) in (ROWS.height, None)
    assert read(ours) == expected
    assert read(ours, features=["text"]) == [(at, {"text": values["text"]}) for at, values in expected]


def test_feast_materializes_through_it_as_through_its_own(tmp_path: Path, expected: list[Any]) -> None:
    stock, ours = feast(tmp_path / "stock2", STOCK), feast(tmp_path / "ours", OURS)
    for store in (stock, ours):
        store.materialize(NOON - timedelta(days=500), NOON + timedelta(days=1))
    assert read(ours) == read(stock)
    asked = ROWS.select("number", "name").to_dicts()
    names = [f"many:{name}" for name in SCHEMA]
    answers = [store.get_online_features(names, asked).to_dict() for store in (stock, ours)]
    assert answers[0] == answers[1]
    assert answers[0]["text"] == ROWS["text"].to_list()


def test_a_key_that_was_never_written_is_not_known(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    push(store, ROWS[:2])
    assert [moment is None for moment, _ in read(store)] == [False, False, True, True]
    assert read(store)[2] == (None, None)


def test_of_a_key_that_comes_twice_the_last_row_counts(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    write(store, pl.concat([ROWS, ROWS.with_columns(text=pl.lit("later"), ts=pl.col("ts") + timedelta(hours=1))]))
    later = python_values_to_proto_values(["later"], ValueType.STRING)[0].SerializeToString()
    assert {values["text"] for _, values in read(store)} == {later}
    assert read(store)[0][0] == NOON + timedelta(hours=1)


def test_an_older_row_does_not_replace_a_newer_one_and_an_equal_one_does(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    write(store, ROWS.with_columns(text=pl.lit("newer")), created=NOON)
    newer = read(store)
    for moment, created in ((timedelta(microseconds=-1), NOON), (timedelta(0), NOON - timedelta(microseconds=1))):
        write(store, ROWS.with_columns(pl.col("ts") + moment, text=pl.lit("older")), created=created)
        assert read(store) == newer
    write(store, ROWS.with_columns(text=pl.lit("equal")), created=NOON)
    assert texts(store) == ["equal"] * ROWS.height
    later = ROWS.with_columns(pl.col("ts") + timedelta(hours=1), text=pl.lit("later"))
    write(store, pl.concat([later, ROWS]))
    assert texts(store) == ["later"] * ROWS.height


def test_an_older_materialization_leaves_what_is_newer(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    push(store, ROWS.with_columns(ts=pl.col("ts") + timedelta(days=2), text=pl.lit("newer")))
    newer = read(store)
    store.materialize(NOON - timedelta(days=500), NOON + timedelta(days=1))
    assert read(store) == newer


def test_the_newest_row_that_a_correction_takes_back_is_replaced_by_an_older_one(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    push(store, ROWS.with_columns(ts=pl.col("ts") + timedelta(days=2), text=pl.lit("wrong")))
    assert push(store) == ROWS.height
    assert read(store)[0][0] == NOON


def test_a_write_that_the_file_does_not_hold_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    with sqlite3.connect(tmp_path / "online.sqlite") as connection:
        connection.execute(
            "CREATE TRIGGER spoil AFTER INSERT ON test_many WHEN instr(NEW.entity_key, CAST('ä' AS BLOB)) BEGIN "
            "UPDATE test_many SET \"value of text\" = x'00' WHERE entity_key = NEW.entity_key; END"
        )
    with pytest.raises(OnlineWriteError, match=r"view 'many': 1 of 4 rows are not in .*online\.sqlite as written"):
        write(store)
    assert read(store) == [(None, None)] * ROWS.height


def test_rows_that_stand_are_not_written_again(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    push(store)
    connection = store.provider.online_store._connection(store.config)
    before = connection.total_changes
    assert push(store) == ROWS.height
    assert connection.total_changes == before
    newer = ROWS.with_columns(text=pl.when(pl.col("name") == "d").then(pl.lit("new")).otherwise("text"))
    assert push(store, newer) == ROWS.height
    assert connection.total_changes == before + 1


def test_keys_that_are_not_among_those_to_keep_are_removed_whoever_wrote_them(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    write(store)
    view, online = store.get_feature_view("many"), store.provider.online_store
    left = ["ä", "b" * 300, "d"]
    assert online.keep_only(store.config, view, ROWS.filter(pl.col("name").is_in(left))) == 1
    assert [moment is not None for moment, _ in read(store)] == [name in left for name in ROWS["name"]]
    assert online.keep_only(store.config, view, ROWS) == 0
    assert online.keep_only(store.config, view, ROWS.clear()) == 3
    assert read(store) == [(None, None)] * ROWS.height


@pytest.mark.parametrize("change", ["\"value of text\" = x'00'", "event_ts = event_ts - 1", "entity_key = x'00'"])
def test_a_row_that_the_file_does_not_hold_is_not_counted(tmp_path: Path, change: str) -> None:
    store = feast(tmp_path, OURS)
    with sqlite3.connect(tmp_path / "online.sqlite") as connection:
        connection.execute(
            "CREATE TRIGGER spoil AFTER INSERT ON test_many "
            f"WHEN instr(NEW.entity_key, CAST('ä' AS BLOB)) BEGIN UPDATE test_many SET {change} "
            "WHERE entity_key = NEW.entity_key; END"
        )
    assert push(store) == ROWS.height - 1


def test_a_feature_that_is_new_is_null_until_it_is_written(tmp_path: Path) -> None:
    fewer = {name: dtype for name, dtype in SCHEMA.items() if name != "text"}
    old = feast(tmp_path, OURS, fewer)
    push(old)
    store = feast(tmp_path, OURS)
    assert all("text" not in values for _, values in read(store))
    answer = store.get_online_features(["many:text", "many:flag"], ROWS.select("number", "name").to_dicts()).to_dict()
    assert answer["text"] == [None] * ROWS.height
    assert answer["flag"] == ROWS["flag"].to_list()
    push(store)
    assert [values["text"] for _, values in read(store)] != [b""] * ROWS.height


def test_threads_write_and_read_at_once(tmp_path: Path, expected: list[Any]) -> None:
    store = feast(tmp_path / "ours", OURS)
    with ThreadPoolExecutor(8) as threads:
        pushed = list(threads.map(lambda _: push(store), range(16)))
        answers = list(threads.map(lambda _: read(store), range(16)))
    assert pushed == [ROWS.height] * 16
    assert answers == [expected] * 16


def test_a_view_that_is_gone_takes_its_rows_along_and_teardown_the_file(tmp_path: Path) -> None:
    store = feast(tmp_path, OURS)
    push(store)
    store.apply([], objects_to_delete=[store.get_feature_view("many")], partial=False)
    with sqlite3.connect(tmp_path / "online.sqlite") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    store.teardown()
    assert not (tmp_path / "online.sqlite").exists()
