"""What a failed run left, with real daemons: one more run over its days, that everybody can see."""

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
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
    blocked = home / "lake" / "features" / "recent_demand"
    with meters_home.serving(settings), dg.DagsterInstance.get() as instance:
        blocked.parent.mkdir(parents=True, exist_ok=True)
        blocked.touch()
        deliveries.land(settings.landing, datetime(2024, 2, 23, tzinfo=UTC))
        failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
        wait_for("a run that fails", lambda: bool(instance.get_runs(failed)))
        blocked.unlink()
        wait_for("coming to rest", lambda: at_rest(instance, settings, made))
        assert instance.get_backfills() == []
        again = [run for run in instance.get_runs() if run.tags.get("dagster/sensor_name") == sensor.NAME]
        assert again, "the landing sensor asks once for one state of things"
        assert all(reports_itself(run.tags) and run.status is dg.DagsterRunStatus.SUCCESS for run in again)
        ranges = {name.rpartition("_")[2]: day for run in again for name, day in run.tags.items() if "range" in name}
        assert ranges == {"start": "2024-02-20", "end": "2024-02-22"}
        assert len(Lake.of(settings).partitions("features/recent_demand")) == 3
