"""Real stores, a stand-in for a cluster, and Dagster's daemon with the unmodified launcher of Kubernetes."""

import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._grpc.client import DagsterGrpcClient
from dagster_graphql.client.query import LAUNCH_PIPELINE_EXECUTION_MUTATION
from dagster_graphql.test.utils import execute_dagster_graphql

from ml_platform.defs.nyc_flights.replay import replay
from ml_platform.settings import DEFAULT_PORTS, PROCESS_ENVIRONMENT, load
from ml_platform.stores.delta_log import forget_open_tables
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.instance import is_free
from ml_platform.stores.models import ModelStore
from ml_platform_tests.kubernetes.cluster import Cluster, Job
from ml_platform_tests.kubernetes.launching import Credentials, Release, outside, release
from ml_platform_tests.kubernetes.project import project, python_path
from ml_platform_tests.processes import Contained
from ml_platform_tests.servers.postgres import binary
from ml_platform_tests.servers.shared import DATABASES, SharedStores, shared_stores

DAYS_PER_RUN = 7
UNTIL = "2013-01-21"
LOCATION = "cut_flights"
_DAEMON_ENDS_SECONDS = 30
FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass
class Platform:
    """What a test sees: Dagster's instance, its code location, the cluster, and what tells jobs to go on."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    cluster: Cluster
    told: Path
    environment: dict[str, str]
    release: Release
    stores: SharedStores
    credentials: Credentials
    daemon: "Daemon"

    def rotate(self, new: Credentials) -> None:
        """Replace every Secret, and begin servers anew, as the runbook says; runs are left alone.

        This process stands in for one that begins anew too: no table stays open with what opened it before.
        """
        for name, content in new.secrets.items():
            self.cluster.set_secret(name, content)
        self.environment |= outside(self.release, new, Path(self.environment["PGSERVICEFILE"]).parent)
        self.credentials = new
        forget_open_tables()
        self.daemon.restart(self.environment)
        self.workspace.refresh_workspace()

    def admit_image(self, digest: str) -> str:
        """Let another image be had, with what the release's has in it. Its name."""
        image = self.release.with_image(digest).image
        self.cluster.images = {**self.cluster.images, image: self.cluster.images[self.release.image]}
        return image

    def upgrade(self, digest: str) -> None:
        """``helm upgrade`` to another image that is to be had; the environment of servers stays the same."""
        new = self.release.with_image(digest)
        file = Path(self.environment["DAGSTER_HOME"]) / "dagster.yaml"
        file.write_text(new.install(self.cluster, self.credentials))
        self.release = new

    @contextmanager
    def with_runs_that_start_within(self, seconds: int) -> Iterator[None]:
        """The daemon gives a run up that takes longer to start."""
        file = Path(self.environment["DAGSTER_HOME"]) / "dagster.yaml"
        before = file.read_text()
        changed = yaml.safe_load(before)
        changed["run_monitoring"]["start_timeout_seconds"] = seconds
        file.write_text(yaml.safe_dump(changed))
        self.daemon.restart()
        try:
            yield
        finally:
            file.write_text(before)
            self.daemon.restart()

    def launch(
        self, job: str, assets: Sequence[dg.AssetKey] | None = None, tags: Mapping[str, str] | None = None
    ) -> str:
        """Ask for a run as the Launchpad does; the daemon launches it. Its id."""
        selector: dict[str, Any] = {
            "repositoryLocationName": LOCATION,
            "repositoryName": "__repository__",
            "pipelineName": job,
        }
        if assets is not None:
            selector["assetSelection"] = [{"path": key.path} for key in assets]
        tagged = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        params = {"selector": selector, "mode": "default", "executionMetadata": {"tags": tagged}}
        answer = execute_dagster_graphql(
            self.workspace.create_request_context(),
            LAUNCH_PIPELINE_EXECUTION_MUTATION,
            variables={"executionParams": params},
        ).data["launchPipelineExecution"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def end_of(self, run_id: str, seconds: float = 600) -> dg.DagsterRun:
        """The run when it has ended."""
        return self.until("the run's end", lambda: self._ended(run_id), seconds, run_id)

    def _ended(self, run_id: str) -> dg.DagsterRun | None:
        run = self.instance.get_run_by_id(run_id)
        return run if run is not None and run.status in FINISHED else None

    def begun(self, run_id: str, step: str, attempt: int = 0, seconds: float = 300) -> Job:
        """The Job of a step that waits to be told, once it does."""
        self.until("the step's beginning", lambda: (self.told / f"{step}.{attempt}").exists(), seconds, run_id)
        return self.cluster.jobs_of(run_id, step)[-1]

    def until(self, what: str, seen: Callable[[], Any], seconds: float, run_id: str) -> Any:
        """What is seen, once it is."""
        end = time.monotonic() + seconds
        while not (found := seen()):
            assert time.monotonic() < end, f"{what} did not come in {seconds:g} s:\n{self.story(run_id)}"
            time.sleep(0.25)
        return found

    def said(self, run_id: str) -> str:
        """Everything in the run's log."""
        return "\n".join(
            f"{entry.step_key or ''} {entry.message} {_error(entry)}" for entry in self.instance.all_logs(run_id)
        )

    def story(self, run_id: str) -> str:
        """What the run and its pods said, for people who read a failed test."""
        logs = [
            f"--- {job.step or 'run'} {job.pod.phase} {job.pod.exit_code}\n{_tail(job.pod.log)}"
            for job in self.cluster.jobs_of(run_id)
            if job.pod.exit_code != 0
        ]
        return (self.said(run_id) if run_id else "")[-6000:] + "\n" + "\n".join(logs)


def _error(entry: dg.EventLogEntry) -> str:
    event = entry.dagster_event
    data = None if event is None else event.event_specific_data
    error = getattr(data, "error", None)
    return "" if error is None else error.to_string()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:] if log.exists() else "it has no log"


