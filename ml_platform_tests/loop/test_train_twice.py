"""The same rows give the same model, byte for byte, in any process."""

import os
import subprocess
import sys

import pytest

from ml_platform.settings import PROJECT_ROOT
from ml_platform_tests.loop import trainer
from ml_platform_tests.loop.homes import FLIGHTS, Home


def start(name: str, home: Home, seed: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", trainer.__name__, name],
        cwd=PROJECT_ROOT,
        env={**os.environ, **home.environment, "PYTHONHASHSEED": seed},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", [model.name for model in FLIGHTS.models])
def test_two_fresh_processes_train_the_same_bytes(name: str, three_weeks: Home) -> None:
    """They run side by side, so that the threads of one disturb those of the other."""
    started = [start(name, three_weeks, seed) for seed in ("1", "2")]
    answers = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0, 0], answers[0][1][-2000:]
    first, second = (said for said, _ in answers)
    assert first.count("Tree=") > 5, "it learned something"
    assert first == second
