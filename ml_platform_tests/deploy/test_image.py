"""The image, built by buildah and started by podman: read-only, without rights, without a network.

Needs both, and a base image: ``ML_PLATFORM_TEST_BASE_IMAGE`` (NAME@sha256:…, in their storage). What else they need
on a machine is in ``ML_PLATFORM_TEST_BUILD_OPTIONS`` (a package index, an authority) and
``ML_PLATFORM_TEST_PODMAN_OPTIONS``, ``ML_PLATFORM_TEST_RUN_OPTIONS`` (another runtime, other limits).
``ML_PLATFORM_TEST_IMAGE`` names an image that is built already.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from ml_platform_tests.deploy.chart import RELEASE, Pod, dagster_yaml, of_kind, pods, rendered, values

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESTRICTED = [
    "--read-only",
    "--cap-drop",
    "ALL",
    "--security-opt",
    "no-new-privileges",
    "--network",
    "none",
    "--no-healthcheck",
]


def _options(name: str) -> list[str]:
    return shlex.split(os.environ.get(f"ML_PLATFORM_TEST_{name}_OPTIONS", ""))


def build(base: str, *more: str) -> subprocess.CompletedProcess[str]:
    """The image's recipe, on a base."""
    arguments = ["--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"COMMIT={COMMIT}", *_options("BUILD"), *more]
    command = ["buildah", "build", "--format", "docker", "--file", "deploy/docker/Dockerfile", *arguments, "."]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Podman's answer."""
    command = ["podman", *_options("PODMAN"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def inside(image: str, *command: str) -> subprocess.CompletedProcess[str]:
    """What a command says in a container of its own."""
    return podman("run", "--rm", *RESTRICTED, *_options("RUN"), image, *command, check=False)


@pytest.fixture(scope="module")
def base() -> str:
    """The base image that the machine has."""
    missing = [tool for tool in ("buildah", "podman") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    given = os.environ.get("ML_PLATFORM_TEST_BASE_IMAGE", "")
    if not given:
        pytest.skip("no base image: ML_PLATFORM_TEST_BASE_IMAGE names none, and nothing is fetched")
    return given


@pytest.fixture(scope="module")
def image(base: str) -> str:
    """The platform's image, built."""
    if given := os.environ.get("ML_PLATFORM_TEST_IMAGE"):
        return given
    done = build(base, "--tag", "ml-platform:test")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return "ml-platform:test"


@pytest.fixture(scope="module")
def described(image: str) -> dict[str, Any]:
    """What the image says of itself."""
    return json.loads(podman("image", "inspect", image).stdout)[0]


def test_a_base_without_a_digest_is_refused(base: str) -> None:
    done = build(base.split("@")[0], "--target", "build")
    assert done.returncode != 0
    assert "must name a digest" in done.stdout + done.stderr


def test_it_describes_itself(described: dict[str, Any], base: str) -> None:
    config, labels = described["Config"], described["Labels"]
    assert config["User"] == "10001:10001"
    assert labels["org.opencontainers.image.title"] == "ml-platform"
    assert "@sha256:" in labels["org.opencontainers.image.base.name"]
    environment = dict(each.split("=", 1) for each in config["Env"])
    assert environment["DAGSTER_DISABLE_TELEMETRY"] == "1"
    assert len(environment["ML_PLATFORM_COMMIT"]) == 40
    history = json.dumps(described["History"])
    assert "pip.conf" not in history or "secret" in history


def test_the_platform_is_whole_in_it_and_nothing_can_be_written_beside_its_volumes(image: str) -> None:
    done = inside(image, "ml-platform", "doctor", "--json")
    checks = json.loads(done.stdout)
    assert checks["ok"], done.stdout
    assert "as locked" in checks["checks"]["packages"]["found"]
    assert checks["checks"]["definitions"]["verdict"] == "ok"
    for place in ("/opt/ml-platform", "/opt/venv", "/etc", "/usr"):
        assert "Read-only file system" in inside(image, "touch", f"{place}/x").stderr, place
    rights = inside(image, "grep", "-E", "CapEff|NoNewPrivs|Uid", "/proc/self/status").stdout.split()
    assert rights == ["Uid:", *["10001"] * 4, "CapEff:", "0000000000000000", "NoNewPrivs:", "1"]
    for tool in ("pip", "gcc", "git", "curl"):
        assert inside(image, "sh", "-c", f"command -v {tool}").returncode != 0, tool


def test_the_bill_of_materials_lists_what_is_installed(image: str) -> None:
    bill = json.loads(inside(image, "cat", "/usr/share/sbom/ml-platform.cdx.json").stdout)
    listed = {(each["name"].lower().replace("_", "-"), each["version"]) for each in bill["components"]}
    code = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    installed = {
        (name.lower().replace("_", "-"), version)
        for name, version in json.loads(inside(image, "python", "-c", code).stdout)
    }
    assert bill["bomFormat"] == "CycloneDX"
    assert {pair for pair in installed if pair[0] != "ml-platform"} <= listed
    assert bill["metadata"]["component"]["name"] == "ml-platform"


@pytest.mark.parametrize(
    "command",
    [
        "dagster-webserver --version",
        "dagster-daemon --help",
        "dagster code-server start --help",
        "mlflow server --help",
        "pg_dump --version",
        "pg_restore --version",
        "psql --version",
    ],
)
def test_every_server_is_in_it(image: str, command: str) -> None:
    done = inside(image, *command.split())
    assert done.returncode == 0, done.stderr[-500:]


@pytest.fixture
def served(image: str) -> Iterator[str]:
    """A container that runs what the image runs by itself."""
    name = podman("run", "--detach", *RESTRICTED, *_options("RUN"), image).stdout.strip()
    yield name
    podman("rm", "--force", name)


def test_it_serves_the_platform_is_found_healthy_and_ends_when_it_is_told(
    served: str, described: dict[str, Any]
) -> None:
    check = (described.get("Healthcheck") or described["Config"]["Healthcheck"])["Test"]
    assert check[0] == "CMD"
    end = time.monotonic() + 240
    while podman("exec", served, *check[1:], check=False).returncode != 0:
        assert time.monotonic() < end, podman("logs", served).stdout
        time.sleep(3)
    begun = time.monotonic()
    podman("stop", "--time", "60", served)
    assert time.monotonic() - begun < 50
    state = json.loads(podman("inspect", served).stdout)[0]["State"]
    assert state["ExitCode"] == 0, podman("logs", served).stdout


SERVERS = ("code-ml-platform", "web", "daemon", "mlflow", "reports")


@pytest.fixture
def databases(postgres: Path) -> Path:
    """The platform's databases on a real server, whose socket is in a folder that containers may enter."""
    superuser = psycopg2.connect(host=str(postgres), user="postgres", dbname="postgres")
    superuser.autocommit = True
    with superuser.cursor() as cursor:
        cursor.execute("CREATE ROLE ml_platform_a LOGIN PASSWORD 'of-the-test'")
        for name in ("dagster", "mlflow", "optuna", "feast"):
            cursor.execute(f"CREATE DATABASE {name} OWNER ml_platform_a")
    superuser.close()
    postgres.chmod(0o711)
    return postgres


@pytest.fixture
def mounted(tmp_path: Path) -> dict[str, Path]:
    """What the release's volumes hold, by name: ConfigMaps as rendered, Secrets as a kubelet mounts them."""
    objects = _release()
    contents = {
        "instance": {"dagster.yaml": dagster_yaml(objects)},
        "workspace": of_kind(objects, "ConfigMap")[f"{RELEASE}-workspace"]["data"],
        "postgres": {"pg_service.conf": "[ml_platform]\nuser=ml_platform_a\npassword=of-the-test\n"},
        "redis": {"password": "of-the-test"},
        "alert-webhook": {"url": "http://127.0.0.1:9/"},
        "token": {"token": "of-the-test", "ca.crt": "of the test", "namespace": "ml"},
    }
    for volume, files in contents.items():
        for name, text in files.items():
            file = tmp_path / volume / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
            os.chown(file, 0, 10001)
            file.chmod(0o440)
        (tmp_path / volume).chmod(0o755)
    return {volume: tmp_path / volume for volume in contents}


@pytest.fixture
def network(image: str) -> Iterator[str]:
    """A container that does nothing but lend the others a network in which there is nobody else."""
    name = podman("run", "--detach", *RESTRICTED, *_options("RUN"), image, "sleep", "3600").stdout.strip()
    yield name
    podman("rm", "--force", "--time", "0", name)


def test_the_charts_servers_run_in_it_as_the_chart_says(
    image: str, databases: Path, mounted: dict[str, Path], network: str
) -> None:
    """All of them, read-only and without rights, on Postgres by the mounted service file, found well by their probes.

    Kubernetes and object storage are not there: neither is needed to start.
    """
    running: dict[str, tuple[str, dict[str, Any]]] = {}
    try:
        for server in SERVERS:
            pod = next(pod for pod in pods(_release()) if pod.owner == f"Deployment/{RELEASE}-{server}")
            name = podman("run", "--detach", *_as_podman(pod, databases, mounted, network), *_options("RUN"), image,
                          *pod.containers[0]["args"]).stdout.strip()  # fmt: skip
            running[server] = (name, dict(pod.containers[0]["livenessProbe"]))
        for server, (name, probe) in running.items():
            end = time.monotonic() + 120
            while (asked := podman("exec", name, *_asked(probe, server), check=False)).returncode != 0:
                assert time.monotonic() < end, f"{server}: {asked.stderr}\n{_log(name)}"
                time.sleep(3)
        _wait_for_the_location(running["web"][0])
        for server, (name, _) in running.items():
            assert "of-the-test" not in _log(name), server
            assert "Read-only file system" not in _log(name), server
    finally:
        for name, _ in running.values():
            podman("rm", "--force", "--time", "5", name, check=False)


def _wait_for_the_location(web: str) -> None:
    """Until the web server has loaded the code location, which it tries again and again."""
    query = (
        "{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError "
        "{ __typename ... on PythonError { message } } } } } }"
    )
    code = (
        "import json, urllib.request as u; "
        f"body = json.dumps({{'query': {query!r}}}).encode(); "
        "ask = u.Request('http://127.0.0.1:3000/graphql', body, {'Content-Type': 'application/json'}); "
        "print(u.urlopen(ask, timeout=60).read().decode())"
    )
    end = time.monotonic() + 120
    while True:
        answer = json.loads(podman("exec", web, "python", "-c", code).stdout)["data"]["workspaceOrError"]
        (location,) = answer["locationEntries"]
        assert location["name"] == "ml_platform"
        if (location["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation":
            return
        assert time.monotonic() < end, location
        time.sleep(3)


def _release() -> list[dict[str, Any]]:
    return rendered(values("production", {"postgres": {"sslmode": "disable", "caConfigMap": {"name": ""}},
                                          "redis": {"caConfigMap": {"name": ""}}}))  # fmt: skip


def _as_podman(pod: Pod, databases: Path, mounted: dict[str, Path], network: str) -> list[str]:
    """A pod's container in podman's words."""
    (container,) = pod.containers
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    words = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--no-healthcheck"]
    words += ["--user", f"{pod.spec['securityContext']['runAsUser']}:{pod.spec['securityContext']['runAsGroup']}"]
    words += ["--network", f"container:{network}", "--volume", f"{databases}:/pg"]
    # Services by name: a container that borrows another's network does not borrow its hosts.
    names = mounted["instance"].parent / "hosts"
    names.write_text("127.0.0.1 localhost " + " ".join(f"{RELEASE}-{server}" for server in SERVERS) + "\n")
    words += ["--no-hosts", "--volume", f"{names}:/etc/hosts:ro"]
    kinds = {volume["name"]: volume for volume in pod.spec["volumes"]}
    for mount in container["volumeMounts"]:
        if "emptyDir" in kinds[mount["name"]]:
            empty = mounted["instance"].parent / f"{pod.component}-{mount['name']}"
            empty.mkdir()
            empty.chmod(0o777)
            words += ["--volume", f"{empty}:{mount['mountPath']}"]
        else:
            source = mounted[mount["name"]] / mount.get("subPath", "")
            words += ["--volume", f"{source}:{mount['mountPath']}:ro"]
    environment = dict(of_kind(_release(), "ConfigMap")[f"{RELEASE}-settings"]["data"])
    environment |= {variable["name"]: variable["value"] for variable in container.get("env", ())}
    if pod.spec["automountServiceAccountToken"]:
        words += ["--volume", f"{mounted['token']}:/var/run/secrets/kubernetes.io/serviceaccount:ro"]
        environment |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "9"}
    for name, value in environment.items():
        there = value.replace("postgres.example.org:5432", "") if name != "PGSERVICEFILE" else value
        words += ["--env", f"{name}={there}{'?host=/pg' if there != value else ''}"]
    return words


def _asked(probe: dict[str, Any], server: str) -> list[str]:
    """What a kubelet would ask, asked from inside."""
    ports = {"web": 3000, "mlflow": 5000, "reports": 3001}
    if "exec" in probe:
        return list(probe["exec"]["command"])
    if "grpc" in probe:
        return ["dagster", "api", "grpc-health-check", "--port", str(probe["grpc"]["port"])]
    if "tcpSocket" in probe:
        return ["python", "-c", f"import socket; socket.create_connection(('127.0.0.1', {ports[server]}), 5)"]
    page = f"http://127.0.0.1:{ports[server]}{probe['httpGet']['path']}"
    return ["python", "-c", f"import urllib.request as u; u.urlopen('{page}', timeout=5)"]


def _log(name: str) -> str:
    done = podman("logs", name, check=False)
    return (done.stdout + done.stderr)[-4000:]
