"""An online store for Feast in one SQLite file, with one row for each key.

Feast's own SQLite store keeps a row for each value, which takes longer to write than everything else: here a key is one
row, whose columns hold the values as Feast encodes them. Whole frames are encoded a column at a time, what already
stands is left alone, and what the file holds after a write is compared with what was asked for.
"""

import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from feast import Entity, FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel
from feast.type_map import python_values_to_proto_values
from feast.utils import to_naive_utc
from feast.value_type import ValueType

_TOGETHER = 20_000
"""Keys whose rows are in memory at once."""

_ASKED_AT_ONCE = 5_000
"""Keys in one question; SQLite allows six times as many."""

_PATIENCE_SECONDS = 60.0
"""How long a writer waits for another."""

_STRING = ValueType.STRING.value.to_bytes(4, "little")
_DOUBLE = Value(double_val=1.0).SerializeToString()[:1]
_EPOCH = datetime(1970, 1, 1)

_Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
_Read = tuple[datetime | None, dict[str, Value] | None]


class SqliteRowOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """``online_store:`` of ``feature_store.yaml``.

    Attributes:
        type: this store.
        path: its file; a relative one is relative to the feature repository.
    """

    type: Literal["ml_platform.stores.online_store.SqliteRowOnlineStore"] = (
        "ml_platform.stores.online_store.SqliteRowOnlineStore"
    )
    path: str = "data/online.sqlite"


class OnlineWriteError(Exception):
    """An online store does not answer with what was written to it."""


class SqliteRowOnlineStore(OnlineStore):  # type: ignore[misc]
    """What Feast asks of an online store, and :meth:`push` for whole frames. It holds no vectors."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Make the tables of new views, add the columns of new features, drop the tables of views that are gone."""
        with self._connection(config) as connection:
            for view in tables_to_delete:
                connection.execute(f"DROP TABLE IF EXISTS {_table(config, view)}")
            for view in tables_to_keep:
                table = _table(config, view)
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {table} "
                    "(entity_key BLOB PRIMARY KEY, event_ts INTEGER, created_ts INTEGER) WITHOUT ROWID"
                )
                there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                for field in view.features:
                    if _column_name(field.name) not in there:
                        connection.execute(f"ALTER TABLE {table} ADD COLUMN {_column(field.name)} BLOB")

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove the file."""
        self._connection(config).close()
        del self._of_thread.connection
        _path(config).unlink(missing_ok=True)

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[_Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows as Feast hands them over, and see that they are there; a newer row that stands is left as it is.

        Newer is by event, then by created timestamp where both rows have one. Of rows of one key the newest counts, of
        equally new ones the last.

        Raises:
            OnlineWriteError: the file does not hold what was written; nothing of these rows is written then.
        """
        version = config.entity_key_serialization_version
        by_features: dict[tuple[str, ...], list[tuple[Any, ...]]] = {}
        for entity, values, at, created in data:
            row = (serialize_entity_key(entity, version), _microseconds(at), _microseconds(created))
            encoded = (value.SerializeToString() for value in values.values())
            by_features.setdefault(tuple(values), []).append((*row, *encoded))
        stored = _table(config, table)
        with self._connection(config) as connection:
            for names, rows in by_features.items():
                connection.executemany(_upsert(stored, names, unless_older=True), rows)
                missing = _missing(connection, stored, names, _newest_of_each(rows))
                if lost := len(missing) - _outdone(connection, stored, missing):
                    raise OnlineWriteError(
                        f"view {table.name!r}: {lost} of {len(rows)} rows are not in {_path(config)} as written"
                    )
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[_Read]:
        """For each key its moment and the values asked for; nothing and nothing where it is not known."""
        names = requested_features or [field.name for field in table.features]
        columns = ", ".join(["entity_key", "event_ts", *map(_column, names)])
        keys = [serialize_entity_key(key, config.entity_key_serialization_version) for key in entity_keys]
        found: dict[bytes, _Read] = {}
        connection = self._connection(config)
        for start in range(0, len(keys), _ASKED_AT_ONCE):
            some = keys[start : start + _ASKED_AT_ONCE]
            question = f"SELECT {columns} FROM {_table(config, table)} WHERE entity_key IN ({_marks(len(some))})"
            for key, at, *values in connection.execute(question, some):
                found[key] = (
                    _moment(at),
                    {
                        name: Value.FromString(value)
                        for name, value in zip(names, values, strict=True)
                        if value is not None
                    },
                )
        return [found.get(key, (None, None)) for key in keys]

    def push(
        self,
        config: RepoConfig,
        table: FeatureView,
        rows: pl.DataFrame,
        *,
        moment: str,
    ) -> int:
        """Have the store hold these rows, whatever it holds: a correction may take the newest row of a key back.

        The values of a key change together.

        Args:
            config: of the feature store.
            table: the view.
            rows: one for each key: the view's join keys, none of them null, and its features.
            moment: the column that says when each row became known (UTC).

        Returns:
            How many keys the file then holds with that very row.
        """
        types = {field.name: field.dtype.to_value_type() for field in [*table.entity_columns, *table.features]}
        keys = encoded_keys(config, table, rows)
        names = [field.name for field in table.features]
        moments = rows[moment].dt.convert_time_zone("UTC").dt.epoch("us")
        connection, stored, held = self._connection(config), _table(config, table), 0
        # In the order of the table: rows that are written, and read back, together are stored together.
        order = sorted(range(len(keys)), key=keys.__getitem__)
        for start in range(0, len(order), _TOGETHER):
            some = order[start : start + _TOGETHER]
            chosen = rows[some]
            values = [_encoded(chosen[name], types[name]) for name in names]
            columns = [keys[row] for row in some], moments[some].to_list(), [None] * len(some), *values
            wanted = list(zip(*columns, strict=True))
            missing = _missing(connection, stored, names, wanted)
            with connection:
                connection.executemany(_upsert(stored, names), missing)
            held += len(wanted) - len(_missing(connection, stored, names, missing))
        return held

    def keep_only(self, config: RepoConfig, table: FeatureView, rows: pl.DataFrame) -> int:
        """Remove the keys that have no row here: whose row has expired, or was taken back by a correction.

        Args:
            config: of the feature store.
            table: the view.
            rows: the view's join keys, none of them null.

        Returns:
            How many were removed.
        """
        kept, stored, connection = (
            set(encoded_keys(config, table, rows)),
            _table(config, table),
            self._connection(config),
        )
        with connection:
            held = connection.execute(f"SELECT entity_key FROM {stored}")
            gone = [key for key in held if key[0] not in kept]
            connection.executemany(f"DELETE FROM {stored} WHERE entity_key = ?", gone)
        return len(gone)

    def _connection(self, config: RepoConfig) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._of_thread, "connection"):
            path = _path(config)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._of_thread.connection = sqlite3.connect(path, timeout=_PATIENCE_SECONDS)
        connection: sqlite3.Connection = self._of_thread.connection
        return connection


