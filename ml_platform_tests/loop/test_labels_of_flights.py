"""Which flights have a label: those that landed, by what upstream says of them last."""

from collections.abc import Callable
from datetime import date

import polars as pl

from ml_platform.defs.nyc_flights.replay import Delivery, deliver, planned_deliveries
from ml_platform_tests.loop.homes import Home

CANCELLED_LATER = "2013-01-02"
LABELS = ("flight_delay/labels", "delay_minutes/labels")

NewHome = Callable[[str], Home]


def test_cancelled_and_diverted_flights_never_get_a_label(eleven_days: Home) -> None:
    left, landed = (eleven_days.lake.read(f"raw/{table}") for table in ("departures", "arrivals"))
    cancelled = left.filter("cancelled")
    # Two days on, whoever left has landed, unless it was diverted.
    settled = left.filter(pl.col("known_at") < left["known_at"].max() - pl.duration(days=2))
    diverted = settled.filter(~pl.col("cancelled")).join(landed, on="flight_id", how="anti")
    assert cancelled.height > 0
    assert diverted.height > 0
    for table in LABELS:
        labelled = eleven_days.lake.read(table)["flight_id"].to_list()
        assert len(labelled) == len({*labelled})
        assert not {*labelled} & {*cancelled["flight_id"], *diverted["flight_id"]}
        assert {*settled["flight_id"]} - {*labelled} == {
            *settled.filter("cancelled")["flight_id"],
            *diverted["flight_id"],
        }


def test_a_correction_that_cancels_a_flight_takes_its_label_away_and_no_other(new_home: NewHome) -> None:
    home, until = new_home("corrected"), date(2013, 1, 5)
    home.land(until=until)
    home.catch_up()
    before = {table: home.rows(table) for table in LABELS}
    files = {
        file.table: file
        for file in planned_deliveries(until=until)
        if file.name == CANCELLED_LATER and file.table in ("departures", "arrivals")
    }
    left, landed = files["departures"].rows, files["arrivals"].rows
    same_day = left.filter(pl.col("scheduled_departure_at").dt.strftime("%Y-%m-%d") == CANCELLED_LATER)
    flight = landed.join(same_day, on="flight_id", how="semi")["flight_id"][0]
    this = pl.col("flight_id") == flight
    gone = left.with_columns(
        departed_at=pl.when(~this).then("departed_at"),
        dep_delay_minutes=pl.when(~this).then("dep_delay_minutes"),
        cancelled=this | pl.col("cancelled"),
        reported_at=pl.when(this).then("scheduled_departure_at").otherwise("reported_at"),
    )
    corrections = [
        Delivery("departures", CANCELLED_LATER, gone, restates=True),
        Delivery("arrivals", CANCELLED_LATER, landed.filter(~this), restates=True),
    ]
    assert all(file.written for file in deliver(home.landed, corrections))
    home.catch_up()
    assert home.plan().stale == {}
    for table in LABELS:
        assert flight in before[table]["flight_id"]
        assert home.rows(table).equals(before[table].filter(~this))
