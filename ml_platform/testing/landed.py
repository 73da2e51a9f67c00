"""Other deliveries of the same landed files: in other pieces, or with nonsense from a moment on."""

import csv
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from random import Random

from ml_platform.core.table_spec import ColumnSpec, ColumnType, TableSpec
from ml_platform.stores.landing import LandedFile, Landing

_SEED = 0
_RETOLD = 5
"""One in so many nonsensical rows speaks of something that was known before."""

_DAY = timedelta(days=1)


def scramble(landing: Landing, table: TableSpec, moment: datetime) -> None:
    """Replace, in landed files, every row known after ``moment`` by nonsense that the contract allows.

    Some of it says something else of things that were known before. Those are of earlier days than the moment's:
    two rows on one thing in one partition contradict each other, and both go to quarantine.
    """
    random = Random(f"{_SEED} {table.name}")
    said: list[list[str]] = []
    for file in _files(landing, table):
        header, rows = _read(file)
        known = header.index(_delivered_name(table, header, str(table.known_at)))
        identity = [i for i, name in enumerate(header) if _canonical(table, name) in table.key and i != known]
        if file.partition < moment.date().isoformat():
            said += [[row[i] for i in identity] for row in rows]
        if file.end is None or file.end <= moment:
            continue
        later = [row for row in rows if _instant(row[known]) > moment]
        kept = [row for row in rows if _instant(row[known]) <= moment]
        for position, name in enumerate(header):
            column = _contract_column(table, name)
            if column is not None and position != known:
                values = [row[position] for row in later]
                random.shuffle(values)
                for row, value in zip(later, values, strict=True):
                    row[position] = _nonsense(column, value, moment, random)
        for row in later[:: _RETOLD if said else len(later) + 1]:
            for position, value in zip(identity, random.choice(said), strict=True):
                row[position] = value
        # Some of it never happened, too.
        _write(file.path, header, [*kept, *(row for row in later if random.random() < 0.8)])


def _nonsense(column: ColumnSpec, shuffled: str, moment: datetime, random: Random) -> str:
    if column.nullable and random.random() < 0.1:
        return ""
    if column.one_of:
        return str(random.choice(column.one_of))
    match column.type:
        case ColumnType.INTEGER | ColumnType.NUMBER:
            low = -1000 if column.minimum is None else column.minimum
            high = low + 2000 if column.maximum is None else column.maximum
            value = random.uniform(low, high)
            return str(int(value)) if column.type is ColumnType.INTEGER else f"{value:.3f}"
        case ColumnType.BOOLEAN:
            return random.choice(["true", "false"])
        case ColumnType.TIMESTAMP:
            return _iso(moment + timedelta(seconds=random.randint(-300_000, 300_000)))
        case ColumnType.TEXT:
            return shuffled


def cut_up(landing: Landing, table: TableSpec) -> list[LandedFile]:
    """Deliver the same rows in other files: days by the hour or in two pieces, hours in two pieces."""
    for number, file in enumerate(_files(landing, table)):
        header, rows = _read(file)
        period, dot, ending = file.path.name.partition(".")
        by_the_hour = file.start is not None and file.end == file.start + _DAY and number % 2 == 0
        parts: dict[str, list[list[str]]] = {}
        if by_the_hour and "{period}" in table.source_pattern.split(".")[0]:
            known = header.index(_delivered_name(table, header, str(table.known_at)))
            parts = {f"{period}T{hour:02}": [] for hour in range(24)}
            for row in rows:
                parts[f"{period}T{_instant(row[known]).hour:02}"].append(row)
        else:
            parts = {f"{period}.first": rows[1::2], f"{period}.second": rows[::2]}
        file.path.unlink()
        for name, part in parts.items():
            _write(file.path.with_name(f"{name}{dot}{ending}"), header, part)
    return _files(landing, table)


def _files(landing: Landing, table: TableSpec) -> list[LandedFile]:
    return [file for files in landing.periods(table).values() for file in files]


def _read(file: LandedFile) -> tuple[list[str], list[list[str]]]:
    header, *rows = csv.reader(StringIO(file.path.read_text(encoding="utf-8")))
    return header, rows


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _canonical(table: TableSpec, name: str) -> str:
    """The contract's name of a column as any version of the export calls it."""
    for layout in table.contract.layouts.values():
        if name in layout:
            return layout[name]
    return name


def _contract_column(table: TableSpec, name: str) -> ColumnSpec | None:
    wanted = _canonical(table, name)
    return next((column for column in table.contract.columns if column.name == wanted), None)


def _delivered_name(table: TableSpec, header: Sequence[str], canonical: str) -> str:
    return next(name for name in header if _canonical(table, name) == canonical)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
