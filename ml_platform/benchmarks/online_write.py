"""The newest row of every key to an online store: ours, which reads each back, and Feast's own ``materialize``.

``python -m ml_platform.benchmarks.online_write ours|stock KEYS`` makes two rows for each key, five features each, and
has the newer one written. ``answer`` is a hash of what Feast's interface then reads of all keys.
"""

import hashlib
import shutil
import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from ml_platform.benchmarks.measuring import measured, tell
from ml_platform.settings import load, prepare_environment

NEWEST, SPAN = datetime(2024, 3, 1, tzinfo=UTC), timedelta(days=60)
FEATURES = [f"feature{number}" for number in range(5)]
_READ_AT_ONCE = 10_000

_SIDES = {
    "ours": ("ml_platform.stores.online_store.SqliteRowOnlineStore", "ml_platform.stores.asof_store.AsOfOfflineStore"),
    "stock": ("sqlite", "duckdb"),
}


def make(file: Path, keys: int) -> None:
    """Two rows for each key, in random order."""
    random = np.random.default_rng(0)
    rows = 2 * keys
    seconds = NEWEST.timestamp() - random.integers(1, int(SPAN.total_seconds()), rows)
    pl.DataFrame(
        {
            "key": [f"key{number}" for number in random.permutation(np.repeat(np.arange(keys), 2))],
            "ts": pl.from_epoch(pl.Series(seconds.astype("int64")), time_unit="s").dt.replace_time_zone("UTC"),
            **{name: random.random(rows) for name in FEATURES},
        }
    ).write_parquet(file)


def main(side: str, keys: int) -> None:
    """As the module says."""
    prepare_environment()
    warnings.filterwarnings("ignore")
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value
    from feast.repo_config import RepoConfig
    from feast.types import Float64, String
    from feast.value_type import ValueType

    folder = load().home / "online_write"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make(folder / "rows.parquet", keys)
    online, offline = _SIDES[side]
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": online, "path": str(folder / "online.sqlite")},
        offline_store={"type": offline},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    entity = Entity(name="key", join_keys=["key"], value_type=ValueType.STRING)
    view = FeatureView(
        name="view",
        entities=[entity],
        ttl=2 * SPAN,
        schema=[Field(name="key", dtype=String), *(Field(name=name, dtype=Float64) for name in FEATURES)],
        source=FileSource(path=str(folder / "rows.parquet"), timestamp_field="ts"),
    )
    store.apply([entity, view])
    declared = store.get_feature_view("view")

    def push() -> None:
        newest = pl.read_parquet(folder / "rows.parquet").sort("ts").unique("key", keep="last", maintain_order=True)
        held = store.provider.online_store.push(config, declared, newest, moment="ts")
        if held != keys:
            raise RuntimeError(f"the online store holds {held} of {keys} keys")

    def materialize() -> None:
        store.materialize(NEWEST - SPAN, NEWEST)

    sides: dict[str, Callable[[], None]] = {"ours": push, "stock": materialize}
    _, figures = measured(sides[side])
    answer = hashlib.sha256()
    for start in range(0, keys, _READ_AT_ONCE):
        asked = [
            EntityKey(join_keys=["key"], entity_values=[Value(string_val=f"key{number}")])
            for number in range(start, min(start + _READ_AT_ONCE, keys))
        ]
        for moment, values in store.provider.online_read(config, declared, asked, FEATURES):
            answer.update(repr((moment, [values[name].SerializeToString() for name in FEATURES])).encode())
    tell({**figures, "rows_per_cpu_second": keys / figures["cpu_seconds"], "answer": answer.hexdigest()})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
