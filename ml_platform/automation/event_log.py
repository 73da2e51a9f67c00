"""Dagster's storage in SQLite with connections that stay open.

Dagster opens a database anew for every event it writes or reads, and SQLite moves its write-ahead log back at every
close: of a landed day, whose run has some four hundred events, that is more than a tenth. Files and tables are
Dagster's own, so either storage reads what the other wrote.

A process that is killed loses nothing. Of a machine that loses its power, the log of a run may lack its last events, as
its disk is not waited for at each of them; the index over all runs, by which sensors and conditions go on, lacks none.
"""

import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.schema import AssetKeyTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage, _event_logs_directory
from dagster._serdes import ConfigurableClassData
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import StaticPool

_OPEN_DATABASES = 5
"""The index over all runs, and the runs that were last written or read: each has a database of its own."""


class SqliteEventLog(SqliteEventLogStorage):
    """Dagster's event log in SQLite, a connection for each of the databases last used."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[tuple[int, str], Engine] = OrderedDict()
        self._found: set[tuple[str, str]] = set()
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._engine(shard).connect() as connection:
            before = _changes(connection)
            with connection.begin():
                yield connection
            if shard != INDEX_SHARD_NAME and _changes(connection) > before:
                # Who follows a run from another process watches this file, not the log of what is to be written to it.
                os.utime(self.path_for_shard(shard))

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table; one that was found is not looked for again at each event."""
        look = super().has_table
        return self._has((table_name, ""), lambda: look(table_name))

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:
        look = super()._has_asset_key_col_on_connection
        return self._has((AssetKeyTable.name, column_name), lambda: look(conn, column_name))

    def _has(self, thing: tuple[str, str], look: Callable[[], bool]) -> bool:
        if thing not in self._found and look():
            self._found.add(thing)
        return thing in self._found

    def wipe(self) -> None:
        """Delete all events, and the databases of the runs."""
        self._close()
        super().wipe()

    def dispose(self) -> None:
        """Close what is open."""
        super().dispose()
        with self._db_lock:
            self._close()

    def _engine(self, shard: str) -> Engine:
        # A connection must not be used in a process that was forked after it was made.
        name = (os.getpid(), shard)
        if name not in self._engines:
            options = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
            engine = create_engine(self.conn_string_for_shard(shard), poolclass=StaticPool, connect_args=options)
            if shard != INDEX_SHARD_NAME:
                event.listen(engine, "connect", _do_not_wait_for_the_disk)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            self._engines[name] = engine
        self._engines.move_to_end(name)
        if len(self._engines) > _OPEN_DATABASES:
            self._engines.popitem(last=False)[1].dispose()
        return self._engines[name]

    def _close(self) -> None:
        while self._engines:
            self._engines.popitem()[1].dispose()


def _changes(connection: Connection) -> int:
    """How many rows a connection has changed since it was opened."""
    changed: int = connection.connection.dbapi_connection.total_changes  # type: ignore[union-attr]  # it is open
    return changed


def _do_not_wait_for_the_disk(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA synchronous=NORMAL")


class SqliteStorage(DagsterSqliteStorage):
    """Dagster's storage in SQLite under a folder, with :class:`SqliteEventLog`; ``storage: custom`` names it."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._event_log_storage = SqliteEventLog(_event_logs_directory(base_dir))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The storage that ``dagster.yaml`` describes."""
        return cls.from_local(inst_data=inst_data, **config_value)
