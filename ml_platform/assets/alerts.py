"""The alerts as assets: who was told what, and what became of it, beside the data that it is about."""

from collections.abc import Sequence

import dagster as dg

from ml_platform.assets.metadata import Column, table_definition
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.table_names import ALERT_EVENTS, ALERTS

_ALERTS = [
    Column("alert_id", "text", "Identifies the alert; every delivery carries it.", nullable=False),
    Column("kind", "text", "What it is about; its runbook has this name.", nullable=False),
    Column("severity", "text", "`info`, `warning` or `critical`.", nullable=False),
    Column("subject", "text", "Table, partition, model, job or sensor that it is about.", nullable=False),
    Column("title", "text", "The alert in one line.", nullable=False),
    Column("text", "text", "What happened, with the figures.", nullable=False),
    Column(
        "since", "timestamp", "When it happened or began; event time for drift and performance.", "UTC", nullable=False
    ),
    Column("raised_at", "timestamp", "Wall time at which it was raised.", "UTC", nullable=False),
    Column("link", "text", "Where to look.", nullable=False),
    Column("runbook", "text", "The file that says what to do.", nullable=False),
    Column("advice", "text", "That file in one line.", nullable=False),
    Column("causes", "text", "Identities of its causes, as JSON; no other alert has them.", nullable=False),
    Column("sinks", "text", "Whom it is owed to.", nullable=False),
    Column("sequence", "integer", "Its number, from 1.", nullable=False),
]
_EVENTS = [
    Column("alert_id", "text", "Which alert.", nullable=False),
    Column("event", "text", "`delivered`, `failed`, or `ended`: its cause is gone.", nullable=False),
    Column("sink", "text", "Where it was sent; empty if it ended.", nullable=False),
    Column("happened_at", "timestamp", "Wall time.", "UTC", nullable=False),
    Column("detail", "text", "Why a delivery failed.", nullable=False),
]


def alert_specs(datasets: Sequence[Dataset]) -> list[dg.AssetSpec]:
    """``ledger/alerts`` and ``ledger/alert_events``: appended to by the sensor, never by a step."""
    alerts = dg.AssetKey(ALERTS.split("/"))
    descriptions = {
        ALERTS: "Every alert, appended and never changed: what happened, how urgent it is, where to look and what to "
        "do. Each alert is an event here.",
        ALERT_EVENTS: "What became of each alert: when it reached whom, which deliveries failed, when its cause "
        "was gone.",
    }
    declared = [owners for d in datasets for owners in (*(t.owners for t in d.tables), *(m.owners for m in d.models))]
    return [
        dg.AssetSpec(
            key.split("/"),
            deps=[] if key == ALERTS else [alerts],
            description=descriptions[key],
            group_name="ledger",
            owners=sorted({owner for owners in declared for owner in owners}),
            kinds={"delta"},
            tags={"stage": "ledger"},
            metadata=table_definition(key, columns),
        )
        for key, columns in ((ALERTS, _ALERTS), (ALERT_EVENTS, _EVENTS))
    ]
