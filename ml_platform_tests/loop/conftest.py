"""Three weeks of flights, landed and made into tables once, and empty homes for what a test makes itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ml_platform.settings import load
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.model_tables import build_training_set
from ml_platform_tests.loop.homes import FLIGHTS, Home

THREE_WEEKS = "2013-01-22"
ELEVEN_DAYS = "2013-01-11"
"""Longer than the longest look-back, so that days depend on days that came in another run."""


@pytest.fixture(scope="session")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Feast declares, read once."""
    settings = load({"ML_PLATFORM_HOME": str(tmp_path_factory.mktemp("feast"))})
    FeatureClient(settings).manifest()
    return settings.feast_home / "manifests"


@pytest.fixture(scope="session")
def three_weeks(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Home:
    """A home that tests only read: three weeks landed by the day, tables up to the training sets."""
    home = Home.at(tmp_path_factory.mktemp("three_weeks"), manifests)
    home.land(until=THREE_WEEKS)
    watermark = home.catch_up().watermark
    assert watermark is not None
    for model in FLIGHTS.models:
        build_training_set(home.lake, home.features, model, watermark)
    return home


@pytest.fixture(scope="session")
def eleven_days(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Home:
    """A home that tests only read: landed by the day, in order, brought up to date once."""
    home = Home.at(tmp_path_factory.mktemp("eleven_days"), manifests)
    home.land(until=ELEVEN_DAYS)
    home.catch_up()
    return home


@pytest.fixture
def new_home(tmp_path: Path, manifests: Path) -> Callable[[str], Home]:
    """Makes empty homes by name."""
    return lambda name: Home.at(tmp_path / name, manifests)


@pytest.fixture
def home(tmp_path: Path, manifests: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty home, which is also that of the environment."""
    made = Home.at(tmp_path / "home", manifests)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole homes are made in set-ups here: on a busy machine that takes minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))
