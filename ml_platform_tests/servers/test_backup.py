"""A platform on shared stores that was backed up, destroyed and restored is what it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform_tests.servers.shared import Platform, shared_stores

pytestmark = pytest.mark.deploy


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Six days of flights, a champion and its predictions, on servers of their own."""
    folder = tmp_path_factory.mktemp("platform")
    with shared_stores(folder / "stores") as stores:
        made = Platform(stores, folder / "home")
        made.build()
        yield made


@pytest.mark.parametrize("target", ["{folder}", "s3://tests/backups"])
def test_a_destroyed_platform_is_restored_with_its_status_champion_and_predictions(
    target: str, platform: Platform, tmp_path: Path
) -> None:
    target = target.format(folder=tmp_path)
    before, online = platform.answers(), platform.online()
    assert online
    made = platform.said("backup", target)
    platform.destroy()
    assert not platform.online()
    restored = platform.said("restore", target)
    assert restored["files"] == made["files"]
    assert restored["online"]["weather_at_origin"] == 3
    assert platform.answers() == before
    filled = platform.online()
    # The home was made with one view online; a refill has every view.
    assert {key: {name: filled[key][name] for name in row} for key, row in online.items()} == online


def test_neither_a_backup_nor_the_home_holds_a_secret(platform: Platform, tmp_path: Path) -> None:
    platform.said("backup", str(tmp_path))
    stores = platform.stores
    secrets = [stores.postgres.password, stores.redis.password, stores.bucket.storage_options["AWS_SECRET_ACCESS_KEY"]]
    files = [path for root in (tmp_path, platform.home) for path in root.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert [path for path in files for secret in secrets if secret.encode() in path.read_bytes()] == []


def test_a_database_that_cannot_be_dumped_leaves_no_backup(platform: Platform, tmp_path: Path) -> None:
    refused = platform.run("backup", str(tmp_path), ML_PLATFORM_OPTUNA_URL=platform.stores.postgres.url("gone"))
    assert refused.returncode == 2
    assert "pg_dump" in refused.stderr
    assert '"gone" does not exist' in refused.stderr
    refused = platform.run("backup", str(tmp_path), PATH="/nowhere")
    assert "install Postgres' client programs" in refused.stderr
    assert not list(tmp_path.glob("*/manifest.json"))
