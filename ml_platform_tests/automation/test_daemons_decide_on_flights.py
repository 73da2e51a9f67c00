"""A fortnight of flights in which both models are trained anew: real daemons decide what `replay --drive` decides."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.defs.nyc_flights.replay import replay
from ml_platform.settings import DEFAULT_PORTS, load
from ml_platform.stores.instance import is_free, prepare_dagster_home
from ml_platform_tests.automation.meters_home import at_rest, called, serving, wait_for
from ml_platform_tests.automation.nursery import state, trainings
from ml_platform_tests.loop.homes import FLIGHTS

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3000)]

MODELS = [model.name for model in FLIGHTS.models]
FORTNIGHT = [date(2013, 4, 20) + timedelta(days=day) for day in range(14)]
"""Until when has landed, after each delivery; on the first of May both champions are stale."""


def driven(home: Path, until: date) -> None:
    """Let the driver live through the days that have not landed."""
    command = [str(Path(sys.executable).with_name("ml-platform")), "replay", "--drive", "--until", until.isoformat()]
    subprocess.run(command, env={**os.environ, "ML_PLATFORM_HOME": str(home)}, check=True, stdout=subprocess.DEVNULL)


def lived(home: Path, days: Sequence[date]) -> tuple[set[dg.DagsterRunStatus], list[str]]:
    """How the runs of real daemons ended, to which each day came when they were at rest, and why they trained."""
    ports = [port for port in random.sample(range(20_000, 32_000), 50) if is_free("127.0.0.1", port)]
    (home / "ports.json").write_text(json.dumps(dict(zip(DEFAULT_PORTS, ports, strict=False))))
    settings = prepare_dagster_home(load())
    with dg.DagsterInstance.get() as instance:
        before = {run.run_id for run in instance.get_runs()}
        known = len(called(instance))
        with serving(settings):
            for day in days:
                list(replay(settings.landing, until=day))
                wait_for(f"coming to rest after {day}", lambda: at_rest(instance, settings, FLIGHTS), 1200)
        runs = [run for run in instance.get_runs() if run.run_id not in before]
        return {run.status for run in runs}, called(instance)[known:]


def test_daemons_decide_on_the_flights_what_a_driver_decides(
    finished_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Path(shutil.copytree(finished_home, tmp_path / "begun"))
    driven(begun, FORTNIGHT[0] - timedelta(days=1))
    by_driver, by_daemons = (Path(shutil.copytree(begun, tmp_path / name)) for name in ("driver", "daemons"))
    driven(by_driver, FORTNIGHT[-1])
    monkeypatch.setenv("ML_PLATFORM_HOME", str(by_daemons))
    monkeypatch.setenv("DAGSTER_HOME", str(by_daemons / "dagster"))
    statuses, why = lived(by_daemons, FORTNIGHT)
    assert statuses == {dg.DagsterRunStatus.SUCCESS}
    assert why == ["stale"] * len(MODELS)
    theirs, its = (load({"ML_PLATFORM_HOME": str(home)}) for home in (by_daemons, by_driver))
    for model in MODELS:
        assert len(trainings(theirs, model)) == 2
        assert trainings(theirs, model) == trainings(its, model)
    assert state(theirs, *MODELS).difference(state(its, *MODELS)) == {}
