"""Each gate flips exactly at its bound, one rule decides, and what is rejected never promotes."""

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.core.bootstrap import Figure
from ml_platform.core.evaluation_report import (
    CaseResult,
    Distribution,
    EvaluationReport,
    Histogram,
    MetricResult,
    ProtectedGap,
    SliceResult,
)
from ml_platform.core.promotion import Decision, GateResult, decide
from ml_platform_tests.core.learning_examples import START, spec

GATE = {"baseline_margin": 0.02, "stale_margin": 0.01, "slice_max_drop": 0.1, "protected_max_gap": 0.2}
SPEC = spec(gate=GATE)
FRESH, STALE = timedelta(days=59), timedelta(days=60)
BOUNDS = {
    "floor": 0.6,
    "baseline": 0.02,
    "champion": 0.0,
    "slice": 0.1,
    "protected": 0.2,
    "calibration": 0.1,
    "latency": 50.0,
}


def around(value: float) -> Figure:
    return Figure(value=value, low=value - 0.01, high=value + 0.01)


def metric_result(name: str, value: float, over_baseline: float, over_champion: float | None) -> MetricResult:
    """A metric whose lower interval ends against its rivals are as given."""
    return MetricResult(
        metric=name,
        unit="share",
        greater_is_better=name == "auc",
        candidate=around(value),
        baseline=around(0.6),
        over_baseline=Figure(value=0.1, low=over_baseline, high=0.2),
        champion=None if over_champion is None else around(0.7),
        over_champion=None if over_champion is None else Figure(value=over_champion, low=over_champion, high=0.2),
    )


def report(**values: Any) -> EvaluationReport:
    """A report that passes every gate, except for what is given."""
    good = {"floor": 0.75, "baseline": 0.1, "champion": 0.01, "slice": 0.0, "protected": 0.1, "calibration": 0.05}
    found = {**good, "case": True, "has_champion": True, **values}
    histogram = Histogram(edges=(0.0, 1.0), counts=(1,))
    return EvaluationReport(
        model=SPEC.name,
        task=SPEC.task,
        gate_metric="auc",
        confidence=0.95,
        resampled_by="day",
        resamples=300,
        training_rows=1000,
        rows=400,
        holdout_start=START,
        holdout_end=START + timedelta(days=10),
        label_mean=0.3,
        training_label_mean=0.3,
        baseline_by=("depot",),
        has_champion=found["has_champion"],
        champion_version=1 if found["has_champion"] else None,
        champion_rows=0 if found["champion"] is None or not found["has_champion"] else 400,
        metrics=(
            metric_result(
                "auc", found["floor"], found["baseline"], found["champion"] if found["has_champion"] else None
            ),
            metric_result("calibration_error", found["calibration"], 0, None),
        ),
        slices=(
            SliceResult(
                column="depot",
                group="a",
                rows=60,
                figure=around(0.7),
                drop=Figure(value=0.2, low=found["slice"], high=0.4),
            ),
            SliceResult(column="depot", group="tiny", rows=49, figure=around(0.1), drop=around(0.6)),
            SliceResult(column="depot", group="one class", rows=60, figure=Figure(value=None), drop=Figure(value=None)),
        ),
        gaps=(
            ProtectedGap(
                column="depot",
                rate="error_rate",
                gap=Figure(value=found["protected"], low=0, high=0.5),
                groups={"a": around(0.1), "b": around(0.2)},
                rows={"a": 60, "b": 60},
            ),
        ),
        calibration=(),
        residuals=histogram,
        scores=Distribution(
            levels=(), training_quantiles=(), holdout_quantiles=(), training=histogram, holdout=histogram
        ),
        importance=(),
        cases=(
            CaseResult(name="more load", expect="not_lower", tolerance=0, before=0.3, after=0.4, held=found["case"]),
        ),
    )


def judged(age: timedelta | None = FRESH, latency: float | None = 3.0, loads: bool = True, **values: Any) -> Decision:
    found = report(has_champion=age is not None, **values)
    return decide(SPEC, found, champion_age=age, latency_ms=latency, loads_cleanly=loads)


