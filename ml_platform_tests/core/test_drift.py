"""Drift is an effect size: it grows with the shift, not with the number of rows."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.core.drift import assert_judged, drift_report, reference_profile
from ml_platform.core.model_spec import DriftPolicy

POLICY = DriftPolicy(bins=10, minimum_rows=10)


def normal(rows: int, shift: float = 0.0, seed: int = 0) -> pl.DataFrame:
    return pl.DataFrame({"x": np.random.default_rng(seed).normal(shift, size=rows)})


def column(reference: pl.DataFrame, current: pl.DataFrame, name: str = "x") -> float:
    return next(c for c in drift_report(POLICY, reference, current, [name]).columns if c.name == name).psi


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


def test_noise_says_what_chance_alone_gives() -> None:
    found = [
        drift_report(POLICY, normal(2000, seed=s), normal(500, seed=1000 + s), ["x"]).columns[0] for s in range(60)
    ]
    assert np.mean([c.psi for c in found]) == pytest.approx(found[0].noise, rel=0.25)


def test_missing_values_are_a_bin_of_their_own() -> None:
    reference = pl.DataFrame({"x": [float(i) for i in range(100)]})
    current = reference.with_columns(x=pl.when(pl.col("x") % 2 == 0).then(None).otherwise("x"))
    report = drift_report(POLICY, reference, current, ["x"])
    assert report.columns[0].missing_current == 0.5
    assert report.columns[0].drifted
    nan = reference.with_columns(x=pl.when(pl.col("x") % 2 == 0).then(float("nan")).otherwise("x"))
    assert drift_report(POLICY, reference, nan, ["x"]) == report


def test_a_constant_that_became_another_has_drifted() -> None:
    assert column(pl.DataFrame({"x": [1.0] * 100}), pl.DataFrame({"x": [0.0] * 100})) > 1


def test_a_value_the_reference_never_had_is_told_from_a_rare_one() -> None:
    reference = pl.DataFrame({"x": ["a"] * 995 + ["rare"] * 5})
    rare = pl.DataFrame({"x": ["a"] * 90 + ["rare"] * 10})
    unseen = pl.DataFrame({"x": ["a"] * 90 + ["new"] * 10})
    assert column(reference, unseen) > column(reference, rare) > 0


def test_booleans_and_integers_and_text_are_compared_in_one_report() -> None:
    frame = pl.DataFrame({"b": [True, False] * 50, "i": list(range(100)), "t": ["a", None] * 50})
    report = drift_report(POLICY, frame, frame.with_columns(pl.col("i").cast(pl.Float64)), ["b", "i", "t"])
    assert [c.psi for c in report.columns] == [0.0, 0.0, 0.0]


def test_the_share_of_drifted_columns_decides_and_the_reason_names_them() -> None:
    reference = pl.DataFrame({name: normal(1000, seed=i)["x"] for i, name in enumerate("abcd")})
    current = reference.with_columns(pl.col("a") + 2)
    one = drift_report(POLICY, reference, current, list("abcd"))
    assert (one.share, one.drifted) == (0.25, False)
    two = drift_report(POLICY, reference, current.with_columns(pl.col("b") + 2), list("abcd"))
    assert (two.share, two.drifted) == (0.5, True)
    a, b = (next(column.psi for column in two.columns if column.name == name) for name in "ab")
    largest = ", ".join(f"{name} {psi:.2f}" for name, psi in sorted({"a": a, "b": b}.items(), key=lambda of: -of[1]))
    assert two.reason == f"Alarm: 2 of 4 columns drifted (50%, limit 30%): {largest}"


def test_the_reason_names_the_five_columns_that_moved_most_and_counts_the_others() -> None:
    names = [f"c{number}" for number in range(8)]
    reference = pl.DataFrame({name: normal(1000, seed=i)["x"] for i, name in enumerate(names)})
    current = reference.with_columns(pl.col(name) + 0.6 + 0.2 * i for i, name in enumerate(names))
    reason = drift_report(POLICY, reference, current, names).reason
    assert re.sub(r" \d\.\d\d", "", reason) == (
        "Alarm: 8 of 8 columns drifted (100%, limit 30%): c7, c6, c5, c4, c3 and 3 more"
    )
    unmoved = drift_report(POLICY, reference, reference, names).reason
    assert unmoved == "No alarm: 0 of 8 columns drifted (0%, limit 30%)"


def test_an_ignored_column_has_its_figure_and_no_part_in_the_verdict() -> None:
    names = list("abcd")
    reference = pl.DataFrame({name: normal(1000, seed=i)["x"] for i, name in enumerate(names)})
    current = reference.with_columns(pl.col("a") + 3, pl.col("b") + 2)
    judged = drift_report(POLICY, reference, current, names)
    policy = POLICY.model_copy(update={"ignored_columns": ("a",)})
    report = drift_report(policy, reference, current, names)
    assert [column.psi for column in report.columns] == [column.psi for column in judged.columns]
    assert [(column.name, column.drifted, column.ignored) for column in report.columns] == [
        ("a", False, True),
        ("b", True, False),
        ("c", False, False),
        ("d", False, False),
    ]
    assert report.share == pytest.approx(1 / 3)
    assert "1 of 3 columns drifted (33%, limit 30%; 1 ignored): b " in report.reason
    assert report.as_metadata()["drifted_columns"] == 1
    assert report.as_metadata()["largest_psi"] == report.columns[1].psi < report.columns[0].psi
    assert report.to_frame().filter("ignored")["column_name"].to_list() == ["a"]


def test_ignoring_what_drifts_silences_the_alarm_and_ignoring_what_does_not_may_raise_it() -> None:
    names = list("abcd")
    reference = pl.DataFrame({name: normal(1000, seed=i)["x"] for i, name in enumerate(names)})
    current = reference.with_columns(pl.col("a") + 3)
    ignoring = {name: POLICY.model_copy(update={"ignored_columns": (name,)}) for name in "ab"}
    assert not drift_report(POLICY, reference, current, names).drifted
    assert drift_report(ignoring["a"], reference, current, names).share == 0.0
    assert drift_report(ignoring["b"], reference, current, names).drifted


def test_ignoring_what_is_no_feature_or_every_feature_is_refused() -> None:
    typo = DriftPolicy(ignored_columns=("load", "laod"))
    with pytest.raises(ValueError, match=r"has \['laod'\], which are no features; there are \['depot', 'load'\]"):
        assert_judged(["load", "depot"], typo)
    everything = DriftPolicy(ignored_columns=("x",))
    with pytest.raises(ValueError, match="has every feature, and nothing would be judged"):
        assert_judged(["x"], everything)
    with pytest.raises(ValueError, match="nothing is left to judge: \\['x'\\]"):
        drift_report(everything, normal(10), normal(10), ["x"])
    assert_judged(["load", "depot"], DriftPolicy(ignored_columns=("load",)))
    assert_judged(["load"], DriftPolicy())


def test_shifted_scores_alone_are_an_alarm() -> None:
    reference = normal(1000).with_columns(score=pl.lit(0.2) + pl.int_range(1000) / 5000)
    report = drift_report(POLICY, reference, reference.with_columns(pl.col("score") + 0.3), ["x"])
    assert report.drifted
    assert report.share == 0.0
    assert report.prediction_psi is not None
    assert report.reason == (
        f"Alarm: the predictions moved (PSI {report.prediction_psi:.3f}, limit 0.2); "
        "0 of 1 columns drifted (0%, limit 30%)"
    )
    still = drift_report(POLICY, reference, reference, ["x"]).reason
    assert still.startswith("No alarm: the predictions moved little (PSI 0.000, limit 0.2); ")
    assert report.to_frame()["column_name"].to_list() == ["x", "score"]
    assert report.as_metadata()["drift_alarm"] == 1


def test_too_few_rows_are_never_an_alarm_and_no_rows_no_crash() -> None:
    policy = DriftPolicy(minimum_rows=5_000)
    report = drift_report(policy, normal(1000), normal(4_999, shift=5.0), ["x"])
    assert not report.drifted
    assert report.reason == "No alarm: 4,999 rows are too few to judge, at least 5,000 are needed"
    assert not drift_report(POLICY, normal(100), normal(0), ["x"]).drifted


def test_what_cannot_be_compared_is_named() -> None:
    with pytest.raises(ValueError, match="lack \\['y'\\]"):
        drift_report(POLICY, normal(10), normal(10), ["y"])
    with pytest.raises(ValueError, match="no rows"):
        drift_report(POLICY, normal(0), normal(10), ["x"])
    lists = pl.DataFrame({"x": [[1], [2]]})
    with pytest.raises(ValueError, match="type List"):
        drift_report(POLICY, lists, lists, ["x"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=1, max_size=80),
    st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(float("nan"))), min_size=0, max_size=80),
    st.integers(2, 12),
)
def test_every_row_falls_into_exactly_one_bin_and_psi_is_never_negative(
    reference: list[float | None], current: list[float | None], bins: int
) -> None:
    old, new = (pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}) for values in (reference, current))
    assert reference_profile(old, ["x"], bins)[0].rows == old.height
    report = drift_report(DriftPolicy(bins=bins), old, new, ["x"])
    assert report.columns[0].psi >= 0
    assert report == drift_report(DriftPolicy(bins=bins), old.reverse(), new.reverse(), ["x"])
