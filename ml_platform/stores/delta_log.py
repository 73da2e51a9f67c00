"""Delta tables kept open: what was committed since the last look is read, not the whole log again.

A run asks for the state of the same tables hundreds of times, and the daemons ask for ever. Opening a table costs as
much as its log is long; bringing an open one up to date costs one look for newer commits.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from deltalake import DeltaTable

_FIRST_COMMIT = "_delta_log/00000000000000000000.json"


class OpenTable:
    """One table, as of the last call of :meth:`refresh`, and its rows if it only grows."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self._uri, self._options = uri, dict(options)
        self._table: DeltaTable | None = None
        self._identity: tuple[int, int] | None = None
        self._files: frozenset[str] = frozenset()
        self._rows: pl.DataFrame | None = None
        self._lock = threading.Lock()

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
                self._table = DeltaTable(self._uri, storage_options=self._options)
                self._identity, self._files, self._rows = identity, frozenset(), None
            else:
                self._table.update_incremental()
            return self._table

    def rows(self, schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
        """All rows, in no order: only the files that came since the last call are read."""
        table = self.refresh()
        with self._lock:
            files = frozenset(table.file_uris())
            new, known = files - self._files, self._rows
            if known is None or not self._files <= files:
                new, known = files, pl.DataFrame(schema=dict(schema))
            if new:
                read = pl.read_parquet(sorted(new), storage_options=self._options or None, columns=list(schema))
                known = pl.concat([known, read.cast(dict(schema))])  # type: ignore[arg-type]
            self._files, self._rows = files, known
            return known

    def _first_commit(self) -> tuple[int, int] | None:
        """What tells a table on a local disk from another in its place; None elsewhere."""
        if "://" in self._uri:
            return None
        try:
            found = (Path(self._uri) / _FIRST_COMMIT).stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


_open: dict[tuple[str, str], OpenTable] = {}


def open_table(uri: str, options: Mapping[str, str]) -> OpenTable:
    """The one open table of this process at a place."""
    return _open.setdefault((uri, repr(sorted(options.items()))), OpenTable(uri, options))
