"""A real Redis on this machine that asks for a password, with what it holds on disk."""

import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ml_platform_tests.servers.certificates import Certificates
from ml_platform_tests.servers.postgres import free_port

_READY_WITHIN_SECONDS = 180


@dataclass
class RedisServer:
    """The server of one folder."""

    folder: Path
    port: int
    password: str
    tls: Certificates | None = None
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Without the password."""
        return f"{'redis' if self.tls is None else 'rediss'}://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        from redis import Redis

        secured = {} if self.tls is None else {"ssl": True, "ssl_ca_certs": str(self.tls.authority)}
        return Redis(host="127.0.0.1", port=self.port, password=self.password, **secured)

    def start(self) -> None:
        from redis.exceptions import RedisError

        listens = [f"port {self.port}"]
        if self.tls is not None:
            listens = [
                "port 0",
                f"tls-port {self.port}",
                "tls-auth-clients no",
                f"tls-ca-cert-file {self.tls.authority}",
            ]
            listens += [f"tls-cert-file {self.tls.certificate}", f"tls-key-file {self.tls.key}"]
        users = self.folder / "users.acl"
        if not users.exists():  # what Redis saved there stays
            users.write_text(f"user default on >{self.password} ~* &* +@all\n")
        config = self.folder / "redis.conf"
        config.write_text(
            "\n".join(listens) + f'\nbind 127.0.0.1\ndir {self.folder}\nappendonly yes\nappendfsync always\nsave ""\n'
            f"aclfile {users}\n"
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", str(config)], stdout=log, stderr=log)
        until = time.monotonic() + _READY_WITHIN_SECONDS
        while True:
            try:
                self.client().ping()
            except RedisError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"Redis did not start:\n{(self.folder / 'log').read_text()[-2000:]}") from None
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, with_signal: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(with_signal)
            self._process.wait(30)


@contextmanager
def redis_server(folder: Path, tls: Certificates | None = None) -> Iterator[RedisServer]:
    """A new server that keeps what it holds in a folder, and ends with the context."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    folder.mkdir(parents=True)
    server = RedisServer(folder, free_port(), secrets.token_hex(16), tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()
