"""Who decides that something runs: the sensor and the conditions, on a real instance, with real runs."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest
from rich.console import Console

from ml_platform.assets.steps import model_data
from ml_platform.automation.jobs import TRAINING_STAGES
from ml_platform.automation.runs import EVIDENCE_TAG, REASON_TAG, TRIGGER_TAG, of_model, reports_itself
from ml_platform.cli.drive import Driver
from ml_platform.defs.nyc_flights.replay import Awkward
from ml_platform.stores.planning import plan
from ml_platform.stores.training_requests import TrainingRequests
from ml_platform_tests.loop.homes import FLIGHTS, Home, small

SEVENTEEN_DAYS = date(2013, 1, 16)
DAY = timedelta(days=1)
MODEL = FLIGHTS.model("flight_delay")
TRIGGER = of_model(TRIGGER_TAG, MODEL.name)
LENIENT = {
    "floor": {"auc": 0.5},
    "baseline_margin": 0.0,
    "slice_max_drop": 1.0,
    "protected_max_gap": 1.0,
    "max_calibration_error": None,
    "cases": (),
}
"""Gates that a model of two weeks passes: what is tried here is who decides that something runs."""

EAGER = small(
    MODEL,
    gate=MODEL.gate.model_copy(update=LENIENT),
    retrain=MODEL.retrain.model_copy(
        update={
            "cooldown": timedelta(days=2),
            "stale_after": timedelta(days=2),
            "minimum_new_labels": 100,
            "minimum_new_share": 0.0,
            "daily_budget": 1,
        }
    ),
)


@pytest.fixture(scope="session")
def seventeen_days(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Home:
    """A home that tests copy: raw tables, features and labels of what landed, no model."""
    home = Home.at(tmp_path_factory.mktemp("seventeen_days"), manifests).with_models(EAGER)
    home.land(until=SEVENTEEN_DAYS)
    home.catch_up()
    return home


@pytest.fixture
def watched(home: Home, seventeen_days: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of it, whose files count as whole when they land."""
    monkeypatch.setenv("ML_PLATFORM_LANDING_SETTLE_SECONDS", "0")
    for name in ("landing", "lake"):
        shutil.copytree(seventeen_days.settings.home / name, home.settings.home / name)
    return home.with_models(EAGER)


@contextmanager
def driver(home: Home) -> Iterator[Driver]:
    """A driver that has looked once."""
    with home.instance() as instance:
        made = Driver(home.definitions, home.dataset, instance, Console(quiet=True))
        assert made.settle() == 0, "what stands is no news"
        yield made


def trainings(driver: Driver) -> list[dg.DagsterRun]:
    """The runs that made a training set, oldest first."""
    runs = [driver.instance.get_run_by_id(run_id) for run_id in driver.run_ids]
    return [run for run in runs if run is not None and TRIGGER in run.tags]


def made_by(driver: Driver, first: int) -> list[str]:
    """What the runs from number ``first`` on were: jobs by name, others by the assets they made."""
    runs = [driver.instance.get_run_by_id(run_id) for run_id in driver.run_ids[first:]]
    return [
        run.job_name
        if not run.job_name.startswith("__")
        else " ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
        for run in runs
        if run is not None
    ]


def land(home: Home, driver: Driver, day: date) -> None:
    """The period that ends at ``day``, and whatever comes of it."""
    home.land(until=day)
    driver.settle()
    assert driver.failures == []


def test_a_model_is_trained_when_it_may_help_and_then_left_alone_until_it_is_stale(watched: Home) -> None:
    with driver(watched) as driven:
        land(watched, driven, SEVENTEEN_DAYS + DAY)
        (first,) = trainings(driven)
        assert first.tags[TRIGGER] == "no champion"
        evidence = {part["name"]: part for part in json.loads(first.tags[of_model(EVIDENCE_TAG, MODEL.name)])}
        assert evidence["no champion"] == {
            "name": "no champion",
            "role": "trigger",
            "holds": True,
            "value": 1,
            "bound": None,
        }
        assert "No version predicts yet." in first.tags[of_model(REASON_TAG, MODEL.name)]
        assert watched.ledger.latest(MODEL.name).promoted, watched.ledger.latest(MODEL.name).reason
        made = {key.path[-1] for key in first.asset_selection or ()}
        assert made == {*TRAINING_STAGES, "drift_calibration"}, "what follows the training set is made in its run"
        predicted = watched.lake.partitions("flight_delay/predictions")
        assert max(predicted) == SEVENTEEN_DAYS.isoformat(), "a new champion scores what is due"

        runs = len(driven.run_ids)
        assert [driven.settle() for _ in range(5)] == [0] * 5, "nothing reruns when nothing changed"
        land(watched, driven, SEVENTEEN_DAYS + 2 * DAY)
        assert made_by(driven, runs) == ["nyc_flights_daily"], "one run of the chain for one landed day"
        assert trainings(driven) == [first], "new labels alone train nothing"

        TrainingRequests(watched.lake).ask(MODEL.name, "ann", "new sensors")
        driven.settle()
        asked = trainings(driven)[-1]
        assert asked.tags[TRIGGER] == "asked by a person"
        assert TrainingRequests(watched.lake).waiting(MODEL.name) is None
        runs = len(driven.run_ids)
        assert driven.settle() == 0, "what was asked once is done once"

        land(watched, driven, SEVENTEEN_DAYS + 3 * DAY)
        assert len(trainings(driven)) == 2, "it has not cooled down"
        land(watched, driven, SEVENTEEN_DAYS + 4 * DAY)
        assert trainings(driven)[-1].tags[TRIGGER] == "stale"


