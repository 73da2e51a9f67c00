"""Upgrading and restoring, walked through by the runbooks' own commands, in their order, on real stores."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any

import dagster as dg
import optuna
import pytest
import sqlalchemy as sa

from ml_platform.automation.runs import range_tags
from ml_platform.settings import load
from ml_platform.stores.backup import backups, damaged
from ml_platform.stores.delta_log import forget_open_tables
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.models import ModelStore
from ml_platform_tests import small_home
from ml_platform_tests.deploy import chart
from ml_platform_tests.kubernetes.conftest import Platform
from ml_platform_tests.kubernetes.launching import BACKUPS
from ml_platform_tests.kubernetes.operating import Kubectl, commands, edited, piped
from ml_platform_tests.processes import Contained
from ml_platform_tests.servers.postgres import binary, free_port
from ml_platform_tests.servers.shared import DATABASES

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

MODEL = small_home.MODEL
OTHER_IMAGE = "sha256:" + "c" * 64
SCRIPTS = {
    # Dagster's last two change nothing in Postgres.
    "dagster": (str(files("dagster") / "_core/storage/alembic"), "-3"),
    "mlflow": (str(files("mlflow") / "store/db_migrations"), "-1"),
    "optuna": (str(files("optuna") / "storages/_rdb/alembic"), "-1"),
}
"""Of each database that is migrated: where its migrations are, and how far back there is one to make."""


class Servers:
    """The release's Deployments: daemon and code location as every test has them, MLflow by the chart's command.

    For the web server stands what this process asks the code location by.
    """

    def __init__(self, platform: Platform, folder: Path) -> None:
        self._platform, self._folder = platform, folder
        self._mlflow: Contained | None = None
        self._port = free_port()

    def scale(self, name: str, replicas: int) -> None:
        """As many of a Deployment as are asked for: one or none."""
        daemon = self._platform.daemon
        by_name = {
            "daemon": (daemon.stop, daemon.start),
            "code-ml-platform": (daemon.stop_server, daemon.start_server),
            "mlflow": (self.stop_mlflow, self._start_mlflow),
            "web": (lambda: None, lambda: None),
        }
        by_name[name.removeprefix(f"{chart.RELEASE}-")][replicas]()

    def scale_all(self, replicas: int) -> None:
        """As ``helm upgrade`` does."""
        for name in ("code-ml-platform", "mlflow", "web", "daemon"):
            self.scale(f"{chart.RELEASE}-{name}", replicas)

    def execute(self, name: str, command: Sequence[str]) -> str:
        """What a command prints where the code location is."""
        assert name == f"deployment/{chart.RELEASE}-code-ml-platform"
        environment = self._platform.environment
        # Where its pod has it mounted.
        mounted = self._folder / "dagster.yaml"
        mounted.write_text((Path(environment["DAGSTER_HOME"]) / "dagster.yaml").read_text())
        done = subprocess.run(
            [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]],
            env={**environment, "ML_PLATFORM_DAGSTER_YAML": str(mounted)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _start_mlflow(self) -> None:
        if self._mlflow is not None:
            return
        [container] = chart.of_kind(self._platform.release.objects, "Deployment")[f"{chart.RELEASE}-mlflow"]["spec"][
            "template"
        ]["spec"]["containers"]
        own = {each["name"]: each["value"] for each in container["env"] if each["name"].startswith("MLFLOW_")}
        here = {"0.0.0.0": "127.0.0.1", "5000": str(self._port)}
        command = [here.get(word, word) for word in container["args"]]
        self._mlflow = Contained(
            command, {**self._platform.environment, **own}, self._folder, self._folder / "mlflow.log"
        )

    def stop_mlflow(self) -> None:
        if self._mlflow is not None:
            self._mlflow.end(30)
        self._mlflow = None

    def served_versions(self) -> list[str]:
        """The model's versions, as MLflow's server tells them, newest first."""
        page = f"/api/2.0/mlflow/model-versions/search?max_results=9&filter=name%3D%27{MODEL}%27"
        asked = urllib.request.Request(f"http://127.0.0.1:{self._port}{page}", headers={"Host": "lab-mlflow:5000"})
        end = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(asked, timeout=60) as answer:
                    return [each["version"] for each in json.load(answer)["model_versions"]]
            except OSError:
                assert self._mlflow is not None
                log = (self._folder / "mlflow.log").read_text()[-3000:]
                assert self._mlflow.exit_code is None, log
                assert time.monotonic() < end, log
                time.sleep(0.5)


@pytest.fixture(scope="module")
def servers(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    made = Servers(platform, tmp_path_factory.mktemp("servers"))
    yield made
    made.stop_mlflow()


@pytest.fixture(scope="module")
def kubectl(platform: Platform, servers: Servers) -> Kubectl:
    return Kubectl(platform.cluster, servers.scale, servers.execute)


@pytest.fixture(scope="module", autouse=True)
def judged(platform: Platform) -> None:
    """A champion, its predictions, features online, a study, and a place for backups."""
    if ModelStore(load()).champion(MODEL) is None:
        small_home.build_home(load())
    FeatureClient(load()).refill_online()
    optuna.create_study(study_name="another", storage=load().optuna_storage_url, load_if_exists=True)
    client = platform.stores.bucket.client()
    bucket = BACKUPS.removeprefix("s3://").partition("/")[0]
    if bucket not in [each["Name"] for each in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)


def answers(kubectl: Kubectl) -> list[Any]:
    """Status, the champion, its predictions: those on record, and one made anew of features that are online."""
    flights = Lake.of(load()).query(f"SELECT * FROM {MODEL}.predictions ORDER BY prediction_time, flight_id")
    inside = f"kubectl -n {chart.NAMESPACE} exec deployment/{chart.RELEASE}-code-ml-platform --"
    key = f"flight_id={flights['flight_id'][-1]}"
    return [
        json.loads(kubectl.run(f"{inside} ml-platform status --json")),
        ModelStore(load()).champion(MODEL),
        flights.to_dicts(),
        json.loads(kubectl.run(f"{inside} ml-platform predict {MODEL} --online --json --key '{key}'")),
    ]


def made_by_a_run(platform: Platform, day: str) -> str:
    """A run that makes a table's day."""
    return platform.launch("nyc_flights_loop", [dg.AssetKey(["raw", "schedule"])], range_tags(day, day))


