"""The asset of a raw table: landed files that kept their contract."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ml_platform.assets.metadata import contract_columns, table_definition
from ml_platform.assets.pods import backfill_policy, op_tags
from ml_platform.automation.calendar import daily, fresh
from ml_platform.automation.conditions import on_leftovers
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.table_names import raw_table

CONTRACT = "contract"


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
        from ml_platform.assets.steps.tables import take_in

        yield from take_in(context, platform, spec, key)

    return raw
