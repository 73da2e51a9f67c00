"""The outbox: raised once, owed to every sink until it arrives, whatever dies in between."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml_platform.core.alerts import Alert, Cause, Kind
from ml_platform.settings import load
from ml_platform.stores import alerts as module
from ml_platform.stores.alert_sinks import DeliveryError, EmailSink, WebhookSink
from ml_platform.stores.alerts import Alerts, Delivery, RaisedAlert
from ml_platform.stores.lake import Lake
from ml_platform_tests.receivers import MailServer, Webhook, serving

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def cause(identity: str, kind: Kind = Kind.BLOCKED_PARTITION) -> Cause:
    return Cause(kind, identity, identity, identity, f"{identity} is bad", "why", NOON, "assets/x")


@dataclass
class Box:
    """A sink that keeps what it gets, and refuses while it is ``closed``."""

    name: str = "box"
    where: str = "a box"
    closed: bool = False
    got: list[str] = field(default_factory=list)
    tried: int = 0

    def send(self, alert: Alert) -> None:
        self.tried += 1
        if self.closed:
            raise DeliveryError("the box is closed")
        self.got.append(alert.title)


@pytest.fixture
def outbox(tmp_path: Path) -> Alerts:
    return Alerts(Lake(str(tmp_path)))


def update(
    outbox: Alerts, *causes: Cause, kinds: tuple[Kind, ...] = tuple(Kind), sinks: tuple[str, ...] = ("box",)
) -> int:
    return len(outbox.update(causes, kinds, sinks=sinks, now=datetime.now(UTC), dagster_url="http://ui"))


def only(outbox: Alerts) -> RaisedAlert:
    (raised,) = outbox.raised()
    return raised


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_RETRY", timedelta(0))


def test_nothing_is_written_while_nothing_is_wrong(outbox: Alerts, tmp_path: Path) -> None:
    assert update(outbox) == 0
    assert outbox.deliver([Box()]) is False
    assert list(tmp_path.iterdir()) == []


def test_what_one_of_several_recipients_refused_is_recorded_and_not_sent_again(outbox: Alerts) -> None:
    server = MailServer(refuses="b@example.org")
    update(outbox, cause("blocked"), sinks=("email",))
    with serving(server):
        sink = EmailSink("localhost", server.port, "p@example.org", ("a@example.org", "b@example.org"), "none")
        for _ in range(3):
            assert outbox.deliver([sink]) is False
    assert [recipients for recipients, _ in server.received] == [["a@example.org"]]
    (delivery,) = only(outbox).deliveries
    assert delivery.delivered_at is not None
    assert (delivery.failures, delivery.remark) == (0, "localhost refused b@example.org")


def test_a_cause_that_stays_is_told_once_and_one_that_comes_back_as_another_again(outbox: Alerts) -> None:
    box = Box()
    for _ in range(20):
        update(outbox, cause("blocked since noon"))
        outbox.deliver([box])
    assert box.got == ["blocked since noon is bad"]
    update(outbox)
    assert only(outbox).state == "ended"
    for _ in range(3):
        update(outbox, cause("blocked since one"))
        outbox.deliver([box])
    assert box.got == ["blocked since noon is bad", "blocked since one is bad"]
    assert [raised.state for raised in outbox.raised()] == ["ended", "stands"]


def test_a_cause_that_flickers_is_not_told_twice_unless_its_facts_know_no_beginning(outbox: Alerts) -> None:
    for kind, times in ((Kind.BLOCKED_PARTITION, 1), (Kind.PERFORMANCE_FELL, 3)):
        told = 0
        for _ in range(3):
            told += update(outbox, cause(f"{kind} x", kind), kinds=(kind,))
            told += update(outbox, cause(f"{kind} x", kind), kinds=(kind,))
            told += update(outbox, kinds=(kind,))
        assert told == times, kind


def test_alerts_of_kinds_that_were_not_looked_at_do_not_end_and_events_never_do(outbox: Alerts) -> None:
    update(outbox, cause("a"), cause("b", Kind.DRIFT), cause("c", Kind.FAILED_RUN))
    update(outbox, kinds=(Kind.DRIFT, Kind.FAILED_RUN))
    assert {r.alert.kind: r.state for r in outbox.raised()} == {
        Kind.BLOCKED_PARTITION: "stands",
        Kind.DRIFT: "ended",
        Kind.FAILED_RUN: "happened",
    }


def test_what_fails_is_tried_again_later_and_later_until_it_arrives(
    outbox: Alerts, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(closed=True)
    update(outbox, cause("a"))
    assert outbox.deliver([box]) is True
    assert outbox.deliver([box]) is True
    assert box.tried == 1, "not at once again"
    (delivery,) = only(outbox).deliveries
    assert (delivery.failures, delivery.last_error) == (1, "the box is closed")
    assert delivery.delivered_at is None
    monkeypatch.setattr(module, "_FIRST_RETRY", timedelta(0))
    box.closed = False
    assert outbox.deliver([box]) is False
    assert box.got == ["a is bad"]
    assert outbox.deliver([box]) is False
    assert box.tried == 2


def test_the_wait_doubles_up_to_an_hour() -> None:
    waits = [Delivery("box", failures=n, last_failure_at=NOON).due_at for n in (1, 2, 3, 9, 200)]
    assert [(due - NOON).total_seconds() for due in waits if due] == [20, 40, 80, 3600, 3600]


def test_a_sink_that_fails_keeps_no_other_waiting_and_is_asked_once_a_round(outbox: Alerts, no_waiting: None) -> None:
    broken, sound = Box("broken", closed=True), Box("sound")
    for name in "abc":
        update(outbox, cause(name), sinks=("broken", "sound"), kinds=())
    assert outbox.deliver([broken, sound]) is True
    assert len(sound.got) == 3
    assert broken.tried == 1
    broken.closed = False
    assert outbox.deliver([broken, sound]) is False
    assert broken.got == sound.got == ["a is bad", "b is bad", "c is bad"]


def test_a_sink_that_is_configured_later_is_not_owed_what_was_raised_before(outbox: Alerts) -> None:
    update(outbox, cause("a"))
    late = Box("late")
    assert outbox.deliver([Box(), late]) is False
    update(outbox, cause("a"), cause("b"), sinks=("box", "late"))
    outbox.deliver([Box(), late])
    assert late.got == ["b is bad"]


def test_two_who_raise_at_once_raise_each_alert_once(outbox: Alerts, tmp_path: Path) -> None:
    update(outbox, cause("first"))
    causes = [cause(f"{n}") for n in range(6)]
    with ThreadPoolExecutor(4) as pool:
        told = pool.map(lambda _: update(Alerts(Lake(str(tmp_path))), *causes, kinds=()), range(4))
    assert sum(told) == 6
    found = [identity for raised in outbox.raised() for identity in raised.alert.causes]
    assert sorted(found) == sorted(["first", *(c.identity for c in causes)])


@pytest.mark.parametrize(("where", "times"), [("before", 1), ("after", 2)])
def test_a_process_killed_between_recording_and_delivery_loses_nothing(
    where: str, times: int, tmp_path: Path, outbox: Alerts
) -> None:
    """Killed after it was received, the alert is sent once more, under the same id: the receiver can tell."""
    server = Webhook()
    with serving(server):
        script = Path(__file__).with_name("alerter.py")
        process = subprocess.run([sys.executable, str(script), where, str(tmp_path), server.url], check=False)
        assert process.returncode == -signal.SIGKILL
        assert only(outbox).owed
        assert len(server.ids) == times - 1
        sink = WebhookSink.of(load({"ML_PLATFORM_ALERT_WEBHOOK_URL": server.url}))
        assert update(outbox, cause("a")) == 0
        assert outbox.deliver([sink]) is False
        assert outbox.deliver([sink]) is False
    assert len(server.ids) == times
    assert set(server.ids) == {only(outbox).alert.alert_id}


def test_a_webhook_that_was_down_gets_every_alert_once_it_is_back(outbox: Alerts, no_waiting: None) -> None:
    server = Webhook(500, 503)
    with serving(server):
        sink = WebhookSink.of(load({"ML_PLATFORM_ALERT_WEBHOOK_URL": server.url}))
        for name in "ab":
            update(outbox, cause(name), sinks=("webhook",), kinds=())
        rounds = 0
        while outbox.deliver([sink]):
            rounds += 1
        assert rounds == 2
    assert server.ids == [raised.alert.alert_id for raised in outbox.raised()]


def test_analysts_query_what_was_raised_and_delivered(outbox: Alerts, tmp_path: Path) -> None:
    update(outbox, cause("a"))
    outbox.deliver([Box()])
    found = Lake(str(tmp_path)).query(
        "select kind, severity, title, sink, event from ledger.alerts join ledger.alert_events using (alert_id)"
    )
    assert found.rows() == [("blocked_partition", "warning", "a is bad", "box", "delivered")]
