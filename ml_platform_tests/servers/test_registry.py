"""Feast's registry in a database that nobody has used: whoever comes first makes it, the others wait."""

import subprocess
import sys

import pytest

from ml_platform.settings import child_environment
from ml_platform_tests.servers.shared import SharedStores

pytestmark = pytest.mark.deploy

_OPEN = (
    "from ml_platform.settings import load; from ml_platform.stores.features import FeatureClient; "
    "print(FeatureClient(load())._store({}).get_feature_service('flight_delay_v1').name)"
)
_PROCESSES = 3


def test_processes_that_come_at_once_all_find_the_definitions(
    on_shared_stores: dict[str, str], stores: SharedStores
) -> None:
    """As the first steps of a new cluster do, each with a home of its own."""
    stores.postgres.run("DROP DATABASE IF EXISTS new_registry", "CREATE DATABASE new_registry")
    url = stores.postgres.url("new_registry")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _OPEN],
            env=child_environment(
                {
                    **on_shared_stores,
                    "ML_PLATFORM_FEAST_REGISTRY_URL": url,
                    "ML_PLATFORM_HOME": f"{on_shared_stores['ML_PLATFORM_HOME']}-{number}",
                }
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(_PROCESSES)
    ]
    said = [process.communicate(timeout=600) for process in processes]
    assert [out.strip() for out, _ in said] == ["flight_delay_v1"] * _PROCESSES, [error[-1500:] for _, error in said]
