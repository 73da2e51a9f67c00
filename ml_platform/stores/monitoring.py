"""What became of predictions: performance once labels are known, drift against what the champion learned from.

Belongs here: which rows each day's report reads, and the tables of reports. The figures are
:mod:`ml_platform.core.performance` and :mod:`ml_platform.core.drift`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

import polars as pl

from ml_platform.core.content import digest, digest_mapping
from ml_platform.core.drift import DriftReport, drift_report
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.performance import PerformanceReport, performance
from ml_platform.core.scoring import score
from ml_platform.core.training import FittedModel
from ml_platform.stores.incremental import (
    Derivation,
    Frames,
    Input,
    Outcome,
    Status,
    day_bounds,
    days_between,
    derive,
)
from ml_platform.stores.lake import Lake
from ml_platform.stores.model_tables import labels_table, predictions_table, training_table
from ml_platform.stores.models import ModelVersion

REPORTED_DAY = "reported_day"
"""First instant of the UTC day that a row of a report speaks of."""

Report = TypeVar("Report", PerformanceReport, DriftReport)


@dataclass(frozen=True)
class Reports(Generic[Report]):
    """One outcome a day, and the reports that were made anew, by day."""

    outcomes: Sequence[Outcome]
    made: dict[str, Report] = field(default_factory=dict)


def performance_table(spec: ModelSpec) -> str:
    """The lake table of performance figures."""
    return f"{spec.name}/performance_report"


def drift_table(spec: ModelSpec) -> str:
    """The lake table of drift figures."""
    return f"{spec.name}/drift_report"


def report_performance(lake: Lake, spec: ModelSpec, days: Sequence[str], watermark: datetime) -> Reports[PerformanceReport]:
    """Figures of every version over the labels of each day and of the trailing window."""
    window = spec.retrain.performance_window
    reach = window + spec.entity_look_back

    def report(start: datetime, end: datetime) -> PerformanceReport:
        predictions = _between(lake, predictions_table(spec), "prediction_time", start - reach, end)
        labels = _between(lake, labels_table(spec), "label_time", start - window, end)
        return performance(spec, predictions, labels, start=start, end=end)

    inputs = [
        Input(labels_table(spec), window, loaded=False),
        Input(predictions_table(spec), reach, loaded=False),
    ]
    policy = digest_mapping({"retrain": spec.retrain.model_dump(mode="json"), "reach": str(spec.entity_look_back)})
    sort_by = [REPORTED_DAY, "model_version", "window", "metric"]
    return _report(lake, spec, performance_table(spec), inputs, policy, sort_by, days, watermark, report)


def report_drift(
    lake: Lake,
    spec: ModelSpec,
    champion: ModelVersion,
    model: FittedModel,
    days: Sequence[str],
    watermark: datetime,
) -> Reports[DriftReport]:
    """The champion's trailing predictions, and the features they were made from, against its training rows."""
    window = spec.drift.window
    reference = drift_reference(lake, spec, champion, model)

    def report(start: datetime, end: datetime) -> DriftReport:
        current = drift_current(lake, spec, champion, end)
        return drift_report(spec.drift, reference, current, model.features)

    inputs = [Input(predictions_table(spec), window, loaded=False)]
    policy = digest(spec.drift.model_dump_json(), champion.model_hash, str(champion.version))
    return _report(
        lake, spec, drift_table(spec), inputs, policy, [REPORTED_DAY, "column"], days, watermark, report
    )


def drift_reference(lake: Lake, spec: ModelSpec, champion: ModelVersion, model: FittedModel) -> pl.DataFrame:
    """The rows the champion was fitted on, with the scores it gives them."""
    training_set = lake.read(training_table(spec), version=champion.provenance.training_set_version)
    return score(model, training_set.filter(pl.col("label_time") <= champion.trained_through))


def drift_current(lake: Lake, spec: ModelSpec, champion: ModelVersion, end: datetime) -> pl.DataFrame:
    """The champion's predictions of the drift window that ends at ``end``."""
    rows = _between(lake, predictions_table(spec), "prediction_time", end - spec.drift.window, end)
    return rows.filter(pl.col("model_version") == champion.version)


def _report(
    lake: Lake,
    spec: ModelSpec,
    table: str,
    inputs: Sequence[Input],
    policy: str,
    sort_by: Sequence[str],
    days: Sequence[str],
    watermark: datetime,
    report: Callable[[datetime, datetime], Report],
) -> Reports[Report]:
    made: dict[str, Report] = {}

    def compute(_: Frames, start: datetime, end: datetime) -> pl.DataFrame:
        frames = []
        for day in days_between(start.date(), (end - timedelta(microseconds=1)).date()):
            first, after = day_bounds(day)
            made[day] = report(first, min(after, end))
            frames.append(made[day].to_frame().with_columns(pl.lit(first).cast(_UTC).alias(REPORTED_DAY)))
        return pl.concat(frames, how="vertical_relaxed")

    predicted = {name for name, state in lake.partitions(predictions_table(spec)).items() if state.rows or state.blocked}
    reach = max(source.look_back for source in inputs)
    ripe = [day for day in days if predicted.intersection(_within(day, reach))]
    waiting = [Outcome(day, Status.WAITING, None, "no version has predicted this day") for day in days if day not in ripe]
    derivation = Derivation(table, inputs, compute, policy, REPORTED_DAY, sort_by)
    outcomes = [*waiting, *derive(lake, derivation, ripe, watermark)] if ripe else waiting
    return Reports(sorted(outcomes, key=lambda outcome: outcome.day), made)


_UTC = pl.Datetime("us", "UTC")


def _within(day: str, reach: timedelta) -> list[str]:
    start, _ = day_bounds(day)
    return days_between((start - reach).date(), start.date())


def _between(lake: Lake, table: str, column: str, start: datetime, end: datetime) -> pl.DataFrame:
    rows = lake.scan(table, start=start.date()).filter(pl.col("day") <= end.date()).drop("day").collect()
    return rows.filter(pl.col(column) >= start, pl.col(column) < end)
