"""The servers people look at, as processes of one command: Dagster's UI and daemon, MLflow's UI, the reports.

Each is the leader of a session of its own, so that a terminal's Ctrl-C reaches only the command that started them,
and everything a server starts (code servers, runs, their steps) is stopped with it.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from ml_platform.settings import Settings, child_environment, port_variable
from ml_platform.stores.instance import is_free

START_TIMEOUT_SECONDS = 180.0
"""How long servers may take before the first answer; a loaded two-core machine needs about 30."""

_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.25
_LOG_TAIL_LINES = 25
_DAEMONS = json.dumps({"query": "{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }"}).encode()


class ServerFailedError(RuntimeError):
    """A server ended by itself or never answered; the message has the end of its log."""


class AlreadyServedError(ValueError):
    """The home is being served by another process."""


@dataclass(frozen=True)
class Server:
    """One process: what it is called, how it is started, and how one knows that it answers.

    ``url`` is its page (empty: it has none). ``port`` is the name of its port in the settings, if it listens.
    """

    name: str
    title: str
    command: Sequence[str]
    answers: Callable[[], bool]
    url: str = ""
    port: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def servers(settings: Settings) -> list[Server]:
    """What is to run for these settings; MLflow's UI only if its store is not a server already."""
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host  # noqa: S104
    dagster, mlflow, reports = (f"http://{host}:{port}" for port in settings.ports.values())
    workspace = ("--workspace", str(settings.dagster_home / "workspace.yaml"))
    listen = {name: ("--host", settings.host, "--port", str(port)) for name, port in settings.ports.items()}
    found = [
        Server(
            "dagster",
            "Dagster UI",
            _module("dagster_webserver", *listen["dagster"], *workspace, "--suppress-warnings"),
            lambda: _answers(f"{dagster}/server_info"),
            settings.dagster_url,
            "dagster",
        ),
        Server(
            "dagster-daemon",
            "Dagster daemon",
            _module("dagster._daemon", "run", *workspace),
            lambda: _daemons_are_healthy(f"{dagster}/graphql"),
        ),
        Server(
            "reports",
            "Reports",
            _module("ml_platform.serving.report_server"),
            lambda: _answers(reports),
            settings.reports_url,
            "reports",
        ),
    ]
    uri = settings.mlflow_tracking_uri
    if not uri.startswith(("http:", "https:")):
        artifacts = ("--no-serve-artifacts", "--default-artifact-root", settings.mlflow_artifacts_uri)
        command = _module("mlflow", "server", *artifacts, "--workers", "1")
        found.append(
            Server(
                "mlflow",
                "MLflow UI",
                [*command, *listen["mlflow"]],
                lambda: _answers(f"{mlflow}/health"),
                settings.mlflow_url,
                "mlflow",
                {
                    "MLFLOW_BACKEND_STORE_URI": uri,
                    # Jobs belong to MLflow's features for language models and cost three more processes.
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                },
            )
        )
    return found


class Servers:
    """Running servers; a context manager that leaves none of them, nor what they started, behind."""

    def __init__(self, settings: Settings, wanted: Sequence[Server]) -> None:
        self._settings = settings
        self._wanted = wanted
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Servers":
        """Start every server.

        Raises:
            ValueError: a port is taken; the message names the setting that changes it.
        """
        require_free_ports(self._settings, self._wanted)
        self._settings.logs.mkdir(parents=True, exist_ok=True)
        if self._settings.mlflow_tracking_uri.startswith("sqlite:///"):
            Path(self._settings.mlflow_tracking_uri.removeprefix("sqlite:///")).parent.mkdir(
                parents=True, exist_ok=True
            )
        try:
            for server in self._wanted:
                self._start(server)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every server."""
        self.stop()

    def log(self, server: Server) -> Path:
        """The log of a server, begun anew by each start."""
        return self._settings.logs / f"{server.name}.log"

    def wait_until_ready(
        self, stop: threading.Event, timeout_seconds: float = START_TIMEOUT_SECONDS
    ) -> Iterator[Server]:
        """Each server as soon as it answers; ends early if ``stop`` is set.

        Raises:
            ServerFailedError: one ended, or did not answer in time.
        """
        waiting = list(self._wanted)
        end = time.monotonic() + timeout_seconds
        while waiting and not stop.wait(_POLL_SECONDS):
            self.check()
            for server in [server for server in waiting if server.answers()]:
                waiting.remove(server)
                yield server
            if waiting and time.monotonic() > end:
                raise ServerFailedError(
                    f"{waiting[0].title} did not answer in {timeout_seconds:g} s{self._log_tail(waiting[0])}"
                )

    def check(self) -> None:
        """Make sure that every server is still running.

        Raises:
            ServerFailedError: one ended.
        """
        for server in self._wanted:
            code = self._running[server.name].poll()
            if code is not None:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                raise ServerFailedError(f"{server.title} {how}{self._log_tail(server)}")

    def stop(self) -> None:
        """Ask every process group to end, and kill those that are still there after 20 s."""
        for kind, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS / 4)):
            for process in self._running.values():
                _signal_group(process, kind)
            end = time.monotonic() + patience
            while self._running and time.monotonic() < end:
                self._running = {name: p for name, p in self._running.items() if _group_lives(p)}
                time.sleep(_POLL_SECONDS / 5)

    def _start(self, server: Server) -> None:
        with self.log(server).open("wb") as log:
            self._running[server.name] = subprocess.Popen(
                list(server.command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Not the home itself: its folders are called dagster and mlflow, as the packages are.
                cwd=self._settings.logs,
                env=child_environment(server.environment),
                start_new_session=True,
            )

    def _log_tail(self, server: Server) -> str:
        lines = self.log(server).read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return f"; the end of {self.log(server)}:\n" + "\n".join(f"  {line}" for line in lines)


def require_free_ports(settings: Settings, wanted: Sequence[Server]) -> None:
    """Make sure that every server can listen.

    Raises:
        ValueError: a port is taken.
    """
    for server in wanted:
        if server.port and not is_free(settings.host, settings.ports[server.port]):
            raise ValueError(
                f"port {settings.ports[server.port]} for the {server.title} is taken by another program, and "
                f"this home's links point to it: end that program, or set {port_variable(server.port)} to another port"
            )


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the home's lock: two daemons on one instance would both launch everything.

    Raises:
        AlreadyServedError: another process holds it.
    """
    settings.logs.mkdir(parents=True, exist_ok=True)
    with (settings.logs / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise AlreadyServedError(
                f"{settings.home} is served already by process {lock.read().strip() or '?'}: {settings.dagster_url}, "
                f"{settings.mlflow_url}, {settings.reports_url}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def is_served(settings: Settings) -> bool:
    """Whether a process serves this home now."""
    if not (settings.logs / "up.lock").is_file():
        return False
    try:
        with only_one(settings):
            return False
    except AlreadyServedError:
        return True


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:  # noqa: S310
            return bool(answer.status < 400)
    except (OSError, HTTPException):
        return False


def _daemons_are_healthy(url: str) -> bool:
    request = Request(url, data=_DAEMONS, headers={"Content-Type": "application/json"})  # noqa: S310
    try:
        with urlopen(request, timeout=5) as answer:  # noqa: S310
            statuses = json.load(answer)["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (OSError, HTTPException, ValueError, LookupError, TypeError):
        return False
    return all(status["healthy"] for status in statuses if status["required"])


def _signal_group(process: subprocess.Popen[bytes], kind: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, kind)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
