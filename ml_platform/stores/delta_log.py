"""Delta tables kept open: what was committed since the last look is read, not the whole log again.

A run asks for the state of the same tables hundreds of times, and the daemons ask for ever. Opening a table costs as
much as its log is long; bringing an open one up to date costs one look for newer commits.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import polars as pl

if TYPE_CHECKING:
    from deltalake import DeltaTable

_LOG = "_delta_log"
_FIRST_COMMIT = f"{0:020}.json"
_KEPT_VERSIONS = 4


_every: "WeakSet[OpenTable]" = WeakSet()


class OpenTable:
    """One table, as of the last call of :meth:`refresh`, and which of its files were read if it only grows."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self._uri, self._options = uri, dict(options)
        self._table: DeltaTable | None = None
        self._identity: tuple[int, int] | None = None
        self._read: tuple[int, frozenset[str]] | None = None
        self._still: dict[int, DeltaTable] = {}
        self._lock = threading.RLock()
        _every.add(self)

    def exists(self) -> bool:
        """Whether there is such a table."""
        from deltalake.exceptions import TableNotFoundError

        try:
            self.refresh()
        except TableNotFoundError:
            return False
        return True

    def refresh(self) -> "DeltaTable":
        """The table at its newest version.

        Raises:
            deltalake.exceptions.TableNotFoundError: there is none.
        """
        from deltalake import DeltaTable

        with self._lock:
            identity = self._first_commit()
            if self._table is None or identity != self._identity:
                # New, or another table than the one that was deleted from its place.
                self._table, self._read, self._still = None, None, {}
                self._table = DeltaTable(self._uri, storage_options=self._options)
                self._identity = identity
            elif self._has_grown(self._table.version()):
                self._table.update_incremental()
            return self._table

    def at(self, version: int | None = None) -> "DeltaTable":
        """The table at a version, or the newest, to be read: no later look brings it further.

        Raises:
            deltalake.exceptions.TableNotFoundError: there is no such table.
            deltalake.exceptions.DeltaError: it has no such version.
        """
        from deltalake import DeltaTable

        with self._lock:
            newest = self.refresh().version()
            number = newest if version is None else version
            if number not in self._still:
                if len(self._still) == _KEPT_VERSIONS:
                    del self._still[min(self._still)]
                self._still[number] = DeltaTable(self._uri, version=number, storage_options=self._options)
            return self._still[number]

    def news(self, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> tuple[pl.DataFrame, bool]:
        """Rows that came since the last call, in no order, and whether these are all that there are.

        All come at the first call, and again when files that were read are replaced by others.
        """
        with self._lock:
            if not self.exists():
                return pl.DataFrame(schema=dict(schema)), True
            table = self.refresh()
            if self._read is not None and self._read[0] == table.version():
                return pl.DataFrame(schema=dict(schema)), False
            files = frozenset(table.file_uris())
            known = self._read[1] if self._read is not None else frozenset()
            anew = self._read is None or not known <= files
            new = files if anew else files - known
            rows = pl.DataFrame(schema=dict(schema))
            if new:
                read = pl.read_parquet(sorted(new), storage_options=self._options or None, columns=list(schema))
                rows = read.cast(dict(schema))  # type: ignore[arg-type]
            self._read = table.version(), files
            return rows, anew

    def forget(self) -> None:
        """Open it anew next time, as if it had never been read."""
        with self._lock:
            self._table, self._read, self._still = None, None, {}

    def _has_grown(self, version: int) -> bool:
        """Whether there may be a newer version; on a local disk a look for the next commit tells.

        Commits are cleaned up oldest first, those that a checkpoint holds: if this version's own is gone, so may be
        the next.
        """
        if not _is_local(self._uri):
            return True
        own, following = (Path(self._uri) / _LOG / f"{number:020}.json" for number in (version, version + 1))
        return following.exists() or not own.exists()

    def _first_commit(self) -> tuple[int, int] | None:
        """What tells a table on a local disk from another in its place; None elsewhere."""
        if not _is_local(self._uri):
            return None
        try:
            found = (Path(self._uri) / _LOG / _FIRST_COMMIT).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


def _is_local(uri: str) -> bool:
    return "://" not in uri


_open: dict[tuple[str, str], OpenTable] = {}


def open_table(uri: str, options: Mapping[str, str]) -> OpenTable:
    """The one open table of this process at a place."""
    return _open.setdefault((uri, repr(sorted(options.items()))), OpenTable(uri, options))


def forget_open_tables() -> None:
    """Have this process open every table anew: others were put in their place, which object storage does not tell."""
    for table in list(_every):
        table.forget()
