"""The alerts that were raised, and what became of them: recorded first, delivered then, each delivery recorded.

Belongs here: that an alert is raised once for its causes, owed to every sink that was configured at that time, and
tried again until it arrives. What is worth an alert is decided in :mod:`ml_platform.core.alerts`.

Both tables only grow. A process that dies between sending and recording leaves a delivery that will be repeated: it
carries the alert's id (an e-mail's ``Message-ID``, a webhook's ``Idempotency-Key``), by which a receiver can tell.
"""

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import polars as pl

from ml_platform.core.alerts import RECURRING, STANDING, Alert, Cause, Kind, compose
from ml_platform.stores.alert_sinks import DeliveryError, Sink
from ml_platform.stores.lake import Lake
from ml_platform.stores.table_names import ALERT_EVENTS, ALERTS

_LOGGER = logging.getLogger(__name__)

TABLE, EVENTS = ALERTS, ALERT_EVENTS

SCHEMA: Mapping[str, pl.DataType] = {
    "alert_id": pl.String(),
    "kind": pl.String(),
    "severity": pl.String(),
    "subject": pl.String(),
    "title": pl.String(),
    "text": pl.String(),
    "since": pl.Datetime("us", "UTC"),
    "raised_at": pl.Datetime("us", "UTC"),
    "link": pl.String(),
    "runbook": pl.String(),
    "advice": pl.String(),
    "causes": pl.String(),
    "sinks": pl.String(),
    "sequence": pl.Int64(),
}
EVENT_SCHEMA: Mapping[str, pl.DataType] = {
    "alert_id": pl.String(),
    "event": pl.String(),
    "sink": pl.String(),
    "happened_at": pl.Datetime("us", "UTC"),
    "detail": pl.String(),
}

DELIVERED, FAILED, ENDED = "delivered", "failed", "ended"

_FIRST_RETRY, _LONGEST_RETRY = timedelta(seconds=20), timedelta(hours=1)
_BUDGET_SECONDS = 25.0
"""How long one round of deliveries may go on: Dagster gives a sensor's tick a minute."""


@dataclass(frozen=True)
class Delivery:
    """An alert at one sink: ``delivered_at`` (wall time, UTC) or not yet; attempts that failed and why the last did.

    ``remark`` says who of several recipients was refused when it was delivered to the others.
    """

    sink: str
    delivered_at: datetime | None = None
    failures: int = 0
    last_failure_at: datetime | None = None
    last_error: str = ""
    remark: str = ""

    @property
    def due_at(self) -> datetime | None:
        """When to try again; None: at once."""
        if self.last_failure_at is None:
            return None
        wait: timedelta = _FIRST_RETRY * 2 ** min(self.failures - 1, 20)
        return self.last_failure_at + min(wait, _LONGEST_RETRY)


@dataclass(frozen=True)
class RaisedAlert:
    """An alert as it stands: its deliveries, and since when (wall time, UTC) none of its causes stands any more."""

    alert: Alert
    deliveries: tuple[Delivery, ...]
    ended_at: datetime | None

    @property
    def state(self) -> Literal["stands", "ended", "happened"]:
        """Whether its causes stand, stood, or were events that neither stand nor end."""
        if self.alert.kind not in STANDING:
            return "happened"
        return "stands" if self.ended_at is None else "ended"

    @property
    def owed(self) -> bool:
        """Whether a sink still waits for it."""
        return any(delivery.delivered_at is None for delivery in self.deliveries)


