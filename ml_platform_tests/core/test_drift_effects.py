"""Effects are differences of whole days' means, in units of what days differ by, weighted by importance."""

import numpy as np
import polars as pl
import pytest

from ml_platform.core.drift_effects import GIVEN, MISSING, SCORE, VALUE, Yardstick, yardstick
from ml_platform.core.model_spec import DriftPolicy
from ml_platform_tests.core.drift_examples import IMPORTANCES, parcels

POLICY = DriftPolicy(smallest_effect=0.0)
REFERENCE = parcels(60)
MEASURE = yardstick(POLICY, REFERENCE, IMPORTANCES)


def effects(rows: pl.DataFrame, measure: Yardstick = MEASURE) -> dict[tuple[str, str], float]:
    sums, count, _ = measure.window(rows)
    return dict(zip(measure.effects, measure.sizes(sums, np.asarray(count)).tolist(), strict=True))


def strengths(rows: pl.DataFrame, measure: Yardstick = MEASURE) -> dict[tuple[str, str], float]:
    sums, count, days = measure.window(rows)
    sizes = measure.sizes(sums, np.asarray(count))
    return dict(zip(measure.effects, measure.strengths(sizes, days).tolist(), strict=True))


def test_a_category_counts_as_the_mean_of_its_scores_to_the_last_bit_whichever_thread_adds_first() -> None:
    reference = parcels(300)
    means = {depot: reference.filter(depot=depot)[SCORE].mean() for depot in ("north", "south", "east")}
    for _ in range(20):
        assert yardstick(POLICY, reference, IMPORTANCES).codes["depot"] == means


def test_the_reference_itself_has_no_effect() -> None:
    assert max(map(abs, effects(REFERENCE).values())) < 1e-9


def test_a_shift_is_measured_in_standard_deviations_of_the_rows() -> None:
    deviation = REFERENCE["load"].std(ddof=0)
    assert isinstance(deviation, float)
    found = effects(REFERENCE.with_columns(pl.col("load") + 0.25 * deviation))
    assert found["load", VALUE] == pytest.approx(0.25, abs=0.01)
    assert found["load", GIVEN] == pytest.approx(0.25, abs=0.01)
    assert found["depot", VALUE] == found["express", VALUE] == found[SCORE, VALUE] == pytest.approx(0, abs=1e-9)


def test_a_feature_that_only_follows_another_has_not_moved_given_the_others() -> None:
    both = effects(REFERENCE.with_columns(pl.col("load", "queue") + 1.0))
    assert min(both["load", VALUE], both["queue", VALUE]) > 0.6
    assert max(abs(both["load", GIVEN]), abs(both["queue", GIVEN])) < 0.05


def test_a_shift_of_one_feature_alone_is_far_stronger_given_the_others_than_by_itself() -> None:
    found = strengths(parcels(7, seed=9).with_columns(pl.col("load") + 0.25))
    assert found["load", GIVEN] > 5 > 2.5 > found["load", VALUE]


def test_chance_is_what_days_differ_by_and_shrinks_with_the_root_of_their_number() -> None:
    weeks = [effects(parcels(7, seed=seed))["load", VALUE] for seed in range(200)]
    chance = dict(zip(MEASURE.effects, MEASURE.chance(7).tolist(), strict=True))["load", VALUE]
    # The reference's own mean is off by chance too, the same for all weeks.
    assert np.std(weeks) == pytest.approx(chance, rel=0.2)
    assert MEASURE.chance(28)[0] == pytest.approx(MEASURE.chance(7)[0] / 2)


def test_strength_grows_with_the_root_of_importance_and_unused_features_have_none() -> None:
    assert MEASURE.weights.tolist() == [*[1.0, 0.75, 0.5, 0.25, 0.0] * 3, 1.0]
    found = strengths(REFERENCE.with_columns(pl.col("colour") + 10))
    assert found["colour", VALUE] == found["colour", GIVEN] == 0.0
    equal = yardstick(POLICY, REFERENCE, {**IMPORTANCES, "express": 40.0})
    rows = REFERENCE.with_columns(express=True)
    assert strengths(rows, equal)["express", VALUE] == pytest.approx(2 * strengths(rows)["express", VALUE])


