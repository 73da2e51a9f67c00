"""Two real processes writing different partitions of the same tables at once."""

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import polars as pl

from ml_platform.stores.lake import Lake
from ml_platform_tests.loop import writer
from ml_platform_tests.loop.conftest import ELEVEN_DAYS
from ml_platform_tests.loop.homes import Home
from ml_platform_tests.loop.writer import TABLE, own_days

TIMES = 12


def test_processes_that_write_their_own_days_again_and_again_lose_nothing(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, writer.__file__, "again", str(tmp_path), str(number), str(TIMES)])
        for number in range(3)
    ]
    assert [process.wait() for process in started] == [0, 0, 0]
    lake = Lake(str(tmp_path))
    rows = lake.scan(TABLE).select(pl.col("day").cast(pl.String), "generation").collect()
    days = sorted(day for number in range(3) for day in own_days(number))
    assert sorted(rows.unique().iter_rows()) == [(day, TIMES - 1) for day in days]
    assert rows.height == 1000 * len(days)
    states = lake.partitions(TABLE)
    assert sorted(states) == days
    assert {state.inputs_hash for state in states.values()} == {f"generation {TIMES - 1}"}
    assert lake.version(TABLE) + 1 == 3 * TIMES, "the first write of each and every later one is a version"


RAW = ["raw/departures", "raw/weather"]
STEPS = [*RAW, "features/weather_at_origin", "features/departure_delays_by_origin"]
RUN = f"""
import sys, time
from pathlib import Path
import dagster as dg
from ml_platform.automation.runs import range_tags
from ml_platform.definitions import defs
job = defs().resolve_job_def("nyc_flights_daily")
with dg.DagsterInstance.get() as instance:
    folder = Path(sys.argv[3])
    (folder / sys.argv[1]).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(key.split("/")) for key in {STEPS!r}],
        tags=range_tags(sys.argv[1], sys.argv[2]),
    )
"""


def test_two_runs_over_different_days_at_once(home: Home, eleven_days: Home, tmp_path: Path) -> None:
    home.land(until=ELEVEN_DAYS)
    with home.instance():
        pass
    ready = tmp_path / "ready"
    ready.mkdir()
    ranges = [("2012-12-31", "2013-01-05"), ("2013-01-06", "2013-01-10")]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, *days, str(ready)],
            env={**os.environ, **home.environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        for days in ranges
    ]
    for process in started:
        _, said = process.communicate()
        assert process.returncode == 0, said[-3000:]
    expected, found = eleven_days.contents(), home.contents()
    assert {step: found[step] for step in RAW} == {step: expected[step] for step in RAW}
    # Features of the later days may have been made before the earlier days stood: then they are out of date, and known
    # to be so.
    first, last = home.plan().days or ("2012-12-31", "2012-12-31")
    assert home.run(STEPS, (first, last)).success
    found = home.contents()
    for step in STEPS:
        assert found[step] == expected[step]
        assert home.rows(step).equals(eleven_days.rows(step))
    with home.instance() as instance:
        for step in STEPS:
            assert instance.get_materialized_partitions(dg.AssetKey(step.split("/"))) == set(expected[step])
