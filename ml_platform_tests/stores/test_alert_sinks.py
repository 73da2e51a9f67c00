"""Sinks against real servers: what arrives, what counts as not arrived, and that no secret is ever told."""

import logging
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ml_platform.core.alerts import Alert, Kind
from ml_platform.settings import Settings, load
from ml_platform.stores import alert_sinks
from ml_platform.stores.alert_sinks import DeliveryError, EmailSink, LogSink, WebhookSink, sinks, slack_message
from ml_platform_tests.receivers import MailServer, Webhook, serving

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALERT = Alert(
    alert_id="3f2a",
    kind=Kind.BLOCKED_PARTITION,
    subject="raw/weather 2013-01-03",
    title="raw/weather 2013-01-03 is blocked",
    text="temperature < 3 & humidity > 2 in línea 7",
    since=NOON,
    raised_at=NOON,
    link="http://ui/assets/raw/weather",
    causes=("a",),
)


def configured(**given: str) -> Settings:
    return load({f"ML_PLATFORM_ALERT_{name.upper()}": value for name, value in given.items()})


def mail(server: MailServer, query: str = "?tls=no", login: str = "", scheme: str = "smtp") -> EmailSink:
    url = f"{scheme}://{login}localhost:{server.port}{query}"
    return EmailSink.of(
        configured(smtp_url=url, email_to="a@example.org, B <b@example.org>", email_from="p@example.org")
    )


# Webhook -------------------------------------------------------------------------------------------


def test_a_webhook_gets_slack_s_json_with_severity_link_and_runbook() -> None:
    server = Webhook()
    with serving(server):
        WebhookSink.of(configured(webhook_url=server.url)).send(ALERT)
    ((alert_id, body),) = server.received
    assert alert_id == "3f2a"
    assert body == slack_message(ALERT)
    assert body["text"] == "WARNING: raw/weather 2013-01-03 is blocked"
    header, text, advice, context = body["attachments"][0]["blocks"]
    assert header["text"] == {"type": "plain_text", "text": ALERT.title}
    assert text["text"]["text"] == "temperature &lt; 3 &amp; humidity &gt; 2 in línea 7"
    assert ALERT.kind.advice in advice["text"]["text"]
    assert "deploy/runbooks/blocked_partition.md" in advice["text"]["text"]
    assert "<http://ui/assets/raw/weather|Open in Dagster>" in advice["text"]["text"]
    assert "alert 3f2a" in context["elements"][0]["text"]


def test_what_slack_would_refuse_as_too_long_is_cut() -> None:
    long = replace(ALERT, title="t" * 500, text="x" * 9000)
    header, text, *_ = slack_message(long)["attachments"][0]["blocks"]  # type: ignore[index]
    assert len(header["text"]["text"]) == 150
    assert len(text["text"]["text"]) == 3000


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
def test_any_answer_but_success_is_a_failure_and_the_next_attempt_may_succeed(status: int) -> None:
    server = Webhook(status)
    with serving(server):
        sink = WebhookSink.of(configured(webhook_url=server.url))
        with pytest.raises(DeliveryError, match=f"webhook at 127.0.0.1 answered {status}") as failure:
            sink.send(ALERT)
        assert server.received == []
        sink.send(ALERT)
    assert server.ids == ["3f2a"]
    assert "SECRET" not in str(failure.value)


def test_a_webhook_that_does_not_answer_is_a_failure_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_sinks, "TIMEOUT_SECONDS", 0.2)
    server = Webhook(delay=1.0)
    with serving(server), pytest.raises(DeliveryError, match="timed out"):
        WebhookSink.of(configured(webhook_url=server.url)).send(ALERT)


def test_a_webhook_that_is_not_there_is_a_failure_that_names_no_secret() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/services/SECRET"
        with pytest.raises(DeliveryError, match="refused") as failure:
            WebhookSink.of(configured(webhook_url=url)).send(ALERT)
    assert "SECRET" not in str(failure.value)
    assert failure.value.__suppress_context__


# E-mail --------------------------------------------------------------------------------------------


def test_mail_reaches_every_recipient_with_an_id_of_its_own() -> None:
    server = MailServer()
    with serving(server):
        mail(server, login="robot%40example.org:p%3Aw@").send(ALERT)
    ((recipients, message),) = server.received
    assert recipients == ["a@example.org", "b@example.org"]
    assert message["Subject"] == "[warning] raw/weather 2013-01-03 is blocked"
    assert message["Message-ID"] == "<3f2a@ml-platform.invalid>"
    assert parsedate_to_datetime(message["Date"]) == NOON
    text = message.get_content()
    for said in (ALERT.text, ALERT.link, ALERT.kind.advice, ALERT.kind.runbook):
        assert said in text
    assert server.logins == [("robot@example.org", "p:w")]


