"""Deciding who is champion, by the gates or on a person's word."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from ml_platform.assets import wording
from ml_platform.assets.champion import DecisionConfig
from ml_platform.assets.events import report_whole
from ml_platform.assets.metadata import picture
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.steps.ledger import report_entries
from ml_platform.assets.steps.training import evaluate_candidate, evaluation_of, newest_candidate
from ml_platform.core import plots
from ml_platform.core.metrics import metric
from ml_platform.core.promotion import Decision, decide
from ml_platform.core.scoring import raw_scores
from ml_platform.core.splits import split
from ml_platform.resources.platform import Platform
from ml_platform.stores import manual_decisions
from ml_platform.stores.ledger import RESTORED, LedgerEntry, PromotionConflictError, named_version
from ml_platform.stores.manual_decisions import Instruction
from ml_platform.stores.model_tables import stored_training_set
from ml_platform.stores.models import ModelVersion
from ml_platform.stores.table_names import evaluation_table

_RECORD: dict[str, Callable[..., LedgerEntry]] = {
    "promote": manual_decisions.promote,
    "reject": manual_decisions.reject,
    "rollback": manual_decisions.rollback,
}

_CLEAN_PROCESS_ROWS = 20

_ATTEMPTS = 5
"""How often a candidate is compared anew because the champion changed meanwhile: people do not decide that often."""


def decide_on_candidate(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Have the gates decide on the newest candidate, once, and report who is champion."""
    spec, key = model.spec, model.key("champion")
    candidate = newest_candidate(platform, model)
    entry = platform.models.ledger.decision_on(spec.name, candidate.version)
    if entry is None:
        _decide(context, platform, model, candidate)
    else:
        context.log.info("version %s was decided on before: %s", candidate.version, entry.reason)
    report_entries(context, platform, spec.name)
    current = platform.models.champion(spec.name)
    yield from report_whole(context, key, champion_identity(current), champion_metadata(platform, model, current))


def decide_by_hand(
    context: dg.OpExecutionContext, platform: Platform, model: ModelIdentity, verdict: str, config: DecisionConfig
) -> None:
    """Record a person's decision, and report who is champion."""
    spec = model.spec
    by = Instruction(config.person, config.reason, model.watermark(platform), context.run_id, model.service.hash)
    entry = _RECORD[verdict](platform.models, spec.name, config.version, by)
    context.log.info("version %s: %s by %s", entry.version, entry.rule.replace("_", " "), entry.decided_by)
    report_entries(context, platform, spec.name)
    current = platform.models.champion(spec.name)
    context.log_event(
        dg.AssetMaterialization(
            model.key("champion"),
            metadata=champion_metadata(platform, model, current),
            tags={DATA_VERSION_TAG: champion_identity(current)},
        )
    )


def champion_identity(champion: ModelVersion | None) -> str:
    """The data version of ``<model>/champion``: which model predicts."""
    return "none" if champion is None else f"{champion.version}:{champion.model_hash}"


def champion_metadata(platform: Platform, model: ModelIdentity, current: ModelVersion | None) -> dict[str, Any]:
    """Who is champion, since when and why, and the last decision with its gates."""
    ledger = platform.models.ledger
    promotion, last = ledger.champion(model.spec.name), ledger.latest(model.spec.name)
    metadata: dict[str, Any] = {
        "explanation": dg.MetadataValue.md(
            wording.NO_CHAMPION
            if current is None or promotion is None
            else wording.explanation(current, promotion, platform.settings)
        )
    }
    if last is not None:
        metadata |= {
            "last_decision": dg.MetadataValue.md(wording.decision(last)),
            "served": dg.MetadataValue.md(wording.champions(ledger.served(model.spec.name))),
            "candidate_version": last.version,
            "promoted": int(last.promoted),
        }
        if last.gate_results:
            metadata["gates"] = dg.MetadataValue.md(wording.gates_table(last))
    metadata["history"] = picture(_evaluation_history(platform, model), "evaluations by event time")
    if current is not None:
        figures = {k.removeprefix("holdout_"): v for k, v in current.metrics.items() if k.startswith("holdout_")}
        metadata |= {
            "champion_version": current.version,
            "trained_through": dg.MetadataValue.timestamp(current.trained_through),
            "training_rows": current.provenance.training_rows,
            "evaluated_rows": figures.pop("rows"),
            "mlflow": wording.mlflow_links(current),
            **{name: value for name, value in figures.items() if name != "champion_rows"},
        }
    return metadata


def _decide(
    context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity, candidate: ModelVersion
) -> None:
    """Have the gates decide on a candidate beside whoever is champion when they do."""
    spec = model.spec
    stored = stored_training_set(platform.lake, spec, candidate.provenance.training_set_version)
    rows = split(stored.frame, spec.windows, candidate.provenance.as_of).holdout.head(_CLEAN_PROCESS_ROWS)
    scores = raw_scores(platform.models.load(spec.name, candidate.version), rows)
    check = platform.models.check_clean_process(spec.name, candidate.version, rows, scores.tolist())
    for _ in range(_ATTEMPTS):
        report, champion = evaluation_of(platform, candidate), platform.models.champion(spec.name)
        now, standing = None if champion is None else champion.version, platform.models.ledger.champion(spec.name)
        if now != report.champion_version:
            _evaluate_anew(context, platform, model, candidate, f"champion is now {named_version(now)}")
            continue
        decision: Decision = decide(
            spec,
            report,
            champion_age=None if champion is None else candidate.provenance.as_of - champion.trained_through,
            latency_ms=check.median_ms,
            loads_cleanly=check.ok,
            restored=standing is not None and standing.rule == RESTORED,
        )
        context.log.info("%s", decision.reason)
        try:
            platform.models.promote(
                spec.name,
                candidate.version,
                decision,
                expected_current=report.champion_version,
                watermark=candidate.provenance.as_of,
                by="automation",
                run_id=context.run_id,
            )
        except PromotionConflictError as conflict:
            context.log.info("%s", conflict)
            continue
        return
    raise dg.Failure(
        f"the champion of {spec.name} changed {_ATTEMPTS} times while version {candidate.version} was judged"
    )


def _evaluate_anew(
    context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity, candidate: ModelVersion, why: str
) -> None:
    """Compare a candidate with the present champion, and say so as the asset ``<model>/evaluation_report`` does."""
    context.log.info("version %s is evaluated again: %s", candidate.version, why)
    data_version, metadata = evaluate_candidate(context, platform, model, candidate)
    key = model.key("evaluation_report")
    context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags={DATA_VERSION_TAG: data_version}))


def _evaluation_history(platform: Platform, model: ModelIdentity) -> bytes:
    """The gate's metric of every version and its rivals, at the event time of its evaluation."""
    spec = model.spec
    judged = metric(spec.gate.metric, spec.task)
    rows = platform.lake.read(evaluation_table(spec)).filter(
        pl.col("section") == "metric", pl.col("name") == judged.name, pl.col("value").is_not_null()
    )
    return plots.metric_over_time(
        rows.select(
            pl.col("evaluated_at_watermark").alias("time"), "value", "low", "high", pl.col("subject").alias("group")
        ),
        metric=judged.name,
        unit=judged.unit,
        title=f"{spec.name}: {judged.name} of every candidate on its held-out rows",
    )
