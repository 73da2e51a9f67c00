"""However the same events arrive, the tables end up equal: values depend on event time alone.

Each way of arriving ends with the same events landed and everything brought up to date by the plan that runs follow;
raw tables, features and labels must then hold the same rows, by day. Predictions are a record of what was said when it
was due: each row is scored once by a version, none is lost, and what comes later changes none.
"""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.core.splits import split
from ml_platform.core.training import FittedModel, fit
from ml_platform.defs.nyc_flights.replay import Awkward, Delivery, deliver, planned_deliveries
from ml_platform.stores.derivation import days_between
from ml_platform.stores.incremental import Status
from ml_platform.stores.model_tables import build_training_set, due_rows, predict
from ml_platform.stores.planning import Plan
from ml_platform.stores.table_names import predictions_table
from ml_platform_tests.loop.conftest import ELEVEN_DAYS
from ml_platform_tests.loop.homes import FLIGHTS, Contents, Home

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


ARRIVALS = (
    by_the_hour,
    by_the_day_in_several_runs,
    by_the_hour_in_runs_that_stop_within_a_day,
    with_periods_that_come_late,
    in_any_order,
)


@pytest.mark.parametrize("arrive", ARRIVALS)
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


LEARNED_AT = datetime(2013, 1, 4, tzinfo=UTC)
"""What is predicted then is of the week that follows."""

WINDOWS = {"training": timedelta(days=2), "holdout": timedelta(days=1), "minimum_rows": 100}
PREDICTS = FLIGHTS.model("flight_delay")
PREDICTS = PREDICTS.model_copy(update={"windows": PREDICTS.windows.model_copy(update=WINDOWS)})
IN_TIME = (by_the_hour, by_the_day_in_several_runs, by_the_hour_in_runs_that_stop_within_a_day)
"""Arrivals of which nothing comes after what it would have told was due."""


@dataclass(frozen=True)
class Predicting(Home):
    """A home in which version 1 of a model predicts what is due whenever the tables were brought up to date."""

    model: FittedModel = field(kw_only=True)

    def catch_up(self) -> Plan:
        found = super().catch_up()
        if found.watermark is not None:
            days = days_between(self.model.trained_through.date(), found.watermark.date())
            said = predict(self.lake, self.features, PREDICTS, self.dataset, 1, self.model, days, found.watermark)
            assert not any(outcome.status is Status.BLOCKED for outcome in said)
        return found

    def due(self) -> pl.DataFrame:
        """What was to be predicted by now, by the data that stands."""
        watermark = self.plan().watermark
        assert watermark is not None
        return due_rows(self.lake, self.dataset, PREDICTS, self.model.trained_through, watermark)


NewPredictingHome = Callable[[str], Predicting]


@pytest.fixture(scope="module")
def predicting(eleven_days: Home, tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> NewPredictingHome:
    """Makes homes in which a model predicts that learned from what was known on the fifth day."""
    folder = tmp_path_factory.mktemp("predicting")
    learned = Home.at(folder / "learned", manifests)
    shutil.copytree(eleven_days.settings.home / "lake", learned.settings.home / "lake")
    training, _ = build_training_set(learned.lake, learned.features, PREDICTS, LEARNED_AT)
    rows = split(training.frame, PREDICTS.windows, LEARNED_AT)
    model = fit(PREDICTS, rows.train, training.service.features, {"num_leaves": 7}, 10)
    return lambda name: Predicting(Home.at(folder / name, manifests).settings, model=model)


@pytest.fixture(scope="module")
def predicted_once(predicting: NewPredictingHome) -> pl.DataFrame:
    """What is said where all has landed before anything is predicted."""
    home = predicting("at_once")
    home.land(until=UNTIL)
    home.catch_up()
    return home.rows(predictions_table(PREDICTS))


@pytest.mark.slow
@pytest.mark.parametrize("arrive", ARRIVALS)
def test_each_row_that_is_due_is_predicted_once_however_events_arrive(
    arrive: Callable[[Home], None], predicting: NewPredictingHome, predicted_once: pl.DataFrame
) -> None:
    home = predicting(arrive.__name__)
    arrive(home)
    predictions = home.rows(predictions_table(PREDICTS))
    assert sorted(predictions["flight_id"]) == sorted(home.due()["flight_id"])
    assert predictions["flight_id"].is_unique().all()
    said = predictions.select("flight_id", "prediction_time", "model_version").sort("flight_id")
    assert said.equals(predicted_once.select(said.columns).sort("flight_id"))
    assert predictions.equals(predicted_once) or arrive not in IN_TIME


def test_a_correction_changes_features_and_no_prediction_that_stands(predicting: NewPredictingHome) -> None:
    home = predicting("corrected")
    home.land(until=UNTIL)
    home.catch_up()
    table = predictions_table(PREDICTS)
    before = home.rows(table), home.contents()["features/arrival_delays_by_origin"]["2013-01-07"]
    home.land(until=UNTIL, awkward=Awkward(corrections=CORRECTED))
    home.catch_up()
    assert home.contents()["features/arrival_delays_by_origin"]["2013-01-07"] != before[1]
    assert home.rows(table).equals(before[0])
    assert home.rows(table).height == home.due().height
