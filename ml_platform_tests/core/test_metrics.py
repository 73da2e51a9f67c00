"""Every metric equals its textbook definition, for rows as they are and for rows drawn again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.core.metrics import (
    ERROR_RATES,
    METRICS,
    Scored,
    calibration_bins,
    confusion,
    metric,
    metrics_for,
)
from ml_platform.core.model_spec import Costs, Task
from ml_platform.core.resamples import Resamples

COSTS = Costs(false_positive=1, false_negative=3)
rows = st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 3)), min_size=1, max_size=30)


def scored(label: list[float], score: list[float], threshold: float = 0.5) -> Scored:
    values = np.array(score, dtype=float)
    return Scored(np.array(label, dtype=float), values, (values >= threshold).astype(float), COSTS)


def drawn(rows: list[tuple[bool, int, int]]) -> tuple[Scored, np.ndarray, Scored]:
    """Rows (label, eighths of a score, times drawn): as scored rows with weights, and written out row by row."""
    label, score, times = (np.array(values, dtype=float) for values in zip(*rows, strict=True))
    whole = scored(label.tolist(), (score / 8).tolist())
    return whole, times[None, :], whole.take(np.repeat(np.arange(len(rows)), times.astype(int)))


@given(rows)
def test_auc_equals_the_share_of_pairs_ranked_right(rows):
    label, score, _ = zip(*rows, strict=True)
    value = METRICS["auc"].value(scored(list(label), list(score)))
    pairs = [
        (p > n) + (p == n) / 2
        for p, a in zip(score, label, strict=True)
        if a
        for n, b in zip(score, label, strict=True)
        if not b
    ]
    if pairs:
        assert value == pytest.approx(sum(pairs) / len(pairs))
    else:
        assert np.isnan(value)


@given(rows)
def test_average_precision_equals_its_sum_over_thresholds(rows):
    label, score, _ = (np.array(values, dtype=float) for values in zip(*rows, strict=True))
    value = METRICS["average_precision"].value(scored(label.tolist(), score.tolist()))
    if not label.sum():
        assert np.isnan(value)
        return
    expected, before = 0.0, 0.0
    for threshold in sorted(set(score), reverse=True):
        taken = score >= threshold
        recall = label[taken].sum() / label.sum()
        expected += (recall - before) * label[taken].mean()
        before = recall
    assert value == pytest.approx(expected)


@given(rows)
@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("calibration_error", "r2")])
def test_a_row_drawn_twice_counts_as_two_rows(name, rows):
    whole, weights, written_out = drawn(rows)
    with np.errstate(all="ignore"):
        weighted = METRICS[name].function(whole, Resamples(weights, np.arange(len(whole)), "row"))[0]
        expected = METRICS[name].value(written_out) if len(written_out) else np.nan
    assert weighted == pytest.approx(expected, nan_ok=True)


def test_binary_metrics_agree_with_scikit_learn():
    from sklearn import metrics as sk

    rng = np.random.default_rng(0)
    score = rng.random(500).round(2) * 0.98 + 0.01
    label = (rng.random(500) < score).astype(float)
    own, decision = scored(label.tolist(), score.tolist()), score >= 0.5
    expected = {
        "auc": sk.roc_auc_score(label, score),
        "average_precision": sk.average_precision_score(label, score),
        "log_loss": sk.log_loss(label, score),
        "brier": sk.brier_score_loss(label, score),
        "accuracy": sk.accuracy_score(label, decision),
        "precision": sk.precision_score(label, decision),
        "recall": sk.recall_score(label, decision),
        "f1": sk.f1_score(label, decision),
    }
    assert {name: METRICS[name].value(own) for name in expected} == pytest.approx(expected)


def test_regression_metrics_agree_with_scikit_learn():
    from sklearn import metrics as sk

    rng = np.random.default_rng(0)
    label = rng.normal(10, 5, 300)
    score = label + rng.normal(1, 3, 300)
    own = Scored(label, score)
    expected = {
        "mae": sk.mean_absolute_error(label, score),
        "rmse": sk.root_mean_squared_error(label, score),
        "r2": sk.r2_score(label, score),
        "pinball_90": sk.mean_pinball_loss(label, score, alpha=0.9),
    }
    assert {name: METRICS[name].value(own) for name in expected} == pytest.approx(expected)


def test_calibration_error_is_the_mean_distance_of_score_and_label_over_bins():
    assert METRICS["calibration_error"].value(scored([0, 1, 0, 1], [0.4, 0.4, 0.9, 0.9])) == pytest.approx(0.25)
    assert METRICS["calibration_error"].value(scored([0, 1, 1, 1], [0.5, 0.5, 1.0, 1.0])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_bins_are_in_the_order_of_scores_and_equal_scores_share_one(score):
    values = np.array(score)
    bins = calibration_bins(values)
    order = np.argsort(values, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()
    assert set(bins) == set(range(bins.max() + 1))
    assert bins.max() < 10
    assert all(len(set(bins[values == value])) == 1 for value in values)


def test_expected_cost_weighs_each_wrong_decision_by_its_cost():
    own = scored([1, 1, 0, 0], [0.9, 0.1, 0.9, 0.1])
    assert [float(cell[0]) for cell in confusion(own, Resamples.as_they_are(4))] == [1, 1, 1, 1]
    assert METRICS["expected_cost"].value(own) == (1 * 1 + 1 * 3) / 4


def test_the_cost_threshold_has_the_least_expected_cost_when_scores_are_probabilities():
    score = np.repeat(np.arange(1, 100) / 100, 100)
    label = np.concatenate([np.arange(100) < share for share in range(1, 100)]).astype(float)
    costs = {
        t: METRICS["expected_cost"].value(Scored(label, score, (score >= t).astype(float), COSTS))
        for t in np.arange(1, 100) / 100
    }
    assert costs[0.25] == min(costs.values())


def test_gain_is_positive_for_what_is_better():
    assert METRICS["auc"].gain(np.array([0.8]), np.array([0.7]))[0] > 0
    assert METRICS["mae"].gain(np.array([8.0]), np.array([7.0]))[0] < 0


def test_every_metric_says_its_unit_and_meaning_and_belongs_to_a_task():
    assert all(each.unit and each.description for each in METRICS.values())
    assert set(metrics_for(Task.BINARY)) | set(metrics_for(Task.REGRESSION)) == set(METRICS)
    assert "auc" not in metrics_for(Task.REGRESSION)
    assert set(ERROR_RATES) == set(Task)


def test_an_unknown_metric_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"metric 'auc' is unknown for a regression model: one of \['calibration_error', 'mae'"
    ):
        metric("auc", Task.REGRESSION)


def test_decision_metrics_without_decisions_are_an_error():
    with pytest.raises(ValueError, match="no threshold"):
        METRICS["f1"].value(Scored(np.ones(2), np.ones(2)))
