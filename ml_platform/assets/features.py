"""The assets of a data set's feature views, and of the online store that serves them."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from ml_platform.assets.metadata import Column, table_definition
from ml_platform.assets.pods import ONLINE_POOL, backfill_policy, op_tags, pool
from ml_platform.automation.calendar import daily, fresh, looking_back
from ml_platform.automation.conditions import on_leftovers, on_new_input
from ml_platform.core.durations import format_duration
from ml_platform.core.feature_manifest import EVENT_TIME, ViewSpec
from ml_platform.core.model_spec import Transform
from ml_platform.resources.platform import Platform
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import look_back_days
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation

SCHEMA = "schema"


def view_asset(view: ViewSpec, transform: Transform, dataset: Dataset) -> dg.AssetsDefinition:
    """``features/<view>``: the rows of a Feast view, by day unless all its inputs are reference tables."""
    key = dg.AssetKey(["features", view.name])
    partitioned = any(dataset.table(name).known_at for name in transform.inputs)
    days = daily(dataset.spec) if partitioned else None
    derivation = view_derivation(view, bind(transform, dataset.folder))

    @dg.multi_asset(
        name=f"features__{view.name}",
        specs=[
            dg.AssetSpec(
                key,
                deps=[_dependency(name, transform, dataset) for name in transform.inputs],
                description=view.description,
                group_name="features",
                owners=[view.owner],
                kinds={"feast", "duckdb" if transform.sql else "polars"},
                tags={"dataset": dataset.name, "stage": "features", **view.tags},
                code_version=derivation.code_version,
                automation_condition=on_leftovers(dataset, derivation.table),
                metadata={
                    **table_definition(derivation.table, _columns(view)),
                    "ttl": "never expires" if view.ttl is None else format_duration(view.ttl),
                    "transform": transform.sql or transform.python or "",
                },
                freshness_policy=fresh(dataset.spec.freshness.features if partitioned else None),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                SCHEMA,
                asset=key,
                blocking=True,
                partitions_def=days,
                description="Rows have the columns and types that Feast declares, and one value per key and time.",
            )
        ],
        partitions_def=days,
        backfill_policy=backfill_policy() if partitioned else None,
        can_subset=True,
        op_tags=op_tags(dataset.spec.resources.of_view(view.name)),
    )
    def features(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.features import fill_view

        yield from fill_view(context, platform, derivation, dataset, key, partitioned=partitioned)

    return features


def online_asset(views: Sequence[ViewSpec], dataset: Dataset) -> dg.AssetsDefinition:
    """``online_features``: the newest row of every key in the online store, counted on both sides."""
    key = dg.AssetKey("online_features")
    stored = [view for view in views if view.kind == "batch"]

    @dg.multi_asset(
        name="online_features",
        specs=[
            dg.AssetSpec(
                key,
                deps=[
                    dg.AssetDep(dg.AssetKey(["features", view.name]), partition_mapping=dg.AllPartitionMapping())
                    for view in stored
                ],
                description="The newest row of every key of every feature view, as the online store serves it.",
                group_name="features",
                owners=sorted({view.owner for view in stored}),
                kinds={"feast"},
                tags={"dataset": dataset.name, "stage": "features"},
                automation_condition=on_new_input(dataset),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec("complete", asset=key, description="The online store holds every key of the offline one.")
        ],
        can_subset=True,
        op_tags=op_tags(dataset.spec.resources.online_features),
        pool=pool(ONLINE_POOL),
    )
    def online_features(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.features import push_online

        yield from push_online(context, platform, stored, key)

    return online_features


def _dependency(table: str, transform: Transform, dataset: Dataset) -> dg.AssetDep:
    reach = look_back_days(transform.look_back)
    mapping = looking_back(reach) if dataset.table(table).known_at and reach else None
    return dg.AssetDep(dg.AssetKey(["raw", table]), partition_mapping=mapping)


def _columns(view: ViewSpec) -> list[Column]:
    moment = Column(EVENT_TIME, "timestamp", "When the row's values became known.", "UTC", nullable=False)
    keys = [Column(key.name, key.dtype, key.description, key.unit, nullable=False) for key in view.join_keys]
    return [*keys, moment, *(Column(f.name, f.dtype, f.description, f.unit) for f in view.features)]
