"""A process that raises and delivers alerts, to be killed: ``python alerter.py <where> <lake> <webhook>``."""

import os
import signal
import sys
from datetime import UTC, datetime
from typing import Never

from ml_platform.core.alerts import Alert, Cause, Kind
from ml_platform.settings import load
from ml_platform.stores.alert_sinks import WebhookSink
from ml_platform.stores.alerts import Alerts
from ml_platform.stores.lake import Lake

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CAUSE = Cause(Kind.BLOCKED_PARTITION, "a", "a", "a", "a is bad", "why", NOON, "assets/x")


class DiesBeforeSending(WebhookSink):
    """Dies by SIGKILL when the alert is recorded and nothing was sent."""

    def send(self, alert: Alert) -> Never:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


class DiesAfterSending(WebhookSink):
    """Dies by SIGKILL when the alert was received and that is not recorded."""

    def send(self, alert: Alert) -> None:
        super().send(alert)
        os.kill(os.getpid(), signal.SIGKILL)


def main(where: str, uri: str, url: str) -> None:
    """Raise one alert and die before or after it is sent."""
    outbox = Alerts(Lake(uri))
    outbox.update([CAUSE], [CAUSE.kind], sinks=["webhook"], now=NOON, dagster_url="http://ui")
    sink = {"before": DiesBeforeSending, "after": DiesAfterSending}[where]
    outbox.deliver([sink.of(load({"ML_PLATFORM_ALERT_WEBHOOK_URL": url}))])


if __name__ == "__main__":
    main(*sys.argv[1:])
