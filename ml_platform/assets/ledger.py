"""The ledger as an asset: Dagster hears of every entry, whoever made it."""

from collections.abc import Sequence

import dagster as dg

from ml_platform.assets.metadata import Column, table_definition
from ml_platform.core.model_spec import ModelSpec
from ml_platform.stores.table_names import PROMOTIONS

LEDGER = dg.AssetKey(PROMOTIONS.split("/"))


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
        metadata=table_definition(PROMOTIONS, _COLUMNS),
    )
