"""The servers of shared stores, started once for all tests here."""

from collections.abc import Iterator

import pytest

from ml_platform_tests.servers.shared import SharedStores, shared_stores


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedStores]:
    with shared_stores(tmp_path_factory.mktemp("stores") / "shared") as servers:
        yield servers


@pytest.fixture
def on_shared_stores(stores: SharedStores, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """This process's settings are those of the servers; what they are."""
    environment = stores.environment(tmp_path / "home")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment
