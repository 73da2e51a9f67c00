"""Making what feeds a model, and what it says: labels, training set, predictions."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.assets.events import DayReport, report_days, report_whole
from ml_platform.assets.metadata import day_metadata, picture, sample_rows
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.wording import retraining
from ml_platform.automation.runs import AUTOMATION_CONDITION_TAG, EVIDENCE_TAG, REASON_TAG, TRIGGER_TAG, of_model
from ml_platform.core import plots
from ml_platform.core.retraining import RetrainVerdict, judge
from ml_platform.resources.platform import Platform
from ml_platform.resources.run_tags import add_run_tags
from ml_platform.stores.derivation import Derivation, day_bounds
from ml_platform.stores.incremental import Outcome, Status, derive
from ml_platform.stores.model_tables import (
    BlockedInputError,
    SupersededError,
    TrainingSet,
    build_training_set,
    predict,
)
from ml_platform.stores.monitoring import drift_current, drift_reference
from ml_platform.stores.retraining import gather
from ml_platform.stores.training_requests import TrainingRequests

if TYPE_CHECKING:
    from ml_platform.core.training import FittedModel

_KEPT = ("name", "role", "holds", "value", "bound")
"""Of each part of a verdict; its explanation is in the reason or follows from these."""


def fill_labels(
    context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity, derivation: Derivation
) -> Iterator[Any]:
    """Bring the labels of the asked days up to date."""
    outcomes = derive(platform.lake, derivation, context.partition_keys, model.watermark(platform))
    yield from report_days(context, model.key("labels"), [DayReport(o, day_metadata(o)) for o in outcomes])


def join_training_set(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Join the training set, and say why it is made."""
    spec, key = model.spec, model.key("training_set")
    watermark = model.known_through(platform)
    verdict = judge(spec, gather(platform.lake, spec, watermark))
    _say_why(context, spec.name, verdict)
    try:
        built, anew = build_training_set(platform.lake, platform.features, spec, watermark)
    except BlockedInputError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    # A training that cannot begin leaves what was asked for waiting.
    TrainingRequests(platform.lake).take(spec.name, context.run_id, watermark)
    context.log.info("%s rows, %s", built.frame.height, "joined anew" if anew else "inputs unchanged")
    said = {"why": dg.MetadataValue.md(retraining(verdict))}
    yield from report_whole(context, key, built.state.content_hash, said | _training_metadata(built))


def score_days(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Score what is due on the asked days by the champion.

    If another version becomes champion meanwhile, its predecessor's scores that are not written yet never are: the new
    one scores these days.
    """
    spec, key = model.spec, model.key("predictions")
    while True:
        champion = platform.models.champion(spec.name)
        if champion is None:
            reason = f"{spec.name} has no champion yet: nothing may predict"
            outcomes = [Outcome(day, Status.WAITING, None, reason) for day in context.partition_keys]
            yield from report_days(context, key, [DayReport(outcome) for outcome in outcomes])
            return
        fitted = platform.models.load(spec.name, champion.version)
        try:
            outcomes = list(_scored(platform, model, champion.version, fitted, context.partition_keys))
            break
        except SupersededError as superseded:
            context.log.info("%s: the days are scored by its successor", superseded)
    reports = [DayReport(outcome, {"champion": champion.version, **day_metadata(outcome)}) for outcome in outcomes]
    changed = [n for n, outcome in enumerate(outcomes) if outcome.status is Status.WRITTEN and outcome.state]
    if changed:
        newest = changed[-1]
        day = outcomes[newest].day
        image = plots.score_distribution(
            drift_reference(platform.lake, spec, champion, fitted).rows["score"],
            drift_current(platform.lake, spec, champion.version, day_bounds(day)[1])["score"],
            title=f"{spec.name} version {champion.version}: scores in the drift window up to {day}",
            unit=f"score ({spec.label_unit})",
        )
        metadata = {"score_distribution": picture(image, "distribution of scores"), **reports[newest].metadata}
        reports[newest] = DayReport(outcomes[newest], metadata)
    yield from report_days(context, key, reports)


def _scored(
    platform: Platform, model: ModelIdentity, version: int, fitted: "FittedModel", days: Sequence[str]
) -> Iterator[Outcome]:
    def serves() -> bool:
        champion = platform.models.ledger.champion(model.spec.name)
        return champion is not None and champion.version == version

    known_through = model.known_through(platform)
    return predict(
        platform.lake, platform.features, model.spec, model.dataset, version, fitted, days, known_through, serves
    )


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
