"""What became of predictions: performance once labels are known, drift against what the champion learned from.

Belongs here: which rows each day's report reads, and the tables of reports and of drift's calibration. The figures are
:mod:`ml_platform.core.performance`, :mod:`ml_platform.core.drift` and :mod:`ml_platform.core.drift_calibration`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Generic, TypeVar

import polars as pl

from ml_platform.core.digests import digest
from ml_platform.core.drift import DriftReport, Reference, compare, learned
from ml_platform.core.drift_calibration import METHOD, calibrate
from ml_platform.core.drift_effects import yardstick
from ml_platform.core.model_spec import DriftPolicy, ModelSpec
from ml_platform.core.performance import PerformanceReport, performance
from ml_platform.core.scoring import score
from ml_platform.core.training import FittedModel
from ml_platform.stores.catalog import WHOLE, PartitionState
from ml_platform.stores.derivation import Compute, Derivation, Frames, Input, day_bounds, days_between
from ml_platform.stores.incremental import Outcome, Status, derive
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.models import ModelVersion
from ml_platform.stores.table_names import (
    REPORTED_DAY,
    calibration_table,
    drift_table,
    labels_table,
    performance_table,
    predictions_table,
    training_table,
)

Report = TypeVar("Report", PerformanceReport, DriftReport)


@dataclass(frozen=True)
class Reports(Generic[Report]):
    """One outcome a day, and the reports that were made anew, by day."""

    outcomes: Sequence[Outcome]
    made: dict[str, Report] = field(default_factory=dict)


@dataclass(frozen=True)
class DriftReference:
    """What a champion learned from: its training rows with scores, and the gain of each of its features."""

    rows: pl.DataFrame
    importances: Mapping[str, float]
    _learned: dict[tuple[DriftPolicy, float], Reference] = field(default_factory=dict, repr=False, compare=False)

    def learned(self, policy: DriftPolicy, limit: float) -> Reference:
        """What drift is measured against under a policy and its calibrated limit; made once."""
        if (policy, limit) not in self._learned:
            self._learned[policy, limit] = learned(policy, self.rows, self.importances, limit)
        return self._learned[policy, limit]


def performance_derivation(lake: Lake, spec: ModelSpec, made: dict[str, PerformanceReport] | None = None) -> Derivation:
    """Figures of every version over the labels of each day and of the trailing window; reports go to ``made``."""
    window = spec.retrain.performance_window
    reach = window + spec.entity_look_back

    def report(start: datetime, end: datetime) -> PerformanceReport:
        predictions = _between(lake, predictions_table(spec), "prediction_time", start - reach, end)
        labels = _between(lake, labels_table(spec), "label_time", start - window, end)
        return performance(spec, predictions, labels, start=start, end=end)

    return Derivation(
        table=performance_table(spec),
        inputs=[Input(labels_table(spec), window, loaded=False), Input(predictions_table(spec), reach, loaded=False)],
        compute=_each_day(report, {} if made is None else made),
        code_version=digest(spec.retrain.model_dump_json(), str(spec.entity_look_back)),
        time_column=REPORTED_DAY,
        sort_by=[REPORTED_DAY, "model_version", "period", "metric"],
    )


def drift_derivation(
    lake: Lake,
    spec: ModelSpec,
    version: int,
    reference: Callable[[], DriftReference],
    made: dict[str, DriftReport] | None = None,
) -> Derivation:
    """A champion's trailing predictions and their features against its training rows; reports go to ``made``.

    It computes nothing unless :func:`calibrated` says of the version that it can.
    """

    @cache
    def known() -> Reference:
        limit = lake.read(calibration_table(spec)).filter("chosen")["alarm_limit"][0]
        return reference().learned(spec.drift, limit)

    def report(_: datetime, end: datetime) -> DriftReport:
        return compare(spec.drift, known(), drift_current(lake, spec, version, end))

    each_day = _each_day(report, {} if made is None else made)

    def compute(frames: Frames, start: datetime, end: datetime) -> pl.DataFrame:
        return each_day(frames, start, end).with_columns(pl.lit(version, pl.Int64).alias("model_version"))

    return Derivation(
        table=drift_table(spec),
        inputs=[Input(predictions_table(spec), spec.drift.window, loaded=False)],
        compute=compute,
        code_version=_calibration_identity(spec, version),
        time_column=REPORTED_DAY,
        sort_by=[REPORTED_DAY, "column_name"],
    )


def report_performance(
    lake: Lake, spec: ModelSpec, days: Sequence[str], watermark: datetime
) -> Reports[PerformanceReport]:
    """Bring the performance of these days up to date."""
    made: dict[str, PerformanceReport] = {}
    derivation = performance_derivation(lake, spec, made)
    return Reports(_outcomes(lake, spec, derivation, days, watermark), made)


def report_drift(
    lake: Lake,
    spec: ModelSpec,
    version: int,
    reference: Callable[[], DriftReference],
    days: Sequence[str],
    watermark: datetime,
) -> Reports[DriftReport]:
    """Bring the drift of these days up to date; those this version is to report on wait until it is calibrated."""
    kept = kept_drift_reports(lake, spec)
    outcomes = [Outcome(day, Status.UNCHANGED, kept[day]) for day in days if day in kept]
    asked = [day for day in days if day not in kept]
    made: dict[str, DriftReport] = {}
    if calibrated(lake, spec, version) is None:
        reason = f"version {version} is not calibrated under this policy: materialise {calibration_table(spec)}"
        outcomes += [Outcome(day, Status.WAITING, None, reason) for day in asked]
    else:
        derivation = drift_derivation(lake, spec, version, reference, made)
        outcomes += _outcomes(lake, spec, derivation, asked, watermark)
    return Reports(sorted(outcomes, key=lambda outcome: outcome.day), made)


def kept_drift_reports(lake: Lake, spec: ModelSpec) -> dict[str, PartitionState]:
    """The reports on days that were over when the champion was decided on: they say what was known of another.

    A new champion, whether it was trained or restored, reports on its own days; the alarms that called for it stay.
    """
    champion = Ledger(lake).champion(spec.name)
    return {
        day: state
        for day, state in lake.partitions(drift_table(spec)).items()
        if champion and not state.blocked and day_bounds(day)[1] <= champion.decided_at_watermark
    }


def calibrated(lake: Lake, spec: ModelSpec, version: int) -> PartitionState | None:
    """The calibration that stands, if it is of this version under the declared policy."""
    standing = lake.partitions(calibration_table(spec)).get(WHOLE)
    current = standing is not None and standing.inputs_hash == _calibration_identity(spec, version)
    return standing if current else None


def calibrate_drift(lake: Lake, spec: ModelSpec, version: int, reference: DriftReference) -> PartitionState:
    """Calibrate drift on what a version learned from, and store the result in the place of any other."""
    measure = yardstick(spec.drift, reference.rows, reference.importances)
    found = calibrate(spec.drift, measure, spec.seed)
    return lake.write(
        calibration_table(spec),
        found.to_frame().with_columns(pl.lit(version).alias("model_version")),
        sort_by=["feature", "shift", "alarm_limit"],
        inputs_hash=_calibration_identity(spec, version),
    )


def _calibration_identity(spec: ModelSpec, version: int) -> str:
    """Of all that a calibration follows from: a version has one training set and one model."""
    return digest(spec.drift.model_dump_json(), str(spec.seed), str(version), METHOD)


def reportable_days(lake: Lake, spec: ModelSpec, derivation: Derivation, days: Sequence[str]) -> list[str]:
    """The days whose report has predictions to speak of."""
    predictions = lake.partitions(predictions_table(spec)).items()
    predicted = {name for name, state in predictions if state.rows or state.blocked}
    reach = max(source.look_back for source in derivation.inputs)
    return [day for day in days if predicted.intersection(_within(day, reach))]


def drift_reference(lake: Lake, spec: ModelSpec, champion: ModelVersion, model: FittedModel) -> DriftReference:
    """The rows the champion was fitted on, with the scores it gives them.

    The newest of each model is kept while the process lives: a version never changes, and each day asks for it.
    """
    place, identity = lake.uri(training_table(spec)), (champion.version, champion.model_hash)
    if place in _references and _references[place][0] == identity:
        return _references[place][1]
    training_set = lake.read(training_table(spec), version=champion.provenance.training_set_version)
    rows = training_set.filter(pl.col("label_time") <= champion.trained_through)
    _references[place] = identity, DriftReference(score(model, rows), model.importances)
    return _references[place][1]


_references: dict[str, tuple[tuple[int, str], DriftReference]] = {}


def drift_current(lake: Lake, spec: ModelSpec, version: int, end: datetime) -> pl.DataFrame:
    """A version's predictions of the drift window that ends at ``end``, in one order however they were stored."""
    rows = _between(lake, predictions_table(spec), "prediction_time", end - spec.drift.window, end)
    # Sums are rounded: in another order, the same rows would make a report with other content.
    return rows.filter(pl.col("model_version") == version).sort(spec.keys)


