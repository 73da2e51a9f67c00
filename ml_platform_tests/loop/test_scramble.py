"""Nothing that becomes known after T reaches what is stamped at or before T.

Every event known after T is replaced by nonsense that still parses: any number of rows, any values a contract
allows, identities of flights of the past among them. The lake is rebuilt from nothing, and all that is stamped up to
T must be what it was.
"""

import csv
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.core.table_spec import ColumnSpec, ColumnType, TableSpec
from ml_platform.stores.model_tables import build_training_set
from ml_platform.stores.table_names import labels_table, training_table
from ml_platform_tests.loop.homes import FLIGHTS, Home

T = datetime(2013, 1, 15, 9, 37, 20, tzinfo=UTC)
"""Between two grid points, within an hour of weather, on a day that has events on both sides."""

ISO = "%Y-%m-%dT%H:%M:%SZ"
PARTITIONED = [table for table in FLIGHTS.tables if table.known_at]


def scramble(landed: Path, table: TableSpec, rng: random.Random) -> int:
    """Replace the table's events known after T by nonsense in their own files; how many there are now."""
    files = sorted((landed / table.name).glob("*.csv"))
    past = {name: [row[name] for file in files for row in read(file) if row.get(name)] for name in table.columns}
    invented = 0
    for file in files:
        start = datetime.fromisoformat(file.stem).replace(tzinfo=UTC)
        end = start + timedelta(days=1)
        if end <= T:
            continue
        rows = read(file)
        kept = [row for row in rows if moment(row, table) <= T]
        after = max(start, T + timedelta(seconds=1))
        count = rng.randrange(len(rows) // 2, 2 * len(rows))
        nonsense = [invent(table, past, after, end, rng) for _ in range(count)]
        invented += count
        write(file, list(rows[0]), rng.sample(kept + nonsense, len(kept) + count))
    return invented


def invent(
    table: TableSpec, past: dict[str, list[str]], after: datetime, end: datetime, rng: random.Random
) -> dict[str, str]:
    """A row of any values that the contract allows, known in ``[after, end)``."""
    known = after + timedelta(seconds=rng.randrange(int((end - after).total_seconds())))
    row = {
        column.name: value(column, past.get(column.name, []), known, rng)
        for column in table.contract.columns
        if column.name != "station"
    }
    return {**row, str(table.known_at): known.strftime(ISO)}


def value(column: ColumnSpec, past: list[str], known: datetime, rng: random.Random) -> str:
    if column.nullable and rng.random() < 0.1:
        return ""
    match column.type:
        case ColumnType.BOOLEAN:
            return rng.choice(["true", "false"])
        case ColumnType.TIMESTAMP:
            return (known + timedelta(minutes=rng.randrange(-6000, 6000))).strftime(ISO)
        case ColumnType.TEXT:
            return rng.choice(past)
        case _:
            drawn = rng.uniform(column.minimum or 0, column.maximum or 0)
            return str(int(drawn)) if column.type is ColumnType.INTEGER else f"{drawn:.2f}"


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def write(file: Path, header: list[str], rows: list[dict[str, str]]) -> None:
    with file.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def moment(row: dict[str, str], table: TableSpec) -> datetime:
    return datetime.strptime(row[str(table.known_at)], ISO).replace(tzinfo=UTC)


def stamped(home: Home) -> Iterator[tuple[str, str]]:
    """Every table with rows that must not change, and the column that stamps them."""
    for name in FLIGHTS.views:
        yield f"features/{name}", "event_timestamp"
    for model in FLIGHTS.models:
        yield labels_table(model), "label_time"
        yield training_table(model), "label_time"


@pytest.fixture
def scrambled(three_weeks: Home, new_home: Callable[[str], Home]) -> Home:
    """The same three weeks, with nonsense after T, rebuilt from nothing."""
    home = new_home("scrambled")
    home.land(until="2013-01-22")
    rng = random.Random(2013)
    invented = {table.name: scramble(home.landed, table, rng) for table in PARTITIONED}
    assert all(count > 200 for count in invented.values())
    watermark = home.catch_up().watermark
    assert watermark == three_weeks.plan().watermark
    for model in FLIGHTS.models:
        build_training_set(home.lake, home.features, model, watermark)
    return home


def test_nothing_known_after_T_changes_what_is_stamped_by_T(three_weeks: Home, scrambled: Home) -> None:
    assert not scrambled.lake.tables() or all(
        not state.blocked for table in PARTITIONED for state in scrambled.lake.partitions(f"raw/{table.name}").values()
    ), "nonsense must parse: a refused file would prove nothing"
    for table, column in stamped(three_weeks):
        true, nonsense = three_weeks.rows(table), scrambled.rows(table)
        by_then = pl.col(column) <= T
        before, after = true.filter(by_then), true.filter(~by_then)
        assert nonsense.filter(by_then).equals(before), f"{table}: rows stamped by {T} changed"
        if table != "features/aircraft_facts":
            assert before.height > 500
            assert not nonsense.filter(~by_then).equals(after), f"{table}: the nonsense never reached it"
