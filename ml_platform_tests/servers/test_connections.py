"""What `ml-platform doctor` finds of servers: as they should be, and each as it is when something is wrong."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ml_platform.settings import child_environment, load
from ml_platform.stores.connections import ConnectionProblem, connections, s3_client
from ml_platform_tests.servers.object_storage import free_ports
from ml_platform_tests.servers.shared import SharedStores

pytestmark = pytest.mark.deploy

SETTINGS = {
    "ML_PLATFORM_DAGSTER_STORAGE_URL",
    "ML_PLATFORM_MLFLOW_TRACKING_URI",
    "ML_PLATFORM_OPTUNA_URL",
    "ML_PLATFORM_FEAST_REGISTRY_URL",
    "ML_PLATFORM_REDIS_URL",
    "ML_PLATFORM_LAKE_URI",
    "ML_PLATFORM_LANDING",
    "ML_PLATFORM_REPORTS",
    "ML_PLATFORM_COMPUTE_LOGS_URI",
    "ML_PLATFORM_MLFLOW_ARTIFACTS_URI",
}


def probed(setting: str) -> str:
    (connection,) = (each for each in connections(load()) if each.setting == setting)
    return connection.probe()


def problem(setting: str) -> tuple[str, str]:
    with pytest.raises(ConnectionProblem) as found:
        probed(setting)
    return str(found.value), found.value.fix


def test_every_server_that_settings_name_is_checked_and_none_of_embedded_stores(
    on_shared_stores: dict[str, str],
) -> None:
    found = {each.setting: each.probe() for each in connections(load())}
    assert set(found) == SETTINGS
    assert found["ML_PLATFORM_DAGSTER_STORAGE_URL"] == "Postgres 18, no TLS"
    assert found["ML_PLATFORM_REDIS_URL"].startswith("Redis ")
    assert found["ML_PLATFORM_LAKE_URI"] == "may list, read, write and delete, commits are safe, no TLS"
    assert found["ML_PLATFORM_COMPUTE_LOGS_URI"] == "may list, read, write and delete, no TLS"
    assert found["ML_PLATFORM_LANDING"].startswith("may list")
    assert not list(connections(load({})))


def test_nothing_of_a_probe_is_left_behind(on_shared_stores: dict[str, str], stores: SharedStores) -> None:
    from ml_platform.stores.redis_store import redis_client

    for each in connections(load()):
        each.probe()
    objects = s3_client({}).list_objects_v2(Bucket="tests").get("Contents", [])
    assert not [found["Key"] for found in objects if "doctor" in found["Key"]]
    assert not redis_client(stores.redis.url).keys("*doctor*")


@pytest.mark.parametrize(
    ("setting", "value", "found", "fix"),
    [
        (
            "ML_PLATFORM_OPTUNA_URL",
            "postgresql://platform@127.0.0.1:{pg}/gone",
            '"gone" does not exist',
            "make the dat",
        ),
        ("ML_PLATFORM_OPTUNA_URL", "postgresql://stranger@127.0.0.1:{pg}/optuna", "no password", "PGPASSFILE"),
        ("ML_PLATFORM_OPTUNA_URL", "postgresql://platform@127.0.0.1:{free}/optuna", "refused", "is it running"),
        ("ML_PLATFORM_OPTUNA_URL", "postgresql://platform@no.invalid:1/optuna", "translate host name", "host in the U"),
        (
            "ML_PLATFORM_OPTUNA_URL",
            "postgresql://platform@127.0.0.1:{pg}/optuna?sslmode=require",
            "does not support SSL",
            "PGSSLMODE",
        ),
        ("ML_PLATFORM_REDIS_URL", "redis://127.0.0.1:{free}/0", "Connection", "is it running"),
        ("ML_PLATFORM_LAKE_URI", "s3://gone/lake", "NoSuchBucket", "make bucket gone"),
        ("ML_PLATFORM_MLFLOW_TRACKING_URI", "http://127.0.0.1:{free}", "ConnectionError", "is it running"),
    ],
)
def test_what_is_wrong_is_said_with_what_mends_it(
    setting: str,
    value: str,
    found: str,
    fix: str,
    on_shared_stores: dict[str, str],
    stores: SharedStores,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(setting, value.format(pg=stores.postgres.port, free=free_ports(1)[0]))
    said, mend = problem(setting)
    assert found in said
    assert fix in mend


@pytest.mark.parametrize(
    ("secret", "setting", "fix"),
    [
        ("PGPASSWORD", "ML_PLATFORM_DAGSTER_STORAGE_URL", "PGPASSWORD"),
        ("ML_PLATFORM_REDIS_PASSWORD", "ML_PLATFORM_REDIS_URL", "ML_PLATFORM_REDIS_PASSWORD"),
        ("AWS_SECRET_ACCESS_KEY", "ML_PLATFORM_LAKE_URI", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "ML_PLATFORM_LAKE_URI", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_wrong_secret_is_named_by_its_variable_and_repeated_nowhere(
    secret: str, setting: str, fix: str, on_shared_stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ML_PLATFORM_REDIS_PASSWORD_FILE")
    monkeypatch.setenv(secret, "not-the-secret")
    said, mend = problem(setting)
    assert fix in mend
    assert "not-the-secret" not in said + mend


def test_a_postgres_user_who_may_not_make_tables_is_told_how_it_may(
    on_shared_stores: dict[str, str], stores: SharedStores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.postgres.run("DROP ROLE IF EXISTS reader", "CREATE ROLE reader LOGIN PASSWORD 'reads'")
    passfile = tmp_path / "pgpass"
    passfile.touch(mode=0o600)
    passfile.write_text("*:*:*:reader:reads\n")
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    monkeypatch.setenv("ML_PLATFORM_OPTUNA_URL", f"postgresql://reader@127.0.0.1:{stores.postgres.port}/optuna")
    assert problem("ML_PLATFORM_OPTUNA_URL") == (
        "reader may not make tables in schema public",
        'GRANT CREATE ON SCHEMA "public" TO "reader"',
    )


def test_a_postgres_that_may_only_be_read_is_named(
    on_shared_stores: dict[str, str], stores: SharedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    said, mend = problem("ML_PLATFORM_OPTUNA_URL")
    assert "may only read" in said
    assert "primary" in mend


@pytest.mark.parametrize(
    ("service", "fix"),
    [
        (None, "PGSERVICEFILE name a file"),
        ("[other]\nhost=127.0.0.1\n", "PGSERVICE name a section"),
        ("[here]\nhost\n", "PGSERVICEFILE name a file"),
    ],
)
def test_a_service_file_that_is_wrong_is_named(
    service: str | None,
    fix: str,
    on_shared_stores: dict[str, str],
    stores: SharedStores,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "pg_service.conf"
    if service is not None:
        file.write_text(service)
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGSERVICE", "here")
    assert fix in problem("ML_PLATFORM_OPTUNA_URL")[1]


def test_objects_that_may_be_listed_and_not_read_are_a_problem(
    on_shared_stores: dict[str, str], stores: SharedStores, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket, _, prefix = on_shared_stores["ML_PLATFORM_LANDING"].removeprefix("s3://").partition("/")
    client = s3_client({})
    client.put_object(Bucket=bucket, Key=f"{prefix}/one.csv", Body=b"1")
    try:
        assert probed("ML_PLATFORM_LANDING") == "may list and read, no TLS"
        stores.bucket.add_key("lists", "lists-only", "List")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "lists")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "lists-only")
        said, mend = problem("ML_PLATFORM_LANDING")
        assert "AccessDenied" in said
        assert "allow GetObject" in mend
    finally:
        stores.bucket.remove_key("lists")
        client.delete_object(Bucket=bucket, Key=f"{prefix}/one.csv")


def test_a_certificate_of_nobody_is_named_before_a_database(
    on_shared_stores: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(tmp_path / "gone.crt"))
    with answering_ssl() as port:
        monkeypatch.setenv("ML_PLATFORM_OPTUNA_URL", f"postgresql://platform@127.0.0.1:{port}/optuna")
        said, mend = problem("ML_PLATFORM_OPTUNA_URL")
    assert "gone.crt" in said
    assert "PGSSLROOTCERT" in mend


@contextmanager
def answering_ssl() -> Iterator[int]:
    """A server that takes up TLS, and never gets to it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    asking, _ = listening.accept()
                    with asking:
                        asking.recv(8)
                        asking.sendall(b"S")
                        asking.recv(1)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]


