"""Each guard by itself, with real runs: a trigger holds, this guard alone holds training back, and then it does not.

The trigger is that there is no champion, because a gate refuses every candidate: so it holds all the time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform.assets.steps import training as steps
from ml_platform.core.retraining import ENOUGH_HISTORY, NEW_LABELS, NEW_SHARE, NO_CHAMPION, WITHIN_BUDGET
from ml_platform_tests.loop.meters import DAY, HOUR, hasty, refused, watched

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the one home of these tests, in which time goes on from test to test."""
    folder = tmp_path_factory.mktemp("meters") / "home"
    with watched(folder, refused(hasty())) as driven:
        driven.land(HOUR)
        assert driven.trainings() == [NO_CHAMPION]
        assert not driven.home.ledger.latest("demand").promoted
    return folder


def test_enough_labels_must_be_new(folder: Path) -> None:
    with watched(folder, refused(hasty(minimum_new_labels=100))) as driven:
        driven.land(6 * HOUR)
        assert driven.held_back_by() == {NEW_LABELS}
        assert driven.trainings() == []
        driven.land(6 * HOUR)
        assert driven.trainings() == [NO_CHAMPION]


def test_enough_of_what_would_train_must_be_new(folder: Path) -> None:
    with watched(folder, refused(hasty(minimum_new_share=0.15))) as driven:
        driven.land(6 * HOUR)
        assert driven.held_back_by() == {NEW_SHARE}
        assert driven.trainings() == []
        driven.land(12 * HOUR)
        assert driven.trainings() == [NO_CHAMPION]


def test_there_must_be_enough_history(folder: Path) -> None:
    longer = hasty()
    windows = longer.windows.model_copy(update={"training": 9 * DAY, "folds": 3, "fold_length": 2 * DAY})
    with watched(folder, refused(longer.model_copy(update={"windows": windows}))) as driven:
        driven.land(6 * HOUR)
        assert driven.held_back_by() == {ENOUGH_HISTORY}
        assert driven.trainings() == []
        driven.land(3 * DAY)
        assert driven.trainings() == [NO_CHAMPION]


def test_trainings_of_a_day_stay_within_the_budget(folder: Path) -> None:
    with watched(folder, refused(hasty(daily_budget=1))) as driven:
        driven.land(DAY)
        driven.land(6 * HOUR)
        assert driven.held_back_by() == {WITHIN_BUDGET}
        assert driven.trainings() == [NO_CHAMPION]
        driven.land(DAY)
        assert driven.trainings() == [NO_CHAMPION] * 2


def test_nothing_is_trained_while_a_run_is_under_way(folder: Path) -> None:
    with watched(folder, refused(hasty(minimum_new_labels=100))) as driven:
        driven.land(HOUR)
        instance, job = driven.driver.instance, driven.home.definitions.resolve_job_def("demand_training")
        other = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
        driven.land(DAY)
        assert driven.held_back_by() == set()
        assert driven.trainings() == []
        instance.report_run_canceled(other)
        driven.settle()
        assert driven.trainings() == [NO_CHAMPION]


def failing(times: int) -> Callable[..., Any]:
    """What learns, on a disk that is full so often."""
    learn, left = steps.learn, [*range(times)]

    def full(*given: Any, **named: Any) -> Any:
        if left:
            left.pop()
            raise OSError("no space left on device")
        return learn(*given, **named)

    return full


def made(run: dg.DagsterRun) -> set[str]:
    return {key.path[-1] for key in run.asset_selection or ()}


def test_a_training_that_failed_is_taken_up_from_its_training_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(folder, refused(hasty())) as driven:
        decided = driven.home.ledger.history("demand").height
        monkeypatch.setattr(steps, "learn", failing(times=1))
        driven.deliver(6 * HOUR)
        driven.driver.settle()
        assert ["no space left" in failure for failure in driven.driver.failures] == [True]
        _, training, left = driven.runs
        assert made(training) - made(left) == {"training_set"}
        assert driven.home.ledger.history("demand").height == decided + 1


def test_a_training_that_fails_again_is_not_taken_up_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(folder, refused(hasty())) as driven:
        monkeypatch.setattr(steps, "learn", failing(times=100))
        driven.deliver(6 * HOUR)
        driven.driver.settle()
        assert driven.driver.settle() == 0
        assert ["no space left" in failure for failure in driven.driver.failures] == [True, True]
        assert ["tuned_model" in made(run) for run in driven.runs] == [False, True, True]
