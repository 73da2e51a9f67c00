"""What holds for every test: libraries find the environment that the platform gives them; one finished home."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from ml_platform.settings import DEFAULT_PORTS, prepare_environment
from ml_platform.stores.instance import is_free

_OF_TESTS = ("ML_PLATFORM_FINISHED_HOME", "ML_PLATFORM_TEST_")
"""Variables that are for the tests themselves."""

# No test may come near a server, a bucket or a platform that its caller's environment names.
for _name in [*os.environ]:
    if _name.startswith(("PG", "AWS_", "ML_PLATFORM_")) and not _name.startswith(_OF_TESTS):
        del os.environ[_name]
prepare_environment()


_SHARE = (
    ("browser/", "loop/test_quarter.py", "stores/test_training_set_equals_stock.py", "test_docs.py"),
    ("cli/",),
    ("kubernetes/",),
    ("loop/",),
    ("servers/",),
)
"""Tests that share a home or servers which take long to make, as paths here; the first that a test is in counts."""


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = "skip, and name, what has not begun by this moment: seconds since 1970"
    parser.addoption("--begin-by", type=float, metavar="SECONDS", help=help_)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > (item.config.getoption("begin_by") or float("inf")):
        pytest.skip("the time for tests was over (--begin-by)")


class _ByWhatIsShared(LoadScopeScheduling):
    """Where several processes run the tests, those of a file, and those that share what takes long, are run by one."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        here = file.removeprefix(f"{Path(__file__).parent.name}/")
        return next((shared[0] for shared in _SHARE if here.startswith(shared)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByWhatIsShared(config, log)


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