def _path(config: RepoConfig) -> Path:
    path = Path(config.online_store.path)
    return path if path.is_absolute() or not config.repo_path else config.repo_path / path


# Statements -------------------------------------------------------------------------------------------


def _table(config: RepoConfig, view: FeatureView) -> str:
    return _quoted(compute_table_id(config.project, view, config.registry.enable_online_feature_view_versioning))


def _column_name(feature: str) -> str:
    return f"value of {feature}"  # a feature may be called as a column of ours


def _column(feature: str) -> str:
    return _quoted(_column_name(feature))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _marks(number: int) -> str:
    return ", ".join("?" * number)


_OLDER = "(excluded.event_ts < event_ts OR (excluded.event_ts = event_ts AND excluded.created_ts < created_ts))"


def _upsert(table: str, features: Sequence[str], *, unless_older: bool = False) -> str:
    """A row of key, moment, moment of creation and values; one that stands as it is costs no page."""
    changing = ["event_ts", "created_ts", *map(_column, features)]
    new = [f"excluded.{column}" for column in changing]
    condition = f" AND {_OLDER} IS NOT TRUE" if unless_older else ""
    return (
        f"INSERT INTO {table} (entity_key, {', '.join(changing)}) VALUES ({_marks(len(changing) + 1)}) "
        f"ON CONFLICT (entity_key) DO UPDATE SET ({', '.join(changing)}) = ({', '.join(new)}) "
        f"WHERE ({', '.join(changing)}) IS NOT ({', '.join(new)}){condition}"
    )


