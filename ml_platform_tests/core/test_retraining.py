"""Each trigger fires on its own evidence, each guard holds back alone, and the verdict says which."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.core.bootstrap import RESAMPLES, Figure, figure
from ml_platform.core.retraining import GUARDS, Evidence, RetrainVerdict, alarms_in_a_row, judge, spaced
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
        (
            {"training_rows": 9, "history": timedelta(days=60)},
            "enough history",
            "But 9 rows over 60 days would train; 10 over more than the 16 days of the folds are asked for.",
        ),
        (
            {"training_rows": 5000, "history": timedelta(days=16)},
            "enough history",
            "But 5,000 rows over 16 days would train",
        ),
        ({"trainings_today": 2}, "within budget", "But 2 of 2 trainings a day are spent."),
    ],
)
def test_each_guard_holds_back_what_calls(evidence, guard, said):
    found = verdict(drift_days=9, **evidence)
    assert not found.retrain
    assert guard not in holding(found, "guard")
    assert said in found.reason


def test_a_person_who_asks_waits_for_history_and_budget_alone():
    asked = verdict(asked="ann: new sensors", new_labels=0, last_training=NOW - timedelta(hours=1))
    assert asked.retrain
    assert asked.triggers == ("asked by a person",)
    assert asked.reason.startswith("Training was asked for: ann: new sensors. ")
    assert not verdict(asked="ann: new sensors", trainings_today=2).retrain
    assert not verdict(asked="ann: new sensors", training_rows=9).retrain


def test_data_that_grows_asks_for_a_share_of_it_to_be_new():
    grown = spec(retrain={**POLICY, "minimum_new_share": 0.25}, drift={"persists": 1})
    evidence = replace(QUIET, drift_days=3, training_rows=20_000)
    assert judge(grown, evidence).retrain
    held = judge(grown, replace(evidence, new_labels=4980))
    assert not held.retrain
    assert "But the labels since the last training are 24.9% of the rows that would train; 25% are asked" in held.reason


def test_the_more_often_performance_was_looked_at_the_surer_a_fall_must_be():
    fallen = {"delivered": delivered(0.70, half=0.03)}
    assert verdict(**fallen, looks=1).retrain
    assert not verdict(**fallen, looks=30).retrain


def means_of_days(rng: np.random.Generator, mean: float, count: int, days: int) -> list[Figure]:
    """``count`` figures, each the mean of so many days of auc, whose intervals draw days."""
    seen = rng.normal(mean, 0.02, (count, days))
    figures = []
    for each in seen:
        drawn = rng.multinomial(days, [1 / days] * days, size=RESAMPLES) @ each / days
        figures.append(figure(float(each.mean()), drawn, SPEC.gate.confidence))
    return figures


def found_at(rng: np.random.Generator, fall: float, champions: int, looks: int) -> list[float]:
    """At which look performance was said to have fallen, for champions of auc 0.76 that fall by so much at once."""
    policy = {**POLICY, "performance_drop": 0, "performance_window": "7d"}
    asking = spec(retrain=policy, windows={"holdout": "15d", "training": "60d"})
    promised = means_of_days(rng, 0.76, champions, 15)
    delivered = iter(means_of_days(rng, 0.76 - fall, champions * looks, 7))
    found = []
    for promise in promised:
        said = math.inf
        for look in range(1, looks + 1):
            evidence = replace(QUIET, promised=promise, delivered=next(delivered), looks=look)
            if "performance fell" in judge(asking, evidence).triggers:
                said = min(said, look)
        found.append(said)
    return found


def test_chance_calls_for_training_in_a_champions_life_as_rarely_as_is_said_and_a_fall_is_found():
    """By how much days vary is known from these few alone: a normal quantile would err in 9 of 100 lives."""
    rng = np.random.default_rng(1)
    falsely = np.isfinite(found_at(rng, 0, champions=1500, looks=12)).mean()
    assert 0.03 < falsely < 0.065
    assert np.mean(np.array(found_at(rng, 0.04, champions=200, looks=2)) == 1) > 0.95


def test_looks_are_a_window_apart_whatever_days_have_no_report():
    days = [NOW + timedelta(days=day) for day in (0, 1, 2, 3, 9, 10, 11, 17)]
    assert spaced(reversed(days), timedelta(days=3)) == [days[at] for at in (0, 3, 4, 7)]
    assert spaced([], timedelta(days=3)) == []


@given(st.integers(1, 5000))
def test_all_looks_together_may_err_as_often_as_one_may(looks):
    """The share of error that the k-th look may spend, 6/(pi k)^2, adds up to no more than one."""
    assert sum(6 / (math.pi * k) ** 2 for k in range(1, looks + 1)) < 1


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
    assert found.retrain == (bool(holding(found)) and len(holding(found, "guard")) == len(GUARDS))
    assert found.reason.startswith("Nothing calls for training") == (not holding(found))
    assert (" But " in found.reason) == (bool(holding(found)) and not found.retrain)
