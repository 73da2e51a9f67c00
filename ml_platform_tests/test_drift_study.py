"""The study of drift's alarms, on parcels: shifts in the rows are as large as is said, and what is counted is so."""

import numpy as np
import polars as pl
import pytest

from ml_platform.core.drift_calibration import SHIFTS, calibrate, important
from ml_platform.core.drift_effects import yardstick
from ml_platform.core.scoring import score
from ml_platform.core.training import fit
from ml_platform_tests import drift_study
from ml_platform_tests.core.learning_examples import FEATURES, parcels, spec
from ml_platform_tests.drift_study import Subject, delay, evidently, histories, ours

SPEC = spec()


@pytest.fixture(scope="module")
def subject() -> Subject:
    train = parcels(7000, days=70)
    model = fit(SPEC, train, FEATURES, {"learning_rate": 0.1, "num_leaves": 8}, 30)
    rows = score(model, train)
    measure = yardstick(SPEC.drift, rows, model.importances)
    return Subject(SPEC, model, rows, measure, calibrate(SPEC.drift, measure, SPEC.seed))


@pytest.mark.parametrize("feature", ["load", "depot"])
def test_a_shift_moves_the_mean_of_its_feature_as_far_and_the_scores_with_it(subject: Subject, feature: str) -> None:
    at = subject.measure.features.index(feature)
    codes = subject.measure.codes.get(feature)

    def mean(rows: pl.DataFrame) -> float:
        column = rows[feature] if codes is None else rows[feature].replace_strict(codes, return_dtype=pl.Float64)
        return float(column.mean())  # type: ignore[arg-type]

    moved = subject.shifted(feature, 0.25)
    assert mean(moved) - mean(subject.rows) == pytest.approx(0.25 * subject.measure.scale[at], rel=0.1)
    assert moved["score"].mean() > subject.rows["score"].mean()  # type: ignore[operator]
    kept = pl.exclude(feature, "score", "decision")
    assert moved.select(kept).equals(subject.rows.select(moved.select(kept).columns))


def test_a_history_has_each_day_once_and_its_delay_is_that_of_its_first_alarm() -> None:
    drawn = histories(days=30, window=7, count=5, seed=1)
    assert drawn.shape == (5, 4, 7)
    assert all(len(np.unique(history)) == 28 for history in drawn)
    alarms = np.array([[True, False, True], [False, False, True], [False, False, False]])
    assert delay(alarms).tolist() == [1, 3, 4]


def test_larger_shifts_are_found_sooner_and_false_alarms_are_as_rare_as_calibrated(subject: Subject) -> None:
    lines, points = ours(subject)
    assert len(lines) == len(important(subject.measure)) * len(SHIFTS) + 1
    chosen = points.filter("chosen")
    assert chosen["false_alarms_per_100_windows"].max() <= SPEC.drift.false_alarms_per_100_windows  # type: ignore[operator]
    by_shift = chosen.group_by("line").agg(pl.col("delay_windows").mean()).sort("line")["delay_windows"].to_list()
    assert by_shift == sorted(by_shift, reverse=True)
    assert by_shift[-1] < 1.5 < by_shift[0]


def test_evidently_is_asked_about_the_same_windows(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift_study, "EVIDENTLY_TRIALS", 2)
    lines, points = evidently(subject)
    assert " in 6 windows " in lines[-1]
    assert points.filter("chosen")["false_alarms_per_100_windows"].is_between(0, 100).all()
