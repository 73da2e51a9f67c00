"""A fortnight with nobody watching: files land, and real daemons take them in, train, promote and predict.

What they decide is what `replay --drive` decides, which waits for no daemon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
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
from ml_platform.stores.models import ModelStore
from ml_platform.stores.planning import plan
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import deliveries, wait_for
from ml_platform_tests.automation.nursery import Meters, Nursery

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FORTNIGHT = [(deliveries.START + timedelta(days=day)).date().isoformat() for day in range(5, 15)]
"""The first days come at once; then each by itself."""

STALE_SOON = ("cooldown: 2d, stale_after: 7d", "cooldown: 2d, stale_after: 3d")


@dataclass(frozen=True)
class Lived:
    """A home in which the fortnight landed, and of its runs how they ended and what called for each training."""

    meters: Meters
    statuses: set[dg.DagsterRunStatus]
    called: Sequence[str]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    """What became of the fortnight with real daemons, each delivery of which came when they were at rest."""
    folder = tmp_path_factory.mktemp("live")
    meters = Meters(meters_home.project(folder / "project", STALE_SOON), folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in meters_home.environment(meters.home, meters.project).items():
            patch.setenv(name, value)
        settings = meters_home.prepared(meters.home, meters.project)
        dataset = load_dataset(meters.project / "energy_demand" / "defs" / "meters")
        with meters_home.serving(settings), dg.DagsterInstance.get() as instance:
            for day in FORTNIGHT:
                meters.deliver(day)
                wait_for(f"coming to rest after {day}", lambda: at_rest(instance, settings, dataset))
            runs = instance.get_runs()
    called = [run.tags["ml_platform/trigger"] for run in reversed(runs) if "ml_platform/trigger" in run.tags]
    return Lived(meters, {run.status for run in runs}, called)


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


def trainings(meters: Meters) -> list[tuple[Any, ...]]:
    """Each version with what called for it, at which watermark, on which rows, and the bytes it became."""
    models = ModelStore(meters.settings)
    made = [models.describe("demand", version) for version in models.versions("demand")]
    return [
        (each.version, why.as_of, why.trigger, why.evidence, why.training_set_hash, each.model_hash)
        for each in made
        for why in [each.provenance]
    ]


def test_files_land_and_the_champion_changes_with_nobody_asking(live: Lived) -> None:
    assert live.statuses == {dg.DagsterRunStatus.SUCCESS}
    assert live.called[0] == "no champion"
    assert "stale" in live.called[1:], live.called
    lake = Lake.of(live.meters.settings)
    promoted = Ledger(lake).history("demand").filter("promoted")["version"]
    assert promoted.len() > 1
    assert set(lake.read("demand/predictions", columns=["model_version"])["model_version"]) <= {*promoted}


def test_daemons_decide_what_a_driver_decides(
    live: Lived, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("driven")
    driven = Meters(meters_home.project(folder / "project", STALE_SOON), folder / "home")
    driven.home.mkdir()
    assert nursery.live(driven, FORTNIGHT, folder / "seen") == 0
    assert trainings(live.meters) == trainings(driven)
    assert nursery.look(live.meters).difference(nursery.look(driven)) == {}
