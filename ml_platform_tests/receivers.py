"""Those who receive alerts, as real servers on this machine: a webhook, and a mail server."""

import base64
import json
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar


class Webhook(ThreadingHTTPServer):
    """Keeps what is posted; answers with ``statuses`` one after the other, then 200, each after ``delay`` seconds."""

    daemon_threads = True

    def __init__(self, *statuses: int, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.statuses = list(statuses)
        self.delay = delay
        self.received: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/T0/SECRET"

    @property
    def ids(self) -> list[str]:
        """The ids of the alerts that were accepted."""
        return [alert_id for alert_id, _ in self.received]


class _Post(BaseHTTPRequestHandler):
    server: Webhook

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            self.server.received.append((self.headers["Idempotency-Key"], body))
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class MailServer(socketserver.ThreadingTCPServer):
    """A mail server that keeps what it accepts, and who logged in with which password."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *, refuses: str = "", context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        if context is not None:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.refuses = refuses
        self.received: list[tuple[list[str], EmailMessage]] = []
        self.heard: list[str] = []
        self.logins: list[tuple[str, str]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Session(socketserver.StreamRequestHandler):
    server: MailServer
    answers: ClassVar = {"MAIL": "250 ok", "RSET": "250 ok", "NOOP": "250 ok", "STARTTLS": "502 not here"}

    def handle(self) -> None:
        self.say("220 mail")
        recipients: list[str] = []
        while line := self.rfile.readline().decode().strip():
            self.server.heard.append(line)
            word = line.split(" ")[0].upper()
            if word == "EHLO":
                self.say("250-mail", "250 AUTH PLAIN")
            elif word == "AUTH":
                _, user, password = base64.b64decode(line.split(" ")[2]).decode().split("\0")
                self.server.logins.append((user, password))
                self.say("235 welcome")
            elif word == "RCPT":
                refused = self.server.refuses and self.server.refuses in line
                recipients += [] if refused else [line.split(":", 1)[1].strip("<> ")]
                self.say("550 nobody of that name" if refused else "250 ok")
            elif word == "DATA":
                self.say("354 go on")
                data = b"".join(iter(self.rfile.readline, b".\r\n"))
                message = message_from_bytes(data, policy=policy.default)
                assert isinstance(message, EmailMessage)
                self.server.received.append((recipients, message))
                self.say("250 taken")
            elif word == "QUIT":
                self.say("221 bye")
                return
            else:
                self.say(self.answers.get(word, "500 what?"))

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread for as long as the block lasts."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
