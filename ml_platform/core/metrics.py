"""What the quality of a model is measured by: every metric once, for the data and for all resamples alike.

Belongs here: metrics as functions of scored rows and their resamples, and the registry that names them,
says which direction is better, their unit and what they mean. Intervals are ``bootstrap``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ml_platform.core.model_spec import Costs, Task
from ml_platform.core.resamples import Floats, Resamples

CALIBRATION_BINS = 10
LABEL_UNIT = "unit of the label"


@dataclass(frozen=True)
class Scored:
    """Rows with a label and a score; ``decision`` (0/1) and ``costs`` for binary models. Arrays of equal length."""

    label: Floats
    score: Floats
    decision: Floats | None = None
    costs: Costs | None = None

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: npt.NDArray[np.int64]) -> "Scored":
        """These rows only."""
        decision = None if self.decision is None else self.decision[rows]
        return replace(self, label=self.label[rows], score=self.score[rows], decision=decision)


MetricFunction = Callable[[Scored, Resamples], Floats]
"""Scored rows and resamples of them to one value per resample; NaN where it is undefined."""


@dataclass(frozen=True)
class Metric:
    """A metric and how to read it."""

    name: str
    function: MetricFunction
    greater_is_better: bool
    unit: str
    description: str
    task: Task | None = None

    def value(self, scored: Scored) -> float:
        """The metric on the rows as they are; NaN where it is undefined."""
        return float(self.function(scored, Resamples.as_they_are(len(scored)))[0])

    def gain(self, new: Floats, old: Floats) -> Floats:
        """How much better ``new`` is than ``old``: positive is better, whichever direction the metric has."""
        return new - old if self.greater_is_better else old - new

    @property
    def relative(self) -> bool:
        """Whether differences are judged relative to the overall value: its unit is the label's."""
        return self.unit == LABEL_UNIT


def calibration_bins(score: Floats, bins: int = CALIBRATION_BINS) -> npt.NDArray[np.int64]:
    """The bin of each row, 0 up: at most ``bins`` bins of about equally many rows; equal scores share a bin."""
    if not len(score):
        return np.zeros(0, dtype=np.int64)
    edges = np.unique(np.quantile(score, np.arange(1, bins) / bins))
    return np.unique(np.searchsorted(edges, score, side="right"), return_inverse=True)[1].astype(np.int64)


def bin_sums(scored: Scored, bins: npt.NDArray[np.int64], resamples: Resamples) -> tuple[Floats, Floats, Floats]:
    """Rows, labels and scores per bin, each summed up for every resample: (resamples, bins)."""
    number = int(bins.max(initial=0)) + 1
    every = np.ones(len(scored))
    rows, labels, scores = (resamples.totals(values, bins, number) for values in (every, scored.label, scored.score))
    return rows, labels, scores


def metrics_for(task: Task) -> Mapping[str, Metric]:
    """The registered metrics that have a meaning for ``task``, in the order in which they are shown."""
    return {name: metric for name, metric in METRICS.items() if metric.task in (None, task)}


def metric(name: str, task: Task) -> Metric:
    """A registered metric by its name.

    Raises:
        ValueError: there is none of that name for the task; the message lists those there are.
    """
    known = metrics_for(task)
    if name not in known:
        raise ValueError(f"metric {name!r} is unknown for a {task.value} model: one of {sorted(known)}")
    return known[name]


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _mean_of(loss: Callable[[Scored], Floats]) -> MetricFunction:
    def mean(scored: Scored, resamples: Resamples) -> Floats:
        return _ratio(resamples.total(loss(scored)), resamples.rows())

    return mean


def _over_thresholds(scored: Scored, resamples: Resamples, value: Callable[[Floats, Floats], Floats]) -> Floats:
    """A value of the positives and negatives drawn at each distinct score, highest first: (resamples, scores) each."""
    order = np.argsort(-scored.score, kind="stable")
    score, label = scored.score[order], scored.label[order]
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
    found = []
    for weights in resamples.take(order).weights():
        positives = weights * label
        negatives = weights - positives
        if len(starts) < len(score):
            positives = np.add.reduceat(positives, starts, axis=1)
            negatives = np.add.reduceat(negatives, starts, axis=1)
        found.append(value(positives, negatives))
    return np.concatenate(found)


def _auc(scored: Scored, resamples: Resamples) -> Floats:
    def share(positives: Floats, negatives: Floats) -> Floats:
        above = np.cumsum(positives, axis=1)
        pairs = np.einsum("ij,ij->i", negatives, above - positives / 2)
        return _ratio(pairs, above[:, -1] * negatives.sum(axis=1))

    return _over_thresholds(scored, resamples, share)


def _average_precision(scored: Scored, resamples: Resamples) -> Floats:
    def area(positives: Floats, negatives: Floats) -> Floats:
        found = np.cumsum(positives, axis=1)
        taken = found + np.cumsum(negatives, axis=1)
        precision = np.divide(found, taken, out=np.zeros_like(found), where=taken > 0)
        return _ratio(np.einsum("ij,ij->i", positives, precision), found[:, -1])

    return _over_thresholds(scored, resamples, area)


def _log_losses(scored: Scored) -> Floats:
    score = np.clip(scored.score, 1e-15, 1 - 1e-15)
    return np.asarray(-np.log(np.where(scored.label == 1, score, 1 - score)))


def _calibration_error(scored: Scored, resamples: Resamples) -> Floats:
    rows, labels, scores = bin_sums(scored, calibration_bins(scored.score), resamples)
    return _ratio(np.abs(labels - scores).sum(axis=1), rows.sum(axis=1))


