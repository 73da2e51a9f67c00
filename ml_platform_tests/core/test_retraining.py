"""Each trigger fires on its own evidence, each guard holds back alone, and the verdict says which."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.core.bootstrap import Figure
from ml_platform.core.retraining import Evidence, RetrainVerdict, alarms_in_a_row, judge
from ml_platform_tests.core.learning_examples import regression_spec, spec

NOW = datetime(2013, 5, 1, tzinfo=UTC)
POLICY = {
    "cooldown": "7d",
    "stale_after": "30d",
    "performance_drop": 0.05,
    "performance_minimum_rows": 500,
    "minimum_new_labels": 1000,
}
SPEC = spec(retrain=POLICY, drift={"persists": 3, "window": "1d"})
QUIET = Evidence(
    watermark=NOW,
    champion=4,
    champion_as_of=NOW - timedelta(days=20),
    last_training=NOW - timedelta(days=10),
    new_labels=5000,
    promised=Figure(value=0.76, low=0.74, high=0.78),
    delivered=Figure(value=0.75, low=0.72, high=0.78),
    delivered_rows=5000,
)


def verdict(**changes: object) -> RetrainVerdict:
    return judge(SPEC, replace(QUIET, **changes))


def holding(found: RetrainVerdict, role: str = "trigger") -> list[str]:
    return [condition.name for condition in found.conditions if condition.role == role and condition.holds]


def delivered(value: float, half: float = 0.01) -> Figure:
    return Figure(value=value, low=value - half, high=value + half)


def test_a_champion_that_keeps_its_promise_is_left_alone():
    found = verdict()
    assert not found.retrain
    assert holding(found) == []
    assert found.reason.startswith("Nothing calls for training: auc is 0.75 [0.72, 0.78] on 5,000 labels")


@pytest.mark.parametrize(
    ("evidence", "trigger"),
    [
        ({"champion": None, "champion_as_of": None, "promised": None, "delivered": None}, "no champion"),
        ({"delivered": delivered(0.65)}, "performance fell"),
        ({"drift_days": 3}, "drift persists"),
        ({"champion_as_of": NOW - timedelta(days=30)}, "stale"),
    ],
)
def test_each_trigger_calls_for_training_alone(evidence, trigger):
    found = verdict(**evidence)
    assert found.retrain
    assert holding(found) == [trigger]


@pytest.mark.parametrize(
    ("evidence", "guard", "said"),
    [
        (
            {"new_labels": 999},
            "enough new labels",
            "But 999 labels have come in since the last training",
        ),
        (
            {"last_training": NOW - timedelta(days=6)},
            "cooled down",
            "But the last training was 6 days ago; 7 must",
        ),
    ],
)
def test_each_guard_holds_back_what_calls(evidence, guard, said):
    found = verdict(drift_days=9, **evidence)
    assert not found.retrain
    assert guard not in holding(found, "guard")
    assert said in found.reason


def test_bounds_themselves_count_and_less_does_not():
    assert verdict(drift_days=3).retrain
    assert not verdict(drift_days=2).retrain
    day = timedelta(days=1)
    assert verdict(champion_as_of=NOW - 30 * day).retrain
    assert not verdict(champion_as_of=NOW - 30 * day + timedelta(seconds=1)).retrain
    assert verdict(drift_days=3, new_labels=1000, last_training=NOW - 7 * day).retrain


def test_a_fall_within_chance_or_on_few_labels_calls_for_nothing():
    fallen = {"delivered": delivered(0.65, half=0.01)}
    assert verdict(**fallen).retrain
    assert not verdict(delivered=delivered(0.65, half=0.15)).retrain
    few = verdict(**fallen, delivered_rows=499)
    assert not few.retrain
    assert "499 labels have come in since the champion predicts: auc is judged on 500 or more." in few.reason
    assert not verdict(delivered=Figure(value=0.65)).retrain


@pytest.mark.parametrize(
    ("alarms", "days"),
    [([], 0), ([True], 1), ([True, False], 0), ([False, True, True], 2), ([True, None, True, True], 2)],
    ids=["no report", "one", "none today", "two after none", "a day without report"],
)
def test_alarms_count_in_a_row_up_to_the_newest_report(alarms, days):
    reports = [(NOW + timedelta(days=day), alarm) for day, alarm in enumerate(alarms) if alarm is not None]
    assert alarms_in_a_row(reversed(reports)) == alarms_in_a_row(reports) == days


def test_where_less_is_better_a_rise_is_a_fall():
    minutes = regression_spec(retrain={**POLICY, "performance_drop": 2.0})
    rose = replace(QUIET, promised=delivered(10, 0.1), delivered=delivered(13, 0.1))
    assert judge(minutes, rose).retrain
    assert not judge(minutes, replace(rose, delivered=delivered(7, 0.1))).retrain


@given(
    fall=st.floats(-0.3, 0.3),
    labels=st.integers(0, 3000),
    days=st.integers(0, 40),
    age=st.integers(0, 60),
    drift=st.integers(0, 5),
)
def test_training_takes_a_trigger_and_every_guard_and_the_reason_says_so(fall, labels, days, age, drift):
    found = verdict(
        delivered=delivered(0.76 - fall),
        new_labels=labels,
        last_training=NOW - timedelta(days=days),
        champion_as_of=NOW - timedelta(days=age),
        drift_days=drift,
    )
    assert found.retrain == (bool(holding(found)) and len(holding(found, "guard")) == 2)
    assert found.reason.startswith("Nothing calls for training") == (not holding(found))
    assert (" But " in found.reason) == (bool(holding(found)) and not found.retrain)
