"""A fortnight with nobody watching: files land, and real daemons take them in, train, promote and predict.

What they decide is what `replay --drive` decides, which waits for no daemon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import dagster as dg
import pytest

from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import STALE_SOON, at_rest, called, deliveries, wait_for
from ml_platform_tests.automation.nursery import Meters, Nursery, trainings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FORTNIGHT = [(deliveries.START + timedelta(days=day)).date().isoformat() for day in range(5, 15)]
"""The first days come at once; then each by itself."""


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
        declared = meters_home.dataset(meters.project)
        with meters_home.serving(settings), dg.DagsterInstance.get() as instance:
            for day in FORTNIGHT:
                meters.deliver(day)
                wait_for(f"coming to rest after {day}", lambda: at_rest(instance, settings, declared))
            return Lived(meters, {run.status for run in instance.get_runs()}, called(instance))


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
    assert trainings(live.meters.settings, "demand") == trainings(driven.settings, "demand")
    assert nursery.look(live.meters).difference(nursery.look(driven)) == {}