def versions(platform: Platform) -> dict[str, str]:
    """How far each database is migrated."""
    found = {}
    for database in SCRIPTS:
        with platform.stores.postgres.connection(database) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT version_num FROM alembic_version")
            [[found[database]]] = cursor.fetchall()
    return found


def make_older(platform: Platform) -> None:
    """The databases as an older version has them, by the libraries' own way back."""
    from alembic.command import downgrade
    from alembic.config import Config

    # Optuna's last migration makes an index that it does not make where it makes all tables, and its way back drops.
    platform.stores.postgres.run("CREATE INDEX trials_study_id_key ON trials (study_id)", database="optuna")
    for database, (scripts, revision) in SCRIPTS.items():
        config, url = Config(), f"postgresql+psycopg2://127.0.0.1:{platform.stores.postgres.port}/{database}"
        config.set_main_option("script_location", scripts)
        config.set_main_option("sqlalchemy.url", url)
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            config.attributes["connection"] = connection
            downgrade(config, revision)


def destroy(platform: Platform) -> None:
    """Postgres has neither databases nor roles, Redis no key, the bucket no object."""
    postgres = platform.stores.postgres
    postgres.run(*(f"DROP DATABASE {database} WITH (FORCE)" for database in DATABASES))
    with postgres.connection("postgres") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'ml\\_platform%'")
        roles = [role for (role,) in cursor.fetchall()]
    postgres.run(*(f"DROP ROLE {role}" for role in roles))
    with closing(platform.stores.redis.client()) as redis:
        redis.flushall()
    client, bucket = platform.stores.bucket.client(), platform.stores.bucket.url.removeprefix("s3://")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        if there := [{"Key": each["Key"]} for each in page.get("Contents", [])]:
            client.delete_objects(Bucket=bucket, Delete={"Objects": there, "Quiet": True})


def make_databases(platform: Platform, folder: Path) -> None:
    """As the runbook of installing does, with the password that the Secret has."""
    assert platform.credentials.role == "ml_platform_a", "the script makes no other"
    (folder / "postgres_password").write_text(platform.credentials.postgres)
    script = folder / "databases.sql"
    script.write_text(
        (Path(__file__).parents[2] / "deploy" / "compose" / "databases.sql")
        .read_text()
        .replace("/run/secrets/postgres_password", str(folder / "postgres_password"))
    )
    postgres = platform.stores.postgres
    where = f"host=127.0.0.1 port={postgres.port} user=platform dbname=postgres"
    administrator = {"PATH": os.environ["PATH"], "PGPASSFILE": str(postgres.passfile)}
    subprocess.run([str(binary("psql")), where, "--file", str(script)], env=administrator, check=True)