def _decision(scored: Scored) -> Floats:
    if scored.decision is None:
        raise ValueError("decision metrics need decisions: the model has no threshold")
    return scored.decision


def confusion(scored: Scored, resamples: Resamples) -> tuple[Floats, Floats, Floats, Floats]:
    """True positives, false positives, false negatives and true negatives of each resample."""
    label, decision = scored.label, _decision(scored)
    return (
        resamples.total(label * decision),
        resamples.total((1 - label) * decision),
        resamples.total(label * (1 - decision)),
        resamples.total((1 - label) * (1 - decision)),
    )


def _error_rate(scored: Scored, resamples: Resamples) -> Floats:
    _, fp, fn, _ = confusion(scored, resamples)
    return _ratio(fp + fn, resamples.rows())


def _false_positive_rate(scored: Scored, resamples: Resamples) -> Floats:
    _, fp, _, tn = confusion(scored, resamples)
    return _ratio(fp, fp + tn)


def _false_negative_rate(scored: Scored, resamples: Resamples) -> Floats:
    tp, _, fn, _ = confusion(scored, resamples)
    return _ratio(fn, tp + fn)


def _precision(scored: Scored, resamples: Resamples) -> Floats:
    tp, fp, _, _ = confusion(scored, resamples)
    return _ratio(tp, tp + fp)


def _f1(scored: Scored, resamples: Resamples) -> Floats:
    tp, fp, fn, _ = confusion(scored, resamples)
    return _ratio(2 * tp, 2 * tp + fp + fn)


def _expected_cost(scored: Scored, resamples: Resamples) -> Floats:
    if scored.costs is None:
        raise ValueError("the expected cost needs the declared costs of wrong decisions")
    _, fp, fn, _ = confusion(scored, resamples)
    cost = scored.costs.false_positive * fp + scored.costs.false_negative * fn
    return _ratio(cost, resamples.rows())


def _squared(scored: Scored) -> Floats:
    return np.asarray((scored.label - scored.score) ** 2)


def _root_mean_square(scored: Scored, resamples: Resamples) -> Floats:
    return np.asarray(np.sqrt(_mean_of(_squared)(scored, resamples)))


def _explained(scored: Scored, resamples: Resamples) -> Floats:
    centred = scored.label - scored.label.mean()
    total = resamples.total(centred**2) - _ratio(resamples.total(centred) ** 2, resamples.rows())
    return 1 - _ratio(resamples.total(_squared(scored)), total)


def _pinball_90(scored: Scored) -> Floats:
    residual = scored.label - scored.score
    return np.maximum(0.9 * residual, -0.1 * residual)


_BINARY, _REGRESSION = Task.BINARY, Task.REGRESSION

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        m.name: m
        for m in (
            Metric("auc", _auc, True, "probability", "Chance that a positive scores above a negative.", _BINARY),
            Metric(
                "average_precision", _average_precision, True, "share", "Area under precision over recall.", _BINARY
            ),
            Metric("log_loss", _mean_of(_log_losses), False, "nats", "Mean negative log likelihood.", _BINARY),
            Metric("brier", _mean_of(_squared), False, "probability²", "Mean squared error of the score.", _BINARY),
            Metric(
                "mae",
                _mean_of(lambda s: np.abs(s.label - s.score)),
                False,
                LABEL_UNIT,
                "Mean absolute error.",
                _REGRESSION,
            ),
            Metric("rmse", _root_mean_square, False, LABEL_UNIT, "Root of the mean squared error.", _REGRESSION),
            Metric("r2", _explained, True, "share", "Share of the label's variance that is explained.", _REGRESSION),
            Metric(
                "pinball_90",
                _mean_of(_pinball_90),
                False,
                LABEL_UNIT,
                "Pinball loss at 0.9: too low a score costs nine times as much as too high a one.",
                _REGRESSION,
            ),
            Metric(
                "calibration_error",
                _calibration_error,
                False,
                LABEL_UNIT,
                "Mean distance between score and label over ten bins of equally many rows. Resampling adds noise to "
                "every bin, so the interval may lie above the value.",
            ),
            Metric("accuracy", lambda s, r: 1 - _error_rate(s, r), True, "share", "Share of right decisions.", _BINARY),
            Metric("precision", _precision, True, "share", "Share of positive decisions that were right.", _BINARY),
            Metric(
                "recall",
                lambda s, r: 1 - _false_negative_rate(s, r),
                True,
                "share",
                "Share of positives that were decided positive.",
                _BINARY,
            ),
            Metric("f1", _f1, True, "share", "Harmonic mean of precision and recall.", _BINARY),
            Metric(
                "expected_cost",
                _expected_cost,
                False,
                "cost per row",
                "Mean declared cost of wrong decisions at the threshold.",
                _BINARY,
            ),
        )
    }
)
"""Every metric by name: function, direction, unit and description."""

ERROR_RATES: Mapping[Task, tuple[Metric, ...]] = MappingProxyType(
    {
        Task.BINARY: (
            Metric("error_rate", _error_rate, False, "share", "Share of wrong decisions."),
            Metric("false_positive_rate", _false_positive_rate, False, "share", "Negatives decided positive."),
            Metric("false_negative_rate", _false_negative_rate, False, "share", "Positives decided negative."),
        ),
        Task.REGRESSION: (METRICS["mae"],),
    }
)
"""What is compared between the groups of a protected column."""
