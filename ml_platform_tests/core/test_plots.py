"""Every picture is a PNG of 800 pixels that shows what it was given."""

import io
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from matplotlib.image import imread

from ml_platform.core import plots
from ml_platform.core.evaluation import EvaluationReport, evaluate
from ml_platform.core.splits import split
from ml_platform.core.training import fit
from ml_platform_tests.core.learning_examples import FEATURES, START, minutes, parcels, regression_spec, spec

TRIALS = pl.DataFrame(
    {
        "trial": [0, 1, 2],
        "state": ["complete", "pruned", "complete"],
        "value": [0.5, 0.6, 0.4],
        "best_value": [0.5, 0.5, 0.4],
    }
)


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    parts = split(parcels(1500), spec().windows, START + timedelta(days=70))
    return evaluate(spec(), fit(spec(), parts.train, FEATURES, {}, 5), parts.train, parts.holdout)


def assert_picture(png: bytes) -> None:
    """A PNG, 800 pixels wide, neither blank nor one colour."""
    assert png.startswith(b"\x89PNG")
    pixels = imread(io.BytesIO(png))
    assert pixels.shape[1] == 800
    assert 0.005 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.9


def test_a_report_has_all_its_pictures_and_they_are_the_same_each_time(report):
    drawn = plots.report_plots(report)
    assert set(drawn) == {"calibration", "roc_and_precision_recall", "confusion", "residuals", "importance", "slices"}
    for png in drawn.values():
        assert_picture(png)
    assert plots.calibration(report) == drawn["calibration"]


def test_a_regression_has_no_curves_and_no_confusion():
    declared = regression_spec()
    parts = split(minutes(parcels(1500)), declared.windows, START + timedelta(days=70))
    found = evaluate(declared, fit(declared, parts.train, FEATURES, {}, 5), parts.train, parts.holdout)
    assert set(plots.report_plots(found)) == {"calibration", "residuals", "importance", "slices"}
    with pytest.raises(ValueError, match="'parcel_minutes' has no curves"):
        plots.roc_and_precision_recall(found)
    with pytest.raises(ValueError, match="'parcel_minutes' has no confusion matrix"):
        plots.confusion(found)


def test_scores_of_training_and_predictions_are_drawn_side_by_side():
    rng = np.random.default_rng(0)
    png = plots.score_distribution(rng.random(500), pl.Series(rng.random(100)), title="scores", unit="probability")
    assert_picture(png)
    assert png != plots.score_distribution(
        rng.random(500), pl.Series(rng.random(100)), title="other", unit="probability"
    )


def test_a_study_is_drawn_with_its_pruned_trials():
    assert_picture(plots.study_history(TRIALS, title="study", metric="log loss"))
    assert_picture(plots.study_history(TRIALS[:1], title="study", metric="log loss"))
    halved = TRIALS.with_columns(rung=pl.when(state="pruned").then(1), best_value=None)
    assert_picture(plots.study_history(halved, title="study", metric="log loss"))


@pytest.mark.parametrize("with_interval", [True, False])
@pytest.mark.parametrize("stamped", [True, False])
def test_a_metric_is_drawn_over_event_time(with_interval, stamped):
    days = [date(2020, 1, day) for day in (1, 2, 4)]
    history = pl.DataFrame({"time": days, "value": [0.7, None, 0.8], "group": ["version 1", "version 1", "version 2"]})
    if with_interval:
        history = history.with_columns(low=pl.col("value") - 0.1, high=pl.col("value") + 0.1)
    if stamped:
        history = history.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC")))
    assert_picture(plots.metric_over_time(history, metric="auc", unit="probability", title="auc"))
    assert_picture(plots.metric_over_time(history.drop("group"), metric="auc", unit="probability", title="auc"))


def test_rows_and_shares_of_quality_are_drawn_by_day():
    days = pl.DataFrame({"day": [date(2020, 1, 1), date(2020, 1, 2)], "valid_rows": [9, 10], "validity": [0.9, 1.0]})
    png = plots.quality_over_time(days, title="deliveries")
    assert_picture(png)
    worse = days.with_columns(validity=pl.Series([0.5, 1.0]))
    assert png != plots.quality_over_time(worse, title="deliveries")


def test_drifted_columns_stand_out():
    png = plots.drift_bars({"load": 4.0, "depot": 0.5}, limit=3.2, title="drift")
    assert_picture(png)
    pixels = imread(io.BytesIO(png))[..., :3]
    for colour in (plots.RED, plots.BLUE):
        wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (np.abs(pixels - wanted).max(axis=2) < 0.02).any()


def test_the_curve_of_drift_has_a_line_each_and_the_limit_that_holds():
    points = pl.DataFrame(
        {
            "line": ["0.15σ", "0.15σ", "0.25σ", "0.25σ"],
            "false_alarms_per_100_windows": [0.0, 5.0, 0.0, 5.0],
            "delay_windows": [6.0, 2.0, 1.5, 1.0],
            "chosen": [True, False, True, False],
        }
    )
    png = plots.drift_curve(points, title="parcels")
    assert_picture(png)
    assert png != plots.drift_curve(points.with_columns(chosen=~pl.col("chosen")), title="parcels")
    assert png == plots.drift_curve(points.reverse(), title="parcels")


def test_drawing_leaves_no_open_figure_behind(report):
    from matplotlib import pyplot

    plots.calibration(report)
    assert pyplot.get_fignums() == []


def test_habits_of_retraining_are_points_also_where_nothing_was_retrained() -> None:
    found = pl.DataFrame(
        {
            "habit": ["never", "monthly"],
            "retrainings": [0.0, 8.0],
            "value": [0.46, 0.44],
            "low": [0.45, 0.43],
            "high": [0.47, 0.45],
        }
    )
    assert_picture(plots.habits(found, metric="log loss", unit="nats", title="parcels: habits of retraining"))
