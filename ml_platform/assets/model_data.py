"""The assets that feed a model and hold what it said: labels, training set, predictions."""

import json
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.assets.events import DayReport, report_days, report_whole
from ml_platform.assets.metadata import Column, day_metadata, picture, sample_rows, table_definition
from ml_platform.assets.model_identity import ModelIdentity, all_days
from ml_platform.assets.pods import backfill_policy
from ml_platform.assets.wording import retraining
from ml_platform.automation.calendar import looking_back
from ml_platform.automation.conditions import on_evidence
from ml_platform.automation.runs import AUTOMATION_CONDITION_TAG, EVIDENCE_TAG, REASON_TAG, TRIGGER_TAG, of_model
from ml_platform.core import plots
from ml_platform.core.durations import format_duration
from ml_platform.core.model_spec import Task
from ml_platform.core.retraining import RetrainVerdict, judge
from ml_platform.resources.platform import Platform
from ml_platform.resources.run_tags import add_run_tags
from ml_platform.stores.incremental import Outcome, Status, derive, look_back_days
from ml_platform.stores.model_tables import (
    BlockedInputError,
    TrainingSet,
    build_training_set,
    labels_derivation,
    labels_table,
    predict,
    predictions_table,
    training_table,
)
from ml_platform.stores.monitoring import drift_reference
from ml_platform.stores.retraining import gather
from ml_platform.stores.training_requests import TrainingRequests


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
        outcomes = derive(platform.lake, derivation, context.partition_keys, model.watermark(platform))
        yield from report_days(context, model.key("labels"), [DayReport(o, day_metadata(o)) for o in outcomes])

    return labels


def training_set_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/training_set``: labels joined point in time with the feature service."""
    spec = model.spec
    key = model.key("training_set")
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
        watermark = model.watermark(platform)
        verdict = judge(spec, gather(platform.lake, spec, watermark))
        _say_why(context, spec.name, verdict)
        try:
            built, anew = build_training_set(platform.lake, platform.features, spec, watermark)
        except BlockedInputError as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        # A training that cannot begin leaves what was asked for waiting.
        TrainingRequests(platform.lake).take(spec.name, context.run_id)
        context.log.info("%s rows, %s", built.frame.height, "joined anew" if anew else "inputs unchanged")
        said = {"why": dg.MetadataValue.md(retraining(verdict))}
        yield from report_whole(context, key, built.state.content_hash, said | _training_metadata(built))

    return training_set


def predictions_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/predictions``: what was due each day, scored by the champion and by nothing else."""
    spec = model.spec
    key = model.key("predictions")
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
        champion = platform.models.champion(spec.name)
        if champion is None:
            reason = f"{spec.name} has no champion yet: nothing may predict"
            outcomes = [Outcome(day, Status.WAITING, None, reason) for day in context.partition_keys]
            yield from report_days(context, key, [DayReport(outcome) for outcome in outcomes])
            return
        fitted = platform.models.load(spec.name, champion.version)
        outcomes = list(
            predict(
                platform.lake,
                platform.features,
                spec,
                model.dataset,
                champion.version,
                fitted,
                context.partition_keys,
                model.watermark(platform),
            )
        )
        reports = [DayReport(outcome, {"champion": champion.version, **day_metadata(outcome)}) for outcome in outcomes]
        changed = [n for n, outcome in enumerate(outcomes) if outcome.status is Status.WRITTEN and outcome.state]
        if changed:
            training = drift_reference(platform.lake, spec, champion, fitted).rows["score"]
            scores = platform.lake.read(predictions_table(spec), columns=["score", "model_version"])
            own = scores.filter(pl.col("model_version") == champion.version)["score"]
            image = plots.score_distribution(
                training,
                own,
                title=f"{spec.name} version {champion.version}: scores",
                unit=f"score ({spec.label_unit})",
            )
            newest = changed[-1]
            metadata = {"score_distribution": picture(image, "distribution of scores"), **reports[newest].metadata}
            reports[newest] = DayReport(outcomes[newest], metadata)
        yield from report_days(context, key, reports)

    return predictions


def _say_why(context: dg.AssetExecutionContext, model: str, verdict: RetrainVerdict) -> None:
    """Leave trigger and evidence with the run, unless it brought its own: it may have begun for another reason."""
    context.log.info("%s", verdict.reason)
    by_policy = verdict.retrain or context.run.tags.get(AUTOMATION_CONDITION_TAG) == "true"
    tags = {
        of_model(TRIGGER_TAG, model): ", ".join(verdict.triggers) if by_policy and verdict.triggers else "by hand",
        of_model(EVIDENCE_TAG, model): json.dumps(
            [{name: getattr(each, name) for name in _KEPT} for each in verdict.conditions]
        ),
    }
    added = {name: value for name, value in tags.items() if name not in context.run.tags}
    if by_policy:
        added[of_model(REASON_TAG, model)] = verdict.reason
    add_run_tags(context.instance, context.run_id, added)


_KEPT = ("name", "role", "holds", "value", "bound")
"""Of each part of a verdict; its explanation is in the reason or follows from these."""


def _training_metadata(built: TrainingSet) -> dict[str, Any]:
    frame, state = built.frame, built.state
    return {
        "dagster/row_count": frame.height,
        "label_rate": built.label_rate,
        "features": len(built.service.features),
        "as_of": dg.MetadataValue.timestamp(built.as_of),
        "first_prediction_time": str(frame["prediction_time"].min()),
        "last_label_time": str(frame["label_time"].max()),
        "delta_version": state.delta_version,
        "content_hash": state.content_hash,
        "feature_service": built.service.name,
        "feature_service_hash": built.service.hash,
        "inputs": dg.MetadataValue.json(dict(state.inputs)),
        "sample": sample_rows(frame),
    }
