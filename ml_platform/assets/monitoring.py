"""The assets that watch a champion: performance once labels are known, drift before."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ml_platform.assets.metadata import Column, table_definition
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.pods import backfill_policy
from ml_platform.automation.calendar import looking_back
from ml_platform.core.model_spec import WITHIN
from ml_platform.resources.platform import Platform
from ml_platform.stores.derivation import look_back_days
from ml_platform.stores.table_names import REPORTED_DAY, calibration_table, drift_table, performance_table

DRIFT = "drift"


def performance_report_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/performance_report``: predictions joined with the labels that have landed since."""
    spec = model.spec
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
        from ml_platform.assets.steps.monitoring import report_performance_of

        yield from report_performance_of(context, platform, model)

    return performance_report


def drift_calibration_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/drift_calibration``: the limit of drift from a champion, and what it is known to do."""
    spec = model.spec
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
        from ml_platform.assets.steps.monitoring import calibrate

        yield from calibrate(context, platform, model)

    return drift_calibration


def drift_report_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/drift_report``: recent features and predictions against the champion's own training rows."""
    spec = model.spec
    key = model.key("drift_report")
    columns = [
        Column(REPORTED_DAY, "timestamp", "First instant of the day reported on.", "UTC", nullable=False),
        Column("model_version", "integer", "Champion of the time: its predictions, its training rows."),
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
                "weighted by importance, decide by the calibrated limit; Evidently's page shows a fixed-seed sample. "
                "What was reported on a champion's days stays when another follows.",
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
        from ml_platform.assets.steps.monitoring import report_drift_of

        yield from report_drift_of(context, platform, model)

    return drift_report