def _each_day(report: Callable[[datetime, datetime], Report], made: dict[str, Report]) -> Compute:
    def compute(_: Frames, start: datetime, end: datetime) -> pl.DataFrame:
        frames = []
        for day in days_between(start.date(), (end - timedelta(microseconds=1)).date()):
            first, after = day_bounds(day)
            made[day] = report(first, min(after, end))
            frames.append(made[day].to_frame().with_columns(pl.lit(first).cast(_UTC).alias(REPORTED_DAY)))
        return pl.concat(frames, how="vertical_relaxed")

    return compute


def _outcomes(
    lake: Lake, spec: ModelSpec, derivation: Derivation, days: Sequence[str], watermark: datetime
) -> list[Outcome]:
    ripe = reportable_days(lake, spec, derivation, days)
    waiting = [Outcome(day, Status.WAITING, None, "nothing predicted to report on") for day in days if day not in ripe]
    return sorted([*waiting, *derive(lake, derivation, ripe, watermark)], key=lambda outcome: outcome.day)


_UTC = pl.Datetime("us", "UTC")


def _within(day: str, reach: timedelta) -> list[str]:
    start, _ = day_bounds(day)
    return days_between((start - reach).date(), start.date())


def _between(lake: Lake, table: str, column: str, start: datetime, end: datetime) -> pl.DataFrame:
    rows = lake.scan(table, start=start.date()).filter(pl.col("day") <= end.date()).drop("day").collect()
    return rows.filter(pl.col(column) >= start, pl.col(column) < end)
