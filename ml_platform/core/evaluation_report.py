"""What an evaluation found: frozen values, and their forms for Dagster, Delta and JSON.

Belongs here: the shape of the report. Computing it is ``evaluation``; judging it is ``promotion``.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from ml_platform.core.bootstrap import Figure
from ml_platform.core.model_spec import Task

Points = tuple[tuple[float, float], ...]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricResult(_Frozen):
    """A metric of the candidate and its rivals, and the paired improvements (positive: the candidate is better).

    Rivals are None where they do not apply: no champion, or decisions of a baseline that makes none.
    """

    metric: str
    unit: str
    greater_is_better: bool
    candidate: Figure
    baseline: Figure | None = None
    champion: Figure | None = None
    over_baseline: Figure | None = None
    over_champion: Figure | None = None


class SliceResult(_Frozen):
    """The gate's metric on the rows of one group."""

    column: str
    group: str
    rows: int
    figure: Figure
    drop: Figure


class ProtectedGap(_Frozen):
    """The largest difference in an error rate between groups of a protected column.

    ``rate`` is a share of rows (binary), or the mean absolute error divided by the overall one (regression).
    """

    column: str
    rate: str
    gap: Figure
    groups: dict[str, Figure]
    rows: dict[str, int]


class CalibrationBin(_Frozen):
    """Rows with neighbouring scores: their mean score, and their mean label with its interval."""

    mean_score: float
    mean_label: Figure
    rows: int


class Confusion(_Frozen):
    """Decisions against labels at ``threshold``, in rows."""

    threshold: float
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int


class Curves(_Frozen):
    """ROC as (false positive rate, recall), precision/recall as (recall, precision), at most 200 points each."""

    roc: Points
    precision_recall: Points


class Histogram(_Frozen):
    """Counts between ``edges`` (one more than counts); the outermost bins hold what lies beyond them."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Distribution(_Frozen):
    """Scores of the training rows beside those of the held-out rows: quantiles by level, and histograms."""

    levels: tuple[float, ...]
    training_quantiles: tuple[float, ...]
    holdout_quantiles: tuple[float, ...]
    training: Histogram
    holdout: Histogram


class Importance(_Frozen):
    """A feature's total gain in training and mean absolute TreeSHAP contribution on held-out rows."""

    feature: str
    gain: float
    contribution: float


class CaseResult(_Frozen):
    """A behavioural case: the mean held-out score before and after the declared change."""

    name: str
    expect: Literal["not_lower", "not_higher", "unchanged"]
    tolerance: float
    before: float
    after: float
    held: bool


class FoldSpread(_Frozen):
    """Validation losses of the chosen parameters over the tuning folds, oldest first."""

    metric: str
    values: tuple[float, ...]
    mean: float
    standard_deviation: float


