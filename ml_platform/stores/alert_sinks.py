"""Where alerts go: the log, a webhook that takes Slack's JSON, e-mail.

Belongs here: how one alert is sent, once, and what went wrong in words without secrets. Which alert is owed to whom,
and when to try again, belongs to :mod:`ml_platform.stores.alerts`.
"""

import json
import logging
import smtplib
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses
from http.client import HTTPException, HTTPMessage
from typing import IO, Protocol, Self
from urllib.error import HTTPError
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ml_platform.core.alerts import Alert, Severity
from ml_platform.settings import Settings

TIMEOUT_SECONDS = 8.0
"""Of one delivery; a tick of the sensor, which makes several, must end within a minute."""

_COLOURS: Mapping[Severity, str] = {
    Severity.INFO: "#2e7d32",
    Severity.WARNING: "#f9a825",
    Severity.CRITICAL: "#c62828",
}
_LEVELS = {Severity.INFO: logging.INFO, Severity.WARNING: logging.WARNING, Severity.CRITICAL: logging.ERROR}
_SLACK_TITLE, _SLACK_TEXT = 150, 3000
"""Characters that Slack takes in a header and in a section."""


class DeliveryError(RuntimeError):
    """An alert could not be delivered; the message says why and holds no secret."""


class Sink(Protocol):
    """Somewhere an alert can be sent."""

    @property
    def name(self) -> str:
        """What deliveries are recorded under."""

    @property
    def where(self) -> str:
        """Where alerts go, for people; without secrets."""

    def send(self, alert: Alert) -> str | None:
        """Send it; in words, to whom it did not go although it went to others.

        Raises:
            DeliveryError: it did not arrive anywhere, as far as one can know.
        """


@dataclass(frozen=True)
class LogSink:
    """The log of the process, or of the sensor's tick, which is asked for when there is something to write.

    Whoever asks a tick for its log has it stored, empty or not.
    """

    logger: Callable[[], logging.Logger]
    name: str = "log"
    where: str = "the log"

    def send(self, alert: Alert) -> None:
        """Write it as one entry."""
        self.logger().log(_LEVELS[alert.severity], plain_text(alert))


@dataclass(frozen=True)
class WebhookSink:
    """A webhook that takes Slack's JSON (Slack, Mattermost, Rocket.Chat, and most that forward alerts)."""

    url: str = field(repr=False)
    name: str = "webhook"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The webhook of these settings.

        Raises:
            ValueError: the address is none; the message does not repeat it, as it is a secret.
        """
        try:
            parts = urlsplit(settings.alert_webhook_url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound:
            raise ValueError(
                "ML_PLATFORM_ALERT_WEBHOOK_URL is no address: it must be https://host/path, or http:// in a trusted "
                "network"
            )
        return cls(settings.alert_webhook_url)

    @property
    def where(self) -> str:
        """The host it is sent to: the path of such an address is a secret."""
        return f"webhook at {urlsplit(self.url).hostname}"

    def send(self, alert: Alert) -> None:
        """POST it; any answer but 2xx is a failure."""
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "ml-platform",
            "Idempotency-Key": alert.alert_id,
        }
        request = Request(self.url, data=json.dumps(slack_message(alert)).encode(), headers=headers)  # noqa: S310
        try:
            with build_opener(_NoRedirects()).open(request, timeout=TIMEOUT_SECONDS):
                pass
        except HTTPError as error:
            error.close()
            raise DeliveryError(f"{self.where} answered {error.code} {error.reason}") from None
        except (OSError, HTTPException, ValueError) as error:
            raise DeliveryError(_told(f"{self.where}: {error}", self.url)) from None


@dataclass(frozen=True)
class EmailSink:
    """Mail through an SMTP server: ``smtps://`` is TLS from the start, ``smtp://`` becomes TLS unless ``?tls=no``."""

    host: str
    port: int
    sender: str
    recipients: tuple[str, ...]
    encryption: str = "starttls"
    user: str = ""
    password: str = field(default="", repr=False)
    name: str = "email"

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The mail server and the addresses of these settings.

        Raises:
            ValueError: one is missing or malformed; the message names the variable and no secret.
        """
        try:
            parts = urlsplit(settings.alert_smtp_url)
            port = parts.port
        except ValueError:
            parts, port = SplitResult("", "", "", "", ""), None
        options = parse_qs(parts.query, keep_blank_values=True)
        plain = options.pop("tls", ["yes"])
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or options or plain not in (["yes"], ["no"]):
            raise ValueError(
                "ML_PLATFORM_ALERT_SMTP_URL is no mail server: it must be smtp://user:password@host:587 (which becomes "
                "TLS, unless ?tls=no ends it) or smtps://user:password@host:465; user and password may be absent"
            )
        addresses = {
            "ML_PLATFORM_ALERT_EMAIL_TO": settings.alert_email_to,
            "ML_PLATFORM_ALERT_EMAIL_FROM": settings.alert_email_from,
        }
        found = {}
        for variable, text in addresses.items():
            listed = [address for _, address in getaddresses([text])]
            if not listed or not all("@" in address.strip("@") for address in listed):
                raise ValueError(f"{variable} must be an e-mail address (several with commas between), not {text!r}")
            found[variable] = listed
        (sender, *more) = found["ML_PLATFORM_ALERT_EMAIL_FROM"]
        if more:
            raise ValueError(f"ML_PLATFORM_ALERT_EMAIL_FROM must be one address, not {settings.alert_email_from!r}")
        secure = "tls" if parts.scheme == "smtps" else ("starttls" if plain == ["yes"] else "none")
        return cls(
            host=parts.hostname,
            port=port or (465 if secure == "tls" else 587),
            sender=sender,
            recipients=tuple(found["ML_PLATFORM_ALERT_EMAIL_TO"]),
            encryption=secure,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    @property
    def where(self) -> str:
        """Who gets it, through which host."""
        return f"e-mail to {', '.join(self.recipients)} through {self.host}"

    def send(self, alert: Alert) -> str | None:
        """Hand it to the mail server; whom that refused, if it took the mail for others.

        Sent again for their sake, it would come again and again to all the others.
        """
        try:
            with self._server() as server:
                if self.encryption == "starttls":
                    server.starttls(context=ssl.create_default_context())
                if self.user:
                    server.login(self.user, self.password)
                refused = server.send_message(self._message(alert))
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise DeliveryError(_told(f"{self.host}: {error}", self.password)) from None
        return f"{self.host} refused {', '.join(refused)}" if refused else None

    def _server(self) -> smtplib.SMTP:
        if self.encryption == "tls":
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(self.host, self.port, timeout=TIMEOUT_SECONDS, context=context)
        return smtplib.SMTP(self.host, self.port, timeout=TIMEOUT_SECONDS)

    def _message(self, alert: Alert) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"[{alert.severity.value}] {' '.join(alert.title.split())}"
        message["From"], message["To"] = self.sender, ", ".join(self.recipients)
        message["Date"] = format_datetime(alert.raised_at)
        message["Message-ID"] = f"<{alert.alert_id}@ml-platform.invalid>"
        message.set_content(plain_text(alert))
        return message


@dataclass(frozen=True)
class Sinks:
    """The sinks of a home: those that are ready, all that are configured by name, and what is wrong with the rest."""

    ready: Sequence[Sink]
    configured: Sequence[str]
    broken: Mapping[str, str]


def sinks(settings: Settings, logger: Callable[[], logging.Logger]) -> Sinks:
    """What these settings say; a sink that is configured wrongly leaves the others be."""
    ready: list[Sink] = [LogSink(logger)]
    broken: dict[str, str] = {}
    wanted: dict[str, tuple[str, Callable[[Settings], Sink]]] = {
        "webhook": (settings.alert_webhook_url, WebhookSink.of),
        "email": (settings.alert_smtp_url or settings.alert_email_to, EmailSink.of),
    }
    for name, (given, make) in wanted.items():
        if not given:
            continue
        try:
            ready.append(make(settings))
        except ValueError as error:
            broken[name] = str(error)
    return Sinks(ready, [*(sink.name for sink in ready), *broken], broken)


def plain_text(alert: Alert) -> str:
    """An alert for people, in lines."""
    return (
        f"{alert.severity.value.upper()}: {alert.title}\n{alert.text}\nSince {alert.since:%Y-%m-%d %H:%M} UTC\n"
        f"Look at {alert.link}\nWhat to do: {alert.kind.advice} ({alert.kind.runbook})\nAlert {alert.alert_id}"
    )


def slack_message(alert: Alert) -> dict[str, object]:
    """An alert as the JSON that Slack's incoming webhooks take; ``text`` is for receivers that know no blocks."""
    details = f"{alert.severity.value} · since {alert.since:%Y-%m-%d %H:%M} UTC · alert {alert.alert_id}"
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": _cut(alert.title, _SLACK_TITLE)}},
        _section(_cut(_mrkdwn(alert.text), _SLACK_TEXT)),
        _section(
            f"*What to do:* {_mrkdwn(alert.kind.advice)}\n`{alert.kind.runbook}` · <{alert.link}|Open in Dagster>"
        ),
        {"type": "context", "elements": [{"type": "mrkdwn", "text": details}]},
    ]
    return {
        "text": f"{alert.severity.value.upper()}: {_mrkdwn(alert.title)}",
        "attachments": [{"color": _COLOURS[alert.severity], "blocks": blocks}],
    }


def _section(text: str) -> dict[str, object]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _mrkdwn(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _told(text: str, secret: str) -> str:
    """An error in one line, without the secret should a library have repeated it."""
    line = " ".join(text.split())
    return line.replace(secret, "…") if secret else line


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, and look delivered."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None
