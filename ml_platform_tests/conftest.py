"""What holds for every test: libraries find the environment that the platform gives them; one finished home."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ml_platform.settings import DEFAULT_PORTS, prepare_environment
from ml_platform.stores.instance import is_free

_OF_TESTS = ("ML_PLATFORM_FINISHED_HOME", "ML_PLATFORM_TEST_")
"""Variables that are for the tests themselves."""

# No test may come near a server, a bucket or a platform that its caller's environment names.
for _name in [*os.environ]:
    if _name.startswith(("PG", "AWS_", "ML_PLATFORM_")) and not _name.startswith(_OF_TESTS):
        del os.environ[_name]
prepare_environment()


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make run` leaves; a copy of the home that ML_PLATFORM_FINISHED_HOME names, or made here in minutes."""
    home = tmp_path_factory.mktemp("finished") / "home"
    if given := os.environ.get("ML_PLATFORM_FINISHED_HOME"):
        return Path(shutil.copytree(given, home))
    home.mkdir()
    ports = [port for port in random.sample(range(20_000, 32_000), 100) if is_free("127.0.0.1", port)]
    (home / "ports.json").write_text(json.dumps(dict(zip(DEFAULT_PORTS, ports, strict=False))))
    subprocess.run(
        [str(Path(sys.executable).with_name("ml-platform")), "run"],
        env={**os.environ, "ML_PLATFORM_HOME": str(home)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return home
