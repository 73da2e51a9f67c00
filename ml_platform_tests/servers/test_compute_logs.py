"""What steps print in one process is seen in another, with another home: real runs, a real web server, a real store."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen
from uuid import uuid4

import dagster as dg
import pytest
from dagster_aws.s3 import S3ComputeLogManager

from ml_platform.automation.maintenance import forget_dagster_runs
from ml_platform.settings import child_environment, load
from ml_platform.stores.instance import prepare_dagster_home
from ml_platform_tests.servers.object_storage import free_ports
from ml_platform_tests.servers.shared import SharedStores
from ml_platform_tests.servers.talkative import GO_ON

pytestmark = pytest.mark.deploy

WITHIN_SECONDS = 300
OUTPUT = """
query($run: ID!, $key: [String!]!) {
  capturedLogs(logKey: $key) { stdout stderr }
  capturedLogsMetadata(logKey: $key) { stdoutDownloadUrl }
  runOrError(runId: $run) { ... on Run { status eventConnection { events {
    __typename ... on LogsCapturedEvent { fileKey } ... on EngineEvent { message error { message } } } } } }
}
"""


@dataclass
class Run:
    """A run in a process and a home of its own."""

    stores: SharedStores
    home: Path
    run_id: str = field(default_factory=lambda: str(uuid4()))
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        environment = child_environment(
            {**self.stores.environment(self.home), GO_ON: str(self.home / "go-on"), "PYTHONWARNINGS": "ignore"}
        )
        command = [sys.executable, "-m", "ml_platform_tests.servers.talkative", self.run_id]
        self.home.mkdir(parents=True)
        with (self.home / "log").open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def go_on(self) -> None:
        (self.home / "go-on").touch()

    def end(self) -> int:
        assert self.process is not None
        return self.process.wait(WITHIN_SECONDS)

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()


@dataclass(frozen=True)
class WebServer:
    """Dagster's own, on a home in which nothing ever ran."""

    url: str

    def asked(self, run: Run) -> dict[str, Any]:
        """The run's status and messages, and what its only process printed as far as it is seen."""
        answer = self._data(run, [])
        found = answer["runOrError"] or {}
        events = found.get("eventConnection", {"events": []})["events"]
        keys = [event["fileKey"] for event in events if event["__typename"] == "LogsCapturedEvent"]
        printed = self._data(run, [run.run_id, "compute_logs", keys[0]]) if keys else {}
        return {
            "status": found.get("status"),
            "errors": [event["message"] for event in events if event.get("error")],
            "url": (printed.get("capturedLogsMetadata") or {}).get("stdoutDownloadUrl"),
            **{name: (printed.get("capturedLogs") or {}).get(name) or "" for name in ("stdout", "stderr")},
        }

    def until(self, run: Run, seen: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + WITHIN_SECONDS
        while not seen(found := self.asked(run)):
            assert time.monotonic() < end, (found, run.log)
            time.sleep(0.5)
        return found

    def _data(self, run: Run, key: list[str]) -> dict[str, Any]:
        question = {"query": OUTPUT, "variables": {"run": run.run_id, "key": key or [run.run_id, "compute_logs", "-"]}}
        body, headers = json.dumps(question).encode(), {"Content-Type": "application/json"}
        with urlopen(Request(f"{self.url}/graphql", data=body, headers=headers), timeout=30) as answer:
            said: dict[str, Any] = json.load(answer)
        assert "errors" not in said, said
        found: dict[str, Any] = said["data"]
        return found


@contextmanager
def web_server(stores: SharedStores, home: Path) -> Iterator[WebServer]:
    environment = stores.environment(home)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        dagster_home = prepare_dagster_home(load()).dagster_home
        patch.delenv("DAGSTER_HOME")
    port = free_ports(1)[0]
    command = [str(Path(sys.executable).with_name("dagster-webserver")), "--empty-workspace", "-h", "127.0.0.1"]
    around = child_environment({**environment, "DAGSTER_HOME": str(dagster_home), "PYTHONWARNINGS": "ignore"})
    with (home / "log").open("wb") as log:
        server = subprocess.Popen([*command, "-p", str(port)], env=around, stdout=log, stderr=log)
    try:
        end = time.monotonic() + WITHIN_SECONDS
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/server_info", timeout=5).close()
                break
            except (URLError, ConnectionError):
                assert server.poll() is None, (home / "log").read_text()
                assert time.monotonic() < end, (home / "log").read_text()
                time.sleep(0.5)
        yield WebServer(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def web(stores: SharedStores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    with web_server(stores, tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture
def run(stores: SharedStores, web: WebServer, tmp_path: Path) -> Iterator[Run]:
    """Under way."""
    found = Run(stores, tmp_path / "run")
    found.start()
    yield found
    assert found.process is not None
    found.process.kill()
    found.process.wait()


def test_output_is_seen_elsewhere_while_the_step_works_and_whole_afterwards(
    web: WebServer, run: Run, stores: SharedStores
) -> None:
    found = web.until(run, lambda found: "said before" in found["stdout"])
    assert found["status"] == "STARTED"
    assert "complained" in found["stderr"]
    assert "said after" not in found["stdout"]
    run.go_on()
    assert run.end() == 0, run.log
    found = web.until(run, lambda found: "said after" in found["stdout"])
    assert found["stdout"] == "said before\nsaid after\n"
    assert found["status"] == "SUCCESS"
    assert not found["errors"]
    with urlopen(found["url"], timeout=30) as download:
        assert download.read() == b"said before\nsaid after\n"
    assert not list(run.home.rglob("compute_logs/*")), "what is stored need not stay in the home"
    (file,) = run.home.rglob("dagster.yaml")
    secrets = (stores.redis.password, stores.postgres.password, stores.bucket.storage_options["AWS_SECRET_ACCESS_KEY"])
    assert "S3ComputeLogManager" in file.read_text()
    assert not [secret for secret in secrets if secret in file.read_text()]


def test_of_a_step_that_was_killed_what_it_had_printed_stays(web: WebServer, run: Run) -> None:
    web.until(run, lambda found: "said before" in found["stdout"])
    assert run.process is not None
    run.process.kill()
    run.end()
    assert web.asked(run)["stdout"] == "said before\n"


def test_a_store_that_is_down_costs_the_output_and_not_the_step(web: WebServer, run: Run, stores: SharedStores) -> None:
    web.until(run, lambda found: found["status"] == "STARTED")
    stores.bucket.kill()
    try:
        run.go_on()
        assert run.end() == 0, run.log
    finally:
        stores.bucket.start()
    found = web.asked(run)
    assert found["status"] == "SUCCESS"
    assert found["errors"] == ["Exception while cleaning up compute log capture"]


def test_a_forgotten_run_takes_its_output_out_of_the_store(
    web: WebServer, run: Run, stores: SharedStores, on_shared_stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored() -> list[str]:
        listed = stores.bucket.client().list_objects_v2(Bucket="tests", Prefix=f"compute-logs/storage/{run.run_id}/")
        return [each["Key"] for each in listed.get("Contents", [])]

    run.go_on()
    assert run.end() == 0, run.log
    assert len(stored()) >= 2
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")
    prepare_dagster_home(load())
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.compute_log_manager, S3ComputeLogManager)
        assert run.run_id in forget_dagster_runs(instance, datetime.now(UTC), ())
        assert instance.get_run_by_id(run.run_id) is None
    assert not stored()
