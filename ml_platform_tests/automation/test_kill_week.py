"""A week of landing in which everything is killed again and again ends as a week in which nothing was."""

from pathlib import Path

import pytest

from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.nursery import WEEK, Nursery, State, Week

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

RETRAIN = "retrain: {cooldown: 2d, stale_after: 7d, "
EVERY_DAY = "retrain: {minimum_new_labels: 1, minimum_new_share: 0.0, cooldown: 1d, stale_after: 1d, "
PARTS = 2
BEFORE = (
    "Delta raw/readings",
    "record demand/labels",
    "event demand/predictions",
    "online recent_demand",
    "Delta demand/training_set",
    "registration",
    "Delta demand/evaluation_report",
    "Delta ledger/promotions",
    "alias",
    "end of run",
)
"""One write of each kind; the moment before any other is that after the write before it."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Week:
    """The beginning of a week of a model that is trained anew each day."""
    folder = tmp_path_factory.mktemp("week")
    project = meters_home.project(
        folder / "project", (RETRAIN, EVERY_DAY), ("    stale_after: 14d\n", "    stale_after: 1d\n")
    )
    return nursery.begin(project, folder)


@pytest.fixture(scope="module")
def undisturbed(begun: Week, nursery: Nursery) -> State:
    """What the week comes to in which nothing is killed; ``seen_<day>`` beside the home names its writes."""
    week = begun.again()
    for day in WEEK:
        assert nursery.live(week, [day], week.home.parent / f"seen_{day}") == 0
    return nursery.look(week)


def deaths(folder: Path) -> dict[str, list[str]]:
    """For each day, the moments at which a process dies, in their order: together, every write of the week.

    A moment is for the day on which it comes that has fewest.
    """
    seen = {day: list(dict.fromkeys((folder / f"seen_{day}").read_text().splitlines())) for day in WEEK}
    wanted = [f"before {write}" for write in BEFORE]
    wanted += sorted({moment for moments in seen.values() for moment in moments if moment.startswith("after ")})
    chosen: dict[str, list[str]] = {day: [] for day in WEEK}
    for moment in wanted:
        days = [day for day in WEEK if moment in seen[day]]
        assert days, f"nothing was {moment}"
        min((chosen[day] for day in days), key=len).append(moment)
    return {day: sorted(moments, key=seen[day].index) for day, moments in chosen.items()}


@pytest.mark.parametrize("part", range(PARTS))
def test_a_week_killed_at_every_write_ends_as_if_undisturbed(
    part: int, begun: Week, undisturbed: State, nursery: Nursery
) -> None:
    week, folder, died = begun.again(), begun.home.parent, 0
    for day, moments in deaths(folder).items():
        for moment in moments[part::PARTS]:
            code = nursery.live(week, [day], folder / "seen_by_the_killed", moment)
            assert code == -9, f"{day}: it should have died {moment}, and ended with {code}"
            died += 1
        assert nursery.live(week, [day], folder / "seen_by_survivors") == 0
    assert died > len(WEEK)
    assert nursery.look(week).difference(undisturbed) == {}
