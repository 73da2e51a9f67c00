"""The asset of a raw table: landed files that kept their contract."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.assets.events import CheckResult, DayReport, report_days, report_whole
from ml_platform.assets.metadata import contract_columns, day_metadata, picture, sample_rows, table_definition
from ml_platform.assets.pods import backfill_policy, op_tags
from ml_platform.automation.calendar import daily, fresh
from ml_platform.automation.conditions import on_leftovers
from ml_platform.core import plots
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.catalog import WHOLE
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.incremental import Outcome, Status
from ml_platform.stores.ingest import ingest, raw_table

CONTRACT = "contract"

_FOLLOWED = (
    "valid_rows",
    "quarantined_rows",
    "duplicate_rows",
    "completeness",
    "validity",
    "uniqueness",
    "timeliness",
    "consistency",
)
"""The figures of :class:`ml_platform.core.quality.Quality` that are drawn."""


def table_asset(spec: TableSpec, dataset: Dataset) -> dg.AssetsDefinition:
    """``raw/<table>`` with its blocking contract check, by day unless it is a reference table."""
    key = dg.AssetKey(["raw", spec.name])
    partitioned = spec.kind is TableKind.PARTITIONED
    days = daily(dataset.spec) if partitioned else None
    deps = [dg.AssetKey(["raw", spec.consistent_with.table])] if spec.consistent_with else []
    check = dg.AssetCheckSpec(
        CONTRACT,
        asset=key,
        blocking=True,
        partitions_def=days,
        description="Every landed file could be read and keeps a declared version of the contract; "
        "rows that break a rule are in quarantine with their reasons.",
    )

    @dg.multi_asset(
        name=f"raw__{spec.name}",
        specs=[
            dg.AssetSpec(
                key,
                deps=deps,
                description=spec.description,
                group_name=spec.group,
                owners=spec.owners,
                kinds={"delta", "csv"},
                tags={"dataset": dataset.name, "stage": "raw", **spec.tags},
                metadata=table_definition(raw_table(spec), contract_columns(spec)),
                automation_condition=on_leftovers(dataset, raw_table(spec)),
                freshness_policy=fresh(dataset.spec.freshness.raw if partitioned else None),
            )
        ],
        check_specs=[check],
        partitions_def=days,
        backfill_policy=backfill_policy() if partitioned else None,
        can_subset=True,
        op_tags=op_tags(spec.resources.over(dataset.spec.resources.tables)),
    )
    def raw(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        if not partitioned:
            (outcome,) = ingest(platform.lake, platform.landing, spec, [WHOLE])
            yield from _report_reference(context, key, outcome)
            return
        reports = [
            _report(outcome) for outcome in ingest(platform.lake, platform.landing, spec, context.partition_keys)
        ]
        written = [n for n, report in enumerate(reports) if report.outcome.status is Status.WRITTEN]
        if written:
            newest = reports[written[-1]]
            history = picture(_quality_history(platform, spec), "quality by day")
            reports[written[-1]] = replace(newest, metadata={"history": history, **newest.metadata})
        yield from report_days(context, key, reports)

    return raw


def _report(outcome: Outcome) -> DayReport:
    return DayReport(outcome, day_metadata(outcome), _contract_check(outcome))


def _quality_history(platform: Platform, spec: TableSpec) -> bytes:
    """The figures of every day that stands, by event time: Dagster's own plots end at the newest declared day."""
    days = [
        {"day": date.fromisoformat(day), **{name: state.facts[name] for name in _FOLLOWED if name in state.facts}}
        for day, state in platform.lake.partitions(raw_table(spec)).items()
        if state.facts
    ]
    return plots.quality_over_time(pl.DataFrame(days), title=f"{spec.name}: deliveries by the day they became known")


def _contract_check(outcome: Outcome) -> Sequence[CheckResult]:
    blocked = outcome.status is Status.BLOCKED
    facts = {} if blocked or outcome.state is None else dict(outcome.state.facts)
    return [CheckResult(CONTRACT, not blocked, outcome.reason if blocked else "the contract was kept", facts)]


def _report_reference(context: dg.AssetExecutionContext, key: dg.AssetKey, outcome: Outcome) -> Iterator[Any]:
    if outcome.state is None or outcome.status is Status.WAITING:
        raise dg.Failure(f"{key.to_user_string()}: {outcome.reason}", allow_retries=False)
    (result,) = _contract_check(outcome)
    check = dg.AssetCheckResult(
        check_name=CONTRACT, asset_key=key, passed=result.passed, description=result.description
    )
    metadata = day_metadata(outcome) | {"dagster/row_count": outcome.state.rows}
    if outcome.sample is not None:
        metadata["sample"] = sample_rows(outcome.sample)
    yield from report_whole(context, key, outcome.state.content_hash or "none", metadata, [check])
