"""The report's figures are those of naive code on the same rows, and rivals are measured fairly."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import mean_absolute_error, roc_auc_score

from ml_platform.core.declared_features import LeakageError
from ml_platform.core.evaluation import EvaluationReport, baseline_scores, evaluate, slice_groups
from ml_platform.core.model_spec import Baseline
from ml_platform.core.scoring import raw_scores
from ml_platform.core.splits import split
from ml_platform.core.training import fit
from ml_platform.core.tuning import tune
from ml_platform_tests.core.learning_examples import FEATURES, START, minutes, parcels, regression_spec, spec

SPEC = spec()
SPLIT = split(parcels(), SPEC.windows, START + timedelta(days=70))
MODEL = fit(SPEC, SPLIT.train, FEATURES, {"learning_rate": 0.1, "num_leaves": 8}, 40)
WEAK = fit(SPEC, SPLIT.train, ("weight_kg", "is_express"), {"learning_rate": 0.1}, 5)


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    tuning = tune(spec(tuning={"trials": 1, "max_rounds": 5}), SPLIT.train, FEATURES)
    return evaluate(SPEC, MODEL, SPLIT.train, SPLIT.holdout, champion=WEAK, tuning=tuning)


def test_candidate_baseline_and_champion_are_measured_on_the_same_rows(report):
    label = SPLIT.holdout["label"].to_numpy()
    by_depot = dict(SPLIT.train.group_by("depot").agg(pl.col("label").mean()).iter_rows())
    naive = [by_depot[depot] for depot in SPLIT.holdout["depot"]]

    auc = report["auc"]

    assert auc.candidate.value == pytest.approx(roc_auc_score(label, raw_scores(MODEL, SPLIT.holdout)))
    assert auc.baseline.value == pytest.approx(roc_auc_score(label, naive))
    assert auc.champion.value == pytest.approx(roc_auc_score(label, raw_scores(WEAK, SPLIT.holdout)))
    assert auc.over_baseline.value == pytest.approx(auc.candidate.value - auc.baseline.value)
    assert auc.over_champion.value == pytest.approx(auc.candidate.value - auc.champion.value)
    assert report["log_loss"].over_champion.value == pytest.approx(
        report["log_loss"].champion.value - report["log_loss"].candidate.value
    )
    assert report.rows == report.champion_rows == SPLIT.holdout.height


def test_a_paired_interval_is_narrower_than_the_difference_of_two_intervals(report):
    auc = report["auc"]
    apart = (auc.candidate.high - auc.candidate.low) + (auc.champion.high - auc.champion.low)
    assert 0 < auc.over_champion.high - auc.over_champion.low < apart


def test_a_model_against_itself_improves_nothing():
    same = evaluate(SPEC, MODEL, SPLIT.train, SPLIT.holdout, champion=MODEL)
    assert all((r.over_champion.value, r.over_champion.low, r.over_champion.high) == (0, 0, 0) for r in same.metrics)


def test_a_champion_is_not_compared_on_rows_it_has_learned_from():
    through = SPLIT.cutoff + timedelta(days=4)
    champion = fit(SPEC, parcels().filter(pl.col("label_time") <= through), FEATURES, {}, 5)

    found = evaluate(SPEC, MODEL, SPLIT.train, SPLIT.holdout, champion=champion)

    unseen = SPLIT.holdout.filter(pl.col("prediction_time") >= champion.trained_through)
    assert 0 < found.champion_rows == unseen.height < found.rows
    expected = roc_auc_score(unseen["label"], raw_scores(MODEL, unseen)) - roc_auc_score(
        unseen["label"], raw_scores(champion, unseen)
    )
    assert found["auc"].over_champion.value == pytest.approx(expected)


def test_a_champion_that_knows_every_row_is_not_compared_at_all():
    champion = fit(SPEC, parcels(), FEATURES, {}, 5)
    found = evaluate(SPEC, MODEL, SPLIT.train, SPLIT.holdout, champion=champion)
    assert (found.has_champion, found.champion_rows, found["auc"].over_champion) == (True, 0, None)


def test_the_report_is_the_same_for_rows_in_any_order(report):
    shuffled = SPLIT.holdout.sample(fraction=1.0, shuffle=True, seed=4)
    again = evaluate(SPEC, MODEL, SPLIT.train.reverse(), shuffled, champion=WEAK)
    assert again["auc"] == report["auc"]
    assert again.slices == report.slices
    assert again.importance == report.importance


def test_a_leaking_holdout_is_refused():
    with pytest.raises(LeakageError):
        evaluate(SPEC, MODEL, parcels(), SPLIT.holdout)


def test_an_empty_holdout_is_refused():
    with pytest.raises(ValueError, match="'parcel_late' has no held-out rows"):
        evaluate(SPEC, MODEL, SPLIT.train, SPLIT.holdout.clear())


def test_the_baseline_is_the_same_to_the_last_bit_whichever_thread_adds_first():
    rng = np.random.default_rng(1)
    train = pl.DataFrame({"depot": rng.choice(["a", "b", "c"], 20_000), "label": rng.random(20_000)})
    means = [train.filter(depot=depot)["label"].mean() for depot in "abc"]
    rows = pl.DataFrame({"depot": ["a", "b", "c"]})
    for _ in range(20):
        assert baseline_scores(Baseline(by=("depot",)), train, rows).tolist() == means


def test_the_baseline_falls_back_to_the_overall_mean_for_new_groups():
    train = pl.DataFrame({"depot": ["a", "a", "b", None], "label": [1, 0, 1, 0]})
    rows = pl.DataFrame({"depot": ["b", "z", "a", None]})
    assert baseline_scores(Baseline(by=("depot",)), train, rows).tolist() == [1.0, 0.5, 0.5, 0.0]
    with pytest.raises(ValueError, match="'town'"):
        baseline_scores(Baseline(by=("town",)), train, rows)


def test_slices_are_columns_or_parts_of_time_and_hold_every_row(report):
    assert [each.group for each in report.slices] == ["a", "b", "c", "03"]
    assert sum(each.rows for each in report.slices if each.column == "depot") == report.rows
    rows = SPLIT.holdout.filter(pl.col("depot") == "b")
    part = next(each for each in report.slices if each.group == "b")
    assert part.figure.value == pytest.approx(roc_auc_score(rows["label"], raw_scores(MODEL, rows)))
    assert part.drop.value == pytest.approx(report["auc"].candidate.value - part.figure.value)
    assert slice_groups(pl.DataFrame({"x": [1, None]}), "x").to_list() == ["1", "missing"]
    with pytest.raises(ValueError, match=r"slice 'prediction_time.century' is neither a column"):
        slice_groups(SPLIT.holdout, "prediction_time.century")


def test_protected_gaps_are_the_largest_difference_between_groups(report):
    scored = SPLIT.holdout.with_columns(decision=pl.Series(raw_scores(MODEL, SPLIT.holdout) >= 0.25))
    wrong = scored.group_by("depot").agg(rate=(pl.col("decision") != (pl.col("label") == 1)).mean())["rate"]
    missed = scored.filter(pl.col("label") == 1).group_by("depot").agg(rate=(~pl.col("decision")).mean())["rate"]
    gaps = {gap.rate: gap for gap in report.gaps}
    assert gaps["error_rate"].gap.value == pytest.approx(wrong.max() - wrong.min())
    assert gaps["false_negative_rate"].gap.value == pytest.approx(missed.max() - missed.min())
    assert set(gaps["error_rate"].groups) == {"a", "b", "c"}


def test_confusion_calibration_and_curves_account_for_every_row(report):
    cells = report.confusion
    counts = (cells.true_positive, cells.false_positive, cells.false_negative, cells.true_negative)
    assert sum(counts) == sum(each.rows for each in report.calibration) == report.rows
    assert report["recall"].candidate.value == cells.true_positive / (cells.true_positive + cells.false_negative)
    assert (report.curves.roc[0], report.curves.roc[-1]) == ((0, 0), (1, 1))
    assert report.curves.precision_recall[-1] == pytest.approx((1, report.label_mean))
    area = np.trapezoid(*np.array(report.curves.roc).T[::-1])
    assert area == pytest.approx(report["auc"].candidate.value, abs=0.01)
    assert len(report.curves.roc) <= 200
    assert sum(report.residuals.counts) == sum(report.scores.holdout.counts) == report.rows
    assert sum(report.scores.training.counts) == report.training_rows == SPLIT.train.height


def test_the_report_reads_back_equal_from_json(report):
    assert EvaluationReport.from_json(report.to_json()) == report


def test_metadata_is_flat_numbers_that_can_be_plotted(report):
    metadata = report.as_metadata()
    assert all(type(value) in (int, float) for value in metadata.values())
    assert metadata["auc"] == report["auc"].candidate.value
    assert metadata["auc_over_champion_low"] == report["auc"].over_champion.low
    assert metadata["rows"] == report.rows


def test_the_frame_is_long_and_holds_every_section(report):
    frame = report.to_frame()
    assert frame.columns == ["section", "name", "subject", "value", "low", "high", "rows"]
    assert {"metric", "improvement", "slice", "protected", "protected gap", "calibration", "curve", "confusion"} < set(
        frame["section"]
    )
    row = frame.row(by_predicate=(pl.col("section") == "slice") & (pl.col("subject") == "b"), named=True)
    assert (row["name"], row["value"]) == (
        "auc by depot",
        next(s for s in report.slices if s.group == "b").figure.value,
    )


def test_an_unknown_metric_is_answered_with_those_of_the_report(report):
    with pytest.raises(KeyError, match="'mae' is not in the report"):
        report["mae"]


def test_a_regression_is_measured_in_the_unit_of_its_label():
    declared = regression_spec()
    parts = split(minutes(parcels()), declared.windows, START + timedelta(days=70))
    model = fit(declared, parts.train, FEATURES, {"learning_rate": 0.2}, 40)

    found = evaluate(declared, model, parts.train, parts.holdout)

    assert found["mae"].candidate.value == pytest.approx(
        mean_absolute_error(parts.holdout["label"], raw_scores(model, parts.holdout))
    )
    assert found["mae"].over_baseline.low > 0
    assert (found.curves, found.confusion, found.folds) == (None, None, None)
    assert {gap.rate for gap in found.gaps} == {"relative_mae"}
    assert EvaluationReport.from_json(found.to_json()) == found


def test_a_holdout_with_one_class_leaves_ranking_undefined_and_the_rest_defined():
    positives = SPLIT.holdout.filter(pl.col("label") == 1)
    found = evaluate(SPEC, MODEL, SPLIT.train, positives)
    assert found["auc"].candidate.value is None
    assert found["log_loss"].candidate.value is not None
    assert found.curves is None
    assert "auc" not in found.as_metadata()
    assert EvaluationReport.from_json(found.to_json()) == found


def test_folds_are_reported_with_their_spread(report):
    assert len(report.folds.values) == 2
    assert report.folds.mean == pytest.approx(sum(report.folds.values) / 2)