def _missing(
    connection: sqlite3.Connection, table: str, features: Sequence[str], wanted: list[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """Which of these rows the table has not."""
    columns = ", ".join(["entity_key", "event_ts", "created_ts", *map(_column, features)])
    missing = []
    for start in range(0, len(wanted), _ASKED_AT_ONCE):
        some = wanted[start : start + _ASKED_AT_ONCE]
        question = f"SELECT {columns} FROM {table} WHERE entity_key IN ({_marks(len(some))})"
        stored = set(connection.execute(question, [row[0] for row in some]))
        missing += [row for row in some if row not in stored]
    return missing


def _newest_of_each(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Of rows of one key the newest; of equally new ones the last."""
    newest: dict[bytes, tuple[Any, ...]] = {}
    for row in rows:
        stood = newest.get(row[0])
        if stood is None or not _older(row[1:3], stood[1:3]):
            newest[row[0]] = row
    return list(newest.values())


def _outdone(connection: sqlite3.Connection, table: str, rows: list[tuple[Any, ...]]) -> int:
    """How many of these rows the table has a newer one of."""
    outdone = 0
    for start in range(0, len(rows), _ASKED_AT_ONCE):
        some = {row[0]: row[1:3] for row in rows[start : start + _ASKED_AT_ONCE]}
        question = f"SELECT entity_key, event_ts, created_ts FROM {table} WHERE entity_key IN ({_marks(len(some))})"
        outdone += sum(_older(some[key], stood) for key, *stood in connection.execute(question, list(some)))
    return outdone


def _older(row: Sequence[int | None], stood: Sequence[int | None]) -> bool:
    """Whether one moment and moment of creation is before another; a creation of which nobody knows is neither."""
    (at, created), (stood_at, stood_created) = row, stood
    if at is None or stood_at is None or at != stood_at:
        return at is not None and stood_at is not None and at < stood_at
    return created is not None and stood_created is not None and created < stood_created


# Encoding ---------------------------------------------------------------------------------------------


def encoded_keys(config: RepoConfig, table: FeatureView, rows: pl.DataFrame) -> list[bytes]:
    """Each row's entity key, as Feast writes it: the names of its parts, in order, and then their values."""
    ordered = sorted((field.name, field.dtype.to_value_type()) for field in table.entity_columns)
    version = config.entity_key_serialization_version
    names = serialize_entity_key_prefix([name for name, _ in ordered], version)
    parts = [_key_part(rows[name], kind, version) for name, kind in ordered]
    return [names + b"".join(each) for each in zip(*parts, strict=True)] if parts else [names] * rows.height


def _key_part(values: pl.Series, kind: ValueType, version: int) -> list[bytes]:
    """Each value of one join key: its type, its length, its bytes."""
    if kind == ValueType.STRING:
        texts = [text.encode() for text in values.to_list()]
        return [_STRING + len(text).to_bytes(4, "little") + text for text in texts]
    names = len(serialize_entity_key_prefix([values.name], version))

    def by_feast(some: list[Any]) -> list[bytes]:
        protos = python_values_to_proto_values(some, kind)
        entities = [EntityKey(join_keys=[values.name], entity_values=[proto]) for proto in protos]
        return [serialize_entity_key(entity, version)[names:] for entity in entities]

    return _distinct(values, by_feast)


def _encoded(values: pl.Series, kind: ValueType) -> list[bytes]:
    """Each value as Feast's message of it; null and NaN are the empty one."""
    if values.dtype == pl.Float64:
        return _doubles(values)
    if values.dtype.is_float():
        values = values.fill_nan(None)

    def by_feast(some: list[Any]) -> list[bytes]:
        return [proto.SerializeToString() for proto in python_values_to_proto_values(some, kind)]

    return by_feast(values.to_list()) if values.dtype.is_nested() else _distinct(values, by_feast)


def _doubles(values: pl.Series) -> list[bytes]:
    """A byte that says that it is a number, and its eight."""
    numbers = values.fill_null(float("nan")).to_numpy()
    says = np.broadcast_to(np.frombuffer(_DOUBLE, np.uint8), (len(numbers), 1))
    raw = np.hstack([says, numbers.astype("<f8").view(np.uint8).reshape(-1, 8)]).tobytes()
    encoded = [raw[start : start + 9] for start in range(0, len(raw), 9)]
    for row in np.flatnonzero(np.isnan(numbers)).tolist():
        encoded[row] = b""
    return encoded


def _distinct(values: pl.Series, encode: Callable[[list[Any]], list[bytes]]) -> list[bytes]:
    """What ``encode`` makes of each value, asked once for each that occurs."""
    known = values.unique().to_list()
    made = dict(zip(known, encode(known), strict=True))
    return [made[value] for value in values.to_list()]


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else (to_naive_utc(moment) - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return (_EPOCH + timedelta(microseconds=microseconds)).replace(tzinfo=UTC)
