"""What a failed run left, with real daemons: one more run over its days, that everybody can see."""

import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import psutil
import pytest

from ml_platform.automation import sensor
from ml_platform.automation.runs import reports_itself
from ml_platform.stores.lake import Lake
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import at_rest, deliveries, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_days_that_a_failed_run_left_are_made_by_one_run_and_no_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, home = meters_home.project(tmp_path / "project"), tmp_path / "home"
    for name, value in meters_home.environment(home, made).items():
        monkeypatch.setenv(name, value)
    settings = meters_home.prepared(home, made)
    with meters_home.serving(settings), dg.DagsterInstance.get() as instance:
        deliveries.land(settings.landing, datetime(2024, 2, 23, tzinfo=UTC))
        kill_the_first_run(instance)
        wait_for("coming to rest", lambda: at_rest(instance, settings, made))
        assert instance.get_backfills() == []
        again, killed = instance.get_runs()
        assert killed.status is dg.DagsterRunStatus.FAILURE
        assert again.status is dg.DagsterRunStatus.SUCCESS
        assert again.tags["dagster/sensor_name"] == sensor.NAME, "the landing sensor asks once for one state of things"
        assert reports_itself(again.tags)
        ranges = {name.rpartition("_")[2]: day for name, day in again.tags.items() if "partition_range" in name}
        assert ranges == {"start": "2024-02-20", "end": "2024-02-22"}
        assert len(Lake.of(settings).partitions("features/recent_demand")) == 3


def kill_the_first_run(instance: dg.DagsterInstance) -> None:
    """End the process of the first run as soon as it has begun, before anything is made."""
    begun = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    end = time.monotonic() + meters_home.PATIENCE_SECONDS
    while not instance.get_runs(begun):
        assert time.monotonic() < end, "no run began"
        time.sleep(0.05)
    workers = [
        process for process in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(process.cmdline())
    ]
    assert workers
    for process in workers:
        process.kill()