def test_what_a_person_asked_for_is_tried_once_and_again_only_when_asked_again(
    watched: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    requests = TrainingRequests(watched.lake)
    with driver(watched) as driven:
        land(watched, driven, SEVENTEEN_DAYS + DAY)
        land(watched, driven, SEVENTEEN_DAYS + 2 * DAY)
        with monkeypatch.context() as full:
            full.setattr(model_data, "build_training_set", broken)
            requests.ask(MODEL.name, "ann", "new sensors")
            driven.settle()
            assert "no space left on device" in driven.failures.pop()
            assert driven.settle() == 0, "what fails is not tried for ever"
        assert driven.settle() == 0
        assert str(requests.waiting(MODEL.name)) == "ann: new sensors"

        before = len(trainings(driven))
        requests.ask(MODEL.name, "bob", "there is space now")
        driven.settle()
        assert driven.failures == []
        assert trainings(driven)[before].tags[TRIGGER] == "asked by a person"
        assert requests.waiting(MODEL.name) is None


def test_a_correction_runs_the_days_it_reaches_and_trains_nothing(watched: Home) -> None:
    patient = EAGER.retrain.model_copy(update={"minimum_new_labels": 1_000_000})
    watched = watched.with_models(EAGER.model_copy(update={"retrain": patient}))
    with driver(watched) as driven:
        watched.land(until=SEVENTEEN_DAYS, awkward=Awkward(corrections=["2013-01-10"]))
        driven.settle()
        (run_id,) = driven.run_ids
        run = driven.instance.get_run_by_id(run_id)
        assert run is not None
        assert run.tags["dagster/asset_partition_range_start"] == "2013-01-10"
        assert run.tags["dagster/asset_partition_range_end"] == "2013-01-15"
        assert driven.settle() == 0


def test_catching_up_after_days_offline_is_one_run_of_the_chain(watched: Home) -> None:
    with driver(watched) as driven:
        watched.land(until=SEVENTEEN_DAYS + 4 * DAY)
        driven.settle()
        chains = [
            run
            for run in (driven.instance.get_run_by_id(run_id) for run_id in driven.run_ids)
            if run and run.job_name == "nyc_flights_daily"
        ]
        ranges = [run.tags["dagster/asset_partition_range_end"] for run in chains]
        assert ranges[0] == (SEVENTEEN_DAYS + 3 * DAY).isoformat()
        # The second scores what the new champion has not: its own run, because it came later.
        assert len(chains) <= 2
        assert len(trainings(driven)) == 1, "four days of labels are one reason to train"


@pytest.mark.parametrize("days", [1, 2])
def test_days_that_a_failed_run_left_are_requested_once_more_in_one_run(watched: Home, days: int) -> None:
    table = watched.settings.home / "lake" / "flight_delay" / "labels"
    away = table.with_name("away")
    with driver(watched) as driven:
        watched.land(until=SEVENTEEN_DAYS + days * DAY)
        # The sensor asks twice: what the first run did make is another state of things.
        for _ in range(2):
            (landed,) = driven._landing()
            table.rename(away)
            table.touch()
            driven._run("nyc_flights_daily", landed)
            assert "labels" in driven.failures.pop()
            table.unlink()
            away.rename(table)
        assert list(driven._landing()) == [], "the sensor asks once for one state of things"

        ((requested,), _) = driven._conditions()
        assert requested.asset_graph_subset is None, "a backfill is under way without anybody seeing it"
        driven.settle()
        assert driven.failures == []
        again = driven.instance.get_run_by_id(driven.run_ids[2])
        assert again is not None
        assert reports_itself(again.tags), "a day that waits would fail it otherwise"
        assert again.tags["dagster/asset_partition_range_start"] == SEVENTEEN_DAYS.isoformat()
        assert dg.AssetKey(["flight_delay", "labels"]) in (again.asset_selection or ())
        last = (SEVENTEEN_DAYS + (days - 1) * DAY).isoformat()
        assert again.tags["dagster/asset_partition_range_end"] == last
        assert last in watched.lake.partitions("flight_delay/labels")
        assert plan(watched.settings, watched.dataset).stale == {}
