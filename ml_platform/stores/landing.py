"""The landing folder: which files upstream delivered for which table and period, and their bytes.

Belongs here: file names and periods, the watermark, gaps and fingerprints. What is inside a file belongs
to :mod:`ml_platform.core.contracts`. Nothing here ever writes: landed files stay as they were landed.

A partitioned table's file is named for the UTC day (``2013-01-01``) or hour (``2013-01-01T05``) in which
its rows became known, followed, where a period comes in pieces, by a dot and a word (``2013-01-01.2``).
All files of a day, whatever their grain, make up its partition together.
"""

import hashlib
import os
import re
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path, PurePath
from typing import NamedTuple

from ml_platform.core.table_spec import TableKind, TableSpec

WHOLE = "all"
"""The one partition of a reference table."""

_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
_PERIOD = r"(?P<day>\d{4}-\d\d-\d\d)(?:T(?P<hour>\d\d))?"
_PIECE = r"(?:\.[\w-]+)?"
_UNFINISHED = re.compile(r"[._~].*|.*(\.tmp|\.part|\.partial|\.swp|~)")


@dataclass(frozen=True)
class LandedFile:
    """One landed file.

    Attributes:
        name: path under the landing folder, as errors and quarantined rows name it.
        path: where it is.
        start: beginning of its period; None for a reference table.
        end: end of its period, exclusive; None for a reference table.
        state: in object storage, what the listing says of its content (it changes when that does); empty on a disk.
    """

    name: str
    path: Path
    start: datetime | None = None
    end: datetime | None = None
    state: str = ""

    @property
    def partition(self) -> str:
        """The UTC day of its period, or :data:`WHOLE`."""
        return WHOLE if self.start is None else self.start.date().isoformat()


@dataclass(frozen=True)
class Landing:
    """What lies under ``root``, a folder or a prefix in object storage, at the moment of each call.

    An object appears whole. On a disk, a file that was changed within ``settle`` of now may still be written: its
    partition counts as not landed, because without the file it would be taken for one that was corrected.

    A period before ``start`` or from ``end`` (UTC days) on is no delivery, but a stranger: a name with a wrong year
    neither moves a watermark nor asks for days that there are not.
    """

    root: Path
    settle: timedelta = timedelta(0)
    start: date = date.min
    end: date = date.max

    def periods(self, spec: TableSpec) -> dict[str, tuple[LandedFile, ...]]:
        """The files of each landed partition, both in order; a reference table has the partition ``all``."""
        return self.look(spec)[0]

    def look(self, spec: TableSpec) -> tuple[dict[str, tuple[LandedFile, ...]], frozenset[str]]:
        """As :meth:`periods`, and the partitions of which a file may still be written, both from one listing."""
        found = [(file, wait) for _, file, wait in self._entries(spec) if file is not None and self._has_day_of(file)]
        changing = frozenset(file.partition for file, wait in found if wait)
        settled: dict[str, list[LandedFile]] = {}
        for file in sorted((file for file, _ in found), key=lambda file: (file.partition, file.name)):
            if file.partition not in changing:
                settled.setdefault(file.partition, []).append(file)
        return {partition: tuple(files) for partition, files in settled.items()}, changing

    def strangers(self, spec: TableSpec) -> tuple[str, ...]:
        """For each finished file in the table's folder that is none of its periods, an error that says so.

        So is one of a period that the calendar does not have.
        """
        if spec.kind is TableKind.PARTITIONED:
            allowed = "{period} is a UTC day (2013-01-01) or hour (2013-01-01T05), .word after it marks a piece"
        else:
            allowed = "the one file of a reference table; .word before its last dot marks a piece"
        other = f"is no landed file of table {spec.name!r}; allowed: {spec.source_pattern}, where {allowed}"
        return tuple(
            f"{name} {other if file is None else self._not_a_day_of(file)}"
            for name, file, wait in sorted(self._entries(spec), key=lambda entry: entry[0])
            if not wait and (file is None or not self._has_day_of(file))
        )

    def settles_in(self, specs: Iterable[TableSpec]) -> timedelta:
        """How long until all that lies here for these tables has settled, if none of it is written again."""
        waits = (wait for spec in specs for _, _, wait in self._entries(spec))
        return timedelta(seconds=min(max(waits, default=0.0), self.settle.total_seconds()))

    def entries_changed_at(self, specs: Iterable[TableSpec]) -> tuple[int, ...]:
        """When each table's folder on a disk last got or lost an entry (nanoseconds; 0: there is no folder)."""
        if not isinstance(self.root, PurePath):
            return ()
        folders = [self.root / spec.source_pattern.rpartition("/")[0] for spec in specs]
        return tuple(folder.stat().st_mtime_ns if folder.is_dir() else 0 for folder in folders)

    def landed_through(self, spec: TableSpec) -> datetime | None:
        """The table's watermark: the end of its newest landed period; None where nothing has landed."""
        return max((file.end for file in self._files(spec) if file.end is not None), default=None)

    def gaps(self, spec: TableSpec) -> tuple[str, ...]:
        """Days, and hours of days delivered by the hour, without a file between the first and newest landed period."""
        landed = {(file.start, file.end) for file in self._files(spec) if file.start and file.end}
        starts = {start for start, _ in landed}
        days = {start for start, end in landed if end - start == _DAY}
        by_hour = {start.replace(hour=0) for start in starts} - days
        missing = []
        moment = min(starts, default=None)
        newest = max(starts, default=None)
        while moment is not None and newest is not None and moment <= newest:
            midnight = moment.replace(hour=0)
            if midnight in by_hour:
                if moment not in starts:
                    missing.append(moment.strftime("%Y-%m-%dT%H"))
                moment += _HOUR
                continue
            if midnight not in days:
                missing.append(midnight.date().isoformat())
            moment = midnight + _DAY
        return tuple(missing)

    def read(self, spec: TableSpec, partition: str) -> list[tuple[str, bytes]]:
        """Names and contents of a partition's files, in order of their names; empty where nothing has landed."""
        return [(file.name, file.path.read_bytes()) for file in self.periods(spec).get(partition, ())]

    def fingerprint(self, spec: TableSpec, partition: str) -> str:
        """A hash over names and contents of a partition's files; it changes exactly when they do."""
        return fingerprint_of(self.periods(spec).get(partition, ()))

    def fingerprints(self, spec: TableSpec, partitions: Collection[str] | None = None) -> dict[str, str]:
        """:meth:`fingerprint` of every landed partition, or those among ``partitions``, with one look at the folder."""
        return {
            partition: fingerprint_of(files)
            for partition, files in self.periods(spec).items()
            if partitions is None or partition in partitions
        }

    def _has_day_of(self, file: LandedFile) -> bool:
        return file.start is None or self.start <= file.start.date() < self.end

    def _not_a_day_of(self, file: LandedFile) -> str:
        return f"is of {file.partition}; the days of the data set are from {self.start} until before {self.end}"

    def _files(self, spec: TableSpec) -> Iterator[LandedFile]:
        return (file for files in self.periods(spec).values() for file in files)

    def _entries(self, spec: TableSpec) -> Iterator[tuple[str, LandedFile | None, float]]:
        """Every entry of the table's folder, the landed file it is, if any, and in how many seconds it settles."""
        folder, _, pattern = spec.source_pattern.rpartition("/")
        for found in _listed(self.root / folder, self.settle):
            if not _UNFINISHED.fullmatch(found.name):
                name = f"{folder}/{found.name}" if folder else found.name
                landed = _landed(name, found.place, pattern, found.state) if found.is_file else None
                yield name, landed, found.wait


