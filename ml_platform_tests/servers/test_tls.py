"""Servers that are reached encrypted, and believed only by the authority that settings name."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from ml_platform_tests.servers.certificates import certificates
from ml_platform_tests.servers.shared import Platform, shared_stores
from ml_platform_tests.servers.talkative import GO_ON

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("encrypted")
    with shared_stores(folder / "stores", encrypted=True) as stores:
        yield Platform(stores, folder / "home")


def test_every_store_is_used_encrypted_when_it_is_asked_for(platform: Platform) -> None:
    platform.build()
    checks = platform.said("doctor")["checks"]
    servers = {name: check["found"] for name, check in checks.items() if name.startswith("ML_PLATFORM_")}
    assert len(servers) == 10
    assert {name for name, found in servers.items() if found.endswith(", TLS")} == set(servers)
    _, predictions, asked = platform.answers()
    assert asked["predictions"][0]["score"] == predictions[-1]["score"]


def test_the_output_of_a_run_is_stored_encrypted(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "go-on").touch()
    run_id, environment = str(uuid4()), {**platform.environment, GO_ON: str(tmp_path / "go-on")}
    command = [sys.executable, "-m", "ml_platform_tests.servers.talkative", run_id]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stored = platform.stores.bucket.client().list_objects_v2(Bucket="tests", Prefix=f"compute-logs/storage/{run_id}/")
    assert stored["KeyCount"] == 2, done.stderr[-3000:]


def test_a_server_of_an_unknown_authority_is_not_believed(platform: Platform, tmp_path: Path) -> None:
    stranger = str(certificates(tmp_path).authority)
    trusted = ("PGSSLROOTCERT", "ML_PLATFORM_REDIS_CA_FILE", "AWS_CA_BUNDLE", "SSL_CERT_FILE")
    done = platform.run("doctor", "--json", **dict.fromkeys(trusted, stranger))
    assert done.returncode == 1
    checks = json.loads(done.stdout)["checks"]
    failed = {name: check for name, check in checks.items() if check["verdict"] == "failed"}
    assert {name for name in failed if name.startswith("ML_PLATFORM_")} == {
        name for name in checks if name.startswith("ML_PLATFORM_")
    }
    assert checks["mlflow runs"]["found"].startswith("not checked: ML_PLATFORM_MLFLOW_TRACKING_URI")
    assert "PGSSLROOTCERT" in failed["ML_PLATFORM_DAGSTER_STORAGE_URL"]["fix"]
