"""``ml-platform alerts``: what people were told lately, who got it, and what still stands."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ml_platform import settings
from ml_platform.cli.console import console, shown, table, write_json

if TYPE_CHECKING:
    from ml_platform.stores.alerts import Delivery, RaisedAlert


def alerts(
    newest: Annotated[int, typer.Option("--newest", min=1, help="How many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Show the newest alerts: how urgent, whether they still stand, who got them, what to do."""
    from ml_platform.stores.alerts import Alerts
    from ml_platform.stores.lake import Lake

    found = Alerts(Lake.of(settings.load())).raised()[-newest:][::-1]
    if as_json:
        write_json([_as_json(raised) for raised in found])
        return
    out = console()
    if not found:
        out.print("No alert was raised yet. While `ml-platform up` runs, the sensor `alerts` raises them.")
        return
    rows = [
        (each.alert.raised_at, each.alert.severity.value, each.state, each.alert.title, _deliveries(each))
        for each in found
    ]
    out.print(table(("raised", "severity", "state", "what", "delivered"), rows))
    for each in found:
        if each.state == "stands":
            alert = each.alert
            out.print(f"[bold]{escape(alert.title)}[/bold]\n  {escape(alert.text)}")
            out.print(f"  {escape(alert.kind.advice)} [dim]{alert.kind.runbook}  {alert.link}[/dim]\n")


def _deliveries(raised: "RaisedAlert") -> str:
    return "; ".join(_delivery(delivery) for delivery in raised.deliveries)


def _delivery(delivery: "Delivery") -> str:
    if delivery.delivered_at is not None:
        return f"{delivery.sink} {shown(delivery.delivered_at)}" + (f" ({delivery.remark})" if delivery.remark else "")
    if not delivery.failures:
        return f"{delivery.sink} waits"
    return f"{delivery.sink} failed {delivery.failures} times, again {shown(delivery.due_at)}: {delivery.last_error}"


def _as_json(raised: "RaisedAlert") -> dict[str, Any]:
    alert = raised.alert
    return {
        "alert_id": alert.alert_id,
        "kind": alert.kind.value,
        "severity": alert.severity.value,
        "state": raised.state,
        "subject": alert.subject,
        "title": alert.title,
        "text": alert.text,
        "since": alert.since,
        "raised_at": alert.raised_at,
        "ended_at": raised.ended_at,
        "link": alert.link,
        "advice": alert.kind.advice,
        "runbook": alert.kind.runbook,
        "deliveries": {
            delivery.sink: {
                "delivered_at": delivery.delivered_at,
                "failures": delivery.failures,
                "due_at": None if delivery.delivered_at else delivery.due_at,
                "last_error": delivery.last_error or None,
                "remark": delivery.remark or None,
            }
            for delivery in raised.deliveries
        },
    }
