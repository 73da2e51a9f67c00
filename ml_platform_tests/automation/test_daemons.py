"""With `ml-platform up` and nobody watching, what lands is taken in: real daemons, real runs, real files."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from ml_platform.defs.nyc_flights.replay import Awkward, Fault, replay
from ml_platform.settings import Settings, load
from ml_platform.stores.instance import is_free
from ml_platform.stores.lake import Lake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

COMMAND = str(Path(sys.executable).with_name("ml-platform"))
PATIENCE_SECONDS = 600


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("unattended")
    ports = [port for port in random.sample(range(20_000, 32_000), 50) if is_free("127.0.0.1", port)]
    (home / "ports.json").write_text(json.dumps(dict(zip(("dagster", "mlflow", "reports"), ports, strict=False))))
    return load({"ML_PLATFORM_HOME": str(home)})


@pytest.fixture(scope="module")
def up(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    env = {**os.environ, "ML_PLATFORM_HOME": str(settings.home)}
    process = subprocess.Popen([COMMAND, "up"], env=env, cwd="/", text=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ctrl-C stops everything" in line:
                break
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for(what: str, seen: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not seen():
        assert time.monotonic() < end, f"{what} did not happen in {PATIENCE_SECONDS} s"
        time.sleep(3)


def up_to_date(settings: Settings, table: str, days: int) -> bool:
    states = Lake.of(settings).partitions(table)
    return len([state for state in states.values() if not state.blocked]) == days


def test_landed_days_are_taken_in_and_a_bad_file_blocks_only_its_day_until_it_is_mended(
    up: subprocess.Popen[str], settings: Settings
) -> None:
    list(replay(settings.landing, until=date(2013, 1, 3)))
    wait_for("the first two days", lambda: up_to_date(settings, "flight_delay/labels", 3))
    assert up_to_date(settings, "features/arrival_delays_by_route", 3)

    broken = Awkward(corrupt={("weather", "2013-01-03"): Fault.MISSING_COLUMN})
    list(replay(settings.landing, until=date(2013, 1, 4), awkward=broken))
    wait_for("the labels of the third day", lambda: up_to_date(settings, "flight_delay/labels", 4))
    wait_for("the blocked day", lambda: "2013-01-03" in Lake.of(settings).partitions("features/weather_at_origin"))
    states = Lake.of(settings).partitions("features/weather_at_origin")
    assert {day for day, state in states.items() if state.blocked} == {"2013-01-03"}

    (settings.landing / "weather" / "2013-01-03.csv").unlink()
    list(replay(settings.landing, until=date(2013, 1, 4)))
    wait_for("the mended day", lambda: up_to_date(settings, "features/weather_at_origin", 4))
    assert up.poll() is None
