"""The asset of a raw table: landed files that kept their contract."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from ml_platform.assets.events import CheckResult, DayReport, report_days, report_whole
from ml_platform.assets.metadata import contract_columns, day_metadata, sample_rows, table_definition
from ml_platform.automation.calendar import daily
from ml_platform.core.dataset import DatasetSpec
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.incremental import Outcome, Status
from ml_platform.stores.ingest import ingest, raw_table
from ml_platform.stores.lake import WHOLE

CONTRACT = "contract"


def table_asset(spec: TableSpec, dataset: DatasetSpec) -> dg.AssetsDefinition:
    """``raw/<table>`` with its blocking contract check, by day unless it is a reference table."""
    key = dg.AssetKey(["raw", spec.name])
    partitioned = spec.kind is TableKind.PARTITIONED
    days = daily(dataset) if partitioned else None
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
            )
        ],
        check_specs=[check],
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run() if partitioned else None,
        can_subset=True,
    )
    def raw(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        if not partitioned:
            (outcome,) = ingest(platform.lake, platform.landing, spec, [WHOLE])
            yield from _report_reference(context, key, outcome)
            return
        outcomes = ingest(platform.lake, platform.landing, spec, context.partition_keys)
        yield from report_days(context, key, [_report(outcome) for outcome in outcomes])

    return raw


def _report(outcome: Outcome) -> DayReport:
    return DayReport(outcome, day_metadata(outcome), _contract_check(outcome))


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
