"""The airline's export job: the events of 2013 delivered as files, period by period, as they became known.

A delivery is ``landing/<table>/<period>.csv`` with a header, also when nothing happened; a period is a UTC day
(``2013-01-01``) or hour (``2013-01-01T05``), and a row is in the file of the period in which it became known.
Reference tables come once, as ``landing/<table>/<table>.csv``. A file appears whole or not at all. This module plays
the outside world: it knows nothing of the platform that reads what it leaves. :class:`Awkward` describes the things
that go wrong in real deliveries.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final

import polars as pl

from ml_platform.defs.nyc_flights.upstream import KNOWN_AT, REFERENCE_TABLES, upstream_tables
from ml_platform.stores.files import write_whole

START: Final = date(2012, 12, 31)
"""First day with an event: the timetable of the first flights is published 24 hours ahead."""

END: Final = date(2014, 1, 3)
"""End (exclusive) of what there is to deliver."""

KINDS: Final = ("corrections", "duplicates", "late", "corrupt", "schema-change")
"""What may be asked for by name; see :class:`Awkward`."""

FileKey = tuple[str, str]
"""A table and a period: one file."""

_FORMATS: Final[Mapping[str, tuple[str, timedelta]]] = {
    "1d": ("%Y-%m-%d", timedelta(days=1)),
    "1h": ("%Y-%m-%dT%H", timedelta(hours=1)),
}
_NUMERIC: Final[Mapping[str, str]] = {
    "schedule": "distance_miles",
    "departures": "dep_delay_minutes",
    "arrivals": "arr_delay_minutes",
    "weather": "temp_f",
}
_CORRECTED_MINUTES: Final = 10


class Fault(StrEnum):
    """One way in which a file is broken."""

    CUT_OFF = "cut-off"
    """The file ends in the middle of a row."""
    BINARY = "binary"
    """The file holds bytes that are no text."""
    MISSING_COLUMN = "missing-column"
    """The table's measured column (a delay, a distance, a temperature) is not there."""
    CHANGED_TYPE = "changed-type"
    """The measured column holds a word instead of numbers in every row."""
    OUT_OF_BOUNDS = "out-of-bounds"
    """The file is sound, but every fiftieth row measures 99999."""


@dataclass(frozen=True)
class Awkward:
    """Which deliveries go wrong, and how. Everything is deterministic.

    Attributes:
        corrections: periods of ``arrivals`` that are delivered again after everything else, with ``landed_at`` and
            ``arr_delay_minutes`` of every third row 10 minutes lower; ``reported_at`` stays.
        duplicates: files in which every tenth row stands twice, followed by a second piece (``<period>.2.csv``)
            that repeats every fourth row.
        late: files that are withheld until two later periods were delivered, or until the end of the range.
        corrupt: what is wrong with which file. Delete such a file and replay again to have it delivered whole.
        schema_change_from: the first period in which weather calls ``visibility_miles``
            ``visibility_statute_miles`` and has a new column ``station``: the origin's code with a K in front.
    """

    corrections: Collection[str] = ()
    duplicates: Collection[FileKey] = ()
    late: Collection[FileKey] = ()
    corrupt: Mapping[FileKey, Fault] = field(default_factory=dict)
    schema_change_from: str | None = None

    @classmethod
    def chosen(cls, kinds: Collection[str], periods: Mapping[str, Sequence[str]]) -> "Awkward":
        """The awkward deliveries of some kinds, at fixed places of a range.

        Corrections come at 1/4 and 1/2 of it, duplicates at 1/3 (arrivals and departures), late files at 2/5
        (arrivals) and 3/5 (weather), the five faults between 1/2 and 9/10, the change of schema at 2/3.

        Args:
            kinds: some of :data:`KINDS`.
            periods: for each event table the periods with at least one row, in order.

        Raises:
            ValueError: a kind is unknown, or a table has no rows in the range.
        """
        if unknown := set(kinds) - set(KINDS):
            raise ValueError(f"unknown awkward delivery {', '.join(sorted(unknown))}: choose from {', '.join(KINDS)}")
        if not kinds:
            return cls()
        if empty := [table for table in KNOWN_AT if not periods.get(table)]:
            raise ValueError(f"no rows of {', '.join(empty)} in the range: nothing there can go wrong, widen it")

        def at(table: str, share: float) -> FileKey:
            return table, periods[table][int(share * len(periods[table]))]

        broken = {
            at("departures", 0.5): Fault.CUT_OFF,
            at("schedule", 0.6): Fault.BINARY,
            at("departures", 0.7): Fault.MISSING_COLUMN,
            at("weather", 0.8): Fault.CHANGED_TYPE,
            at("arrivals", 0.9): Fault.OUT_OF_BOUNDS,
        }
        return cls(
            corrections=[at("arrivals", share)[1] for share in (1 / 4, 1 / 2)] if "corrections" in kinds else (),
            duplicates=[at(table, 1 / 3) for table in ("arrivals", "departures")] if "duplicates" in kinds else (),
            late=[at("arrivals", 2 / 5), at("weather", 3 / 5)] if "late" in kinds else (),
            corrupt=broken if "corrupt" in kinds else {},
            schema_change_from=at("weather", 2 / 3)[1] if "schema-change" in kinds else None,
        )


