"""What a failed run left, with real daemons: one more run over its days, that everybody can see."""

import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.automation import sensor
from ml_platform.automation.runs import reports_itself
from ml_platform.stores.lake import Lake
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import at_rest, dataset, deliveries, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_days_that_a_failed_run_left_are_made_by_one_run_and_no_backfill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, home = meters_home.project(tmp_path / "project"), tmp_path / "home"
    for name, value in meters_home.environment(home, made).items():
        monkeypatch.setenv(name, value)
    settings = meters_home.prepared(home, made)
    table = home / "lake" / "features" / "recent_demand"
    with meters_home.serving(settings), dg.DagsterInstance.get() as instance:
        deliveries.land(settings.landing, datetime(2024, 2, 22, tzinfo=UTC))
        wait_for("coming to rest", lambda: at_rest(instance, settings, dataset(made)))
        deliveries.land(settings.landing, datetime(2024, 2, 24, tzinfo=UTC))
        # The landing sensor asks again as long as a run that failed left another state of things.
        for number in (1, 2, 3):
            spoil_a_run(instance, table, number)
        wait_for("coming to rest", lambda: at_rest(instance, settings, dataset(made)))
        assert instance.get_backfills() == []
        again, *spoiled, _ = instance.get_runs()
        assert [run.tags["dagster/sensor_name"] for run in spoiled] == ["meters_landing"] * 3
        assert again.tags["dagster/sensor_name"] == sensor.NAME
        assert again.status is dg.DagsterRunStatus.SUCCESS
        assert reports_itself(again.tags)
        ranges = {name.rpartition("_")[2]: day for name, day in again.tags.items() if "partition_range" in name}
        assert ranges == {"start": "2024-02-22", "end": "2024-02-23"}
        assert len(Lake.of(settings).partitions("features/recent_demand")) == 4


def spoil_a_run(instance: dg.DagsterInstance, table: Path, number: int) -> None:
    """Take a table's place away as soon as a run has begun, until so many have failed."""
    begun, failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]), [dg.DagsterRunStatus.FAILURE]
    end = time.monotonic() + meters_home.PATIENCE_SECONDS
    while not instance.get_runs(begun):
        assert time.monotonic() < end, "no run began"
        time.sleep(0.05)
    away = table.rename(table.with_name("away"))
    table.touch()
    wait_for("a run that fails", lambda: len(instance.get_runs(dg.RunsFilter(statuses=failed))) == number)
    table.unlink()
    away.rename(table)
