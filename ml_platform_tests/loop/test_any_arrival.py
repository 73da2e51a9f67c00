"""However the same events arrive, the tables end up equal: values depend on event time alone.

Each way of arriving ends with the same events landed and everything brought up to date by the plan that runs follow;
raw tables, features and labels must then hold the same rows, by day.
"""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import polars as pl
import pytest

from ml_platform.defs.nyc_flights.replay import Awkward, Delivery, deliver, planned_deliveries
from ml_platform_tests.loop.conftest import ELEVEN_DAYS
from ml_platform_tests.loop.homes import Contents, Home

UNTIL = ELEVEN_DAYS

CORRECTED = ["2013-01-02", "2013-01-06"]

NewHome = Callable[[str], Home]


@pytest.fixture(scope="module")
def expected(eleven_days: Home) -> Contents:
    return eleven_days.contents()


def by_the_hour(home: Home) -> None:
    home.land(until=UNTIL, every="1h")
    home.catch_up()


def by_the_day_in_several_runs(home: Home) -> None:
    for until in ("2013-01-03", "2013-01-10", UNTIL):
        home.land(until=until)
        home.catch_up()


def by_the_hour_in_runs_that_stop_within_a_day(home: Home) -> None:
    """Arrivals run ahead of the other tables: what is known of them past the watermark must wait, and then count."""
    hours = planned_deliveries(until=UNTIL, every="1h")
    list(deliver(home.landed, [file for file in hours if file.table == "arrivals"]))
    for until in ("2013-01-01T13", "2013-01-08T07", "2013-01-08T08", UNTIL):
        home.land(until=until, every="1h")
        home.catch_up()


def with_periods_that_come_late(home: Home) -> None:
    days = {"arrivals": "2013-01-03", "weather": "2013-01-08", "departures": "2013-01-06", "schedule": "2013-01-04"}
    late = list(days.items())
    files = planned_deliveries(until=UNTIL)
    home_runs_after(home, [file for file in files if (file.table, file.name) not in late])
    for one in late:
        home_runs_after(home, [file for file in files if (file.table, file.name) == one])
        assert home.plan().stale == {}, "one run must do all that the late file reaches"


def in_any_order(home: Home) -> None:
    """Files of days and of hours, days cut into pieces, shuffled, with runs in between."""
    rng = random.Random(13)
    days = planned_deliveries(until=UNTIL)
    files = list(pieces([file for file in days if not file.name.startswith("2013-01-05")], rng))
    files += [file for file in planned_deliveries(until=UNTIL, every="1h") if file.name.startswith("2013-01-05")]
    rng.shuffle(files)
    third = len(files) // 3
    for part in (files[:third], files[third : 2 * third], files[2 * third :]):
        home_runs_after(home, part)


def home_runs_after(home: Home, files: list[Delivery]) -> None:
    list(deliver(home.landed, files))
    home.catch_up()


def pieces(files: list[Delivery], rng: random.Random) -> Iterator[Delivery]:
    """Some of the files in two pieces, the later rows in the first of them."""
    for file in files:
        if rng.random() < 0.3 and file.rows.height > 1:
            half = file.rows.height // 2
            yield Delivery(file.table, file.name, file.rows[half:])
            yield Delivery(file.table, f"{file.name}.2", file.rows[:half])
        else:
            yield file


@pytest.mark.parametrize(
    "arrive",
    [
        by_the_hour,
        by_the_day_in_several_runs,
        by_the_hour_in_runs_that_stop_within_a_day,
        with_periods_that_come_late,
        in_any_order,
    ],
)
def test_tables_are_equal_however_events_arrive(
    arrive: Callable[[Home], None], new_home: NewHome, eleven_days: Home, expected: Contents
) -> None:
    home = new_home("arrived")
    arrive(home)
    assert home.contents() == expected
    assert home.plan().stale == {}
    for table in expected:
        assert home.rows(table).equals(eleven_days.rows(table)), table


def test_within_a_day_tables_hold_what_they_hold_in_the_end_up_to_the_watermark(
    new_home: NewHome, eleven_days: Home
) -> None:
    home = new_home("within")
    hours = planned_deliveries(until=UNTIL, every="1h")
    ahead = [file for file in hours if file.table in ("arrivals", "weather")]
    list(deliver(home.landed, ahead))
    home.land(until="2013-01-09T07", every="1h")
    watermark = home.catch_up().watermark
    assert watermark == datetime(2013, 1, 9, 7, tzinfo=UTC)
    stamps = {f"features/{view}": "event_timestamp" for view in home.dataset.views}
    for table, column in {**stamps, "flight_delay/labels": "label_time"}.items():
        expected = eleven_days.rows(table).filter(pl.col(column) < watermark)
        assert home.rows(table).equals(expected), table


def test_corrections_delivered_later_end_as_if_landed_at_once(new_home: NewHome, expected: Contents) -> None:
    corrected = Awkward(corrections=CORRECTED)
    straight, later = new_home("straight"), new_home("later")
    straight.land(until=UNTIL, awkward=corrected)
    straight.catch_up()
    later.land(until=UNTIL)
    later.catch_up()
    assert later.contents() == expected
    later.land(until=UNTIL, awkward=corrected)
    later.catch_up()
    now = later.contents()
    assert now == straight.contents()
    changed = {
        table: [day for day, rows in days.items() if now[table].get(day) != rows] for table, days in expected.items()
    }
    assert changed["raw/arrivals"] == CORRECTED
    assert changed["flight_delay/labels"] == CORRECTED
    assert changed["features/arrival_delays_by_origin"] == [f"2013-01-{day:02}" for day in range(2, 11)]
    assert {table for table, days in changed.items() if days} == {
        *("raw/arrivals", "flight_delay/labels", "delay_minutes/labels", "features/aircraft_last_flight"),
        *(f"features/arrival_delays_by_{by}" for by in ("origin", "carrier", "route")),
    }