@dataclass(frozen=True)
class Delivery:
    """One file to deliver: its table, its name without ``.csv`` and its rows.

    ``restates`` tells a correction, which replaces the file that is there.
    """

    table: str
    name: str
    rows: pl.DataFrame
    fault: Fault | None = None
    restates: bool = False

    def content(self) -> bytes:
        """The bytes of the file."""
        return _spoiled(self.rows, self.fault, _NUMERIC[self.table]) if self.fault else _csv(self.rows)


@dataclass(frozen=True)
class Delivered:
    """What became of a delivery: the file, its rows, and whether it was written or had been delivered before."""

    table: str
    path: Path
    rows: int
    written: bool


def replay(
    landing: Path,
    *,
    until: date | str = END,
    every: str = "1d",
    start: date | str = START,
    awkward: Awkward | Collection[str] = (),
) -> Iterator[Delivered]:
    """Deliver what is not delivered yet, oldest period first. See :func:`planned_deliveries` for the arguments."""
    return deliver(landing, planned_deliveries(until=until, every=every, start=start, awkward=awkward))


def planned_deliveries(
    *,
    until: date | str = END,
    every: str = "1d",
    start: date | str = START,
    awkward: Awkward | Collection[str] = (),
) -> list[Delivery]:
    """All deliveries of a range, in order.

    Args:
        until: end (exclusive) of what is known: a day, or with hourly files also an hour such as ``2013-01-05T06``.
        every: ``1d`` or ``1h``.
        start: first day or hour.
        awkward: what goes wrong: an :class:`Awkward`, or some of :data:`KINDS` at places of our choice.

    Raises:
        ValueError: a time, a cadence or a kind that is not known; the message names what is allowed.
    """
    periods = _periods(start, until, every)
    known = set(periods)
    tables = upstream_tables()
    files = {table: _by_period(tables[table], at, every, known) for table, at in KNOWN_AT.items()}
    if not isinstance(awkward, Awkward):
        awkward = Awkward.chosen(awkward, {table: [p for p in periods if p in rows] for table, rows in files.items()})

    planned = [Delivery(table, table, tables[table]) for table in REFERENCE_TABLES]
    withheld: dict[int, list[Delivery]] = {}
    for index, period in enumerate(periods):
        for table, frames in files.items():
            pieces = _pieces(table, period, frames.get(period, tables[table].clear()), awkward)
            if (table, period) in awkward.late:
                withheld.setdefault(min(index + 2, len(periods) - 1), []).extend(pieces)
            else:
                planned.extend(pieces)
        planned.extend(withheld.pop(index, ()))
    for period in awkward.corrections:
        if period not in files["arrivals"]:
            raise ValueError(f"no arrivals to correct in {period!r}: choose a period of the range with landings")
        planned.append(Delivery("arrivals", period, _corrected(files["arrivals"][period]), restates=True))
    return planned


def by_period(deliveries: Sequence[Delivery]) -> Iterator[tuple[str, list[Delivery]]]:
    """Deliveries in the order of :func:`planned_deliveries`, in batches as periods end: its period's name with each."""
    first_table = next(iter(KNOWN_AT))
    period, batch = "", list[Delivery]()
    for delivery in deliveries:
        name = delivery.name.partition(".")[0]
        if delivery.table == first_table and name > period:
            if period:
                yield period, batch
                batch = []
            period = name
        batch.append(delivery)
    if batch:
        yield period, batch


