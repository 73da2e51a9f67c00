"""A week and more with nobody watching: files land, and real daemons take them in, train, promote and predict."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.scheduler.instigation import InstigatorType

from ml_platform.automation import sensor
from ml_platform.automation.jobs import UNFINISHED
from ml_platform.settings import Settings
from ml_platform.stores.declarations import Dataset, load_dataset
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.planning import plan
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import deliveries, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

DAYS = [deliveries.START + timedelta(days=day) for day in range(4, 12)]
"""The first days come at once; then each by itself."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The meters, whose model is stale after three days."""
    made = meters_home.project(tmp_path / "project")
    declared = made / "energy_demand" / "defs" / "meters" / "defs.yaml"
    text = declared.read_text()
    assert "cooldown: 2d, stale_after: 7d" in text
    declared.write_text(text.replace("cooldown: 2d, stale_after: 7d", "cooldown: 2d, stale_after: 3d"))
    return made


def decisions(settings: Settings, dataset: Dataset) -> list[dict[str, Any]]:
    """What was decided, as of when, by which rule; and the identity of the model."""
    history = Ledger(Lake.of(settings)).history("demand")
    return history.select("version", "promoted", "rule", "decided_at_watermark").to_dicts()


def triggers(instance: dg.DagsterInstance) -> list[str]:
    """What called for each training, oldest first."""
    runs = reversed(instance.get_runs())
    return [run.tags["ml_platform/trigger"] for run in runs if "ml_platform/trigger" in run.tags]


def at_rest(instance: dg.DagsterInstance, settings: Settings, dataset: Dataset) -> bool:
    """Whether nothing is out of date or under way, and the conditions were evaluated after the last run ended."""
    if plan(settings, dataset).stale or instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED]), limit=1):
        return False
    states = {
        state.instigator_name: state for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    }
    ended = max((record.end_time or 0.0 for record in instance.get_run_records(limit=5)), default=0.0)
    conditions = states.get(sensor.NAME)
    if conditions is None or not ended:
        return False
    ticks = instance.get_ticks(conditions.instigator_origin_id, conditions.selector_id, limit=1)
    return bool(ticks) and ticks[0].timestamp > ended and ticks[0].end_timestamp is not None


def test_files_land_and_the_champion_changes_with_nobody_asking(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "live"
    for name, value in meters_home.environment(live, project).items():
        monkeypatch.setenv(name, value)
    settings = meters_home.prepared(live, project)
    dataset = load_dataset(project / "energy_demand" / "defs" / "meters")
    with meters_home.serving(settings), dg.DagsterInstance.get() as instance:
        for moment in DAYS:
            deliveries.land(settings.landing, moment)
            wait_for(f"coming to rest after {moment:%Y-%m-%d}", lambda: at_rest(instance, settings, dataset))
        served = decisions(settings, dataset)
        called = triggers(instance)
        statuses = {run.status for run in instance.get_runs()}
        champion = Ledger(Lake.of(settings)).champion("demand")
        scored = Lake.of(settings).read("demand/predictions", columns=["model_version"])["model_version"]
    assert statuses == {dg.DagsterRunStatus.SUCCESS}
    assert sum(decision["promoted"] for decision in served) >= 1, served
    assert champion is not None
    assert set(scored) <= {decision["version"] for decision in served if decision["promoted"]}
    assert called[0] == "no champion"
    assert "stale" in called[1:], called
