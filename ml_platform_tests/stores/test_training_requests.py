"""One request waits for each model, until a run takes it up."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.stores.lake import Lake
from ml_platform.stores.training_requests import TrainingRequests

NOW = datetime(2013, 4, 1, tzinfo=UTC)


@pytest.fixture
def requests(tmp_path: Path) -> TrainingRequests:
    return TrainingRequests(Lake(str(tmp_path)))


def test_what_is_asked_waits_until_a_run_takes_it(requests: TrainingRequests) -> None:
    assert requests.waiting("late") is None
    requests.ask("late", "ann", "new sensors")
    waiting = requests.waiting("late")
    assert str(waiting) == "ann: new sensors"
    assert requests.waiting("other") is None
    assert requests.take("late", "run 1", NOW) == waiting
    assert requests.waiting("late") is None
    assert requests.take("late", "run 2", NOW) is None


def test_a_second_request_takes_the_place_of_the_first_and_one_run_takes_up_both(requests: TrainingRequests) -> None:
    requests.ask("late", "ann", "new sensors")
    requests.ask("late", "bob", "once more")
    assert str(requests.waiting("late")) == "bob: once more"
    requests.take("late", "run 1", NOW)
    assert requests.waiting("late") is None


@pytest.mark.parametrize(("person", "reason", "missing"), [("", "x", "person"), ("ann", " ", "reason")])
def test_a_request_needs_a_person_and_a_reason(
    requests: TrainingRequests, person: str, reason: str, missing: str
) -> None:
    with pytest.raises(ValueError, match=f"with a person and a reason: {missing} missing"):
        requests.ask("late", person, reason)
