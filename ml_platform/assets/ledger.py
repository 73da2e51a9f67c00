"""The ledger as an asset: Dagster hears of every entry, whoever made it."""

from collections.abc import Sequence

import dagster as dg

from ml_platform.assets import wording
from ml_platform.assets.metadata import Column, table_definition
from ml_platform.core.model_spec import ModelSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.ledger import TABLE, LedgerEntry

LEDGER = dg.AssetKey(TABLE.split("/"))

_EVENTS_READ = 10_000
"""Of the newest decisions on all models: what is older than these is not told again."""

_COLUMNS = [
    Column("model", "text", "Which model.", nullable=False),
    Column("version", "integer", "Version decided on.", nullable=False),
    Column("previous_version", "integer", "Champion before the decision; empty if there was none."),
    Column("promoted", "boolean", "Whether the version became champion.", nullable=False),
    Column("rule", "text", "What decided: a rule of the gates, or what a person asked for.", nullable=False),
    Column("reason", "text", "Why, with the figures that decided or in the person's words.", nullable=False),
    Column("gates", "text", "Every gate as JSON: name, passed, value, bound, explanation.", nullable=False),
    Column("decided_at_watermark", "timestamp", "Event time that the decision speaks of.", "UTC", nullable=False),
    Column("decided_at", "timestamp", "Wall time of the decision.", "UTC", nullable=False),
    Column("decided_by", "text", "`automation`, or the person.", nullable=False),
    Column("run_id", "text", "The Dagster run that made it.", nullable=False),
    Column("sequence", "integer", "Its number in the model's history, from 1.", nullable=False),
]


def ledger_spec(models: Sequence[ModelSpec]) -> dg.AssetSpec:
    """``ledger/promotions``: appended to by champions' steps and by people's decisions, never by a step of its own."""
    return dg.AssetSpec(
        LEDGER,
        deps=[dg.AssetKey([model.name, "champion"]) for model in models],
        description="Every decision on a model version, appended and never changed: what served when, why, and on "
        "whose word. Each entry is an event here.",
        group_name="ledger",
        owners=sorted({owner for model in models for owner in model.owners}),
        kinds={"delta"},
        tags={"stage": "ledger"},
        metadata=table_definition(TABLE, _COLUMNS),
    )


def report_entries(context: dg.OpExecutionContext | dg.AssetExecutionContext, platform: Platform, model: str) -> None:
    """Tell Dagster of the entries on a model that it has not heard of: the newest, and what a killed run left."""
    told = context.instance.fetch_materializations(LEDGER, limit=_EVENTS_READ).records
    events = [record.asset_materialization for record in told if record.asset_materialization is not None]
    known = {event.metadata["sequence"].value for event in events if event.metadata["model"].value == model}
    for row in platform.models.ledger.history(model).iter_rows(named=True):
        if row["sequence"] not in known:
            _report(context, platform, LedgerEntry(**row))


def _report(context: dg.OpExecutionContext | dg.AssetExecutionContext, platform: Platform, entry: LedgerEntry) -> None:
    served = platform.models.ledger.served(entry.model)
    context.log_event(
        dg.AssetMaterialization(
            LEDGER,
            description=f"{entry.model} version {entry.version}: {entry.rule.replace('_', ' ')}",
            metadata={
                "decision": dg.MetadataValue.md(wording.decision(entry)),
                "served": dg.MetadataValue.md(wording.champions(served)),
                "model": entry.model,
                "version": entry.version,
                "sequence": entry.sequence,
                "promoted": int(entry.promoted),
                "dagster/row_count": platform.models.ledger.history().height,
            },
        )
    )
