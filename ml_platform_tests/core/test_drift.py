"""Drift is a verdict on effects; the population stability index beside it grows with the shift, not with the rows."""

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.core.declared_features import assert_judged
from ml_platform.core.drift import ColumnDrift, DriftReport, compare, learned, reference_profile
from ml_platform.core.model_spec import DriftPolicy
from ml_platform_tests.core.drift_examples import IMPORTANCES, parcels

POLICY = DriftPolicy(minimum_rows=10)
LIMIT = 3.5
REFERENCE = parcels(60)
USUAL = parcels(7, seed=5, first=70)


def report(current: pl.DataFrame, policy: DriftPolicy = POLICY, reference: pl.DataFrame = REFERENCE) -> DriftReport:
    return compare(policy, learned(policy, reference, IMPORTANCES, LIMIT), current)


def of(found: DriftReport, name: str) -> ColumnDrift:
    return next(column for column in (*found.columns, found.prediction) if column.name == name)


def normal(rows: int, shift: float = 0.0, seed: int = 0) -> pl.DataFrame:
    return pl.DataFrame({"x": np.random.default_rng(seed).normal(shift, size=rows)})


def alone(frame: pl.DataFrame) -> pl.DataFrame:
    """As rows of predictions on two days, with scores that never vary."""
    days = [datetime(2020, 1, 1 + row % 2, tzinfo=UTC) for row in range(frame.height)]
    return frame.with_columns(score=0.5, prediction_time=pl.Series(days, dtype=pl.Datetime("us", "UTC")))


def of_x(reference: pl.DataFrame, current: pl.DataFrame, bins: int = 10) -> ColumnDrift:
    policy = DriftPolicy(bins=bins, minimum_rows=1)
    return of(compare(policy, learned(policy, alone(reference), {"x": 1.0}, LIMIT), alone(current)), "x")


def column(reference: pl.DataFrame, current: pl.DataFrame) -> float:
    return of_x(reference, current).psi


def test_psi_is_the_sum_over_smoothed_shares() -> None:
    reference = pl.DataFrame({"x": ["a"] * 50 + ["b"] * 50})
    current = pl.DataFrame({"x": ["a"] * 80 + ["b"] * 20})
    # Bins: a, b, rare, never seen, missing; each share is (count + 0.5) / (100 + 2.5).
    p, q = np.array([80.5, 20.5, 0.5, 0.5, 0.5]) / 102.5, np.array([50.5, 50.5, 0.5, 0.5, 0.5]) / 102.5
    assert column(reference, current) == pytest.approx(float(((p - q) * np.log(p / q)).sum()))


def test_the_same_rows_have_no_drift_and_a_shift_of_one_deviation_has_much() -> None:
    assert column(normal(5000), normal(5000)) == 0.0
    assert column(normal(5000), normal(5000, seed=1)) < 0.02
    assert column(normal(5000), normal(5000, shift=1.0, seed=1)) > 0.5


def test_a_tiny_shift_stays_tiny_however_many_rows_show_it() -> None:
    assert column(normal(200_000), normal(200_000, shift=0.02, seed=1)) < 0.002


def test_missing_values_are_a_bin_of_their_own() -> None:
    reference = pl.DataFrame({"x": [float(i) for i in range(100)]})
    current = reference.with_columns(x=pl.when(pl.col("x") % 2 == 0).then(None).otherwise("x"))
    found = of_x(reference, current)
    assert found.missing_current == 0.5
    assert found.psi > 1
    nan = reference.with_columns(x=pl.when(pl.col("x") % 2 == 0).then(float("nan")).otherwise("x"))
    assert of_x(reference, nan) == found


def test_a_constant_that_became_another_has_drifted() -> None:
    assert column(pl.DataFrame({"x": [1.0] * 100}), pl.DataFrame({"x": [0.0] * 100})) > 1


def test_a_value_the_reference_never_had_is_told_from_a_rare_one() -> None:
    reference = pl.DataFrame({"x": ["a"] * 995 + ["rare"] * 5})
    rare = pl.DataFrame({"x": ["a"] * 90 + ["rare"] * 10})
    unseen = pl.DataFrame({"x": ["a"] * 90 + ["new"] * 10})
    assert column(reference, unseen) > column(reference, rare) > 0


def test_a_week_like_the_others_is_no_alarm_and_the_reason_names_the_strongest_effect() -> None:
    found = report(USUAL)
    assert not found.drifted
    strongest = found.judged[0]
    assert found.strength == strongest.strength < LIMIT
    assert found.reason == f"No alarm: the strongest effect is that {strongest.in_words()}, limit 3.5"
    still = report(REFERENCE)
    assert still.reason == "No alarm: nothing moved by 0.15σ or more (limit 3.5)"


def test_a_shift_of_one_important_feature_is_an_alarm_that_says_what_moved_and_how_much_it_matters() -> None:
    found = report(USUAL.with_columns(pl.col("load") + 0.4))
    load = of(found, "load")
    assert found.drifted
    assert (load.asked, load.drifted, load.importance) == ("value given the others", True, 0.4)
    assert load.strength is not None
    assert load.effect == pytest.approx(0.28, abs=0.03)
    words = (
        f"load moved by {load.effect:+.2f}σ given the others (strength {load.strength:.1f}, 40.0% of the model's gain)"
    )
    assert load.in_words() == words
    assert found.reason.startswith("Alarm: ")
    assert words in found.reason
    assert found.reason.endswith("; limit 3.5")


