"""SIGKILL in the middle of things: what was there stays readable, and a rerun completes what was begun."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.stores.lake import Lake
from ml_platform_tests.loop import writer
from ml_platform_tests.loop.conftest import ELEVEN_DAYS
from ml_platform_tests.loop.homes import Home
from ml_platform_tests.loop.writer import ROWS, TABLE

DAY = "2013-01-01"


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, writer.__file__, *arguments])


def generations(lake: Lake, table: str = TABLE) -> list[tuple[int, int]]:
    """Each generation that can be read, with its rows."""
    return sorted(lake.read(table)["generation"].value_counts().iter_rows())


def data_files(folder: Path) -> set[Path]:
    """Files of data, unfinished ones too."""
    return {path for path in (folder / TABLE).rglob("*.parquet*") if "_delta_log" not in path.parts}


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Wait for something to be seen while the process lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended by itself with {process.returncode}, before it could be killed"
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.0005)


def test_a_write_killed_half_way_leaves_the_version_before_it_and_a_rerun_completes_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    writer.write(lake, 1, [DAY])
    before, version = lake.partitions(TABLE)[DAY], lake.version(TABLE)
    files = data_files(tmp_path)
    process = start("once", str(tmp_path), "2")
    wait_for(lambda: data_files(tmp_path) > files, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    assert data_files(tmp_path) > files, "it died while it wrote"
    assert lake.version(TABLE) == version, "it died before it committed"
    assert generations(lake) == [(1, ROWS)]
    assert lake.partitions(TABLE)[DAY] == before
    writer.write(lake, 2, [DAY])
    assert generations(lake) == [(2, ROWS)]
    assert lake.partitions(TABLE)[DAY].inputs_hash == "generation 2"
    assert lake.read(TABLE, version=version)["generation"].unique().to_list() == [1]


def test_a_write_killed_before_it_was_recorded_is_done_again(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    writer.write(lake, 1, [DAY], 1000)
    process = start("dying", str(tmp_path), "2")
    assert process.wait() == -signal.SIGKILL

    assert generations(lake) == [(2, 1000)]
    assert lake.partitions(TABLE) == {}, "what nothing is recorded of does not count as up to date"
    state = writer.write(lake, 2, [DAY], 1000)[DAY]
    assert lake.partitions(TABLE)[DAY].content_hash == state.content_hash
    assert generations(lake) == [(2, 1000)]


STEPS = ["raw/arrivals", "raw/departures", "features/arrival_delays_by_route", "features/departure_delays_by_route"]
RUN = f"""
import dagster as dg
from ml_platform.automation.runs import range_tags
from ml_platform.definitions import defs
job = defs().resolve_job_def("nyc_flights_daily")
with dg.DagsterInstance.get() as instance:
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(key.split("/")) for key in {STEPS!r}],
        tags=range_tags("2012-12-31", "2013-01-10"),
    )
"""


@pytest.mark.parametrize(
    "table", ["features/arrival_delays_by_route", pytest.param("raw/departures", marks=pytest.mark.slow)]
)
def test_a_run_killed_within_a_step_is_completed_by_a_rerun(table: str, home: Home, eleven_days: Home) -> None:
    home.land(until=ELEVEN_DAYS)
    with home.instance():
        pass
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], env={**os.environ, **home.environment}, stderr=subprocess.DEVNULL
    )
    folder = Path(home.settings.lake_uri) / table
    wait_for(lambda: any(folder.rglob("*.parquet")), process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert table not in home.contents() or len(home.contents()) < len(STEPS), "it was killed before it had done all"

    result = home.run(STEPS, ("2012-12-31", "2013-01-10"))
    assert result.success
    expected, found = eleven_days.contents(), home.contents()
    assert {step: found[step] for step in STEPS} == {step: expected[step] for step in STEPS}
    for step in STEPS:
        assert home.rows(step).equals(eleven_days.rows(step))
    with home.instance() as instance:
        for step in STEPS:
            known = instance.get_materialized_partitions(dg.AssetKey(step.split("/")))
            assert known == set(expected[step]), f"Dagster knows of every day of {step}"


def test_dagster_learns_of_a_write_whose_run_was_killed_before_it_could_tell(home: Home) -> None:
    """A day is written anew and the process dies before its event: the rerun finds nothing to do but tell."""
    home.land(until="2013-01-04")
    days = ("2012-12-31", "2013-01-03")
    assert home.run(["raw/arrivals"], days).success
    file = home.landed / "arrivals" / "2013-01-02.csv"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-5]))
    home.catch_up()
    assert home.run(["raw/arrivals"], days).success
    with home.instance() as instance:
        record = instance.get_latest_data_version_record(dg.AssetKey(["raw", "arrivals"]), partition_key="2013-01-02")
    assert record is not None
    assert record.asset_materialization is not None
    assert (record.asset_materialization.tags or {})["dagster/data_version"] == (
        home.contents()["raw/arrivals"]["2013-01-02"]
    )