def failed(decision: Decision) -> list[str]:
    return [gate.name.split(":")[0] for gate in decision.failed]


def test_a_candidate_that_holds_every_gate_replaces_the_champion_and_says_why():
    decision = judged()
    assert (decision.promote, decision.rule, decision.failed) == (True, "better_than_champion", ())
    assert "an improvement of 0.01 [0.01, 0.2] over the champion on 400 rows" in decision.reason
    assert [gate.name for gate in decision.gates] == [
        "floor:auc",
        "baseline",
        "champion",
        "slice:depot",
        "slice:prediction_time.month",
        "protected:depot:error_rate",
        "calibration",
        "case:more load",
        "loads",
        "latency",
    ]


def test_where_approval_is_required_a_candidate_that_holds_every_gate_waits_and_one_that_fails_is_rejected():
    cautious = spec(gate={**GATE, "approval": "required"})
    waits = decide(cautious, report(), champion_age=FRESH, latency_ms=3.0, loads_cleanly=True)
    assert (waits.promote, waits.rule, waits.failed) == (False, "awaits_approval", ())
    assert waits.reason.endswith("better than the baseline in auc. It waits for a person's approval.")
    fails = decide(cautious, report(floor=0.5), champion_age=FRESH, latency_ms=3.0, loads_cleanly=True)
    assert (fails.promote, fails.rule) == (False, "rejected")


def test_counts_of_rows_are_written_with_thousands_separators():
    many = report(has_champion=False, slice=0.5).model_copy(update={"rows": 13_439})
    many = many.model_copy(update={"slices": (many.slices[0].model_copy(update={"rows": 1_234}),)})
    refused = decide(SPEC, many, champion_age=None, latency_ms=1.0, loads_cleanly=True)
    assert "In depot = a (1,234 rows) auc is" in refused.reason
    passed = decide(SPEC, many.model_copy(update={"slices": ()}), champion_age=None, latency_ms=1.0, loads_cleanly=True)
    assert passed.reason.startswith("First champion: auc is 0.75 [0.74, 0.76] on 13,439 held-out rows; all 9 gates")
    against = report().model_copy(update={"champion_rows": 13_439})
    found = decide(SPEC, against, champion_age=FRESH, latency_ms=1.0, loads_cleanly=True)
    assert "over the champion on 13,439 rows" in found.reason


@given(value=st.floats(-1, 2))
@pytest.mark.parametrize("gate", ["floor", "baseline", "champion", "slice", "protected", "calibration"])
def test_each_gate_flips_exactly_at_its_bound(gate, value):
    decision = judged(**{gate: value})
    good = {
        "floor": value >= 0.6,
        "baseline": value > 0.02,
        "champion": value > 0,
        "slice": value <= 0.1,
        "protected": value <= 0.2,
        "calibration": value <= 0.1,
    }[gate]
    assert failed(decision) == ([] if good else [gate])
    assert decision.promote is good


@pytest.mark.parametrize("gate", ["floor", "baseline", "champion", "slice", "protected", "calibration"])
def test_the_bound_itself_and_its_neighbours_are_judged_as_declared(gate):
    bound = BOUNDS[gate]
    below, above = np.nextafter(bound, -1), np.nextafter(bound, 2)
    held = [judged(**{gate: float(value)}).promote for value in (below, bound, above)]
    assert held == {
        "floor": [False, True, True],
        "baseline": [False, False, True],
        "champion": [False, False, True],
    }.get(gate, [True, True, False])


def test_latency_case_and_loading_gates_hold_or_fail_alone():
    assert failed(judged(latency=50.0)) == []
    assert failed(judged(latency=50.1)) == ["latency"]
    assert failed(judged(latency=None)) == ["latency"]
    assert failed(judged(loads=False)) == ["loads"]
    assert failed(judged(case=False)) == ["case"]