class Alerts:
    """The alerts of a lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    @property
    def versions(self) -> tuple[int, int]:
        """What changes whenever an alert is raised or anything becomes of one."""
        return self._version(TABLE), self._version(EVENTS)

    def raised(self) -> list[RaisedAlert]:
        """Every alert, oldest first."""
        if not self._lake.exists(TABLE):
            return []
        return self._read(self._lake.version(TABLE))

    def update(
        self,
        causes: Sequence[Cause],
        kinds: Iterable[Kind],
        *,
        sinks: Sequence[str],
        now: datetime,
        dagster_url: str,
    ) -> list[Alert]:
        """Raise alerts on causes that have none, and end those of which no cause stands any more.

        Two who do it at once raise each alert once: the second sees what the first has raised.

        Args:
            causes: all that stand now of these kinds, and what happened of them.
            kinds: those that were looked at; alerts of others are left alone.
            sinks: names of those that are owed what is raised now.
            now: wall time (UTC).
            dagster_url: where links lead.
        """
        if causes:
            self._lake.create(TABLE, SCHEMA)
        elif not self._lake.exists(TABLE):
            return []
        while True:
            seen = self._lake.version(TABLE)
            before = self._read(seen)
            known = {
                identity
                for raised in before
                if raised.ended_at is None or raised.alert.kind not in RECURRING
                for identity in raised.alert.causes
            }
            new = compose(causes, known, now=now, dagster_url=dagster_url)
            rows = [_row(alert, sinks, len(before) + n) for n, alert in enumerate(new, 1)]
            frame = pl.DataFrame(rows, schema=dict(SCHEMA))
            if not new or self._lake.append_claimed(
                TABLE, frame, claim="alerts", sequence=len(before) + len(new), onto=seen
            ):
                break
        standing, looked_at = {cause.identity for cause in causes}, STANDING.intersection(kinds)
        ended = [
            raised.alert.alert_id
            for raised in before
            if raised.ended_at is None and raised.alert.kind in looked_at and standing.isdisjoint(raised.alert.causes)
        ]
        self._tell([(alert_id, ENDED, "", "") for alert_id in ended], now)
        return new

    def deliver(self, sinks: Sequence[Sink]) -> bool:
        """Send what is owed and due, oldest first; what fails is tried again later, at a later call.

        A sink that fails is not tried with further alerts in this round.

        Returns:
            Whether anything is still owed to one of these sinks.
        """
        end = time.monotonic() + _BUDGET_SECONDS
        owed = False
        waiting = [raised for raised in self.raised() if raised.owed]
        for sink in sinks:
            for raised in waiting:
                delivery = next((d for d in raised.deliveries if d.sink == sink.name), None)
                if delivery is None or delivery.delivered_at is not None:
                    continue
                due = delivery.due_at is None or delivery.due_at <= datetime.now(UTC)
                if not due or time.monotonic() > end or not self._send(sink, raised.alert):
                    owed = True
                    if due:
                        break
        return owed

    def _send(self, sink: Sink, alert: Alert) -> bool:
        try:
            remark = sink.send(alert)
        except DeliveryError as error:
            self._tell([(alert.alert_id, FAILED, sink.name, str(error))], datetime.now(UTC))
            return False
        self._tell([(alert.alert_id, DELIVERED, sink.name, remark or "")], datetime.now(UTC))
        if remark:
            _LOGGER.warning("alert %s: %s", alert.alert_id, remark)
        return True

    def _tell(self, events: Sequence[tuple[str, str, str, str]], now: datetime) -> None:
        if not events:
            return
        rows = [(alert_id, event, sink, now, detail) for alert_id, event, sink, detail in events]
        self._lake.create(EVENTS, EVENT_SCHEMA)
        self._lake.append(EVENTS, pl.DataFrame(rows, schema=dict(EVENT_SCHEMA), orient="row"))

    def _read(self, version: int) -> list[RaisedAlert]:
        alerts = self._lake.read(TABLE, columns=list(SCHEMA), version=version).sort("sequence")
        events: dict[str, list[dict[str, Any]]] = {}
        if self._lake.exists(EVENTS):
            for event in self._lake.read(EVENTS).sort("happened_at").iter_rows(named=True):
                events.setdefault(event["alert_id"], []).append(event)
        return [_raised(row, events.get(row["alert_id"], [])) for row in alerts.iter_rows(named=True)]

    def _version(self, table: str) -> int:
        return self._lake.version(table) if self._lake.exists(table) else -1


def _row(alert: Alert, sinks: Sequence[str], sequence: int) -> dict[str, Any]:
    return {
        "alert_id": alert.alert_id,
        "kind": alert.kind.value,
        "severity": alert.severity.value,
        "subject": alert.subject,
        "title": alert.title,
        "text": alert.text,
        "since": alert.since,
        "raised_at": alert.raised_at,
        "link": alert.link,
        "runbook": alert.kind.runbook,
        "advice": alert.kind.advice,
        "causes": json.dumps(alert.causes),
        "sinks": ", ".join(sinks),
        "sequence": sequence,
    }


def _raised(row: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> RaisedAlert:
    alert = Alert(
        alert_id=row["alert_id"],
        kind=Kind(row["kind"]),
        subject=row["subject"],
        title=row["title"],
        text=row["text"],
        since=row["since"],
        raised_at=row["raised_at"],
        link=row["link"],
        causes=tuple(json.loads(row["causes"])),
    )
    ended = next((event["happened_at"] for event in events if event["event"] == ENDED), None)
    return RaisedAlert(alert, tuple(_delivery(sink, events) for sink in row["sinks"].split(", ")), ended)


def _delivery(sink: str, events: Iterable[Mapping[str, Any]]) -> Delivery:
    own = [event for event in events if event["sink"] == sink]
    failures = [event for event in own if event["event"] == FAILED]
    last = failures[-1] if failures else None
    done = next((event for event in own if event["event"] == DELIVERED), None)
    return Delivery(
        sink=sink,
        delivered_at=None if done is None else done["happened_at"],
        failures=len(failures),
        last_failure_at=None if last is None else last["happened_at"],
        last_error="" if last is None else last["detail"],
        remark="" if done is None else done["detail"],
    )
