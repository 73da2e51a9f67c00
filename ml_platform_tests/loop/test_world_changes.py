"""A world that is not what it was: performance that fell and drift that persists, found in real tables, by real runs.

From one day on every meter uses three times as much; what the champion of the time learned is then wrong.
"""

import shutil
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from ml_platform.automation.alerts import tick
from ml_platform.core.alerts import Kind
from ml_platform.core.retraining import DRIFT_PERSISTS, NEW_LABELS, PERFORMANCE_FELL
from ml_platform.stores.alerts import Alerts
from ml_platform.stores.table_names import drift_table, performance_table
from ml_platform_tests.loop.meters import DAY, HOUR, Watched, hasty, watched
from ml_platform_tests.receivers import Webhook, serving

pytestmark = pytest.mark.slow

LARGE = 5000
"""Watt hours: more than the error of a model in the world that it learned, less than that in the other."""


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose first champion predicts a world that stays as it was."""
    folder = tmp_path_factory.mktemp("meters") / "home"
    with watched(folder, hasty()) as driven:
        driven.land(DAY)
        assert driven.trainings() == ["no champion"]
        assert driven.home.ledger.latest("demand").promoted, driven.home.ledger.latest("demand").reason
    return folder


@pytest.fixture
def home(champion: Path, tmp_path: Path) -> Path:
    """A copy of it; the model's artifacts stay where they are."""
    return Path(shutil.copytree(champion, tmp_path / "home"))


def alarming_days(driven: Watched, version: int = 1) -> int:
    """Of a version, by its reports."""
    reports = driven.home.lake.read(drift_table(driven.spec)).filter(model_version=version)
    return reports.group_by("reported_day").agg(pl.col("alarm").any())["alarm"].sum()


def test_a_model_is_trained_when_its_performance_on_labels_that_came_in_fell(home: Path) -> None:
    with watched(home, hasty(performance_drop=LARGE)) as driven:
        driven.land(4 * DAY)
        judged = driven.home.lake.read(performance_table(driven.spec)).filter(period="trailing", metric="rmse")
        assert judged["rows"].max() >= driven.spec.retrain.performance_minimum_rows
        assert driven.trainings() == [], "it performs as it did"
        driven.land(4 * DAY, energy=3)
        assert driven.trainings() == [PERFORMANCE_FELL]


def test_a_model_is_trained_on_the_day_on_which_drift_has_persisted_as_declared(home: Path) -> None:
    with watched(home, hasty(persists=2)) as driven:
        for day in range(1, driven.spec.drift.alarming_days):
            driven.land(DAY, energy=3)
            assert alarming_days(driven) == day
            assert driven.trainings() == []
        driven.land(DAY, energy=3)
        assert driven.trainings() == [DRIFT_PERSISTS]
        assert driven.home.ledger.champion("demand").version == 2
        driven.land(DAY, energy=3)
        assert alarming_days(driven) == driven.spec.drift.alarming_days, "the alarms that called for it stay"


def test_quarantine_performance_and_drift_are_each_told_once_however_long_they_last(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = Webhook()
    monkeypatch.setenv("ML_PLATFORM_ALERT_WEBHOOK_URL", webhook.url)
    held_back = hasty(persists=2, performance_drop=LARGE, minimum_new_labels=1_000_000)
    with watched(home, held_back) as driven, serving(webhook):
        cursor, repository = None, driven.home.definitions.get_repository_def()

        def told(ticks: int) -> list[str]:
            nonlocal cursor
            for _ in range(ticks):
                context = dg.build_sensor_context(driven.driver.instance, repository_def=repository, cursor=cursor)
                cursor = tick(context, [driven.home.dataset]).cursor
            return sorted(body["text"] for _, body in webhook.received)

        first = driven.watermark
        driven.land(4 * DAY, energy=3, broken=first + 5 * HOUR)
        assert driven.held_back_by() == {NEW_LABELS}
        rows = driven.home.lake.read("quarantine/readings").height
        once = [
            "CRITICAL: demand version 1 performs worse than when it was judged",
            "INFO: demand: version 1 was promoted",
            f"WARNING: {rows} rows of raw/readings {first:%Y-%m-%d} are in quarantine",
            f"WARNING: Drift persists for demand version 1 since {first:%Y-%m-%d}",
        ]
        assert told(3) == once
        driven.land(DAY, energy=3)
        assert told(3) == once
        standing = {raised.alert.kind for raised in Alerts(driven.home.lake).raised() if raised.state == "stands"}
        assert standing == {Kind.QUARANTINE, Kind.PERFORMANCE_FELL, Kind.DRIFT}
