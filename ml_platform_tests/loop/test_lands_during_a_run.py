"""What lands while a run is at work is for the next one: the run goes by what was taken in, not by the folder."""

from datetime import UTC, datetime, timedelta

import pytest

from ml_platform.stores.ingest import ingest, known_through, taken_through
from ml_platform.stores.model_tables import training_times
from ml_platform_tests.loop.homes import FLIGHTS, Home
from ml_platform_tests.loop.test_rejected_candidate import LENIENT, MODEL, declared, land_and_run, train

DAY = "2013-01-14"
TWO = datetime(2013, 1, 14, 14, tzinfo=UTC)
HOUR = timedelta(hours=1)


def take_in(home: Home, tables: list[str]) -> None:
    """What a run's first steps do."""
    for name in tables:
        list(ingest(home.lake, home.landing, home.dataset.table(name), [DAY]))


def test_a_run_predicts_and_trains_by_what_it_has_taken_in(home: Home) -> None:
    home = home.with_models(declared(LENIENT, seed=1))
    land_and_run(home, "2013-01-13")
    train(home)
    home.land(until="2013-01-14T14", every="1h")
    home.catch_up()
    # Another hour lands after the raw tables' steps, before those of the models.
    home.land(until="2013-01-14T15", every="1h")
    stages = [f"{MODEL}/{name}" for name in ("labels", "predictions", "performance_report", "drift_report")]
    assert home.run(["features/weather_at_origin", *stages], (DAY, DAY)).success
    due = home.lake.read(f"{MODEL}/predictions")["prediction_time"]
    assert TWO - HOUR < due.max() < TWO  # type: ignore[operator]
    train(home)
    assert max(training_times(home.lake, home.dataset.models[0])) == TWO

    later = home.plan()
    assert later.watermark == TWO + HOUR
    assert DAY in later.stale[f"{MODEL}/predictions"]
    home.catch_up()
    assert home.run([f"{MODEL}/predictions"], (DAY, DAY)).success
    due = home.lake.read(f"{MODEL}/predictions")["prediction_time"]
    assert TWO < due.max() < TWO + HOUR  # type: ignore[operator]
    assert home.lake.read(f"{MODEL}/predictions").select("flight_id", "model_version").is_duplicated().sum() == 0


def known(home: Home) -> datetime | None:
    """How far the flights' model may know."""
    return known_through(home.lake, home.landing, FLIGHTS, FLIGHTS.model(MODEL), home.features.manifest())


def test_the_table_that_has_taken_in_least_says_how_far_the_data_go(home: Home) -> None:
    partitioned = [table.name for table in FLIGHTS.tables if table.known_at]
    home.land(until="2013-01-13")
    home.catch_up()
    assert known(home) == datetime(2013, 1, 13, tzinfo=UTC)
    home.land(until="2013-01-14T14", every="1h")
    take_in(home, partitioned[1:])
    assert known(home) == datetime(2013, 1, 13, tzinfo=UTC)
    take_in(home, partitioned[:1])
    assert known(home) == TWO
    # A table that runs ahead of the others moves nothing.
    home.land(until="2013-01-14T15", every="1h")
    (home.landed / "arrivals" / "2013-01-14T14.csv").unlink()
    take_in(home, partitioned)
    assert known(home) == TWO


def test_a_refused_file_counts_as_it_did_in_the_folder(home: Home) -> None:
    home.land(until="2013-01-14T14", every="1h")
    bad = home.landed / "weather" / "2013-01-14T13.csv"
    bad.write_text("no\n1\n")
    home.catch_up()
    weather = FLIGHTS.table("weather")
    assert home.lake.partitions("raw/weather")[DAY].blocked
    assert taken_through(home.lake, weather) == TWO == home.landing.landed_through(weather)


@pytest.mark.parametrize("until", ["2013-01-14", "2013-01-14T14"])
def test_at_rest_the_folder_and_the_tables_say_the_same(home: Home, until: str) -> None:
    home.land(until=until, every="1h")
    planned = home.catch_up().watermark
    assert planned == known(home) == FLIGHTS.watermark(home.landing)
