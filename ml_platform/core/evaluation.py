"""A candidate on rows it never saw, beside a naive baseline and the champion on the same rows.

Belongs here: computing an :class:`EvaluationReport` from frames. Nothing is fitted or chosen here:
the threshold comes with the model. Whether the figures suffice is ``promotion``.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.core.bootstrap import Figure, figure, resample
from ml_platform.core.evaluation_report import (
    CalibrationBin,
    Confusion,
    Curves,
    Distribution,
    EvaluationReport,
    FoldSpread,
    Histogram,
    MetricResult,
    Points,
    ProtectedGap,
    SliceResult,
)
from ml_platform.core.explanation import case_result, importance
from ml_platform.core.metrics import (
    ERROR_RATES,
    Metric,
    Scored,
    bin_sums,
    calibration_bins,
    metric,
    metrics_for,
)
from ml_platform.core.model_spec import Baseline, ModelSpec, Task
from ml_platform.core.resamples import Floats, Resamples
from ml_platform.core.scoring import raw_scores
from ml_platform.core.splits import assert_no_leakage
from ml_platform.core.training import FittedModel, check_labels, cost_threshold

if TYPE_CHECKING:
    from ml_platform.core.tuning import TuningResult

__all__ = ["EvaluationReport", "baseline_scores", "evaluate", "scored", "slice_groups"]

CURVE_POINTS = 200
HISTOGRAM_BINS = 30
QUANTILE_LEVELS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
SLICE_SHOWN_ROWS = 30
"""Groups with fewer rows have no figure worth showing."""

_TIME_PARTS = {"month": "%m", "weekday": "%u", "hour": "%H", "day": "%Y-%m-%d"}


def evaluate(
    spec: ModelSpec,
    model: FittedModel,
    train: pl.DataFrame,
    holdout: pl.DataFrame,
    *,
    champion: FittedModel | None = None,
    champion_version: int | None = None,
    tuning: "TuningResult | None" = None,
) -> EvaluationReport:
    """Measure ``model`` on ``holdout``.

    Every figure comes from one set of resamples, seeded by the spec, so differences between models are paired.
    The champion is rescored on the held-out rows due after it was trained through.

    Args:
        spec: the declaration: metrics' costs, baseline, slices, protected columns, cases, confidence.
        model: the candidate.
        train: the rows it was fitted on: baseline and training scores come from them.
        holdout: labelled rows due after every training label was known; the champion's features included.
        champion: the current champion, if there is one.
        champion_version: its registered version, for the record: a decision holds against this one only.
        tuning: where the parameters came from; gives the spread over folds.

    Raises:
        LeakageError: a training label became known after a held-out prediction was due.
        ValueError: the holdout is empty, a label is invalid, or a declared column is absent.
    """
    if holdout.is_empty():
        raise ValueError(f"model {spec.name!r} has no held-out rows to be evaluated on")
    assert_no_leakage(train, holdout)
    check_labels(spec.task, holdout["label"])
    holdout = holdout.sort(spec.keys)
    confidence = spec.gate.confidence
    resamples = resample(holdout["prediction_time"], seed=spec.seed)
    own = scored(spec, model.threshold, holdout, raw_scores(model, holdout))
    training_scores = raw_scores(model, train)
    naive = scored(spec, cost_threshold(spec), holdout, baseline_scores(spec.baseline, train, holdout))
    unseen = np.arange(holdout.height)
    rival = None
    if champion is not None:
        unseen = np.flatnonzero((holdout["prediction_time"] >= champion.trained_through).to_numpy())
        rival = scored(spec, champion.threshold, holdout[unseen], raw_scores(champion, holdout[unseen]))
    metrics = list(metrics_for(spec.task).values())
    return EvaluationReport(
        model=spec.name,
        task=spec.task,
        gate_metric=metric(spec.gate.metric, spec.task).name,
        confidence=confidence,
        resampled_by=resamples.unit,
        resamples=len(resamples.counts),
        training_rows=train.height,
        rows=holdout.height,
        holdout_start=cast(datetime, holdout["prediction_time"].min()),
        holdout_end=cast(datetime, holdout["prediction_time"].max()),
        label_mean=float(own.label.mean()),
        training_label_mean=float(train["label"].cast(pl.Float64).to_numpy().mean()),
        baseline_by=spec.baseline.by,
        has_champion=champion is not None,
        champion_rows=0 if rival is None else len(rival),
        champion_version=champion_version,
        metrics=_metric_results(metrics, own, naive, rival, unseen, resamples, confidence),
        slices=_slices(spec, own, holdout, resamples),
        gaps=_gaps(spec, own, holdout, resamples),
        calibration=_calibration(own, resamples, confidence),
        residuals=_histogram(own.label - own.score, _edges(own.label - own.score)),
        scores=_distribution(training_scores, own.score),
        importance=importance(model, holdout),
        cases=tuple(case_result(model, holdout, case) for case in spec.gate.cases),
        confusion=_confusion(own, model.threshold),
        curves=_curves(own) if spec.task is Task.BINARY else None,
        folds=_fold_spread(tuning),
    )


def scored(spec: ModelSpec, threshold: float | None, frame: pl.DataFrame, score: Floats) -> Scored:
    """Labels of ``frame`` beside scores, with decisions at ``threshold`` for a binary model."""
    decision = None if threshold is None else (score >= threshold).astype(np.float64)
    return Scored(frame["label"].cast(pl.Float64).to_numpy(), score, decision, spec.costs)


def baseline_scores(baseline: Baseline, train: pl.DataFrame, rows: pl.DataFrame) -> Floats:
    """The training mean of the label by ``baseline.by``, and the overall one for groups not in training.

    Raises:
        ValueError: a declared column is absent.
    """
    if missing := [name for name in baseline.by if name not in train.columns or name not in rows.columns]:
        raise ValueError(f"baseline columns {missing} are not among {sorted(train.columns)}")
    label = pl.col("label").cast(pl.Float64)
    # Part by part: in a group-by, threads add up labels in an order that differs from run to run, and so do last bits.
    parts = train.partition_by(baseline.by, maintain_order=True)
    means = pl.concat([part.select(pl.col(*baseline.by).first(), label.mean().alias("score")) for part in parts])
    joined = rows.select(baseline.by).join(means, on=baseline.by, how="left", nulls_equal=True, maintain_order="left")
    return joined["score"].fill_null(train.select(label.mean()).item()).to_numpy()


def slice_groups(frame: pl.DataFrame, column: str) -> pl.Series:
    """The group of each row as text: a column's value, or a part of a time (UTC) such as ``prediction_time.month``.

    Raises:
        ValueError: there is no such column or part of time.
    """
    name, _, part = column.partition(".")
    if column in frame.columns:
        values = pl.col(column)
    elif name in frame.columns and part in _TIME_PARTS:
        values = pl.col(name).dt.strftime(_TIME_PARTS[part])
    else:
        raise ValueError(
            f"slice {column!r} is neither a column ({sorted(frame.columns)}) "
            f"nor a time column with one of {sorted(_TIME_PARTS)}, as in `prediction_time.month`"
        )
    return frame.select(values.cast(pl.String).fill_null("missing")).to_series()


def _metric_results(
    metrics: Sequence[Metric],
    own: Scored,
    naive: Scored,
    rival: Scored | None,
    unseen: npt.NDArray[np.int64],
    resamples: Resamples,
    confidence: float,
) -> tuple[MetricResult, ...]:
    values, draws = _measure(metrics, own, resamples)
    naive_values, naive_draws = _measure(metrics, naive, resamples)
    same_values, same_draws, rival_values, rival_draws = values, draws, values, draws
    compared = rival is not None and len(rival) > 0
    if rival is not None and compared:
        shared = resamples.take(unseen)
        rival_values, rival_draws = _measure(metrics, rival, shared)
        if len(unseen) < len(own):
            same_values, same_draws = _measure(metrics, own.take(unseen), shared)
    results = []
    for i, each in enumerate(metrics):
        gain = each.gain(values[i], naive_values[i])
        result = MetricResult(
            metric=each.name,
            unit=each.unit,
            greater_is_better=each.greater_is_better,
            candidate=figure(values[i], draws[i], confidence),
            baseline=figure(naive_values[i], naive_draws[i], confidence),
            over_baseline=figure(float(gain), each.gain(draws[i], naive_draws[i]), confidence),
        )
        if compared:
            gain = each.gain(same_values[i], rival_values[i])
            over_champion = figure(float(gain), each.gain(same_draws[i], rival_draws[i]), confidence)
            champion = figure(rival_values[i], rival_draws[i], confidence)
            result = result.model_copy(update={"champion": champion, "over_champion": over_champion})
        results.append(result)
    return tuple(results)


def _measure(metrics: Sequence[Metric], rows: Scored, resamples: Resamples) -> tuple[Floats, Floats]:
    """Metrics on the rows as they are (metrics,), and on every resample (metrics, resamples)."""
    return np.array([each.value(rows) for each in metrics]), np.stack(
        [each.function(rows, resamples) for each in metrics]
    )


def _slices(spec: ModelSpec, own: Scored, holdout: pl.DataFrame, resamples: Resamples) -> tuple[SliceResult, ...]:
    judged = metric(spec.gate.metric, spec.task)
    [overall], [overall_draws] = _measure([judged], own, resamples)
    results = []
    for column in spec.slices:
        for group, rows in _rows_by_group(slice_groups(holdout, column)).items():
            found = drop = Figure(value=None)
            if len(rows) >= SLICE_SHOWN_ROWS:
                [value], [draws] = _measure([judged], own.take(rows), resamples.take(rows))
                found = figure(value, draws, spec.gate.confidence)
                scale = overall if judged.relative else 1.0
                drop = figure(
                    float(judged.gain(overall, value)) / scale,
                    judged.gain(overall_draws, draws) / (overall_draws if judged.relative else 1.0),
                    spec.gate.confidence,
                )
            results.append(SliceResult(column=column, group=group, rows=len(rows), figure=found, drop=drop))
    return tuple(results)


def _rows_by_group(groups: pl.Series) -> dict[str, npt.NDArray[np.int64]]:
    """Row numbers by group: numbers in their order, then text in its."""
    found = {str(group): np.flatnonzero((groups == group).to_numpy()) for group in groups.unique()}
    return dict(
        sorted(
            found.items(), key=lambda item: (not item[0].isdigit(), int(item[0]) if item[0].isdigit() else 0, item[0])
        )
    )


def _gaps(spec: ModelSpec, own: Scored, holdout: pl.DataFrame, resamples: Resamples) -> tuple[ProtectedGap, ...]:
    binary = spec.task is Task.BINARY
    rates = ERROR_RATES[spec.task]
    confidence = spec.gate.confidence
    overall, overall_draws = _measure(rates, own, resamples)
    results = []
    for column in spec.protected:
        groups = _rows_by_group(slice_groups(holdout, column))
        large = {group: rows for group, rows in groups.items() if len(rows) >= spec.gate.slice_minimum_rows}
        found = {group: _measure(rates, own.take(rows), resamples.take(rows)) for group, rows in large.items()}
        for i, rate in enumerate(rates):
            scale, scale_draws = (1.0, 1.0) if binary else (overall[i], overall_draws[i])
            gap = Figure(value=None)
            if len(found) > 1:
                values = np.array([value[i] / scale for value, _ in found.values()])
                draws = np.stack([draw[i] / scale_draws for _, draw in found.values()])
                # A rate undefined in a group (no positives, say) leaves the gap undefined: unknown is not zero.
                gap = figure(float(np.ptp(values)), np.ptp(draws, axis=0), confidence)
            results.append(
                ProtectedGap(
                    column=column,
                    rate=rate.name if binary else "relative_mae",
                    gap=gap,
                    groups={g: figure(v[i] / scale, d[i] / scale_draws, confidence) for g, (v, d) in found.items()},
                    rows={group: len(rows) for group, rows in large.items()},
                )
            )
    return tuple(results)


def _calibration(own: Scored, resamples: Resamples, confidence: float) -> tuple[CalibrationBin, ...]:
    bins = calibration_bins(own.score)
    rows, labels, scores = (sums[0] for sums in bin_sums(own, bins, Resamples.as_they_are(len(own))))
    drawn, positives, _ = bin_sums(own, bins, resamples)
    draws = np.divide(positives, drawn, out=np.full_like(drawn, np.nan), where=drawn > 0)
    return tuple(
        CalibrationBin(
            mean_score=float(scores[i] / rows[i]),
            mean_label=figure(float(labels[i] / rows[i]), draws[:, i], confidence),
            rows=int(rows[i]),
        )
        for i in range(len(rows))
    )


def _confusion(own: Scored, threshold: float | None) -> Confusion | None:
    if threshold is None or own.decision is None:
        return None
    label, decision = own.label == 1, own.decision == 1
    return Confusion(
        threshold=threshold,
        true_positive=int((label & decision).sum()),
        false_positive=int((~label & decision).sum()),
        false_negative=int((label & ~decision).sum()),
        true_negative=int((~label & ~decision).sum()),
    )


def _curves(own: Scored) -> Curves | None:
    """None if the rows have one class only."""
    order = np.argsort(-own.score, kind="stable")
    last_of_score = np.r_[np.flatnonzero(np.diff(own.score[order])), len(own) - 1]
    found = np.cumsum(own.label[order])[last_of_score]
    taken = last_of_score + 1.0
    positives, negatives = own.label.sum(), len(own) - own.label.sum()
    if not positives or not negatives:
        return None
    roc = np.column_stack([np.r_[0, (taken - found) / negatives], np.r_[0, found / positives]])
    precision_recall = np.column_stack([found / positives, found / taken])
    return Curves(roc=_thin(roc), precision_recall=_thin(precision_recall))


def _thin(points: Floats) -> Points:
    keep = np.unique(np.linspace(0, len(points) - 1, CURVE_POINTS).round().astype(int))
    return tuple((float(x), float(y)) for x, y in points[keep])


def _edges(values: Floats) -> Floats:
    """Even edges over all but the outermost 0.5 % on either side."""
    low, high = np.quantile(values, [0.005, 0.995])
    return np.linspace(low, high if high > low else low + 1.0, HISTOGRAM_BINS + 1)


def _histogram(values: Floats, edges: Floats) -> Histogram:
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return Histogram(edges=tuple(map(float, edges)), counts=tuple(map(int, counts)))


def _distribution(training: Floats, holdout: Floats) -> Distribution:
    edges = _edges(np.concatenate([training, holdout]))
    return Distribution(
        levels=QUANTILE_LEVELS,
        training_quantiles=tuple(map(float, np.quantile(training, QUANTILE_LEVELS))),
        holdout_quantiles=tuple(map(float, np.quantile(holdout, QUANTILE_LEVELS))),
        training=_histogram(training, edges),
        holdout=_histogram(holdout, edges),
    )


def _fold_spread(tuning: "TuningResult | None") -> FoldSpread | None:
    if tuning is None:
        return None
    values = np.array(tuning.fold_values)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return FoldSpread(
        metric=tuning.metric, values=tuning.fold_values, mean=float(values.mean()), standard_deviation=deviation
    )
