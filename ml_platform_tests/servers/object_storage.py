"""A real S3 server on this machine: SeaweedFS, with a bucket and a key of its own."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_platform_tests.servers.certificates import Certificates

_KEY, _SECRET, _BUCKET = "tests", "of-the-tests", "tests"
_READY_WITHIN_SECONDS = 180
_WEED = Path(sys.executable).with_name("weed")


@dataclass
class Bucket:
    """A bucket and its server; ``storage_options`` by the names that deltalake and polars read."""

    folder: Path
    ports: dict[str, int]
    tls: Certificates | None = None
    url: str = f"s3://{_BUCKET}"
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        if self.tls is not None:
            return f"https://127.0.0.1:{self.ports['s3.port.https']}"
        return f"http://127.0.0.1:{self.ports['s3.port']}"

    @property
    def storage_options(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": "us-east-1",
            **({"AWS_ALLOW_HTTP": "true"} if self.tls is None else {}),
        }

    def client(self) -> Any:
        """boto3's, as the owner of the bucket."""
        import boto3

        keys = {"aws_access_key_id": _KEY, "aws_secret_access_key": _SECRET, "region_name": "us-east-1"}
        verify = None if self.tls is None else str(self.tls.authority)
        return boto3.Session().client("s3", endpoint_url=self.endpoint, verify=verify, **keys)

    def start(self) -> None:
        command = [
            str(_WEED),
            f"-logdir={self.folder}",
            "server",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            # The default, eight, is enough for one bucket.
            "-volume.max=64",
            f"-s3.config={self.folder / 's3.json'}",
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]
        if self.tls is not None:
            command += [f"-s3.cert.file={self.tls.certificate}", f"-s3.key.file={self.tls.key}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        _make(self, self._process, self.folder / "log")

    def add_key(self, key_id: str, key: str, actions: str = "Admin") -> None:
        """Let whoever shows it do these things, from now on: everything, unless others are named."""
        self._shell(f"s3.configure -user {key_id} -access_key {key_id} -secret_key {key} -actions {actions} -apply")

    def remove_key(self, key_id: str) -> None:
        self._shell(f"s3.configure -user {key_id} -access_key {key_id} -delete -apply")

    def _shell(self, line: str) -> None:
        """SeaweedFS' own, told by its input: a key is on no command line."""
        ports = {each: (self.ports[f"{each}.port"], self.ports[f"{each}.port.grpc"]) for each in ("master", "filer")}
        command = [str(_WEED), "shell", *(f"-{each}=127.0.0.1:{http}.{grpc}" for each, (http, grpc) in ports.items())]
        done = subprocess.run(command, input=f"{line}\nexit\n", capture_output=True, text=True, check=True, timeout=60)
        assert "error" not in done.stdout.lower(), done.stdout

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, with_signal: int) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(with_signal)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def object_storage(folder: Path, tls: Certificates | None = None) -> Iterator[Bucket]:
    """A server that keeps its objects in a folder, and ends with the context."""
    (folder / "data").mkdir(parents=True)
    identity = {"name": "tests", "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    every = [*names, *(f"{name}.grpc" for name in names), *(["s3.port.https"] if tls is not None else [])]
    bucket = Bucket(folder, dict(zip(every, free_ports(len(every)), strict=True)), tls)
    try:
        bucket.start()
        yield bucket
    finally:
        bucket.stop()


def _make(bucket: Bucket, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Make the bucket as soon as the server answers, if it is not there."""
    from botocore.exceptions import BotoCoreError, ClientError

    client, until = bucket.client(), time.monotonic() + _READY_WITHIN_SECONDS
    while True:
        try:
            if _BUCKET not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=_BUCKET)
        except (BotoCoreError, ClientError):
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the object storage did not start:\n{log.read_text()[-2000:]}") from None
            time.sleep(0.3)
        else:
            return


def free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
