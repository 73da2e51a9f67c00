"""The study's clock: on parcels instead of flights, moved to the year that it knows."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from ml_platform.core.rivals import SERVED_SINCE, Cadence, moments, serve, train_on_all_past
from ml_platform.core.splits import newest_label
from ml_platform_tests.core.learning_examples import FEATURES, START, parcels, spec
from ml_platform_tests.retraining_study import (
    BEGINNING,
    DAY,
    FIRST,
    Course,
    Laboratory,
    automated,
    by_calendar,
    candidate,
    choose,
    most_retrainings,
)

UNTIL = FIRST + 60 * DAY
TIMES = ["prediction_time", "label_time"]
ROWS = parcels(6000, days=160).with_columns(pl.col(TIMES) - (START - BEGINNING))
PARAMS, ROUNDS = {"learning_rate": 0.1}, 15
GATE = {"floor": {"auc": 0.5}, "slice_max_drop": 1.0, "protected_max_gap": 1.0, "max_calibration_error": None}
LENIENT = spec(
    windows={"training": "365d", "holdout": "10d"},
    gate={**GATE, "cases": (), "stale_after": "1d", "stale_margin": 1.0, "latency_budget_ms": 1000},
    retrain={"stale_after": "20d", "cooldown": "5d", "minimum_new_labels": 1, "performance_drop": 10},
    baseline={"by": ("is_express",)},
)


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(LENIENT, ROWS, FEATURES, PARAMS, ROUNDS, tmp_path / "models")


def test_a_calendar_serves_what_core_trains_and_serves(laboratory: Laboratory) -> None:
    course = by_calendar(laboratory, Cadence.MONTHLY, UNTIL, seed=LENIENT.seed)
    at = moments(Cadence.MONTHLY, FIRST, UNTIL)
    expected = serve(train_on_all_past(LENIENT, ROWS, FEATURES, PARAMS, ROUNDS, at), ROWS, UNTIL)
    assert [training.at for training in course.trainings] == at[1:]
    assert course.scores.equals(expected.select(course.scores.columns))
    assert expected[SERVED_SINCE].n_unique() == len(at)


def test_the_policy_trains_when_it_is_due_and_what_it_promotes_serves_from_then(laboratory: Laboratory) -> None:
    course = automated(laboratory, LENIENT, UNTIL, seed=1)
    due = [FIRST + days * DAY for days in (20, 40)]
    assert [training.at for training in course.trainings] == due
    assert {training.triggers for training in course.trainings} == {("stale",)}
    assert all(training.promoted for training in course.trainings)
    for since, end in zip([FIRST, *due], [*due, UNTIL], strict=True):
        made = candidate(laboratory, LENIENT, since, 1)
        assert newest_label(made.train) <= since - LENIENT.windows.holdout
        assert newest_label(made.holdout) <= since
        expected = laboratory.scores(made.name, since, end)
        assert course.scores.join(expected, on=["parcel_id", "score"], how="semi").height == expected.height


def test_a_refused_candidate_counts_as_a_training_and_serves_nothing(laboratory: Laboratory) -> None:
    strict = LENIENT.model_copy(update={"gate": LENIENT.gate.model_copy(update={"floor": {"auc": 0.9999}})})
    course = automated(laboratory, strict, UNTIL, seed=1)
    # Still stale, it tries again after the cooldown.
    assert [training.at for training in course.trainings[:3]] == [FIRST + days * DAY for days in (20, 25, 30)]
    assert not any(training.promoted for training in course.trainings)
    first = candidate(laboratory, strict, FIRST, 1)
    assert course.scores.equals(laboratory.scores(first.name, FIRST, UNTIL))


def test_a_share_of_new_labels_spaces_trainings_by_the_growth_of_the_data(laboratory: Laboratory) -> None:
    shared = LENIENT.retrain.model_copy(update={"minimum_new_share": 0.3, "stale_after": DAY})
    growing = LENIENT.model_copy(update={"retrain": shared})
    at = [FIRST, *(training.at for training in automated(laboratory, growing, UNTIL, seed=1).trainings)]
    # At d days after the first training on 91 days, d >= 0.3 * (91 + d - 10).
    assert [(after - before) // DAY for before, after in pairwise(at)] == [35]
    assert most_retrainings(growing) == 4
    cooled = LENIENT.retrain.model_copy(update={"cooldown": timedelta(days=55)})
    assert most_retrainings(LENIENT.model_copy(update={"retrain": cooled})) == 4


def test_a_course_that_was_kept_is_not_made_again(laboratory: Laboratory, tmp_path: Path) -> None:
    path = tmp_path / "courses" / "one.parquet"
    made = Course.kept(path, lambda: automated(laboratory, LENIENT, UNTIL, seed=1))
    again = Course.kept(path, lambda: pytest.fail("made again"))
    assert again.scores.equals(made.scores)
    assert again.trainings == made.trainings
    assert len(again.trainings) == 2


def test_defaults_are_not_chosen_where_the_second_half_is_known(laboratory: Laboratory) -> None:
    late = ROWS.with_columns(pl.col(TIMES) + timedelta(days=60))
    laboratory.rows = late
    with pytest.raises(ValueError, match="fixed on the first half"):
        choose(laboratory, LENIENT, 4, Console(quiet=True))