def test_a_value_that_went_missing_and_a_category_never_seen_are_missing() -> None:
    found = effects(REFERENCE.with_columns(load=None, depot=pl.lit("west")))
    assert (found["load", MISSING], found["depot", MISSING]) == (1.0, 1.0)
    assert effects(REFERENCE.with_columns(load=pl.lit(float("nan"))))["load", MISSING] == 1.0


def test_a_category_counts_as_the_mean_score_of_its_rows() -> None:
    codes = dict(REFERENCE.group_by("depot").agg(pl.col("score").mean()).iter_rows())
    assert MEASURE.codes["depot"] == pytest.approx(codes)
    assert effects(REFERENCE.with_columns(depot=pl.lit("north")))["depot", VALUE] > 0.9


def test_one_broken_row_is_no_drift() -> None:
    broken = REFERENCE.with_columns(load=pl.when(pl.int_range(pl.len()) == 0).then(1e12).otherwise("load"))
    assert effects(broken)["load", VALUE] < 0.01


def test_an_effect_below_the_smallest_has_no_strength_however_sure() -> None:
    policy = DriftPolicy(smallest_effect=0.15)
    measure = yardstick(policy, REFERENCE, IMPORTANCES)
    deviation = REFERENCE["load"].std(ddof=0)
    for shift, strong in ((0.1, False), (0.2, True)):
        rows = REFERENCE.with_columns(pl.col("load") + shift * deviation)
        assert (strengths(rows, measure)["load", GIVEN] > 0) is strong
        assert strengths(rows)["load", GIVEN] > 0


def test_what_is_ignored_is_neither_judged_nor_explains_the_others() -> None:
    measure = yardstick(DriftPolicy(ignored_columns=("load",)), REFERENCE, IMPORTANCES)
    assert "load" not in {name for name, _ in measure.effects}
    assert measure.weights[0] == 1.0
    alone = effects(REFERENCE.with_columns(pl.col("load", "queue") + 1.0), measure)
    assert alone["queue", GIVEN] > 0.6


def test_a_shift_added_to_windows_is_that_of_their_rows() -> None:
    week = parcels(7, seed=3).with_columns(load=pl.when(pl.int_range(pl.len()) % 4 > 0).then("load"))
    deviation = REFERENCE["load"].std(ddof=0)
    sums, rows, _ = MEASURE.window(week)
    moved, count, _ = MEASURE.window(week.with_columns(pl.col("load") + 0.25 * deviation))
    known = np.asarray(rows)
    added = MEASURE.sizes(sums, known) + MEASURE.shifted("load", 0.25, sums, known)
    assert added == pytest.approx(MEASURE.sizes(moved, np.asarray(count)), abs=1e-9)


def test_a_window_has_as_many_days_as_the_reference_has_in_that_time() -> None:
    working = REFERENCE.filter(pl.col("prediction_time").dt.weekday() <= 5)
    assert MEASURE.window_days == 7
    assert yardstick(POLICY, working, IMPORTANCES).window_days == 5


def test_a_reference_that_says_nothing_of_chance_or_of_importance_is_refused() -> None:
    with pytest.raises(ValueError, match="the reference has 1 day"):
        yardstick(POLICY, parcels(1), IMPORTANCES)
    with pytest.raises(ValueError, match="no judged feature has any importance in the model"):
        yardstick(POLICY, REFERENCE, {"colour": 0.0})


def test_a_feature_that_is_always_empty_is_no_obstacle() -> None:
    empty = REFERENCE.with_columns(queue=pl.lit(None, dtype=pl.Float64))
    measure = yardstick(POLICY, empty, IMPORTANCES)
    assert np.isfinite(measure.projection).all()
    assert effects(REFERENCE, measure)["queue", MISSING] == -1.0