@pytest.fixture(scope="package")
def cluster_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStores]:
    """Postgres with a role that owns all and one that logs in as it (runbooks/rotating.md), Redis, object storage."""
    with shared_stores(tmp_path_factory.mktemp("cluster_stores") / "stores") as stores:
        stores.postgres.run(
            "CREATE ROLE ml_platform NOLOGIN", *(f"ALTER DATABASE {name} OWNER TO ml_platform" for name in DATABASES)
        )
        yield stores


def admit(stores: SharedStores, turn: str) -> Credentials:
    """Let another role, password and key in, beside those there are."""
    words = (f"{each}-{secrets.token_hex(8)}" for each in ("postgres", "redis", "id", "key"))
    made = Credentials(f"ml_platform_{turn}", *words)
    stores.postgres.run(
        f"CREATE ROLE {made.role} LOGIN PASSWORD '{made.postgres}' IN ROLE ml_platform",
        f"ALTER ROLE {made.role} SET role = ml_platform",
    )
    with closing(stores.redis.client()) as client:
        client.acl_setuser("default", enabled=True, passwords=[f"+{made.redis}"])
    stores.bucket.add_key(made.key_id, made.key)
    return made


def shut_out(stores: SharedStores, old: Credentials) -> None:
    """The role logs in no more, password and key are gone."""
    stores.postgres.run(f"ALTER ROLE {old.role} NOLOGIN PASSWORD NULL")
    with closing(stores.redis.client()) as client:
        client.acl_setuser("default", enabled=True, passwords=[f"-{old.redis}"])
    stores.bucket.remove_key(old.key_id)


@pytest.fixture(scope="module")
def platform(running: Platform) -> Iterator[Platform]:
    """The platform on a cluster, whose environment is this process's while a module's tests run."""
    with _environment(running.environment):
        yield running