def test_what_the_model_does_not_use_is_no_alarm_however_far_it_moved() -> None:
    found = report(USUAL.with_columns(pl.col("colour") + 100))
    assert not found.drifted
    assert of(found, "colour").psi > 1
    assert of(found, "colour").strength == 0.0


def test_moved_predictions_alone_are_an_alarm() -> None:
    found = report(USUAL.with_columns(pl.col("score") + 0.3))
    assert found.drifted
    assert found.judged[0] == found.prediction
    assert found.reason.startswith("Alarm: the predictions moved by +")
    assert "gain" not in found.reason
    assert found.as_metadata()["drift_alarm"] == 1
    assert found.as_metadata()["prediction_shift"] == found.prediction.effect


def test_a_feature_that_goes_missing_is_an_alarm() -> None:
    found = report(USUAL.with_columns(queue=None))
    assert of(found, "queue").asked == "missing"
    assert "queue is missing in +100 points of the rows (strength " in found.reason


def test_the_reason_names_the_five_strongest_and_counts_the_others() -> None:
    names = [f"c{number}" for number in range(8)]
    rng = np.random.default_rng(0)
    days = parcels(60).select("prediction_time", "score")
    reference = days.with_columns(pl.Series(name, rng.normal(size=days.height)) for name in names)
    known = learned(POLICY, reference, dict.fromkeys(names, 1.0), LIMIT)
    current = reference.with_columns(pl.col(name) + 1 + 0.2 * i for i, name in enumerate(names))
    reason = compare(POLICY, known, current).reason
    assert [name for name in names if name in reason] == ["c3", "c4", "c5", "c6", "c7"]
    assert "; and 3 more; limit 3.5" in reason


def test_an_ignored_column_has_its_psi_and_no_part_in_the_verdict() -> None:
    policy = POLICY.model_copy(update={"ignored_columns": ("load",)})
    moved = USUAL.with_columns(pl.col("load") + 3)
    assert report(moved).drifted
    found = report(moved, policy)
    assert not found.drifted
    load = of(found, "load")
    assert load.psi == of(report(moved), "load").psi > 1
    assert (load.ignored, load.drifted, load.effect, load.strength) == (True, False, None, None)
    assert load not in found.judged
    assert found.as_metadata()["largest_psi"] < load.psi
    assert found.to_frame().filter("ignored")["column_name"].to_list() == ["load"]


def test_a_frame_of_the_report_has_a_row_for_each_column_and_the_verdict_on_all() -> None:
    found = report(USUAL.with_columns(pl.col("load") + 0.4))
    frame = found.to_frame()
    assert frame["column_name"].to_list() == [*IMPORTANCES, "score"]
    assert frame["alarm"].to_list() == [True] * 6
    assert frame["alarm_limit"].unique().to_list() == [LIMIT]
    assert frame["strongest"].unique().to_list() == [frame["strength"].max()]


def test_ignoring_what_is_no_feature_or_every_feature_is_refused() -> None:
    typo = DriftPolicy(ignored_columns=("load", "laod"))
    with pytest.raises(ValueError, match=r"has \['laod'\], which are no features; there are \['depot', 'load'\]"):
        assert_judged(["load", "depot"], typo)
    everything = DriftPolicy(ignored_columns=("x",))
    with pytest.raises(ValueError, match="has every feature, and nothing would be judged"):
        assert_judged(["x"], everything)
    assert_judged(["load", "depot"], DriftPolicy(ignored_columns=("load",)))
    assert_judged(["load"], DriftPolicy())


def test_too_few_rows_are_never_an_alarm_and_no_rows_no_crash() -> None:
    policy = DriftPolicy(minimum_rows=5_000)
    found = report(USUAL.with_columns(pl.col("load") + 5), policy)
    assert not found.drifted
    assert found.reason == "No alarm: 420 rows are too few to judge, at least 5,000 are needed"
    assert not report(USUAL.clear()).drifted


def test_what_cannot_be_compared_is_named() -> None:
    known = learned(POLICY, REFERENCE, IMPORTANCES, LIMIT)
    with pytest.raises(ValueError, match="the current rows lack \\['depot'\\]"):
        compare(POLICY, known, USUAL.drop("depot"))
    with pytest.raises(ValueError, match="the reference rows lack \\['weight'\\]"):
        learned(POLICY, REFERENCE, {"weight": 1.0}, LIMIT)
    with pytest.raises(ValueError, match="no rows"):
        learned(POLICY, REFERENCE.clear(), IMPORTANCES, LIMIT)
    lists = REFERENCE.with_columns(load=pl.lit([1]))
    with pytest.raises(ValueError, match="type List"):
        learned(POLICY, lists, IMPORTANCES, LIMIT)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=2, max_size=80),
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=0, max_size=80),
    st.integers(2, 12),
)
def test_every_row_falls_into_exactly_one_bin_and_psi_is_never_negative(
    reference: list[float | None], current: list[float | None], bins: int
) -> None:
    old, new = (pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}) for values in (reference, current))
    assert reference_profile(old, ["x"], bins)[0].rows == old.height
    found = of_x(old, new, bins)
    assert found.psi >= 0
    assert found.psi == of_x(old.reverse(), new.reverse(), bins).psi