def test_a_server_without_tls_hears_neither_password_nor_mail_unless_that_was_asked_for() -> None:
    server = MailServer()
    with serving(server), pytest.raises(DeliveryError, match="STARTTLS"):
        mail(server, query="", login="robot:SECRET@").send(ALERT)
    assert server.received == []
    assert server.logins == []
    assert not any(word in line for line in server.heard for word in ("AUTH", "MAIL"))


def own_certificate(file: Path) -> Path:
    """A certificate of localhost that it signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(made.public_bytes(Encoding.PEM) + secret)
    return file


def test_mail_over_tls_needs_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = own_certificate(tmp_path / "localhost.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = MailServer(context=context)
    with serving(server):
        sink = mail(server, query="", login="robot:SECRET@", scheme="smtps")
        with pytest.raises(DeliveryError, match="certificate"):
            sink.send(ALERT)
        assert server.logins == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        sink.send(ALERT)
    assert len(server.received) == 1
    assert server.logins == [("robot", "SECRET")]


def test_a_recipient_who_is_refused_is_told_and_keeps_it_from_nobody_else() -> None:
    server = MailServer(refuses="b@example.org")
    with serving(server):
        assert mail(server).send(ALERT) == "localhost refused b@example.org"
    assert [recipients for recipients, _ in server.received] == [["a@example.org"]]


def test_mail_that_is_refused_for_everybody_is_a_failure() -> None:
    server = MailServer(refuses="@example.org")
    with serving(server), pytest.raises(DeliveryError, match="550"):
        mail(server).send(ALERT)
    assert server.received == []


def test_a_mail_server_that_is_not_there_is_a_failure_that_names_no_secret() -> None:
    server = MailServer()
    server.server_close()
    with pytest.raises(DeliveryError, match="refused") as failure:
        mail(server, login="robot:SECRET@").send(ALERT)
    assert "SECRET" not in str(failure.value)


# Log and settings ----------------------------------------------------------------------------------


def test_the_log_has_the_alert_at_its_severity(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LogSink(lambda: logging.getLogger("told")).send(ALERT)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert ALERT.kind.advice in record.message


def test_no_secret_is_in_a_repr() -> None:
    settings = configured(
        webhook_url="https://hooks.example.org/SECRET",
        smtp_url="smtp://robot:SECRET@host",
        email_to="a@example.org",
        email_from="p@example.org",
    )
    found = sinks(settings, logging.getLogger)
    assert [sink.name for sink in found.ready] == ["log", "webhook", "email"]
    assert "SECRET" not in repr(settings) + repr(found) + "".join(sink.where for sink in found.ready)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"webhook_url": "hooks.example.org/SECRET"}, "ML_PLATFORM_ALERT_WEBHOOK_URL is no address"),
        ({"webhook_url": "https:///SECRET"}, "ML_PLATFORM_ALERT_WEBHOOK_URL is no address"),
        ({"webhook_url": "https://host:SECRET/"}, "ML_PLATFORM_ALERT_WEBHOOK_URL is no address"),
        ({"smtp_url": "mail:SECRET@host"}, "ML_PLATFORM_ALERT_SMTP_URL is no mail server"),
        ({"smtp_url": "smtp://a:SECRET@host:x"}, "ML_PLATFORM_ALERT_SMTP_URL is no mail server"),
        ({"smtp_url": "smtp://a:SECRET@host?tls=perhaps"}, "ML_PLATFORM_ALERT_SMTP_URL is no mail server"),
        ({"smtp_url": "smtp://a:SECRET@host", "email_to": ""}, "ML_PLATFORM_ALERT_EMAIL_TO must be an e-mail"),
        ({"smtp_url": "smtp://a:SECRET@host", "email_from": "nobody"}, "ML_PLATFORM_ALERT_EMAIL_FROM must be an"),
        ({"smtp_url": "smtp://a:SECRET@h", "email_from": "a@b.c, d@e.f"}, "ML_PLATFORM_ALERT_EMAIL_FROM must be one"),
        ({"smtp_url": ""}, "ML_PLATFORM_ALERT_SMTP_URL is no mail server"),
    ],
)
def test_a_sink_that_is_configured_wrongly_is_named_and_leaves_the_log_be(given: dict[str, str], error: str) -> None:
    addresses = {} if "webhook_url" in given else {"email_to": "a@example.org", "email_from": "p@example.org"}
    found = sinks(configured(**{**addresses, **given}), logging.getLogger)
    assert [sink.name for sink in found.ready] == ["log"]
    ((name, said),) = found.broken.items()
    assert said.startswith(error)
    assert "SECRET" not in said
    assert found.configured == ["log", name]
