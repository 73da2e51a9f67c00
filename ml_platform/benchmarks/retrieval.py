"""Historical retrieval beside a join by hand and beside Feast's DuckDB store, on the same Parquet files.

``python -m ml_platform.benchmarks.retrieval ours|by_hand|stock ROWS [HISTORY]`` answers for so many entity rows, with
four views of five features that have ``HISTORY`` times as many rows each; what is asked is made in the platform's home
if it is not there. The seconds are those from the call to an Arrow table; ``answer`` is a hash of all values.
"""

import sys
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from ml_platform.benchmarks.measuring import measured, tell
from ml_platform.settings import load

warnings.filterwarnings("ignore")

BEGIN, SPAN = datetime(2023, 1, 1, tzinfo=UTC), timedelta(days=365)
VIEWS, FEATURES, TTL = 4, 5, timedelta(days=30)
KEYS = 5_000


def make(folder: Path, rows: int, history: int = 1, seed: int = 0) -> None:
    """Entity rows, and for each view ``history`` times as many, at random moments of a year."""
    unfinished = folder.with_name(f"{folder.name}.tmp")
    unfinished.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    keys = [f"key{view}" for view in range(VIEWS)]
    entities = {key: random.integers(0, KEYS, rows) for key in keys}
    pl.DataFrame({**entities, "event_timestamp": _moments(random, rows)}).write_parquet(unfinished / "entities.parquet")
    for view, key in enumerate(keys):
        many = rows * history
        values = {f"view{view}_feature{number}": random.random(many) for number in range(FEATURES)}
        frame = pl.DataFrame({key: random.integers(0, KEYS, many), "ts": _moments(random, many), **values})
        frame.sort("ts").write_parquet(unfinished / f"view{view}.parquet")
    unfinished.rename(folder)


def _moments(random: np.random.Generator, rows: int) -> pl.Series:
    offsets = random.integers(0, int(SPAN.total_seconds() * 1e6), rows)
    begin = int(BEGIN.timestamp() * 1e6)
    return pl.Series(begin + offsets).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def by_hand(folder: Path) -> Callable[[], pa.Table]:
    """What a person who knows these four files would write."""
    entities = pl.read_parquet(folder / "entities.parquet").to_pandas()

    def join() -> pa.Table:
        frame = pl.from_pandas(entities).with_row_index("row").sort("event_timestamp")
        for view in range(VIEWS):
            right = pl.read_parquet(folder / f"view{view}.parquet").sort("ts")
            frame = frame.join_asof(
                right, left_on="event_timestamp", right_on="ts", by=f"key{view}", tolerance=TTL, check_sortedness=False
            ).drop("ts", strict=False)
        return frame.sort("row").drop("row").to_arrow(compat_level=pl.CompatLevel.oldest())

    return join


def through_feast(folder: Path, offline: dict[str, Any]) -> Callable[[], pa.Table]:
    """The same by Feast's interface."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource
    from feast.repo_config import RepoConfig
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    registry = folder / f"{str(offline['type']).rpartition('.')[2]}.db"
    config = RepoConfig(
        project="bench",
        provider="local",
        registry=str(registry),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store=offline,
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    entities = [
        Entity(name=f"key{view}", join_keys=[f"key{view}"], value_type=ValueType.INT64) for view in range(VIEWS)
    ]
    names = [[f"view{view}_feature{number}" for number in range(FEATURES)] for view in range(VIEWS)]
    views = [
        FeatureView(
            name=f"view{view}",
            entities=[entity],
            ttl=TTL,
            schema=[
                Field(name=entity.join_key, dtype=Int64),
                *(Field(name=name, dtype=Float64) for name in names[view]),
            ],
            source=FileSource(path=str(folder / f"view{view}.parquet"), timestamp_field="ts"),
        )
        for view, entity in enumerate(entities)
    ]
    store.apply([*entities, *views])
    asked = pl.read_parquet(folder / "entities.parquet").to_pandas()
    features = [f"view{view}:{name}" for view in range(VIEWS) for name in names[view]]
    return lambda: store.get_historical_features(asked, features).to_arrow()


def answer(table: pa.Table) -> int:
    """A hash of all values, whatever the order of rows and columns."""
    frame = pl.DataFrame(table)
    values = frame.select("event_timestamp", *sorted(name for name in frame.columns if "_feature" in name))
    return int(values.hash_rows(seed=0).sum())


def main(command: str, rows: int, history: int = 1) -> None:
    """As the module says."""
    folder = load().home / "retrieval" / f"{rows}x{history}"
    if not folder.is_dir():
        make(folder, rows, history)
    asks: dict[str, Callable[[], Callable[[], pa.Table]]] = {
        "by_hand": lambda: by_hand(folder),
        "ours": lambda: through_feast(folder, {"type": "ml_platform.stores.asof_store.AsOfOfflineStore"}),
        "stock": lambda: through_feast(folder, {"type": "duckdb"}),
    }
    table, figures = measured(asks[command]())
    tell({**figures, "seconds_per_million": 1e6 * figures["seconds"] / rows, "answer": answer(table)})


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
