"""What the Redis online store holds after rows of one key come in any order, through Feast and through the platform."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.repo_config import RepoConfig
from feast.types import Int64, String
from feast.value_type import ValueType

from ml_platform.stores.online_store import OnlineWriteError
from ml_platform_tests.servers.redis_server import RedisServer, redis_server

pytestmark = [pytest.mark.deploy, pytest.mark.filterwarnings("ignore")]

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis") / "server") as started:
        yield started


@pytest.fixture
def store(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """Two views of one key on an empty server."""
    monkeypatch.setenv("ML_PLATFORM_REDIS_PASSWORD", server.password)
    server.client().flushall()
    return project("test", server, tmp_path)


def project(name: str, server: RedisServer, folder: Path) -> FeatureStore:
    folder.mkdir(exist_ok=True)
    made = FeatureStore(
        config=RepoConfig(
            project=name,
            provider="local",
            registry=str(folder / "registry.db"),
            online_store={"type": "ml_platform.stores.redis_store.RedisUrlOnlineStore", "url": server.url},
            offline_store={"type": "ml_platform.stores.asof_store.AsOfOfflineStore"},
            entity_key_serialization_version=3,
            repo_path=folder,
        )
    )
    rows([]).to_parquet(folder / "rows.parquet")
    driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=name,
            entities=[driver],
            schema=[Field(name="driver", dtype=Int64), Field(name=feature, dtype=String)],
            source=FileSource(path=str(folder / "rows.parquet"), timestamp_field="ts"),
        )
        for name, feature in (("stats", "text"), ("others", "text"))
    ]
    made.apply([driver, *views])
    return made


def rows(values: list[tuple[int, datetime, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(values, columns=["driver", "ts", "text"])
    return frame.astype({"driver": "int64", "ts": "datetime64[us, UTC]", "text": "object"})


def write(store: FeatureStore, *values: tuple[int, datetime, str], view: str = "stats") -> None:
    store.write_to_online_store(view, rows(list(values)))


def held(store: FeatureStore, *keys: int, view: str = "stats") -> list[str | None]:
    answer = store.get_online_features([f"{view}:text"], [{"driver": key} for key in keys]).to_dict()
    return list(answer["text"])


def test_an_older_row_does_not_replace_a_newer_one_and_an_equal_one_does(store: FeatureStore) -> None:
    write(store, (1, NOON, "newer"), (2, NOON, "other"))
    write(store, (1, NOON - MICROSECOND, "older"), (2, NOON + MICROSECOND, "later"))
    assert held(store, 1, 2, 3) == ["newer", "later", None]
    write(store, (1, NOON, "corrected"))
    assert held(store, 1) == ["corrected"]
    write(store, (1, NOON + 3 * MICROSECOND, "last"), (1, NOON + 2 * MICROSECOND, "before"))
    assert held(store, 1) == ["last"]


def test_a_correction_may_take_the_newest_row_back(store: FeatureStore) -> None:
    write(store, (1, NOON, "wrong"))
    with store.provider.online_store.restating():
        write(store, (1, NOON - timedelta(hours=1), "right"))
    assert held(store, 1) == ["right"]
    write(store, (1, NOON - timedelta(hours=2), "older"))
    assert held(store, 1) == ["right"]


def test_a_write_that_the_server_does_not_hold_is_an_error(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redis.client.Pipeline.hset", lambda *_, **__: None)
    with pytest.raises(OnlineWriteError, match="view 'stats': 2 of 2 rows are not in Redis as written"):
        write(store, (1, NOON, "lost"), (2, NOON, "lost"))


def test_keys_that_are_not_among_those_to_keep_are_removed_from_their_view_alone(
    store: FeatureStore, server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_platform.stores.redis_store._SCANNED_AT_ONCE", 2)
    ends_alike = project("latest", server, tmp_path / "latest")
    for each in (store, ends_alike):
        write(each, *((key, NOON, f"row {key}") for key in range(20)))
    write(store, (3, NOON, "other"), view="others")
    kept = pl.DataFrame({"driver": [7, 11, 42]})
    view, online = store.get_feature_view("stats"), store.provider.online_store
    assert online.keep_only(store.config, view, kept) == 18
    assert held(store, *range(20)) == [f"row {key}" if key in (7, 11) else None for key in range(20)]
    assert held(store, 3, view="others") == ["other"]
    assert held(ends_alike, *range(20)) == [f"row {key}" for key in range(20)]
    assert len(server.client().keys()) == 3 + 20
    assert online.keep_only(store.config, view, kept) == 0
