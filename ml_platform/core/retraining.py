"""Whether to train a new candidate: evidence in, one verdict out, every part of it visible.

Belongs here: what counts as a trigger and what holds one back. Gathering the evidence is the stores' work. All times
are event times, so a verdict is the same in a replay and live.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import Literal

from ml_platform.core.bootstrap import Figure
from ml_platform.core.durations import format_duration
from ml_platform.core.metrics import metric
from ml_platform.core.model_spec import ModelSpec

Role = Literal["trigger", "guard"]
"""A trigger calls for training; a guard holds it back whatever calls."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a model at a watermark.

    ``champion`` is the version that predicts (None: none does), ``champion_as_of`` when the data it was made from
    ended; ``last_training`` the same of the newest training set, whatever became of it. ``new_labels`` became known
    after that. ``promised`` is the champion's gate metric on the rows it was held out on, ``delivered`` over the
    trailing window of labels that came in since, from ``delivered_rows`` rows. ``drift_days`` counts the alarms up to
    the newest report without a day between that was none.
    """

    watermark: datetime
    champion: int | None = None
    champion_as_of: datetime | None = None
    last_training: datetime | None = None
    new_labels: int = 0
    promised: Figure | None = None
    delivered: Figure | None = None
    delivered_rows: int = 0
    drift_days: int = 0


@dataclass(frozen=True)
class Condition:
    """One part of the verdict: whether it holds, what was measured, the bound, and what that means."""

    name: str
    role: Role
    holds: bool
    value: float | None
    bound: float | None
    explanation: str


@dataclass(frozen=True)
class RetrainVerdict:
    """Train if any trigger holds and every guard does; ``reason`` says which, or what was missing."""

    retrain: bool
    reason: str
    conditions: tuple[Condition, ...]


def judge(spec: ModelSpec, evidence: Evidence) -> RetrainVerdict:
    """Weigh the evidence by ``spec.retrain`` and ``spec.drift.persists``."""
    triggers = (
        _no_champion(evidence),
        _performance_fell(spec, evidence),
        _drift_persists(spec, evidence),
        _stale(spec, evidence),
    )
    guards = (_new_labels(spec, evidence), _cooled_down(spec, evidence))
    calling = [trigger for trigger in triggers if trigger.holds]
    holding = [guard for guard in guards if not guard.holds]
    if not calling:
        reason = "Nothing calls for training: " + _sentence(triggers[1:] if evidence.champion else triggers)
    elif holding:
        reason = f"{_sentence(calling)} But {_lower(_sentence(holding))}"
    else:
        reason = f"{_sentence(calling)} {_sentence(guards)}"
    return RetrainVerdict(bool(calling) and not holding, reason, (*triggers, *guards))


def alarms_in_a_row(reports: Iterable[tuple[datetime, bool]]) -> int:
    """How many days up to the newest report were alarms, without one between that was none or has no report."""
    count, expected = 0, None
    for day, alarm in sorted(reports, reverse=True):
        if not alarm or (expected is not None and day != expected):
            break
        count, expected = count + 1, day - timedelta(days=1)
    return count


def _no_champion(evidence: Evidence) -> Condition:
    none = evidence.champion is None
    text = "No version predicts yet." if none else f"Version {evidence.champion} predicts."
    return Condition("no champion", "trigger", none, float(none), None, text)


def _performance_fell(spec: ModelSpec, evidence: Evidence) -> Condition:
    """The fall is beyond the declared drop, by a one-sided test of two independent figures.

    Their standard errors are read off their bootstrap intervals, which are taken to be normal.
    """
    name, policy, judged = "performance fell", spec.retrain, metric(spec.gate.metric, spec.task)

    def unknown(text: str) -> Condition:
        return Condition(name, "trigger", False, None, policy.performance_drop, text)

    promised, delivered = evidence.promised, evidence.delivered
    if promised is None or delivered is None or promised.value is None or delivered.value is None:
        return unknown(f"No {judged.name} is known yet of a window of labels since the champion was judged.")
    if evidence.delivered_rows < policy.performance_minimum_rows:
        return unknown(
            f"{evidence.delivered_rows:,} labels have come in since the champion predicts: {judged.name} is judged on "
            f"{policy.performance_minimum_rows:,} or more."
        )
    errors = [_standard_error(figure, spec.gate.confidence) for figure in (promised, delivered)]
    if None in errors:
        return unknown(
            f"{judged.name} has no interval ({promised}, then {delivered}): chance cannot be told from a fall."
        )
    fall = (promised.value - delivered.value) * (1 if judged.greater_is_better else -1)
    margin = NormalDist().inv_cdf(spec.gate.confidence) * sum(error**2 for error in errors if error) ** 0.5
    surely = fall - margin
    sure = (
        f"worse by {fall:.4g}, of which {surely:.4g} is beyond chance" if surely > 0 else "worse by what may be chance"
    )
    return Condition(
        name,
        "trigger",
        surely > policy.performance_drop,
        surely,
        policy.performance_drop,
        f"{judged.name} is {delivered} on {evidence.delivered_rows:,} labels that came in over "
        f"{format_duration(policy.performance_window)}, and was {promised} when it was judged: "
        f"{sure if fall > 0 else 'no worse'}; a fall of more than "
        f"{policy.performance_drop:g} beyond chance calls for training.",
    )


def _drift_persists(spec: ModelSpec, evidence: Evidence) -> Condition:
    days, bound = evidence.drift_days, spec.drift.alarming_days
    text = f"Drift has been an alarm for {days} days in a row; {bound} call for training."
    return Condition("drift persists", "trigger", days >= bound, float(days), float(bound), text)


def _stale(spec: ModelSpec, evidence: Evidence) -> Condition:
    bound = spec.retrain.stale_after
    if evidence.champion_as_of is None:
        return Condition("stale", "trigger", False, None, _days(bound), "There is no champion to grow old.")
    age = evidence.watermark - evidence.champion_as_of
    text = f"The champion is {_days(age):.3g} days old; {_days(bound):g} call for training."
    return Condition("stale", "trigger", age >= bound, _days(age), _days(bound), text)


def _new_labels(spec: ModelSpec, evidence: Evidence) -> Condition:
    bound = spec.retrain.minimum_new_labels
    text = f"{evidence.new_labels:,} labels have come in since the last training; {bound:,} are asked for."
    return Condition(
        "enough new labels", "guard", evidence.new_labels >= bound, float(evidence.new_labels), float(bound), text
    )


def _cooled_down(spec: ModelSpec, evidence: Evidence) -> Condition:
    bound = spec.retrain.cooldown
    if evidence.last_training is None:
        return Condition("cooled down", "guard", True, None, _days(bound), "It was never trained.")
    since = evidence.watermark - evidence.last_training
    text = f"The last training was {_days(since):.3g} days ago; {_days(bound):g} must pass."
    return Condition("cooled down", "guard", since >= bound, _days(since), _days(bound), text)


def _standard_error(figure: Figure, confidence: float) -> float | None:
    """Half the width of a normal interval over its quantile; None without an interval."""
    if figure.low is None or figure.high is None:
        return None
    return (figure.high - figure.low) / (2 * NormalDist().inv_cdf((1 + confidence) / 2))


def _days(length: timedelta) -> float:
    return length / timedelta(days=1)


def _sentence(conditions: tuple[Condition, ...] | list[Condition]) -> str:
    return " ".join(condition.explanation for condition in conditions)


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
