"""A world that is not what it was: performance that fell and drift that persists, found in real tables, by real runs.

From one day on every meter uses three times as much; what the champion of the time learned is then wrong.
"""

import shutil
from pathlib import Path

import polars as pl
import pytest

from ml_platform.core.retraining import DRIFT_PERSISTS, PERFORMANCE_FELL
from ml_platform.stores.table_names import drift_table, performance_table
from ml_platform_tests.loop.meters import DAY, Watched, hasty, watched

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


def alarming_days(driven: Watched) -> int:
    reports = driven.home.lake.read(drift_table(driven.spec))
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