class EvaluationReport(_Frozen):
    """The candidate on the newest rows that neither tuning nor fitting saw.

    ``champion_rows`` are the held-out rows on which the champion is compared: those due after it was
    trained through. They are fewer than ``rows`` if the champion has learned from some.
    """

    model: str
    task: Task
    gate_metric: str
    confidence: float
    resampled_by: Literal["row", "day"]
    resamples: int
    training_rows: int
    rows: int
    holdout_start: datetime
    holdout_end: datetime
    label_mean: float
    training_label_mean: float
    baseline_by: tuple[str, ...]
    has_champion: bool
    champion_rows: int
    champion_version: int | None
    metrics: tuple[MetricResult, ...]
    slices: tuple[SliceResult, ...]
    gaps: tuple[ProtectedGap, ...]
    calibration: tuple[CalibrationBin, ...]
    residuals: Histogram
    scores: Distribution
    importance: tuple[Importance, ...]
    cases: tuple[CaseResult, ...]
    confusion: Confusion | None = None
    curves: Curves | None = None
    folds: FoldSpread | None = None

    def __getitem__(self, metric: str) -> MetricResult:
        """The result of one metric.

        Raises:
            KeyError: the report has no such metric; the message lists those it has.
        """
        for result in self.metrics:
            if result.metric == metric:
                return result
        raise KeyError(f"{metric!r} is not in the report: it has {[result.metric for result in self.metrics]}")

    def to_json(self) -> str:
        """The whole report; :meth:`from_json` reads it back equal."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> "EvaluationReport":
        """The report written by :meth:`to_json`."""
        return cls.model_validate_json(text)

    def as_metadata(self) -> dict[str, int | float]:
        """The figures people follow over time, flat; undefined ones are left out."""
        found: dict[str, int | float | None] = {
            "rows": self.rows,
            "training_rows": self.training_rows,
            "champion_rows": self.champion_rows,
            "label_mean": self.label_mean,
        }
        for result in self.metrics:
            found |= {
                result.metric: result.candidate.value,
                f"{result.metric}_low": result.candidate.low,
                f"{result.metric}_high": result.candidate.high,
            }
            for rival, own, gain in (
                ("baseline", result.baseline, result.over_baseline),
                ("champion", result.champion, result.over_champion),
            ):
                if own is not None:
                    found[f"{rival}_{result.metric}"] = own.value
                if gain is not None and result.metric == self.gate_metric:
                    found |= {
                        f"{result.metric}_over_{rival}": gain.value,
                        f"{result.metric}_over_{rival}_low": gain.low,
                        f"{result.metric}_over_{rival}_high": gain.high,
                    }
        if self.confusion is not None:
            found |= self.confusion.model_dump()
        if self.folds is not None:
            found |= {"fold_mean": self.folds.mean, "fold_standard_deviation": self.folds.standard_deviation}
        for gap in self.gaps:
            found[f"{gap.column}_{gap.rate}_gap"] = gap.gap.value
        found["cases_failed"] = sum(not case.held for case in self.cases)
        return {name: value for name, value in found.items() if value is not None}

    def to_frame(self) -> pl.DataFrame:
        """The report as a long table: ``section, name, subject, value, low, high, rows``."""
        schema = {
            "section": pl.String,
            "name": pl.String,
            "subject": pl.String,
            "value": pl.Float64,
            "low": pl.Float64,
            "high": pl.Float64,
            "rows": pl.Int64,
        }
        return pl.DataFrame(list(self._rows()), schema=schema, orient="row")

    def _rows(self) -> Iterator[tuple[str, str, str | None, float | None, float | None, float | None, int | None]]:
        for result in self.metrics:
            for section, subject, found, rows in (
                ("metric", "candidate", result.candidate, self.rows),
                ("metric", "baseline", result.baseline, self.rows),
                ("metric", "champion", result.champion, self.champion_rows),
                ("improvement", "baseline", result.over_baseline, self.rows),
                ("improvement", "champion", result.over_champion, self.champion_rows),
            ):
                if found is not None:
                    yield section, result.metric, subject, found.value, found.low, found.high, rows
        for part in self.slices:
            name = f"{self.gate_metric} by {part.column}"
            yield "slice", name, part.group, part.figure.value, part.figure.low, part.figure.high, part.rows
        for gap in self.gaps:
            yield "protected gap", f"{gap.rate} by {gap.column}", None, gap.gap.value, gap.gap.low, gap.gap.high, None
            for group, each in gap.groups.items():
                name = f"{gap.rate} by {gap.column}"
                yield "protected", name, group, each.value, each.low, each.high, gap.rows[group]
        for number, each_bin in enumerate(self.calibration, start=1):
            label, group = each_bin.mean_label, f"{number:02d}"
            yield "calibration", "mean_label", group, label.value, label.low, label.high, each_bin.rows
            yield "calibration", "mean_score", group, each_bin.mean_score, None, None, each_bin.rows
        for name, curve in (
            ()
            if self.curves is None
            else (
                ("roc", self.curves.roc),
                ("precision_recall", self.curves.precision_recall),
            )
        ):
            for x, y in curve:
                yield "curve", name, f"{x:.6f}", y, None, None, None
        if self.confusion is not None:
            for name, value in self.confusion.model_dump(exclude={"threshold"}).items():
                yield "confusion", name, f"threshold {self.confusion.threshold:.4g}", value, None, None, self.rows
        if self.folds is not None:
            for number, fold_value in enumerate(self.folds.values, start=1):
                yield "fold", self.folds.metric, str(number), fold_value, None, None, None
        for feature in self.importance:
            yield "importance", "gain", feature.feature, feature.gain, None, None, None
            yield "importance", "contribution", feature.feature, feature.contribution, None, None, None
        for case in self.cases:
            yield "case", case.name, "before", case.before, None, None, self.rows
            yield "case", case.name, "after", case.after, None, None, self.rows
            yield "case", case.name, "held", float(case.held), None, None, self.rows
        for level, training, holdout in zip(
            self.scores.levels, self.scores.training_quantiles, self.scores.holdout_quantiles, strict=True
        ):
            yield "score quantile", "training", f"{level:g}", training, None, None, self.training_rows
            yield "score quantile", "holdout", f"{level:g}", holdout, None, None, self.rows
        for name, histogram in (
            ("residual", self.residuals),
            ("training score", self.scores.training),
            ("holdout score", self.scores.holdout),
        ):
            for left, count in zip(histogram.edges, histogram.counts, strict=False):
                yield "histogram", name, f"from {left:.6g}", count, None, None, count