def fingerprint_of(files: Iterable[LandedFile]) -> str:
    """A hash over their names and contents."""
    whole = hashlib.blake2b(digest_size=16)
    for file in files:
        name = file.name.encode()
        whole.update(len(name).to_bytes(4, "big") + name + _digest(file))
    return whole.hexdigest()


def watermark(landing: Landing, specs: Iterable[TableSpec]) -> datetime | None:
    """How far the platform's history goes: the least :meth:`Landing.landed_through` of the partitioned tables.

    None while one of them has landed nothing, or where none is partitioned.
    """
    ends = [landing.landed_through(spec) for spec in specs if spec.kind is TableKind.PARTITIONED]
    known = [end for end in ends if end is not None]
    return min(known) if known and len(known) == len(ends) else None


class _Listed(NamedTuple):
    """An entry of a folder; ``wait`` is in how many seconds it will have settled."""

    name: str
    place: str | Path
    is_file: bool
    wait: float
    state: str


def _listed(folder: Path, settle: timedelta) -> Iterator[_Listed]:
    if isinstance(folder, PurePath):
        yield from _on_disk(folder, settle)
        return
    try:
        listing = folder.fs.ls(folder.path, detail=True)
    except FileNotFoundError:
        return
    for entry in listing:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        if entry["name"].strip("/") == folder.path.strip("/"):
            continue  # an object that stands for the folder itself
        state = f"{entry.get('ETag')} {entry.get('size')} {entry.get('LastModified')}"
        yield _Listed(name, folder / name, entry["type"] == "file", 0.0, state)


def _on_disk(folder: Path, settle: timedelta) -> Iterator[_Listed]:
    if not folder.is_dir():
        return
    settled_at_once, latest = not settle, time.time() - settle.total_seconds()
    with os.scandir(folder) as entries:
        for entry in entries:
            if _UNFINISHED.fullmatch(entry.name):
                continue
            try:
                wait = 0.0 if settled_at_once else max(entry.stat().st_mtime - latest, 0.0)
            except FileNotFoundError:
                continue  # it went since the listing, or is a link to nothing
            yield _Listed(entry.name, entry.path, entry.is_file(), wait, "")


def _digest(file: LandedFile) -> bytes:
    """A hash of a file's content, which is read once a process while the file stays what it is.

    A sensor asks every other second about all that ever landed.
    """
    if file.state:
        return _content_digest(file.path, file.state)
    stat = os.stat(file.path)
    return _content_digest(file.path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=2**18)
def _content_digest(path: Path, *_state: object) -> bytes:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()


@lru_cache(maxsize=2**16)
def _landed(name: str, place: str | Path, pattern: str, state: str) -> LandedFile | None:
    """The landed file of a name; None where it does not match, or its period is no date or hour there is."""
    named = _named(pattern).fullmatch(name.rpartition("/")[2])
    if named is None:
        return None
    path = Path(place) if isinstance(place, str) else place
    period = named.groupdict()
    day, hour = period.get("day"), period.get("hour")
    if day is None:
        return LandedFile(name, path, state=state)
    try:
        start = datetime.fromisoformat(f"{day}T{hour or '00'}:00:00").replace(tzinfo=UTC)
    except ValueError:
        return None
    return LandedFile(name, path, start, start + (_HOUR if hour else _DAY), state)


@lru_cache
def _named(pattern: str) -> re.Pattern[str]:
    """What the names of a table's files match."""
    before, period, after = pattern.partition("{period}")
    if not period:
        before, dot, after = pattern.rpartition(".")
        after = dot + after
    return re.compile(re.escape(before) + (_PERIOD if period else "") + _PIECE + re.escape(after))
