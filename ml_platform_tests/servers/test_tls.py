"""Servers that are reached encrypted, and believed only by the authority that settings name."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform_tests.servers.certificates import certificates
from ml_platform_tests.servers.shared import Platform, shared_stores

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
    kept = platform.stores.bucket.client().list_objects_v2(Bucket="tests", Prefix="compute-logs/", MaxKeys=1)
    assert kept["KeyCount"] == 1, "no run could store its output"
    _, predictions, asked = platform.answers()
    assert asked["predictions"][0]["score"] == predictions[-1]["score"]


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
