"""A small home with everything in it: six real days, a champion, its predictions and their reports."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ml_platform import cli
from ml_platform.settings import Settings, load
from ml_platform_tests.small_home import build_home

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home that tests only read."""
    settings = load({"ML_PLATFORM_HOME": str(tmp_path_factory.mktemp("finished"))})
    build_home(settings)
    return settings


@pytest.fixture
def run(finished: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in that home."""
    monkeypatch.setenv("ML_PLATFORM_HOME", str(finished.home))
    return invoke


@pytest.fixture
def command() -> Run:
    """Runs a command in the home that the environment names."""
    return invoke


@pytest.fixture
def spoilt(finished: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that home's landing folder and lake, to be spoilt; commands read it."""
    for name in ("landing", "lake"):
        shutil.copytree(finished.home / name, tmp_path / name)
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    return tmp_path


def invoke(*arguments: str, stdin: str | None = None) -> Result:
    """One command, in this process; what :func:`ml_platform.cli.main` would report is the result's exception."""
    return CliRunner().invoke(cli.app, list(arguments), input=stdin)
