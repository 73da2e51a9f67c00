"""Telling Dagster of the ledger's entries."""

import dagster as dg

from ml_platform.assets import wording
from ml_platform.assets.ledger import LEDGER
from ml_platform.resources.platform import Platform
from ml_platform.stores.ledger import LedgerEntry

_EVENTS_READ = 10_000
"""Of the newest decisions on all models: what is older than these is not told again."""


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
