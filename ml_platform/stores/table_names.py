"""The lake's tables by name.

Belongs here: what a table is called, in the lake and in SQL, and its columns where several modules speak of them. What
is in it is the business of who writes it.
"""

import re
from collections.abc import Mapping

from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.table_spec import TableSpec

PROMOTIONS = "ledger/promotions"
"""Every decision on a model version."""

ALERTS, ALERT_EVENTS = "ledger/alerts", "ledger/alert_events"
"""Every alert that was raised, and what became of each."""

REPORTED_DAY = "reported_day"
"""First instant of the UTC day that a row of a report speaks of."""

BACKUPS, BEGUN_AT = "ledger/backups", "begun_at"
"""No table, but an asset of which every finished backup is an event, and the metadata that says when it was begun."""

LANDED_THROUGH = "landed_through"
"""The fact on record of a raw partition: the end of the newest period taken in for it (seconds since 1970)."""

EVALUATION_COLUMNS: Mapping[str, tuple[str, str]] = {
    "model_version": ("integer", "Registered version that was evaluated."),
    "evaluated_at_watermark": ("timestamp", "Event time from which it was evaluated (UTC)."),
    "section": ("text", "Kind of figure: metric, improvement, slice, calibration, importance and so on."),
    "name": ("text", "Which figure of that kind."),
    "subject": ("text", "Candidate, baseline or champion; or the slice, bin or feature."),
    "value": ("number", "The figure."),
    "low": ("number", "Lower end of its interval."),
    "high": ("number", "Upper end of its interval."),
    "rows": ("integer", "Rows it was measured on."),
}
"""Columns of the table: type and meaning."""


def raw_table(spec: TableSpec) -> str:
    """The lake table of accepted rows."""
    return f"raw/{spec.name}"


def quarantine_table(spec: TableSpec) -> str:
    """The lake table of rows that broke the contract, with their reasons."""
    return f"quarantine/{spec.name}"


def labels_table(spec: ModelSpec) -> str:
    """The lake table of the model's labels."""
    return f"{spec.name}/labels"


def training_table(spec: ModelSpec) -> str:
    """The lake table of the model's training set."""
    return f"{spec.name}/training_set"


def predictions_table(spec: ModelSpec) -> str:
    """The lake table of the model's predictions."""
    return f"{spec.name}/predictions"


def evaluation_table(spec: ModelSpec) -> str:
    """The lake table of evaluations."""
    return f"{spec.name}/evaluation_report"


def performance_table(spec: ModelSpec) -> str:
    """The lake table of performance figures."""
    return f"{spec.name}/performance_report"


def drift_table(spec: ModelSpec) -> str:
    """The lake table of drift figures."""
    return f"{spec.name}/drift_report"


def calibration_table(spec: ModelSpec) -> str:
    """The lake table of the limit of drift, and of what it finds."""
    return f"{spec.name}/drift_calibration"


def sql_name(table: str) -> str:
    """How a table is named in SQL: ``raw/arrivals`` is ``raw.arrivals``."""
    schema, _, name = table.rpartition("/")
    quoted = [part if re.fullmatch(r"[a-z_][a-z0-9_]*", part) else f'"{part}"' for part in (schema, name)]
    return ".".join(quoted)