def test_storage_that_ignores_conditional_writes_is_refused_for_the_lake(
    on_shared_stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy before the real storage takes the condition away: storage that does not know it behaves alike."""
    with unconditional(on_shared_stores["AWS_ENDPOINT_URL"]) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        said, _ = problem("ML_PLATFORM_LAKE_URI")
        assert "commits of two writers would be lost" in said
        assert "may list" in probed("ML_PLATFORM_REPORTS")


def test_options_of_the_lake_are_tried_for_the_lake_alone(
    on_shared_stores: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_STORAGE_AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("ML_PLATFORM_STORAGE_AWS_SECRET_ACCESS_KEY", "guessed")
    said, _ = problem("ML_PLATFORM_LAKE_URI")
    assert "InvalidAccessKeyId" in said
    assert "may list" in probed("ML_PLATFORM_REPORTS")


def test_the_command_fails_with_every_server_in_its_table(
    on_shared_stores: dict[str, str], stores: SharedStores
) -> None:
    environment = child_environment(
        {**on_shared_stores, "ML_PLATFORM_REDIS_URL": f"redis://127.0.0.1:{free_ports(1)[0]}"}
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ml-platform")), "doctor", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    checks = json.loads(done.stdout)["checks"]
    assert done.returncode == 1
    assert {name for name, check in checks.items() if check["verdict"] == "failed"} == {"ML_PLATFORM_REDIS_URL"}
    assert set(checks) >= SETTINGS
    assert stores.redis.password not in done.stdout + done.stderr


@contextmanager
def unconditional(endpoint: str) -> Iterator[str]:
    """A server that passes requests on, those with ``If-None-Match`` without it."""

    client = s3_client({})

    class Passing(BaseHTTPRequestHandler):
        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers["If-None-Match"]:
                bucket, _, key = self.path.strip("/").partition("/")
                client.put_object(Bucket=bucket, Key=key, Body=body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked = Request(f"{endpoint}{self.path}", data=body or None, headers=self.headers, method=self.command)
            try:
                answer = urlopen(asked)
            except HTTPError as error:
                answer = error
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Passing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
