"""The limit keeps its promise on windows that did not set it, and what it finds is counted."""

import numpy as np
import polars as pl
import pytest

from ml_platform.core.drift_calibration import HORIZON, WINDOWS, Calibration, calibrate, curve, detection, important
from ml_platform.core.drift_effects import yardstick
from ml_platform.core.model_spec import DriftPolicy
from ml_platform_tests.core.drift_examples import IMPORTANCES, parcels

POLICY = DriftPolicy()
MEASURE = yardstick(POLICY, parcels(60), IMPORTANCES)


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate(POLICY, MEASURE, seed=1)


def test_false_alarms_stay_below_the_promise_on_fresh_windows(found: Calibration) -> None:
    assert found.chosen.windows == WINDOWS
    assert 0 < found.chosen.per_100 <= 1.0


@pytest.mark.parametrize("seed", range(5))
def test_so_do_those_of_whole_histories_of_the_reference_in_random_order(found: Calibration, seed: int) -> None:
    rng = np.random.default_rng(seed)
    orders = np.array([rng.permutation(60)[:56].reshape(8, 7) for _ in range(500)])
    sums, rows = MEASURE.day_sums[orders].sum(axis=2), MEASURE.day_rows[orders].sum(axis=2)
    strongest = MEASURE.strengths(MEASURE.sizes(sums, rows), 7).max(axis=-1)
    assert (strongest > found.limit).mean() <= 0.01


def test_a_quarter_of_a_deviation_in_an_important_feature_is_found_within_three_windows(found: Calibration) -> None:
    promised = [each for each in found.detections if each.limit == found.limit and each.shift == 0.25]
    assert [each.feature for each in promised] == ["load", "queue", "depot"] == important(MEASURE)
    assert all(each.found >= 0.9 for each in promised)
    assert all(each.called <= each.found for each in promised)


def test_a_larger_shift_is_found_sooner_and_a_higher_limit_finds_later(found: Calibration) -> None:
    of_load = [each for each in found.detections if each.feature == "load"]
    by_shift = sorted((each for each in of_load if each.limit == found.limit), key=lambda each: each.shift)
    assert [each.delay for each in by_shift] == sorted((each.delay for each in by_shift), reverse=True)
    by_limit = sorted((each for each in of_load if each.shift == 0.2), key=lambda each: each.limit)
    assert [each.delay for each in by_limit] == sorted(each.delay for each in by_limit)
    alarms = sorted(found.false_alarms, key=lambda each: each.limit)
    assert [each.alarms for each in alarms] == sorted((each.alarms for each in alarms), reverse=True)


def test_a_looser_promise_is_a_lower_limit(found: Calibration) -> None:
    loose = calibrate(DriftPolicy(false_alarms_per_100_windows=10), MEASURE, seed=1)
    assert loose.limit < found.limit
    assert 1.0 < loose.chosen.per_100 <= 10.0


def test_the_same_seed_gives_the_same_calibration(found: Calibration) -> None:
    assert calibrate(POLICY, MEASURE, seed=1) == found
    assert calibrate(POLICY, MEASURE, seed=2) != found


def test_delays_are_counted_in_windows_and_what_is_never_found_is_later_than_all() -> None:
    alarms = np.zeros((4, HORIZON), dtype=bool)
    alarms[0, 0] = alarms[1, 2:] = alarms[2, 0:2] = True
    policy = DriftPolicy(persists=2)
    found = detection(alarms, policy, limit=3.0, feature="load", shift=0.25)
    assert (found.found_at_once, found.found, found.called) == (0.5, 0.75, 0.25)
    assert found.delay == (1 + 3 + 1 + HORIZON + 1) / 4
    assert detection(alarms, DriftPolicy(persists=1), 3.0, "load", 0.25).called == 0.75
    assert detection(alarms, DriftPolicy(persists=4), 3.0, "load", 0.25).called == 0.0


def test_a_frame_of_it_has_each_limit_once_for_each_feature_and_shift(found: Calibration) -> None:
    frame = found.to_frame()
    assert frame.select("alarm_limit", "feature", "shift").is_duplicated().sum() == 0
    chosen = frame.filter("chosen")
    assert chosen.height == 3 * 4
    assert chosen["alarm_limit"].unique().to_list() == [found.limit]
    assert chosen["false_alarms"].unique().to_list() == [found.chosen.alarms]
    lines = curve(frame)
    assert set(lines["line"]) == {f"shift of {shift}σ" for shift in ("0.15", "0.20", "0.25", "0.50")}
    assert lines.filter("chosen").height == 4
    assert lines.filter(pl.col("chosen"), pl.col("line") == "shift of 0.25σ")["delay_windows"].item() == pytest.approx(
        chosen.filter(pl.col("shift") == 0.25)["delay_windows"].mean()
    )