def deliver(landing: Path, deliveries: Sequence[Delivery]) -> Iterator[Delivered]:
    """Write each file that is not there, and each correction that is not yet in force, one by one as asked for.

    A file is written beside its place under a hidden name that ends in ``.tmp`` and then moved there. Delivering is
    resumable: what counts is which files exist. Files that were delivered are never touched, except by corrections.
    """
    for delivery in deliveries:
        path = landing / delivery.table / f"{delivery.name}.csv"
        content = delivery.content() if delivery.restates or not path.exists() else None
        written = content is not None and not (path.exists() and path.read_bytes() == content)
        if content is not None and written:
            write_whole(path, content)
        yield Delivered(delivery.table, path, delivery.rows.height, written)


def _periods(start: date | str, until: date | str, every: str) -> list[str]:
    if every not in _FORMATS:
        raise ValueError(f"{every!r} is not a cadence of delivery: choose from {', '.join(_FORMATS)}")
    pattern, step = _FORMATS[every]
    first, last, end = (_instant(value, pattern) for value in (start, until, END))
    if not _instant(START, pattern) <= first < last:
        raise ValueError(f"nothing to deliver from {start} until {until}: the data run from {START} to {END}")
    last = min(last, end)
    return [(first + index * step).strftime(pattern) for index in range((last - first) // step)]


def _instant(value: date | str, pattern: str) -> datetime:
    text = value if isinstance(value, str) else value.strftime(pattern)
    for known in {pattern, "%Y-%m-%d"}:
        try:
            return datetime.strptime(text, known).replace(tzinfo=UTC)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no time to deliver at: write 2013-01-05, or 2013-01-05T06 with hourly files")


def _by_period(table: pl.DataFrame, known_at: str, every: str, periods: set[str]) -> dict[str, pl.DataFrame]:
    period = pl.col(known_at).dt.strftime(_FORMATS[every][0]).alias("period")
    parts = (
        table.with_columns(period)
        .filter(pl.col("period").is_in(periods))
        .partition_by("period", as_dict=True, include_key=False, maintain_order=True)
    )
    return {str(name): rows for (name,), rows in parts.items()}


def _pieces(table: str, period: str, rows: pl.DataFrame, awkward: Awkward) -> list[Delivery]:
    if table == "weather" and awkward.schema_change_from is not None and period >= awkward.schema_change_from:
        rows = rows.rename({"visibility_miles": "visibility_statute_miles"}).with_columns(
            station=pl.concat_str(pl.lit("K"), "origin")
        )
    whole = Delivery(table, period, rows, fault=awkward.corrupt.get((table, period)))
    if (table, period) not in awkward.duplicates:
        return [whole]
    twice = pl.concat([rows, rows.gather_every(10)])
    return [replace(whole, rows=twice), Delivery(table, f"{period}.2", rows.gather_every(4))]


def _corrected(arrivals: pl.DataFrame) -> pl.DataFrame:
    chosen = pl.int_range(pl.len()) % 3 == 0
    return arrivals.with_columns(
        landed_at=pl.col("landed_at") - pl.duration(minutes=pl.when(chosen).then(_CORRECTED_MINUTES).otherwise(0)),
        arr_delay_minutes=pl.col("arr_delay_minutes") - pl.when(chosen).then(_CORRECTED_MINUTES).otherwise(0),
    )


def _spoiled(rows: pl.DataFrame, fault: Fault, measured: str) -> bytes:
    index = pl.int_range(pl.len())
    match fault:
        case Fault.CUT_OFF:
            whole = _csv(rows)
            row_start = whole.rfind(b"\n", 0, len(whole) // 2) + 1
            return whole[: whole.index(b",", row_start) + 3]
        case Fault.BINARY:
            return bytes(range(256)) * 16
        case Fault.MISSING_COLUMN:
            return _csv(rows.drop(measured))
        case Fault.CHANGED_TYPE:
            return _csv(rows.with_columns(pl.lit("many").alias(measured)))
        case Fault.OUT_OF_BOUNDS:
            impossible = pl.when(index % 50 == 0).then(99_999).otherwise(pl.col(measured))
            return _csv(rows.with_columns(impossible.alias(measured)))


def _csv(rows: pl.DataFrame) -> bytes:
    return rows.write_csv(datetime_format="%Y-%m-%dT%H:%M:%SZ").encode()
