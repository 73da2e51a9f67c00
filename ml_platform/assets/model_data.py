"""The assets that feed a model and hold what it said: labels, training set, predictions."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ml_platform.assets.metadata import Column, table_definition
from ml_platform.assets.model_identity import ModelIdentity, all_days
from ml_platform.assets.pods import backfill_policy
from ml_platform.automation.calendar import looking_back
from ml_platform.automation.conditions import on_evidence
from ml_platform.core.durations import format_duration
from ml_platform.core.model_spec import Task
from ml_platform.resources.platform import Platform
from ml_platform.stores.derivation import look_back_days
from ml_platform.stores.labels import labels_derivation
from ml_platform.stores.table_names import labels_table, predictions_table, training_table


def labels_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/labels``: the entity frame, by the day each label became known."""
    spec = model.spec
    derivation = labels_derivation(spec, model.dataset)
    reach = {source.table.removeprefix("raw/"): look_back_days(source.look_back) for source in derivation.inputs}
    deps = [
        dg.AssetDep(dg.AssetKey(["raw", name]), partition_mapping=looking_back(days) if days else None)
        for name, days in reach.items()
    ]

    @dg.multi_asset(
        name=f"{spec.name}__labels",
        specs=[
            model.asset(
                "labels",
                f"What was to be predicted and what became of it ({spec.label_unit}), by the day it became known.",
                {"delta", "polars"},
                deps,
                table_definition(labels_table(spec), model.label_table_columns()),
                derivation.code_version,
                automation_condition=model.catches_up("labels"),
            )
        ],
        partitions_def=model.days,
        backfill_policy=backfill_policy(),
        can_subset=True,
        op_tags=model.op_tags("labels"),
    )
    def labels(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.model_data import fill_labels

        yield from fill_labels(context, platform, model, derivation)

    return labels


def training_set_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/training_set``: labels joined point in time with the feature service."""
    spec = model.spec
    views = [view for view in model.service.views if model.manifest.view(view).kind == "batch"]
    window = format_duration(spec.windows.training + spec.windows.holdout)

    @dg.multi_asset(
        name=f"{spec.name}__training_set",
        specs=[
            model.asset(
                "training_set",
                f"The labels of the {window} before the watermark with the features of {spec.service} as they were "
                "known at each prediction time.",
                {"delta", "feast"},
                [all_days(model.key("labels")), *(all_days(dg.AssetKey(["features", view])) for view in views)],
                table_definition(
                    training_table(spec), [*model.key_columns(), *model.label_columns(), *model.feature_columns()]
                ),
                automation_condition=on_evidence(spec, model.dataset),
            )
        ],
        can_subset=True,
        op_tags=model.op_tags("training_set"),
    )
    def training_set(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.model_data import join_training_set

        yield from join_training_set(context, platform, model)

    return training_set


def predictions_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/predictions``: what was due each day, scored by the champion and by nothing else."""
    spec = model.spec
    views = [view for view in model.service.views if model.manifest.view(view).kind == "batch"]
    deps: list[dg.AssetDep | dg.AssetKey] = [model.key("champion")]
    days = look_back_days(spec.entities.look_back)
    deps += [
        dg.AssetDep(dg.AssetKey(["raw", name]), partition_mapping=looking_back(days) if days else None)
        for name in spec.entities.inputs
    ]
    for view in views:
        # Only a partitioned view has days; a reference view is read whole.
        partitioned = any(model.dataset.table(name).known_at for name in model.dataset.views[view].inputs)
        reach = look_back_days(ttl) if (ttl := model.manifest.view(view).ttl) else 0
        mapping = looking_back(reach) if partitioned and reach else None
        deps.append(dg.AssetDep(dg.AssetKey(["features", view]), partition_mapping=mapping))
    decided = [Column("decision", "boolean", "Score at or above the version's threshold.")]
    columns = [
        *model.key_columns(),
        Column("score", "number", f"Predicted: {spec.label_unit}", nullable=False),
        *(decided if spec.task is Task.BINARY else []),
        Column("model_version", "integer", "Registered version that predicted.", nullable=False),
        Column("feature_service_hash", "text", "What the features meant.", nullable=False),
        *model.feature_columns(),
    ]

    @dg.multi_asset(
        name=f"{spec.name}__predictions",
        specs=[
            model.asset(
                "predictions",
                "Everything due, scored once by each champion: an append-only record, features included.",
                {"delta", "lightgbm"},
                deps,
                table_definition(predictions_table(spec), columns),
                automation_condition=model.catches_up("predictions"),
            )
        ],
        partitions_def=model.days,
        backfill_policy=backfill_policy(),
        can_subset=True,
        op_tags=model.op_tags("predictions"),
    )
    def predictions(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.model_data import score_days

        yield from score_days(context, platform, model)

    return predictions
