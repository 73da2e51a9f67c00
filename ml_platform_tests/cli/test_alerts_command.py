"""What was told, who got it and what still stands, for people and for machines."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.core.alerts import Cause, Kind
from ml_platform.settings import load
from ml_platform.stores.alert_sinks import WebhookSink
from ml_platform.stores.alerts import Alerts
from ml_platform.stores.lake import Lake
from ml_platform_tests.cli.conftest import Run
from ml_platform_tests.receivers import Webhook, serving

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    return tmp_path


def test_a_home_without_alerts_says_who_raises_them(command: Run, home: Path) -> None:
    answer = command("alerts")
    assert answer.exit_code == 0
    assert "No alert was raised yet" in answer.stdout
    assert json.loads(command("alerts", "--json").stdout) == []


def test_the_newest_alerts_are_shown_with_their_deliveries_and_what_to_do(command: Run, home: Path) -> None:
    outbox = Alerts(Lake.of(load()))
    for kind, name in ((Kind.PROMOTION, "flight_delay"), (Kind.BLOCKED_PARTITION, "raw/weather 2013-01-03")):
        told = Cause(kind, name, name, name, f"{name} [red]", f"why {name}", NOON, "assets/x")
        outbox.update([told], [kind], sinks=["webhook"], now=NOON, dagster_url="http://ui")
    server = Webhook(200, 500)
    with serving(server):
        outbox.deliver([WebhookSink.of(load({"ML_PLATFORM_ALERT_WEBHOOK_URL": server.url}))])

    newest, oldest = json.loads(command("alerts", "--json").stdout)
    assert (newest["kind"], newest["state"]) == ("blocked_partition", "stands")
    assert (oldest["kind"], oldest["state"]) == ("promotion", "happened")
    assert newest["since"] == "2026-03-01T12:00:00Z"
    assert newest["runbook"] == "deploy/runbooks/blocked_partition.md"
    missed, arrived = newest["deliveries"]["webhook"], oldest["deliveries"]["webhook"]
    assert arrived["delivered_at"] is not None
    assert missed["delivered_at"] is None
    assert missed["failures"] == 1
    assert missed["last_error"] == "webhook at 127.0.0.1 answered 500 Internal Server Error"
    assert missed["due_at"] is not None
    assert len(json.loads(command("alerts", "--json", "--newest", "1").stdout)) == 1

    page = command("alerts").stdout
    assert "flight_delay [red]" in page
    assert "webhook failed 1 times" in page
    assert "why raw/weather" in page
    assert "why flight_delay" not in page, "what happened needs nobody"
    assert "deploy/runbooks/blocked_partition.md" in page
