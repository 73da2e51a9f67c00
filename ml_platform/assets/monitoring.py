"""The assets that watch a champion: performance once labels are known, drift before."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.assets.events import CheckResult, DayReport, is_told, report_days, report_whole
from ml_platform.assets.metadata import Column, day_metadata, picture, table_definition
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.pods import backfill_policy
from ml_platform.assets.wording import calibration_summary, performance_summary
from ml_platform.automation.calendar import looking_back
from ml_platform.core import plots
from ml_platform.core.drift import DriftReport
from ml_platform.core.drift_calibration import PROMISED_SHIFT, WITHIN, curve
from ml_platform.core.durations import format_duration
from ml_platform.core.metrics import metric
from ml_platform.core.performance import PerformanceReport
from ml_platform.resources.platform import Platform
from ml_platform.stores.incremental import Outcome, Status, day_bounds, look_back_days
from ml_platform.stores.monitoring import (
    REPORTED_DAY,
    DriftReference,
    calibrate_drift,
    calibrated,
    calibration_table,
    drift_current,
    drift_reference,
    drift_table,
    performance_table,
    report_drift,
    report_performance,
)

DRIFT = "drift"


def performance_report_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/performance_report``: predictions joined with the labels that have landed since."""
    spec = model.spec
    key = model.key("performance_report")
    window = spec.retrain.performance_window
    columns = [
        Column(REPORTED_DAY, "timestamp", "First instant of the day reported on.", "UTC", nullable=False),
        Column("model_version", "integer", "Version that predicted.", nullable=False),
        Column("period", "text", "`day`, or `trailing` for the window that ends with the day.", nullable=False),
        Column("period_start", "timestamp", "Beginning of the period, by label time.", "UTC", nullable=False),
        Column("period_end", "timestamp", "End of the period, exclusive.", "UTC", nullable=False),
        Column("rows", "integer", "Predictions with a label known in the period.", "rows", nullable=False),
        Column("metric", "text", "Which figure.", nullable=False),
        Column("value", "number", "The figure; empty where it is not defined."),
        Column("low", "number", "Lower end of its bootstrap interval."),
        Column("high", "number", "Upper end of its bootstrap interval."),
    ]

    @dg.multi_asset(
        name=f"{spec.name}__performance_report",
        specs=[
            model.asset(
                "performance_report",
                "What predictions turned out to be worth: metrics with intervals by version, for the day and the "
                "trailing window, and how many labels are still owed.",
                {"delta", "polars"},
                [
                    dg.AssetDep(model.key("predictions"), partition_mapping=looking_back(look_back_days(window))),
                    dg.AssetDep(model.key("labels"), partition_mapping=looking_back(look_back_days(window))),
                ],
                table_definition(performance_table(spec), columns),
                automation_condition=model.catches_up("performance_report"),
            )
        ],
        partitions_def=model.days,
        backfill_policy=backfill_policy(),
        can_subset=True,
        op_tags=model.op_tags("performance_report"),
    )
    def performance_report(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        found = report_performance(platform.lake, spec, context.partition_keys, model.watermark(platform))
        said: dict[str, dict[str, Any]] = {
            day: {"summary": dg.MetadataValue.md(summary)} if (summary := performance_summary(spec, report)) else {}
            for day, report in found.made.items()
        }
        newest = _newest_made(found.outcomes, said)
        if newest:
            said[newest]["history"] = picture(_performance_history(platform, model), "performance by event time")
        reports = [DayReport(o, _metadata(o, said, found.made)) for o in found.outcomes]
        yield from report_days(context, key, reports)

    return performance_report


def drift_calibration_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/drift_calibration``: the limit of drift from a champion, and what it is known to do."""
    spec = model.spec
    key = model.key("drift_calibration")
    columns = [
        Column("chosen", "boolean", "Whether this is the limit that holds.", nullable=False),
        Column("alarm_limit", "number", "Strength of effect above which a window is an alarm.", nullable=False),
        Column("false_alarms_per_100_windows", "number", "Alarms among windows without change.", nullable=False),
        Column("false_alarms", "integer", "Their number.", "windows", nullable=False),
        Column("false_calls", "integer", "Of them, those by which drift persisted.", "windows", nullable=False),
        Column("windows", "integer", "Windows without change that were judged.", "windows", nullable=False),
        Column("feature", "text", "The feature that was shifted.", nullable=False),
        Column("shift", "number", "By how much.", "standard deviations", nullable=False),
        Column("found_at_once", "number", "Trials with an alarm in the first window.", "share", nullable=False),
        Column("found", "number", f"Trials with an alarm within {WITHIN} windows.", "share", nullable=False),
        Column(
            "called", "number", f"Trials in which drift persisted within {WITHIN} windows.", "share", nullable=False
        ),
        Column("delay_windows", "number", "Windows up to the first alarm, mean.", "windows", nullable=False),
        Column("trials", "integer", "Trials.", nullable=False),
        Column("window_days", "integer", "Whole days of a window.", "days", nullable=False),
        Column("reference_days", "integer", "Whole days the windows were drawn from.", "days", nullable=False),
        Column("model_version", "integer", "The champion that learned from them.", nullable=False),
    ]

    @dg.multi_asset(
        name=f"{spec.name}__drift_calibration",
        specs=[
            model.asset(
                "drift_calibration",
                "How strong drift from the champion must be to be an alarm, so that windows of its training days in "
                "random order seldom are; and how soon injected shifts are found.",
                {"delta", "polars"},
                [model.key("champion")],
                table_definition(calibration_table(spec), columns),
                automation_condition=model.follows(),
            )
        ],
        can_subset=True,
        op_tags=model.op_tags("drift_calibration"),
    )
    def drift_calibration(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
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

    return drift_calibration


def drift_report_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/drift_report``: recent features and predictions against the champion's own training rows."""
    spec = model.spec
    key = model.key("drift_report")
    columns = [
        Column(REPORTED_DAY, "timestamp", "First instant of the day reported on.", "UTC", nullable=False),
        Column("column_name", "text", "A feature, or `score` for the predictions.", nullable=False),
        Column("psi", "number", "Population stability index over all rows.", nullable=False),
        Column("asked", "text", "What moved most: the value, the value given the other features, the share missing."),
        Column("effect", "number", "By how much: standard deviations of the training rows, or share of rows."),
        Column("chance", "number", "What windows without change differ by, likewise: one standard deviation."),
        Column("importance", "number", "The feature's share of the model's gain.", "share"),
        Column("strength", "number", "Effect over chance, by the root of importance over the largest; 0 if small."),
        Column("drifted", "boolean", "Whether the strength exceeds the limit."),
        Column("ignored", "boolean", "Whether it has no part in the verdict: it moves by construction."),
        Column("missing_reference", "number", "Share missing in the training rows.", "share"),
        Column("missing_current", "number", "Share missing in the window.", "share"),
        Column("rows_reference", "integer", "Training rows compared.", "rows"),
        Column("rows_current", "integer", "Predictions compared.", "rows"),
        Column("strongest", "number", "The largest strength of any column."),
        Column("alarm_limit", "number", "The strength above which a window is an alarm, as calibrated."),
        Column("alarm", "boolean", "Whether the day is an alarm."),
        Column("reason", "text", "Why, or why not."),
    ]

    @dg.multi_asset(
        name=f"{spec.name}__drift_report",
        specs=[
            model.asset(
                "drift_report",
                "Features and scores of the trailing window against the champion's training rows: effects on all rows, "
                "weighted by importance, decide by the calibrated limit; Evidently's page shows a fixed-seed sample.",
                {"delta", "evidently"},
                [
                    dg.AssetDep(
                        model.key("predictions"), partition_mapping=looking_back(look_back_days(spec.drift.window))
                    ),
                    model.key("drift_calibration"),
                ],
                table_definition(drift_table(spec), columns),
                automation_condition=model.catches_up("drift_report"),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                DRIFT,
                asset=key,
                partitions_def=model.days,
                description="No effect, weighted by importance, is stronger than the calibrated limit.",
            )
        ],
        partitions_def=model.days,
        backfill_policy=backfill_policy(),
        can_subset=True,
        op_tags=model.op_tags("drift_report"),
    )
    def drift_report(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
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
            platform.lake, spec, champion.version, reference, context.partition_keys, model.watermark(platform)
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

    return drift_report


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