def test_an_upgrade_by_the_runbook_migrates_and_what_runs_then_has_the_new_image(
    platform: Platform, servers: Servers, kubectl: Kubectl
) -> None:
    under_way = platform.launch("waiting")
    platform.begun(under_way, "waits")

    for command in commands("upgrading", step=2):
        kubectl.run(command)
    [*_, newest] = backups(BACKUPS)
    assert damaged(newest) == []
    assert len(newest.files) > 100

    stop, look = commands("upgrading", step=3)
    kubectl.run(stop)
    running = [job for job in json.loads(kubectl.run(look)) if job["status"].get("active")]
    assert [job["metadata"]["labels"]["dagster/run-id"] for job in running] == [under_way]
    (platform.told / "go").touch()
    assert platform.end_of(under_way).status is dg.DagsterRunStatus.SUCCESS, platform.story(under_way)
    platform.until(
        "the end of Jobs",
        lambda: not [job for job in json.loads(kubectl.run(look)) if job["status"].get("active")],
        60,
        under_way,
    )

    stop, *migrate = commands("upgrading", step=4)
    kubectl.run(stop)
    newest_schema = versions(platform)
    make_older(platform)
    assert not newest_schema.items() & versions(platform).items()
    image = platform.admit_image(OTHER_IMAGE)
    for command in migrate:
        kubectl.run(command.replace("REPOSITORY@sha256:DIGEST", image))
    assert platform.cluster.jobs["migrate"].pod.container["image"] == image
    assert versions(platform) == newest_schema

    platform.upgrade(OTHER_IMAGE)
    servers.scale_all(1)
    platform.workspace.refresh_workspace()
    for command in commands("upgrading", step=5):
        said = kubectl.run(command)
    assert platform.cluster.jobs["doctor"].pod.exit_code == 0, said
    champion = ModelStore(load()).champion(MODEL)
    assert champion is not None
    assert str(champion.version) in servers.served_versions()

    after = made_by_a_run(platform, "2013-01-16")
    assert platform.end_of(after).status is dg.DagsterRunStatus.SUCCESS, platform.story(after)
    assert {job.pod.container["image"] for job in platform.cluster.jobs_of(after)} == {image}


def test_a_platform_that_is_gone_is_what_it_was_when_it_is_restored_by_the_runbook(
    platform: Platform, servers: Servers, kubectl: Kubectl, tmp_path: Path
) -> None:
    servers.scale_all(1)
    before = answers(kubectl)
    under_way = platform.launch("waiting")
    platform.begun(under_way, "waits")

    for command in commands("restoring"):
        said = kubectl.run(command)
    cron_job, made = map(kubectl.run, commands("restoring", "Is there a good one?"))
    assert not json.loads(cron_job)["spec"]["suspend"]
    by_name = {job["metadata"]["name"]: job["status"] for job in json.loads(made)}
    assert by_name["backup-by-hand"]["conditions"][0]["type"] == "Complete"
    [*_, newest] = backups(BACKUPS)
    assert newest.root.name in said

    destroy(platform)
    for command in commands("restoring", "Restoring", 1):
        kubectl.run(command)
    assert platform.cluster.cron_jobs[f"{chart.RELEASE}-backup"]["spec"]["suspend"]
    make_databases(platform, tmp_path)
    for command in commands("restoring", "Restoring", 3):
        said = kubectl.run(command)
    restored = platform.cluster.jobs["restore"]
    assert newest.root.name in restored.pod.log.read_text()
    forget_open_tables()

    start, *compare = commands("restoring", "Restoring", 4)
    kubectl.run(start)
    platform.workspace.refresh_workspace()
    for command in compare:
        assert kubectl.run(command)
    assert answers(kubectl) == before
    assert str(before[1].version) in servers.served_versions()
    assert not platform.cluster.cron_jobs[f"{chart.RELEASE}-backup"]["spec"]["suspend"]

    (platform.told / "go").touch()
    after = made_by_a_run(platform, "2013-01-17")
    assert platform.end_of(under_way).status is dg.DagsterRunStatus.FAILURE
    children = dg.RunsFilter(tags={"dagster/parent_run_id": under_way})
    platform.until("another try", lambda: platform.instance.get_runs(children), 300, under_way)
    for run_id in (platform.instance.get_runs(children)[0].run_id, after):
        assert platform.end_of(run_id).status is dg.DagsterRunStatus.SUCCESS, platform.story(run_id)


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize(("book", "section", "step"), [("upgrading", "", 4), ("restoring", "Restoring", 3)])
def test_jq_makes_of_a_job_what_the_walk_does(book: str, section: str, step: int) -> None:
    [words] = [words for line in commands(book, section, step) for words in piped(line) if words[0] == "jq"]
    task = chart.of_kind(chart.rendered(chart.values("production")), "CronJob")[f"{chart.RELEASE}-task"]
    job = task["spec"]["jobTemplate"]
    done = subprocess.run(words, input=json.dumps(job), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == edited(job, words[1:]) != job
