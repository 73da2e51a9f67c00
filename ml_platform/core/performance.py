"""Performance: what predictions turned out to be worth, once their labels were known.

Belongs here: joining predictions with labels that came later, the figures of a day and of the trailing
window for each model version, and how many labels are still owed. What a fall of performance calls for does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import polars as pl

from ml_platform.core.bootstrap import Figure, metric_figure, resample
from ml_platform.core.metrics import Scored, metrics_for
from ml_platform.core.model_spec import ModelSpec, Task

Period = Literal["day", "trailing"]

FRAME_SCHEMA: Mapping[str, pl.DataType] = {
    "model_version": pl.Int64(),
    "period": pl.String(),
    "period_start": pl.Datetime("us", "UTC"),
    "period_end": pl.Datetime("us", "UTC"),
    "rows": pl.Int64(),
    "metric": pl.String(),
    "value": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
}


@dataclass(frozen=True)
class VersionPerformance:
    """One version's figures over the labels that became known in ``[start, end)``.

    ``figures`` has every metric of the task (undefined ones without a value: one class only, say),
    ``label_mean`` and ``score_mean``, and for the trailing window how late labels are: of the predictions due
    in it, how many were made (``predicted``), have a label (``labelled``), wait for one (``outstanding``), and wait
    longer than labels ever take (``overdue``); and hours from prediction to label (``label_delay_hours_*``).
    """

    model_version: int
    period: Period
    start: datetime
    end: datetime
    rows: int
    figures: Mapping[str, Figure] = field(default_factory=dict)


@dataclass(frozen=True)
class PerformanceReport:
    """Every version's figures, by version and period."""

    versions: tuple[VersionPerformance, ...]

    def of(self, period: Period, model_version: int | None = None) -> VersionPerformance | None:
        """The figures of a version, by default the newest that has labelled rows; None if there are none."""
        found = [
            version
            for version in self.versions
            if version.period == period and (version.model_version == model_version if model_version else version.rows)
        ]
        return max(found, key=lambda version: version.model_version, default=None)

    def to_frame(self) -> pl.DataFrame:
        """One row per version, period and figure; columns as :data:`FRAME_SCHEMA`."""
        rows = [
            {
                "model_version": version.model_version,
                "period": version.period,
                "period_start": version.start,
                "period_end": version.end,
                "rows": version.rows,
                "metric": name,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
            }
            for version in self.versions
            for name, figure in version.figures.items()
        ]
        return pl.DataFrame(rows, schema=dict(FRAME_SCHEMA))

    def as_metadata(self) -> dict[str, int | float]:
        """The newest version's figures: the trailing window's by name, the day's with ``_day``."""
        figures: dict[str, int | float] = {}
        for period, suffix in (("trailing", ""), ("day", "_day")):
            version = self.of("trailing" if period == "trailing" else "day")
            if version is not None:
                figures[f"labelled_rows{suffix}"] = version.rows
                figures |= {f"{name}{suffix}": f.value for name, f in version.figures.items() if f.value is not None}
        return figures


def performance(
    spec: ModelSpec, predictions: pl.DataFrame, labels: pl.DataFrame, *, start: datetime, end: datetime
) -> PerformanceReport:
    """Join predictions with the labels known before ``end`` and measure them.

    Args:
        spec: the declaration: keys, task, costs, the trailing window, the interval's confidence.
        predictions: ``spec.keys``, ``prediction_time``, ``score``, ``model_version`` and, if binary, ``decision``.
        labels: ``spec.keys``, ``label`` and ``label_time``.
        start: of the day reported on (UTC, inclusive), by ``label_time``.
        end: of the day and of the trailing window (exclusive).

    Returns:
        Figures of the day and of the trailing window for each version that has predictions.

    Raises:
        ValueError: the day is empty or backwards.
    """
    if start >= end:
        raise ValueError(f"the period from {start} to {end} is empty")
    known = labels.filter(pl.col("label_time") < end).select(*spec.keys, "label", "label_time")
    joined = predictions.join(known, on=list(spec.keys), how="left", validate="m:1").sort("model_version", *spec.keys)
    trailing = end - spec.retrain.performance_window
    periods: tuple[tuple[Period, datetime], ...] = (("day", start), ("trailing", trailing))
    found = []
    for (version,), rows in joined.group_by("model_version", maintain_order=True):
        for period, since in periods:
            labelled = rows.filter(pl.col("label").is_not_null() & (pl.col("label_time") >= since))
            figures = _quality(spec, labelled)
            if period == "trailing":
                due = rows.filter(pl.col("prediction_time").is_between(since, end, closed="left"))
                figures |= _lateness(due, end - spec.entity_look_back)
            found.append(VersionPerformance(int(str(version)), period, since, end, labelled.height, figures))
    return PerformanceReport(tuple(found))


def _quality(spec: ModelSpec, rows: pl.DataFrame) -> dict[str, Figure]:
    if rows.is_empty():
        return {}
    scored = Scored(
        label=rows["label"].cast(pl.Float64).to_numpy(),
        score=rows["score"].cast(pl.Float64).to_numpy(),
        decision=rows["decision"].cast(pl.Float64).to_numpy() if spec.task is Task.BINARY else None,
        costs=spec.costs,
    )
    resamples = resample(rows["prediction_time"], seed=spec.seed)
    figures = {
        name: metric_figure(metric, scored, resamples, spec.gate.confidence)
        for name, metric in metrics_for(spec.task).items()
    }
    return figures | {
        name: Figure(value=float(getattr(scored, name[:-5]).mean())) for name in ("label_mean", "score_mean")
    }


def _lateness(due: pl.DataFrame, overdue_before: datetime) -> dict[str, Figure]:
    outstanding = pl.col("label").is_null()
    counts: dict[str, Any] = due.select(
        predicted=pl.len(),
        labelled=(~outstanding).sum(),
        outstanding=outstanding.sum(),
        overdue=(outstanding & (pl.col("prediction_time") < overdue_before)).sum(),
    ).row(0, named=True)
    delay = (due["label_time"] - due["prediction_time"]).dt.total_seconds().drop_nulls() / 3600
    counts |= {"label_delay_hours_median": delay.median(), "label_delay_hours_p90": delay.quantile(0.9)}
    return {
        name: Figure(value=float(value) if isinstance(value, int | float) else None) for name, value in counts.items()
    }
