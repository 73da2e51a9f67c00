"""What the Redis online store holds after rows of one key come in any order, through Feast and through the platform."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
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
    """A view of one key on an empty server."""
    monkeypatch.setenv("ML_PLATFORM_REDIS_PASSWORD", server.password)
    server.client().flushall()
    made = FeatureStore(
        config=RepoConfig(
            project="test",
            provider="local",
            registry=str(tmp_path / "registry.db"),
            online_store={"type": "ml_platform.stores.redis_store.RedisUrlOnlineStore", "url": server.url},
            offline_store={"type": "ml_platform.stores.asof_store.AsOfOfflineStore"},
            entity_key_serialization_version=3,
            repo_path=tmp_path,
        )
    )
    rows([]).to_parquet(tmp_path / "rows.parquet")
    driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)
    view = FeatureView(
        name="stats",
        entities=[driver],
        schema=[Field(name="driver", dtype=Int64), Field(name="text", dtype=String)],
        source=FileSource(path=str(tmp_path / "rows.parquet"), timestamp_field="ts"),
    )
    made.apply([driver, view])
    return made


def rows(values: list[tuple[int, datetime, str]]) -> pd.DataFrame:
    frame = pd.DataFrame(values, columns=["driver", "ts", "text"])
    return frame.astype({"driver": "int64", "ts": "datetime64[us, UTC]", "text": "object"})


def write(store: FeatureStore, *values: tuple[int, datetime, str]) -> None:
    store.write_to_online_store("stats", rows(list(values)))


def held(store: FeatureStore, *keys: int) -> list[str | None]:
    answer = store.get_online_features(["stats:text"], [{"driver": key} for key in keys]).to_dict()
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
