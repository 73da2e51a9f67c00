"""Watching a champion: performance, drift and its calibration."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.assets.events import CheckResult, DayReport, is_told, report_days, report_whole
from ml_platform.assets.metadata import day_metadata, picture
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.monitoring import DRIFT
from ml_platform.assets.wording import calibration_summary, performance_summary
from ml_platform.core import plots
from ml_platform.core.drift import DriftReport
from ml_platform.core.drift_calibration import PROMISED_SHIFT, curve
from ml_platform.core.durations import format_duration
from ml_platform.core.metrics import metric
from ml_platform.core.performance import PerformanceReport
from ml_platform.resources.platform import Platform
from ml_platform.stores.derivation import day_bounds
from ml_platform.stores.incremental import Outcome, Status
from ml_platform.stores.monitoring import (
    DriftReference,
    calibrate_drift,
    calibrated,
    drift_current,
    drift_reference,
    report_drift,
    report_performance,
)
from ml_platform.stores.table_names import REPORTED_DAY, calibration_table, performance_table


def report_performance_of(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Report on the asked days what predictions turned out to be worth."""
    spec, key = model.spec, model.key("performance_report")
    found = report_performance(platform.lake, spec, context.partition_keys, model.known_through(platform))
    said: dict[str, dict[str, Any]] = {
        day: {"summary": dg.MetadataValue.md(summary)} if (summary := performance_summary(spec, report)) else {}
        for day, report in found.made.items()
    }
    newest = _newest_made(found.outcomes, said)
    if newest:
        said[newest]["history"] = picture(_performance_history(platform, model), "performance by event time")
    reports = [DayReport(o, _metadata(o, said, found.made)) for o in found.outcomes]
    yield from report_days(context, key, reports)


def calibrate(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Calibrate the limit of drift from the champion, unless it is."""
    spec, key = model.spec, model.key("drift_calibration")
    champion = platform.models.champion(spec.name)
    if champion is None:
        summary = dg.MetadataValue.md("No version predicts yet: there is nothing to drift from.")
        yield from report_whole(context, key, "none", {"summary": summary})
        return
    state = calibrated(platform.lake, spec, champion.version)
    if state is None:
        fitted = platform.models.load(spec.name, champion.version)
        reference = drift_reference(platform.lake, spec, champion, fitted)
        state = calibrate_drift(platform.lake, spec, champion.version, reference)
    elif is_told(context, key, state.content_hash):
        context.log.info("version %s is calibrated under this policy", champion.version)
        yield dg.MaterializeResult(asset_key=key)
        return
    rows = platform.lake.read(calibration_table(spec))
    chosen = rows.filter("chosen")
    title = f"{spec.name} version {champion.version}: false alarms and delay"
    metadata = {
        "summary": dg.MetadataValue.md(calibration_summary(spec, chosen)),
        "curve": picture(plots.drift_curve(curve(rows), title=title), title),
        **{name: chosen[name][0] for name in ("alarm_limit", "false_alarms_per_100_windows", "model_version")},
        "least_found": chosen.filter(shift=PROMISED_SHIFT)["found"].min(),
        "delta_version": state.delta_version,
    }
    yield from report_whole(context, key, state.content_hash, metadata)


def report_drift_of(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Report on the asked days how far the champion's inputs have drifted."""
    spec, key = model.spec, model.key("drift_report")
    champion = platform.models.champion(spec.name)
    if champion is None:
        reason = f"{spec.name} has no champion yet: there is nothing to drift from"
        outcomes = [Outcome(day, Status.WAITING, None, reason) for day in context.partition_keys]
        yield from report_days(context, key, [DayReport(outcome) for outcome in outcomes])
        return

    @cache
    def reference() -> DriftReference:
        fitted = platform.models.load(spec.name, champion.version)
        return drift_reference(platform.lake, spec, champion, fitted)

    found = report_drift(
        platform.lake, spec, champion.version, reference, context.partition_keys, model.known_through(platform)
    )
    said: dict[str, dict[str, Any]] = {day: {"verdict": report.reason} for day, report in found.made.items()}
    newest = _newest_made(found.outcomes, said)
    if newest and found.made[newest].rows_current:
        report = found.made[newest]
        image = plots.drift_bars(
            {column.name: column.strength or 0.0 for column in report.judged},
            limit=report.limit,
            title=f"{spec.name} version {champion.version}: drift on {newest}",
        )
        said[newest]["columns"] = picture(image, "drift by column")
        last = platform.reports.last(spec.name, DRIFT, before=newest)
        if last is None or day_bounds(newest)[0] - day_bounds(last)[0] >= spec.drift.report_every:
            current = drift_current(platform.lake, spec, champion.version, day_bounds(newest)[1])
            url = platform.reports.drift(spec.name, newest, spec.drift, report, reference().rows, current)
            said[newest]["evidently"] = dg.MetadataValue.url(url)
    reports = [
        DayReport(o, _metadata(o, said, found.made), _drift_check(found.made.get(o.day))) for o in found.outcomes
    ]
    yield from report_days(context, key, reports)


def _drift_check(report: DriftReport | None) -> Sequence[CheckResult]:
    if report is None:
        return ()
    return [CheckResult(DRIFT, not report.drifted, report.reason, report.as_metadata(), blocking=False)]


def _metadata(
    outcome: Outcome, said: Mapping[str, Mapping[str, Any]], made: Mapping[str, PerformanceReport | DriftReport]
) -> dict[str, Any]:
    """What a day's report says, then its figures, then its rows."""
    figures = made[outcome.day].as_metadata() if outcome.day in made else {}
    return {**said.get(outcome.day, {}), **figures, **day_metadata(outcome)}


def _newest_made(outcomes: Sequence[Outcome], made: dict[str, Any]) -> str | None:
    return max((outcome.day for outcome in outcomes if outcome.good and outcome.day in made), default=None)


def _performance_history(platform: Platform, model: ModelIdentity) -> bytes:
    """The gate's metric over the trailing window against event time, by version."""
    judged = metric(model.spec.gate.metric, model.spec.task)
    window = format_duration(model.spec.retrain.performance_window)
    rows = platform.lake.read(performance_table(model.spec)).filter(
        pl.col("metric") == judged.name, pl.col("period") == "trailing", pl.col("value").is_not_null()
    )
    history = rows.select(
        pl.col(REPORTED_DAY).alias("time"),
        "value",
        "low",
        "high",
        pl.format("version {}", "model_version").alias("group"),
    )
    return plots.metric_over_time(
        history, metric=judged.name, unit=judged.unit, title=f"{model.spec.name}: {judged.name} over trailing {window}"
    )