def test_without_a_champion_the_other_gates_decide():
    decision = judged(age=None)
    assert (decision.promote, decision.rule) == (True, "first_champion")
    assert "champion" not in {gate.name for gate in decision.gates}
    rejected = judged(age=None, floor=0.5)
    assert (rejected.promote, rejected.rule) == (False, "rejected")
    assert rejected.reason == ("There is still no champion: 1 of 9 gates failed. auc is 0.5; it must be at least 0.6.")


@pytest.mark.parametrize(
    ("age", "low", "promote", "rule"),
    [
        (FRESH, 0.001, True, "better_than_champion"),
        (FRESH, 0.0, False, "rejected"),
        (FRESH, -0.005, False, "rejected"),
        (STALE, 0.001, True, "better_than_champion"),
        (STALE, 0.0, True, "replaces_stale_champion"),
        (STALE, -0.005, True, "replaces_stale_champion"),
        (STALE, -0.01, False, "rejected"),
    ],
)
def test_a_stale_champion_yields_to_one_not_shown_to_be_worse_and_the_rule_is_named(age, low, promote, rule):
    decision = judged(age=age, champion=low)
    assert (decision.promote, decision.rule) == (promote, rule)
    assert ("stale" in decision.reason) is (age is STALE)


@pytest.mark.parametrize(("low", "promote"), [(0.001, True), (0.0, False), (-0.005, False)])
def test_a_champion_that_a_person_restored_yields_to_a_better_one_alone_however_stale_it_is(low, promote):
    decision = decide(SPEC, report(champion=low), champion_age=STALE, latency_ms=3.0, loads_cleanly=True, restored=True)
    assert (decision.promote, decision.rule) == (promote, "better_than_champion" if promote else "rejected")
    assert "the lower end must be above 0 (the champion is stale" in decision.reason
    assert "; a person restored it)" in decision.reason


def test_a_champion_that_knows_every_held_out_row_stays():
    decision = judged(champion=None)
    assert failed(decision) == ["champion"]
    assert "No held-out row is newer than what the champion learned from" in decision.reason


def test_what_is_undefined_never_passes():
    found = report(has_champion=False)
    auc = found["auc"].model_copy(update={"candidate": Figure(value=None), "over_baseline": Figure(value=None)})
    unknown = found.model_copy(update={"metrics": (auc, found["calibration_error"])})
    decision = decide(SPEC, unknown, champion_age=None, latency_ms=1.0, loads_cleanly=True)
    assert failed(decision) == ["floor", "baseline"]


def test_small_groups_do_not_decide():
    assert "tiny" not in "".join(gate.explanation for gate in judged().gates)


@given(
    st.fixed_dictionaries({gate: st.floats(-1, 2) for gate in ("floor", "baseline", "champion", "slice", "protected")}),
    st.sampled_from([None, FRESH, STALE]),
    st.booleans(),
)
def test_what_is_rejected_never_promotes_and_every_decision_reads_back(values, age, loads):
    decision = judged(age=age, loads=loads, **values)
    assert decision.promote is (not decision.failed) is (decision.rule != "rejected")
    assert all(gate.explanation in decision.reason for gate in decision.failed)
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision


def test_a_decision_that_contradicts_its_gates_cannot_be_made():
    gate = GateResult("floor:auc", False, 0.5, 0.6, "auc is 0.5.")
    with pytest.raises(ValueError, match="contradicts its gates"):
        Decision(True, "first_champion", "because", (gate,))
    with pytest.raises(ValueError, match="contradicts its gates"):
        Decision(False, "rejected", "because", ())
    with pytest.raises(ValueError, match="rule 'luck' is unknown"):
        Decision(True, "luck", "because", ())


def test_report_and_arguments_must_agree_about_the_champion():
    with pytest.raises(ValueError, match="has no champion, but champion_age is"):
        decide(SPEC, report(has_champion=False), champion_age=FRESH, latency_ms=1.0, loads_cleanly=True)


def test_a_floor_on_an_unknown_metric_is_an_error():
    with pytest.raises(ValueError, match="metric 'mae' is unknown for a binary model"):
        decide(spec(gate={"floor": {"mae": 1.0}}), report(), champion_age=FRESH, latency_ms=1.0, loads_cleanly=True)
