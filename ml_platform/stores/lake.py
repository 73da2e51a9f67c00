"""The lake: Delta tables written whole partitions at a time, read by polars and by SQL.

Belongs here: how frames become durable, versioned and queryable. What is in them does not.

A partition is one UTC day (the ``day`` column). Writing a partition replaces it atomically, and only if
its content changed. Beside the data, ``catalog/partitions`` (a Delta table too) records what each write
read and wrote: the content hash, the hash of its inputs, and the input tables' Delta versions. A record
counts only while it names exactly the files the partition has now; after a crash between the two
commits the partition therefore has no record and is computed anew.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Self

import polars as pl

from ml_platform.core.content import ordered_hash, sort_rows
from ml_platform.settings import Settings
from ml_platform.stores.catalog import CATALOG, WHOLE, PartitionState, catalog_of
from ml_platform.stores.delta_log import open_table
from ml_platform.stores.sql import UnknownTableError, query_frames

if TYPE_CHECKING:
    # Imported where it is used: the code location loads without it.
    from deltalake import DeltaTable
    from pyarrow.fs import FileInfo

_TABLE_CONFIGURATION = {
    # Models pin the versions they read: history stays until a retention job decides otherwise.
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
    # Whoever opens a table reads the commits since the last checkpoint one by one.
    "delta.checkpointInterval": "20",
    # Files are found by their day. Least and greatest values of every column, in the log for each file that ever was,
    # would make opening a wide table of a year take four times as long.
    "delta.dataSkippingNumIndexedCols": "0",
}
_CATALOG_CONFIGURATION = {
    # Nobody asks for an earlier catalog, and each commit takes as long as its log is: that of a year of days, driven
    # within the hour, would be thousands of files. So long may a process take from looking to writing.
    "delta.logRetentionDuration": "interval 2 minutes"
}
_COMMIT_ATTEMPTS = 8
_CATALOG_COMPACTED_EVERY = 250
"""Commits to the catalog."""

_LOG = "_delta_log"
_RENEWABLE_VERSIONS = 20
"""How many versions back a record may belong whose files were replaced: those of a night."""


@dataclass(frozen=True)
class Usage:
    """What a table takes: data files, their bytes, and the bytes of its log."""

    files: int
    data_bytes: int
    log_bytes: int


class Lake:
    """Delta tables under one root (a folder or an object-storage URL)."""

    def __init__(self, uri: str, storage_options: Mapping[str, str] | None = None) -> None:
        self._uri = uri.rstrip("/")
        self._options = dict(storage_options or {})
        self._catalog = catalog_of(self._uri, self._options)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The lake of these settings."""
        return cls(settings.lake_uri, settings.storage_options)

    # Reading ---------------------------------------------------------------------------------------

    def uri(self, table: str) -> str:
        """Where the table's files are."""
        return f"{self._uri}/{table}"

    def exists(self, table: str) -> bool:
        """Whether the table has ever been written."""
        return open_table(self.uri(table), self._options).exists()

    def version(self, table: str) -> int:
        """The newest Delta version.

        Raises:
            UnknownTableError: there is no such table.
        """
        return int(self._newest(table).version())

    def generation(self) -> int:
        """A number that grows with every recorded write to any table; -1 before the first."""
        return self.version(CATALOG) if self.exists(CATALOG) else -1

    def tables(self) -> list[str]:
        """Every table that was written, by name, without the catalog."""
        return self._catalog.tables()

    def scan(
        self, table: str, *, start: date | None = None, end: date | None = None, version: int | None = None
    ) -> pl.LazyFrame:
        """The rows of the days in ``[start, end)``, lazily, at ``version`` or the newest.

        Raises:
            UnknownTableError: there is no such table.
        """
        frame = pl.scan_delta(self._still(table, version))
        if start is not None:
            frame = frame.filter(pl.col("day") >= start)
        if end is not None:
            frame = frame.filter(pl.col("day") < end)
        return frame

    def has_days(self, table: str, *, version: int | None = None) -> bool:
        """Whether a table is partitioned by UTC day; a column called ``day`` alone does not make it so.

        Raises:
            UnknownTableError: there is no such table.
        """
        return "day" in self._still(table, version).metadata().partition_columns

    def read(
        self,
        table: str,
        *,
        start: date | None = None,
        end: date | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pl.DataFrame:
        """As :meth:`scan`, collected and without the ``day`` column."""
        frame = self.scan(table, start=start, end=end, version=version)
        if columns is not None:
            return frame.select(columns).collect()
        return frame.collect().drop("day", strict=False)

    def partitions(self, table: str, version: int | None = None) -> dict[str, PartitionState]:
        """The state of every partition that has a valid record, by partition name, now or as it was at ``version``.

        Raises:
            UnknownTableError: the table has no such version.
        """
        if version is not None:
            return self._catalog.holding(table, _files_by_partition(self._open(table, version)))
        if not self.exists(table):
            return self._catalog.standing(table, -1, dict)
        delta = self._newest(table)
        return self._catalog.standing(table, delta.version(), lambda: _files_by_partition(delta))

    def history(self, table: str) -> list[PartitionState]:
        """Every state that was ever recorded of a table's partitions, oldest first."""
        return self._catalog.history(table)

    def lost_files(self, table: str, version: int) -> list[str]:
        """The files of a version that are gone, or not of the size that its log says; none if it can be read.

        Raises:
            UnknownTableError: the table has no such version.
        """
        from deltalake.fs import DeltaStorageHandler

        actions = pl.DataFrame(self._open(table, version).get_add_actions(flatten=True))
        paths, sizes = actions["path"].to_list(), actions["size_bytes"].to_list()
        found = DeltaStorageHandler(self.uri(table), self._options).get_file_info(paths)
        # What is not there has no size.
        return sorted(path for path, size, info in zip(paths, sizes, found, strict=True) if info.size != size)

    def query(self, sql: str) -> pl.DataFrame:
        """One SQL read over the tables, each named ``schema.table`` as its path has it.

        The engine is an in-memory DuckDB that can reach neither files nor the network.

        Raises:
            RefusedQueryError: not exactly one statement, or one that is no read.
            UnknownTableError: a table is not in the lake; the message names those that are.
            duckdb.Error: DuckDB refused the statement.
        """
        return query_frames(sql, {table: partial(self.scan, table) for table in [*self.tables(), CATALOG]})

    # Writing ---------------------------------------------------------------------------------------

    def write_partitions(
        self,
        table: str,
        frames: Mapping[str, pl.DataFrame],
        *,
        sort_by: Sequence[str],
        inputs_hash: Mapping[str, str],
        inputs: Mapping[str, int],
        facts: Mapping[str, Mapping[str, float]] | None = None,
    ) -> dict[str, PartitionState]:
        """Replace these days; a day whose content is what it was keeps its files.

        Args:
            table: name, as ``raw/arrivals``.
            frames: rows by day (``2013-01-01``), without a ``day`` column.
            sort_by: the columns whose values identify a row.
            inputs_hash: by day, the identity of what it was computed from.
            inputs: Delta version by table read.
            facts: by day, numbers to keep with it.

        Returns:
            The new state of each day.
        """
        ordered = {day: sort_rows(frame, sort_by) for day, frame in frames.items()}
        hashes = {day: ordered_hash(frame) for day, frame in ordered.items()}
        version, files, before = self._look(table)
        changed = [day for day in ordered if day not in before or before[day].content_hash != hashes[day]]
        if changed:
            days = pl.concat(
                [ordered[day].with_columns(pl.lit(date.fromisoformat(day)).alias("day")) for day in sorted(changed)],
                how="diagonal_relaxed",
            )
            listed = ", ".join(f"'{date.fromisoformat(day)}'" for day in sorted(changed))
            version, own = self._commit(table, days, partitioned=True, predicate=f"day IN ({listed})")
            files |= {day: own.get(day, []) for day in changed}
        return self._record(table, ordered, hashes, before, inputs_hash, inputs, facts or {}, version, files)

    def write(
        self,
        table: str,
        frame: pl.DataFrame,
        *,
        sort_by: Sequence[str],
        inputs_hash: str = "",
        inputs: Mapping[str, int] | None = None,
        facts: Mapping[str, float] | None = None,
    ) -> PartitionState:
        """Replace a table that has no partitions, if its content changed."""
        ordered = sort_rows(frame, sort_by)
        hashes = {WHOLE: ordered_hash(ordered)}
        version, files, before = self._look(table)
        if WHOLE not in before or before[WHOLE].content_hash != hashes[WHOLE]:
            version, files = self._commit(table, ordered, partitioned=False, predicate=None)
        known = {WHOLE: facts or {}}
        states = self._record(
            table, {WHOLE: ordered}, hashes, before, {WHOLE: inputs_hash}, inputs or {}, known, version, files
        )
        return states[WHOLE]

    def block(
        self,
        table: str,
        reasons: Mapping[str, str],
        *,
        inputs_hash: Mapping[str, str] | None = None,
        facts: Mapping[str, Mapping[str, float]] | None = None,
    ) -> dict[str, PartitionState]:
        """Record, by partition, why it must not be read as up to date; its rows stay what they were.

        So do its facts, but for those that are given.
        """
        version, files, before = self._look(table)
        states = {}
        for name, reason in reasons.items():
            old = before.get(name, PartitionState(table, name, 0, "", "", version))
            known = {**old.facts, **(facts or {}).get(name, {})}
            states[name] = replace(old, inputs_hash=(inputs_hash or {}).get(name, ""), facts=known, blocked=reason)
        self._append_records([state for name, state in states.items() if state != before.get(name)], files)
        return states

    def append(self, table: str, frame: pl.DataFrame) -> int:
        """Add rows to a table that only grows; the version that holds them."""
        write = self._writer(table, frame, mode="append", partition_by=None, predicate=None)
        return int(_with_retries(write).version())

    def create(self, table: str, schema: Mapping[str, pl.DataType]) -> None:
        """Make an empty table that only grows, unless it is there."""
        from deltalake import DeltaTable
        from deltalake.exceptions import CommitFailedError

        if self.exists(table):
            return
        # A process that loses the race to create it uses the winner's.
        with suppress(CommitFailedError):
            DeltaTable.create(
                self.uri(table),
                pl.DataFrame(schema=dict(schema)).to_arrow().schema,
                mode="ignore",
                storage_options=self._options,
                configuration=_TABLE_CONFIGURATION,
            )
        self._append_records([PartitionState(table, WHOLE, 0, "", "", 0)], self._look(table)[1])

    def append_claimed(self, table: str, frame: pl.DataFrame, *, claim: str, sequence: int, onto: int) -> bool:
        """Add rows unless another writer has, under the same claim, since version ``onto`` of the table.

        This is compare-and-set: of writers who read the same version and then claim alike, one succeeds.
        Writers with other claims do not matter.

        Args:
            table: one that only grows, made by :meth:`create`.
            frame: the rows.
            claim: what must not be claimed twice.
            sequence: the number of this claim; kept in the table's log.
            onto: the version that the writer has read.

        Returns:
            Whether the rows were added.
        """
        from deltalake import CommitProperties, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError

        transaction = Transaction(app_id=claim, version=sequence)
        try:
            write_deltalake(
                self._open(table, onto),
                frame,
                mode="append",
                commit_properties=CommitProperties(app_transactions=[transaction]),
            )
        except CommitFailedError:
            return False
        return True

    # Upkeep ----------------------------------------------------------------------------------------

    def usage(self, table: str) -> Usage:
        """What of a table is stored: data files, old and unfinished ones too, and its log."""
        found = [info for info in self._listed(table) if info.is_file]
        data = [info for info in found if not info.path.startswith(_LOG)]
        return Usage(
            len(data), sum(info.size for info in data), sum(info.size for info in found) - sum(i.size for i in data)
        )

    def compact(self, table: str) -> int:
        """Write many small files of a partition as one; how many were replaced.

        The rows are what they were. Records that named the old files are renewed; until then, or after a crash in
        between, the partition has none (:meth:`renew`).

        Raises:
            deltalake.exceptions.CommitFailedError: another writer was faster.
        """
        replaced = int(self._open(table).optimize.compact()["numFilesRemoved"])
        if replaced:
            self.renew(table)
        return replaced

    def renew(self, table: str) -> list[str]:
        """Record anew the partitions whose files were replaced by others with the same rows; their names.

        A partition that lost its record is renewed only if it reads equal to the version to which the record belongs.
        """
        from deltalake.exceptions import DeltaError

        delta = self._open(table)
        files = _files_by_partition(delta)
        valid = self._catalog.holding(table, files)
        # What only grows has a record of its creation alone, which speaks of no content.
        written = {state.partition for state in self._catalog.history(table) if state.content_hash}
        lost = sorted((written & set(files)) - set(valid))
        renewed: dict[str, PartitionState] = {}
        for version in range(delta.version() - 1, max(-1, delta.version() - 1 - _RENEWABLE_VERSIONS), -1):
            if len(renewed) == len(lost):
                break
            with suppress(UnknownTableError, DeltaError):
                then = self._catalog.holding(table, _files_by_partition(self._open(table, version)))
                for name in lost:
                    if name in then and name not in renewed and self._equal(table, name, version, delta.version()):
                        renewed[name] = then[name]
        self._append_records(list(renewed.values()), files)
        return sorted(renewed)

    def vacuum(self, table: str, *, keep: Collection[int], older_than: timedelta, dry_run: bool = False) -> list[str]:
        """Delete files that no version needs but those replaced longer ago than ``older_than``; their paths.

        Files of unfinished writes older than that go too. The log stays: what a version was remains known.

        Args:
            table: which table.
            keep: versions that stay readable whatever their age; so does the newest.
            older_than: how long a version stays readable after it was replaced.
            dry_run: only say which.

        Raises:
            deltalake.exceptions.DeltaError: a version to keep is not in the log; nothing was deleted.
        """
        hours = int(older_than / timedelta(hours=1))

        def collect(*, dry: bool) -> list[str]:
            delta = self._open(table)
            found: list[str] = delta.vacuum(
                retention_hours=hours,
                dry_run=dry,
                enforce_retention_duration=False,
                full=True,
                keep_versions=sorted({*keep, delta.version()}),
            )
            return found

        # A real one is a commit, even if it finds nothing.
        found = collect(dry=True)
        return found if dry_run or not found else collect(dry=False)

    # Inside ----------------------------------------------------------------------------------------

    def _listed(self, table: str, folder: str = "") -> "list[FileInfo]":
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import FileSelector, PyFileSystem

        files = PyFileSystem(DeltaStorageHandler(self.uri(table), self._options))
        return list(files.get_file_info(FileSelector(folder, recursive=True)))

    def _equal(self, table: str, partition: str, first: int, second: int) -> bool:
        """Whether a partition has the same rows, columns and types at two versions; what is gone equals nothing."""
        day = None if partition == WHOLE else date.fromisoformat(partition)
        frames = []
        for version in (first, second):
            rows = self.scan(table, version=version)
            try:
                frames.append(sort_rows((rows if day is None else rows.filter(pl.col("day") == day)).collect(), []))
            except (OSError, pl.exceptions.PolarsError):
                return False
        return frames[0].equals(frames[1]) and frames[0].schema == frames[1].schema

    def _open(self, table: str, version: int | None = None) -> "DeltaTable":
        """The table at a version or the newest, opened for one use."""
        from deltalake import DeltaTable

        with self._named(table, version):
            return DeltaTable(self.uri(table), version=version, storage_options=self._options)

    def _still(self, table: str, version: int | None = None) -> "DeltaTable":
        """As :meth:`_open`, for reading alone: many may have the same."""
        with self._named(table, version):
            return open_table(self.uri(table), self._options).at(version)

    @contextmanager
    def _named(self, table: str, version: int | None = None) -> Iterator[None]:
        """Say of what is not there which table and version it is."""
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            yield
        except TableNotFoundError:
            raise UnknownTableError(f"the lake has no table {table!r} (looked in {self.uri(table)})") from None
        except DeltaError as error:
            if version is None:
                raise
            raise UnknownTableError(f"{table} has no version {version}: {error}") from error

    def _newest(self, table: str) -> "DeltaTable":
        """The table as it stands, which a later look brings further: not for scans, which may outlive that."""
        with self._named(table):
            return open_table(self.uri(table), self._options).refresh()

    def _look(self, table: str) -> tuple[int, dict[str, list[str]], dict[str, PartitionState]]:
        """The newest version (-1: there is no table), its files by partition, and the states on record of them."""
        if not self.exists(table):
            return -1, {}, self.partitions(table)
        delta = self._newest(table)
        version, files = delta.version(), _files_by_partition(delta)
        return version, files, self._catalog.standing(table, version, lambda: files)

    def _commit(
        self, table: str, frame: pl.DataFrame, *, partitioned: bool, predicate: str | None
    ) -> tuple[int, dict[str, list[str]]]:
        """The version it became, and the files of that: another writer may have made the next by now."""
        from deltalake.exceptions import DeltaError

        existed = self.exists(table)
        days = ["day"] if partitioned else None
        write = self._writer(table, frame, mode="overwrite", partition_by=days, predicate=predicate)
        try:
            written = _with_retries(write)
        except DeltaError:
            # Lost the race to create the table: it exists now, and only the named days are replaced.
            if existed or not self.exists(table):
                raise
            written = _with_retries(write)
        return written.version(), _files_by_partition(written)

    def _writer(
        self, table: str, frame: pl.DataFrame, *, mode: str, partition_by: list[str] | None, predicate: str | None
    ) -> "Callable[[], DeltaTable]":
        from deltalake import write_deltalake

        def write() -> "DeltaTable":
            """The table as this write left it; whether it is new is asked once, or another's would be overwritten."""
            new = not self.exists(table)
            first = new and mode == "overwrite"
            target = None if new else self._newest(table)
            configuration = _TABLE_CONFIGURATION | (_CATALOG_CONFIGURATION if table == CATALOG else {})
            write_deltalake(
                self.uri(table) if target is None else target,
                frame,
                mode="error" if first else mode,
                partition_by=partition_by,
                predicate=None if first else predicate,
                schema_mode=None if first else ("overwrite" if mode == "overwrite" and predicate is None else "merge"),
                storage_options=self._options,
                configuration=configuration if new else None,
            )
            return target if target is not None else self._open(table, 0 if first else None)

        return write

    def _record(
        self,
        table: str,
        frames: Mapping[str, pl.DataFrame],
        hashes: Mapping[str, str],
        before: Mapping[str, PartitionState],
        inputs_hash: Mapping[str, str],
        inputs: Mapping[str, int],
        facts: Mapping[str, Mapping[str, float]],
        version: int,
        files: Mapping[str, Sequence[str]],
    ) -> dict[str, PartitionState]:
        states, news = {}, []
        for name, frame in frames.items():
            old = before.get(name)
            changed = old is None or old.content_hash != hashes[name]
            state = PartitionState(
                table=table,
                partition=name,
                rows=frame.height,
                content_hash=hashes[name],
                inputs_hash=inputs_hash[name],
                delta_version=version if old is None or changed else old.delta_version,
                inputs=dict(inputs),
                facts=dict(facts.get(name, {})),
                changed=changed,
            )
            states[name] = state
            if (
                old is None
                or changed
                or (old.inputs_hash, old.facts, old.blocked) != (state.inputs_hash, state.facts, "")
            ):
                news.append(state)
        self._append_records(news, files)
        return states

    def _append_records(self, states: Sequence[PartitionState], files: Mapping[str, Sequence[str]]) -> None:
        """Record these states of these files: a record that another writer has overtaken speaks of nothing any more."""
        from deltalake.exceptions import CommitFailedError

        if not states:
            return
        version = self.append(CATALOG, self._catalog.rows(states, files))
        if version and version % _CATALOG_COMPACTED_EVERY == 0:
            # What each write adds is a file: thousands would slow down every write, and a year may come in an hour.
            with suppress(CommitFailedError):
                self.compact(CATALOG)


def _files_by_partition(delta: "DeltaTable") -> dict[str, list[str]]:
    actions = pl.DataFrame(delta.get_add_actions(flatten=True))
    if "partition.day" not in actions.columns:
        return {WHOLE: actions["path"].to_list()}
    grouped = actions.group_by(pl.col("partition.day").cast(pl.String)).agg("path")
    return dict(grouped.iter_rows())


def _with_retries(write: "Callable[[], DeltaTable]") -> "DeltaTable":
    from deltalake.exceptions import CommitFailedError

    for attempt in range(_COMMIT_ATTEMPTS):
        try:
            return write()
        except CommitFailedError:
            if attempt == _COMMIT_ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable")