@pytest.fixture(scope="package")
def running(cluster_stores: SharedStores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The daemon outside of the cluster, three weeks of flights landed, nothing made yet."""
    folder = tmp_path_factory.mktemp("platform")
    shared, location = folder / "shared", project(folder / "project")
    told = shared / "told"
    told.mkdir(parents=True)
    repo = Path(shutil.copytree(Path(__file__).parents[2] / "feature_repo", shared / "feature_repo"))
    ports = [str(port) for port in random.sample(range(20_000, 32_000), 50) if is_free("127.0.0.1", port)]
    settings = {
        "ML_PLATFORM_LANDING_SETTLE_SECONDS": "0",
        "ML_PLATFORM_FEATURE_REPO": str(repo),
        **{f"ML_PLATFORM_{name.upper()}_PORT": port for name, port in zip(DEFAULT_PORTS, ports, strict=False)},
    }
    image = {
        **PROCESS_ENVIRONMENT,
        # With Postgres' own programs of the server's version, as in the image.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(binary("psql").parent), os.environ["PATH"]]),
        "PYTHONPATH": python_path(location),
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder),
        "HOME": str(folder),
        "TEST_TOLD": str(told),
    }
    with ExitStack() as stack:
        made = release(cluster_stores, settings, days_per_run=DAYS_PER_RUN)
        cluster = stack.enter_context(Cluster(folder / "cluster", shared, {made.image: image}))
        credentials = admit(cluster_stores, "a")
        home = folder / "home"
        environment = {
            **outside(made, credentials, folder / "secrets"),
            **image,
            "ML_PLATFORM_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
        }
        (home / "dagster").mkdir(parents=True)
        (home / "dagster" / "dagster.yaml").write_text(made.install(cluster, credentials))
        sys.path.insert(0, str(location.parent))
        stack.callback(sys.path.remove, str(location.parent))
        with _environment(environment):
            list(replay(load().landing, until=UNTIL))
            FeatureClient(load()).keep_manifest()
            # MLflow's tables are made by its server, before anything asks for them: here by this process.
            ModelStore(load()).candidate("flight_delay")
            instance = stack.enter_context(dg.DagsterInstance.get())
            port = next(number for number in map(int, reversed(ports)) if is_free("127.0.0.1", number))
            daemon = stack.enter_context(Daemon(location, folder, environment, port))
            target = GrpcServerTarget("127.0.0.1", port, None, LOCATION)
            workspace = stack.enter_context(WorkspaceProcessContext(instance, target))
        yield Platform(instance, workspace, cluster, told, environment, made, cluster_stores, credentials, daemon)


@pytest.fixture(autouse=True)
def _nothing_is_told(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test begins with nothing told to jobs, and leaves none that waits."""
    if "platform" not in request.fixturenames:
        yield
        return
    told = request.getfixturevalue("platform").told
    for file in told.iterdir():
        file.unlink()
    yield
    (told / "go").touch()


@contextmanager
def _environment(environment: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", tempfile.gettempdir())  # which pods always name, and machines seldom
        for name, value in environment.items():
            if name not in ("TMPDIR", "HOME", "PATH"):
                patch.setenv(name, value)
        yield


class Daemon:
    """Dagster's daemon and the server of its code location, in processes of their own."""

    def __init__(self, location: Path, folder: Path, environment: Mapping[str, str], port: int) -> None:
        self._workspace, self._log, self._port = folder / "workspace.yaml", folder / "daemon.log", port
        server = {"host": "127.0.0.1", "port": port, "location_name": LOCATION}
        self._workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        code = ["--python-file", str(location), "--working-directory", str(location.parent)]
        self._serve = ["dagster", "code-server", "start", "--port", str(port), "--location-name", LOCATION, *code]
        self._environment = environment
        self._server: Contained | None = None
        self._daemon: Contained | None = None

    def __enter__(self) -> "Daemon":
        self.start_server()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.stop_server()

    def restart(self, environment: Mapping[str, str] | None = None) -> None:
        """The daemon alone; into another environment, the server of its code location too."""
        self.stop()
        if environment is not None:
            self._environment = environment
            self.stop_server()
            self.start_server()
        self.start()

    def start(self) -> None:
        """The daemon, unless it is at work."""
        if self._daemon is None:
            self._daemon = self._begun(["dagster._daemon", "run", "--workspace", str(self._workspace)])

    def stop(self) -> None:
        """The daemon."""
        if self._daemon is not None:
            self._daemon.end(_DAEMON_ENDS_SECONDS)
        self._daemon = None

    def start_server(self) -> None:
        """The code location's, until it answers."""
        if self._server is not None:
            return
        self._server = self._begun(self._serve)
        client, end = DagsterGrpcClient(port=self._port, host="127.0.0.1"), time.monotonic() + 300
        while client.health_check_query() != "SERVING":
            assert time.monotonic() < end, f"the code location is not served:\n{_tail(self._log)}"
            time.sleep(0.25)

    def stop_server(self) -> None:
        """The code location's."""
        if self._server is not None:
            self._server.end(_DAEMON_ENDS_SECONDS)
        self._server = None

    def _begun(self, command: Sequence[str]) -> Contained:
        return Contained([sys.executable, "-m", *command], self._environment, self._log.parent, self._log)
