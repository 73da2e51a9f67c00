"""The catalog: what is on record of every partition of a lake, kept beside the lake's tables as one more of them.

Belongs here: records and which of them hold. Writing the data that they speak of is the lake's.

A record names the files that its partition had when it was made, and holds while the partition has exactly these.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from ml_platform.core.digests import digest
from ml_platform.stores.delta_log import OpenTable

CATALOG = "catalog/partitions"
WHOLE = "all"
"""Partition name of a table that has no partitions."""

_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "table_name": pl.String,
    "partition": pl.String,
    "delta_version": pl.Int64,
    "rows": pl.Int64,
    "content_hash": pl.String,
    "inputs_hash": pl.String,
    "inputs": pl.String,
    "facts": pl.String,
    "files_hash": pl.String,
    "blocked": pl.String,
    "recorded_at": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True)
class PartitionState:
    """What is known of one partition as it stands now.

    ``facts`` are small numbers that the writer wants to keep with it (rows quarantined, say).
    ``blocked`` is why what was delivered for it was refused; its rows are those of before, if any.
    ``changed`` tells, on the answer to a write, whether the content became another.
    """

    table: str
    partition: str
    rows: int
    content_hash: str
    inputs_hash: str
    delta_version: int
    inputs: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    blocked: str = ""
    changed: bool = False


@dataclass(frozen=True)
class _Record:
    state: PartitionState
    files_hash: str
    recorded_at: datetime


@dataclass
class _Records:
    """Of one table: all, and by partition and files the newest; the states that held when last asked."""

    every: list[_Record] = field(default_factory=list)
    newest: dict[tuple[str, str], _Record] = field(default_factory=dict)
    standing: tuple[tuple[int, int], dict[str, PartitionState]] | None = None


class Catalog:
    """The records of one lake, each read once by a process, however often it is asked."""

    def __init__(self, uri: str, options: Mapping[str, str]) -> None:
        self._table = OpenTable(uri, options)
        self._by_table: dict[str, _Records] = {}
        self._lock = threading.RLock()

    def tables(self) -> list[str]:
        """Every table of which something is on record, by name."""
        with self._lock:
            return sorted(table for table, records in self._read().items() if records.every)

    def history(self, table: str) -> list[PartitionState]:
        """Every state on record of a table's partitions, oldest first."""
        with self._lock:
            records = self._read().get(table, _Records()).every
            return [record.state for record in sorted(records, key=lambda record: record.recorded_at)]

    def holding(self, table: str, files: Mapping[str, Sequence[str]]) -> dict[str, PartitionState]:
        """By partition, the newest state on record of exactly these files; a partition without files has none."""
        hashes, nothing = {name: _files_hash(paths) for name, paths in files.items()}, _files_hash(())
        with self._lock:
            newest = self._read().get(table, _Records()).newest
            found = {
                name: newest.get((name, hashes.get(name, nothing))) for name in sorted({name for name, _ in newest})
            }
        return {name: record.state for name, record in found.items() if record is not None}

    def standing(
        self, table: str, version: int, files: Callable[[], Mapping[str, Sequence[str]]]
    ) -> dict[str, PartitionState]:
        """As :meth:`holding` of the newest version's files, from memory if neither that nor the records changed."""
        with self._lock:
            records = self._read().setdefault(table, _Records())
            seen = version, len(records.every)
            if records.standing is None or records.standing[0] != seen:
                records.standing = seen, self.holding(table, files())
            return dict(records.standing[1])

    @staticmethod
    def rows(states: Iterable[PartitionState], files: Mapping[str, Sequence[str]]) -> pl.DataFrame:
        """The records of these states, now and of these files, as rows of the catalog."""
        records = [
            {
                "table_name": state.table,
                "partition": state.partition,
                "delta_version": state.delta_version,
                "rows": state.rows,
                "content_hash": state.content_hash,
                "inputs_hash": state.inputs_hash,
                "inputs": json.dumps(dict(state.inputs), sort_keys=True),
                "facts": json.dumps(dict(state.facts), sort_keys=True),
                "files_hash": _files_hash(files.get(state.partition, ())),
                "blocked": state.blocked,
                "recorded_at": datetime.now(UTC),
            }
            for state in states
        ]
        return pl.DataFrame(records, schema=_SCHEMA)

    def _read(self) -> dict[str, _Records]:
        """Everything on record, after a look for what is new; only under the lock."""
        news, complete = self._table.news(_SCHEMA)
        if complete:
            self._by_table = {}
        for row in news.iter_rows(named=True):
            self._take(_record(row))
        return self._by_table

    def _take(self, record: _Record) -> None:
        records = self._by_table.setdefault(record.state.table, _Records())
        records.every.append(record)
        key = record.state.partition, record.files_hash
        if key not in records.newest or records.newest[key].recorded_at <= record.recorded_at:
            records.newest[key] = record


_catalogs: dict[tuple[str, str], Catalog] = {}


def catalog_of(lake_uri: str, options: Mapping[str, str]) -> Catalog:
    """The one catalog of this process of the lake at a place."""
    uri = f"{lake_uri}/{CATALOG}"
    return _catalogs.setdefault((uri, repr(sorted(options.items()))), Catalog(uri, options))


def _record(row: Mapping[str, Any]) -> _Record:
    state = PartitionState(
        table=row["table_name"],
        partition=row["partition"],
        rows=row["rows"],
        content_hash=row["content_hash"],
        inputs_hash=row["inputs_hash"],
        delta_version=row["delta_version"],
        inputs=json.loads(row["inputs"]),
        facts=json.loads(row["facts"]),
        blocked=row["blocked"],
    )
    return _Record(state, row["files_hash"], row["recorded_at"])


def _files_hash(files: Iterable[str]) -> str:
    return digest(*sorted(files))
