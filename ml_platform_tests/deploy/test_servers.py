"""Servers started by the very commands and variables that the chart gives their containers, asked by its own probes."""

import http.client
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg2
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ml_platform.settings import DEFAULT_PORTS, load
from ml_platform.stores.instance import is_free
from ml_platform_tests.deploy.chart import RELEASE, of_kind, rendered, values
from ml_platform_tests.processes import Contained

pytestmark = pytest.mark.deploy

READY_WITHIN_SECONDS = 300
MOUNTS = {"postgres": "/var/run/secrets/ml-platform/postgres", "home": "/var/lib/ml-platform"}


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """Production, with Postgres as a unix socket would be reached: without TLS."""
    return rendered(values("production", {"postgres": {"sslmode": "disable", "caConfigMap": {"name": ""}}}))


@pytest.fixture
def pod_files(postgres: Path, tmp_path: Path) -> dict[str, str]:
    """What a pod finds mounted, by where the chart mounts it: the service file as a kubelet leaves it, and a home."""
    superuser = psycopg2.connect(host=str(postgres), user="postgres", dbname="postgres")
    superuser.autocommit = True
    with closing(superuser), superuser.cursor() as cursor:
        cursor.execute("SELECT FROM pg_database WHERE datname = 'mlflow'")
        if cursor.fetchone() is None:
            cursor.execute("CREATE ROLE ml_platform_a LOGIN PASSWORD 'of-the-test'")
            cursor.execute("CREATE DATABASE mlflow OWNER ml_platform_a")
    (tmp_path / "postgres").mkdir()
    (tmp_path / "home" / "dagster").mkdir(parents=True)
    file = tmp_path / "postgres" / "pg_service.conf"
    file.write_text("[ml_platform]\nuser=ml_platform_a\npassword=of-the-test\n")
    file.chmod(0o440)
    return {path: str(tmp_path / name) for name, path in MOUNTS.items()}


def started_as(
    objects: list[dict[str, Any]], deployment: str, files: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """A container's command and variables, its folders being those of the test."""
    (container,) = of_kind(objects, "Deployment")[f"{RELEASE}-{deployment}"]["spec"]["template"]["spec"]["containers"]
    settings = of_kind(objects, "ConfigMap")[f"{RELEASE}-settings"]["data"]
    given = settings | {each["name"]: each["value"] for each in container["env"] if "value" in each}

    def here(text: str) -> str:
        for path, folder in files.items():
            text = text.replace(path, folder)
        return text

    mine = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{mine['PATH']}"
    return list(container["args"]), {name: here(value) for name, value in given.items()} | {"PATH": path}


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """A server, and what it started, until the end of the context."""
    server = Contained(command, environment, log.parent, log)
    try:
        yield
    finally:
        server.end(30)


def free_port() -> str:
    """A port that nobody has."""
    return str(next(port for port in range(22_500, 23_500, 7) if is_free("127.0.0.1", port)))


def test_the_platform_takes_the_charts_settings(objects: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of-redis")
    (tmp_path / "url").write_text("https://hooks.example.org/x")
    files = {f"/var/run/secrets/ml-platform/{name}": str(tmp_path) for name in ("redis", "alert-webhook")}
    _, environment = started_as(objects, "code-ml-platform", files)
    settings = load(environment)
    assert settings.on_kubernetes
    assert settings.dagster_storage_url == "postgresql+psycopg2://postgres.example.org:5432/dagster"
    assert settings.mlflow_tracking_uri == "http://lab-mlflow:5000"
    assert str(settings.dagster_yaml) == "/etc/ml-platform/instance/dagster.yaml"
    assert settings.redis_url == "rediss://redis.example.org:6379/0"
    assert settings.redis_password == "of-redis"
    assert settings.alert_webhook_url == "https://hooks.example.org/x"
    assert str(settings.landing) == "s3://example-ml/landing"
    assert settings.compute_logs_uri == "s3://example-ml/compute-logs"
    assert settings.reports_url == "https://reports.example.org"


def test_every_variable_of_the_chart_is_one_that_the_platform_reads(objects: list[dict[str, Any]]) -> None:
    import ml_platform.settings

    source = Path(ml_platform.settings.__file__).read_text()
    _, environment = started_as(objects, "code-ml-platform", {})
    for name in environment:
        if name.startswith("ML_PLATFORM_"):
            stem = name.removesuffix("_FILE")
            assert name in source or stem in source or name.endswith("DAGSTER_YAML"), name


def test_without_an_ingress_links_lead_and_mlflow_answers_to_where_ports_are_forwarded() -> None:
    objects = rendered(values("dev"))
    settings = of_kind(objects, "ConfigMap")[f"{RELEASE}-settings"]["data"]
    links = {f"ML_PLATFORM_{name.upper()}_URL": f"http://127.0.0.1:{port}" for name, port in DEFAULT_PORTS.items()}
    assert {name: settings[name] for name in links} == links
    (container,) = of_kind(objects, "Deployment")[f"{RELEASE}-mlflow"]["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert {"localhost:5000", "127.0.0.1:5000"} <= set(environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(","))
    origins = environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert set(origins) == {"http://localhost:5000", "http://127.0.0.1:5000"}


def test_a_code_location_answers_its_probe(
    objects: list[dict[str, Any]], pod_files: dict[str, str], tmp_path: Path
) -> None:
    command, environment = started_as(objects, "code-ml-platform", pod_files)
    (container,) = of_kind(objects, "Deployment")[f"{RELEASE}-code-ml-platform"]["spec"]["template"]["spec"][
        "containers"
    ]
    asked = {container[probe]["grpc"]["service"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    (tmp_path / "small_definitions.py").write_text("import dagster as dg\n\n\n@dg.asset\ndef one() -> None: ...\n")
    Path(environment["DAGSTER_HOME"], "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    port = free_port()
    command[command.index("ml_platform.definitions")] = "small_definitions"
    command[command.index("4000")] = port
    with running(command, environment | {"PYTHONPATH": str(tmp_path)}, tmp_path / "code.log"):
        (service,) = asked
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=service)
            # Until the port is open, the call waits; a server that does not know the service would refuse it.
            answer = stub.Check(request, timeout=READY_WITHIN_SECONDS, wait_for_ready=True)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_mlflow_serves_from_postgres_by_the_service_file_and_answers_to_its_own_names_alone(
    objects: list[dict[str, Any]], pod_files: dict[str, str], postgres: Path, tmp_path: Path
) -> None:
    command, environment = started_as(objects, "mlflow", pod_files)
    assert "password" not in " ".join(command)
    where = environment["MLFLOW_BACKEND_STORE_URI"].replace("postgres.example.org:5432", "")
    environment["MLFLOW_BACKEND_STORE_URI"] = f"{where}?host={postgres}"
    port = free_port()
    command[command.index("5000")] = port
    with running(command, environment, tmp_path / "mlflow.log"):
        end = time.monotonic() + READY_WITHIN_SECONDS
        while _status(port, "/health", "10.1.2.3:5000") != 200:
            assert time.monotonic() < end, (tmp_path / "mlflow.log").read_text()[-3000:]
            time.sleep(1)
        page = "/api/2.0/mlflow/experiments/search?max_results=1"
        assert _status(port, page, f"{RELEASE}-mlflow:5000") == 200
        assert _status(port, page, "mlflow.example.org") == 200
        assert _status(port, page, "attacker.example.net") == 403
    assert "of-the-test" not in (tmp_path / "mlflow.log").read_text()


def _status(port: str, page: str, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
    try:
        connection.request("GET", page, headers={"Host": host})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()
