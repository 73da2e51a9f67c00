"""Whether to train a new candidate: evidence in, one verdict out, every part of it visible.

Belongs here: what counts as a trigger and what holds one back. Gathering the evidence is the stores' work. All times
are event times, so a verdict is the same in a replay and live.

Performance is looked at once for every trailing window that has passed: windows that overlap are nearly one look. Were
each judged by itself, chance would call for training sooner or later; so the error that is allowed over a champion's
whole life (one less ``gate.confidence``) is spent over the looks: of the k-th look's it is the share 6/(pi k)^2, and
these shares add up to one. A window is a handful of days, and days are what varies: two means of few values are
compared, by Welch's test (B. L. Welch, "The generalization of 'Student's' problem when several different population
variances are involved", Biometrika 34, 1947).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from ml_platform.core.durations import format_duration
from ml_platform.core.model_spec import ModelSpec

if TYPE_CHECKING:
    from ml_platform.core.bootstrap import Figure

Role = Literal["trigger", "guard"]
"""A trigger calls for training; a guard holds it back whatever calls."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a model at a watermark.

    ``champion`` is the version that predicts (None: none does), ``champion_as_of`` when the data it was made from
    ended; ``last_training`` the same of the newest candidate that its gates decided on, and of no training that failed
    before that. ``new_labels`` became known after it. ``promised`` is the champion's gate metric on the rows it was
    held out on, ``delivered`` over the newest trailing window of labels that was looked at since, from
    ``delivered_rows`` rows; ``looks`` counts the looks, each a whole window after the one before. ``drift_days`` counts
    the alarms up to the newest report without a day between that was none. ``trainings_today`` were begun on data that
    ended within a day before the watermark, whatever became of them, ``asked`` is what a person said who asks for
    training. ``history`` is how far back labels reach before the rows that would be held out, and ``training_rows`` how
    many of them would train (None: not counted, and not held against training).
    """

    watermark: datetime
    champion: int | None = None
    champion_as_of: datetime | None = None
    last_training: datetime | None = None
    new_labels: int = 0
    promised: "Figure | None" = None
    delivered: "Figure | None" = None
    delivered_rows: int = 0
    looks: int = 1
    drift_days: int = 0
    trainings_today: int = 0
    asked: str | None = None
    training_rows: int | None = None
    history: timedelta = timedelta.max


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

    @property
    def triggers(self) -> tuple[str, ...]:
        """The names of the triggers that hold."""
        return tuple(part.name for part in self.conditions if part.role == "trigger" and part.holds)


NO_CHAMPION, PERFORMANCE_FELL, DRIFT_PERSISTS, STALE = "no champion", "performance fell", "drift persists", "stale"
ASKED = "asked by a person"
TRIGGERS = (NO_CHAMPION, PERFORMANCE_FELL, DRIFT_PERSISTS, STALE, ASKED)
"""What calls for training, by name."""

NEW_LABELS, NEW_SHARE, COOLED_DOWN = "enough new labels", "enough of it is new", "cooled down"
ENOUGH_HISTORY, WITHIN_BUDGET = "enough history", "within budget"
GUARDS = (NEW_LABELS, NEW_SHARE, COOLED_DOWN, ENOUGH_HISTORY, WITHIN_BUDGET)
"""What must hold whatever calls, by name."""

HARD_GUARDS = (ENOUGH_HISTORY, WITHIN_BUDGET)
"""The guards that hold back a person's word too."""


def judge(spec: ModelSpec, evidence: Evidence) -> RetrainVerdict:
    """Weigh the evidence by ``spec.retrain`` and ``spec.drift.persists``."""
    asked = _asked(evidence)
    triggers = (
        _no_champion(evidence),
        _performance_fell(spec, evidence),
        _drift_persists(spec, evidence),
        _stale(spec, evidence),
        asked,
    )
    guards = (
        _new_labels(spec, evidence),
        _new_share(spec, evidence),
        _cooled_down(spec, evidence),
        _enough_history(spec, evidence),
        _within_budget(spec, evidence),
    )
    calling = [trigger for trigger in triggers if trigger.holds]
    asked_for = [guard for guard in guards if not asked.holds or guard.name in HARD_GUARDS]
    holding = [guard for guard in asked_for if not guard.holds]
    if not calling:
        reason = "Nothing calls for training: " + _sentence(triggers[1:-1] if evidence.champion else triggers[:-1])
    elif holding:
        reason = f"{_sentence(calling)} But {_lower(_sentence(holding))}"
    else:
        reason = f"{_sentence(calling)} {_sentence(asked_for)}"
    return RetrainVerdict(bool(calling) and not holding, reason, (*triggers, *guards))


def alarms_in_a_row(reports: Iterable[tuple[datetime, bool]]) -> int:
    """How many days up to the newest report were alarms, without one between that was none or has no report."""
    count, expected = 0, None
    for day, alarm in sorted(reports, reverse=True):
        if not alarm or (expected is not None and day != expected):
            break
        count, expected = count + 1, day - timedelta(days=1)
    return count


def spaced(times: Iterable[datetime], apart: timedelta) -> list[datetime]:
    """The earliest of ``times``, and each after it that is at least ``apart`` from the one taken before."""
    taken: list[datetime] = []
    for time in sorted(times):
        if not taken or time - taken[-1] >= apart:
            taken.append(time)
    return taken


def _no_champion(evidence: Evidence) -> Condition:
    none = evidence.champion is None
    text = "No version predicts yet." if none else f"Version {evidence.champion} predicts."
    return Condition(NO_CHAMPION, "trigger", none, float(none), None, text)


def _performance_fell(spec: ModelSpec, evidence: Evidence) -> Condition:
    """The fall is as large as the declared drop and no chance, by a one-sided sequential test of two figures."""
    from ml_platform.core.metrics import metric

    name, policy, judged = PERFORMANCE_FELL, spec.retrain, metric(spec.gate.metric, spec.task)

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
    lengths = (spec.windows.holdout, policy.performance_window)
    means = [
        _mean(each, spec.gate.confidence, length) for each, length in zip((promised, delivered), lengths, strict=True)
    ]
    if None in means:
        return unknown(
            f"{judged.name} has no interval ({promised}, then {delivered}): chance cannot be told from a fall."
        )
    fall = (promised.value - delivered.value) * (1 if judged.greater_is_better else -1)
    allowed = (1 - spec.gate.confidence) * 6 / (math.pi * max(evidence.looks, 1)) ** 2
    margin = _margin([mean for mean in means if mean is not None], allowed)
    text = f"worse by {fall:.4g}, of which {margin:.4g} may be chance" if fall > 0 else "no worse"
    return Condition(
        name,
        "trigger",
        fall >= policy.performance_drop and fall > margin,
        fall,
        max(policy.performance_drop, margin),
        f"{judged.name} is {delivered} on {evidence.delivered_rows:,} labels that came in over "
        f"{format_duration(policy.performance_window)}, and was {promised} when it was judged: {text} at look "
        f"{evidence.looks}; a fall of {policy.performance_drop:g} that is no chance calls for training.",
    )


def _drift_persists(spec: ModelSpec, evidence: Evidence) -> Condition:
    days, bound = evidence.drift_days, spec.drift.alarming_days
    text = f"Drift has been an alarm for {days} days in a row; {bound} call for training."
    return Condition(DRIFT_PERSISTS, "trigger", days >= bound, float(days), float(bound), text)


def _stale(spec: ModelSpec, evidence: Evidence) -> Condition:
    bound = spec.retrain.stale_after
    if evidence.champion_as_of is None:
        return Condition(STALE, "trigger", False, None, _days(bound), "There is no champion to grow old.")
    age = evidence.watermark - evidence.champion_as_of
    text = f"The champion is {_days(age):.3g} days old; {_days(bound):g} call for training."
    return Condition(STALE, "trigger", age >= bound, _days(age), _days(bound), text)


def _new_labels(spec: ModelSpec, evidence: Evidence) -> Condition:
    bound = spec.retrain.minimum_new_labels
    text = f"{evidence.new_labels:,} labels have come in since the last training; {bound:,} are asked for."
    enough = evidence.new_labels >= bound
    return Condition(NEW_LABELS, "guard", enough, float(evidence.new_labels), float(bound), text)


def _new_share(spec: ModelSpec, evidence: Evidence) -> Condition:
    """What a model learns anew goes with how much it has not seen of what it would be made from."""
    bound, rows = spec.retrain.minimum_new_share, evidence.training_rows
    if not rows:
        return Condition(NEW_SHARE, "guard", True, None, bound, "The rows that would train were not counted.")
    share = evidence.new_labels / rows
    text = (
        f"The labels since the last training are {share:.1%} of the rows that would train; {bound:.0%} are asked for."
    )
    return Condition(NEW_SHARE, "guard", share >= bound, share, bound, text)


def _cooled_down(spec: ModelSpec, evidence: Evidence) -> Condition:
    bound = spec.retrain.cooldown
    if evidence.last_training is None:
        return Condition(COOLED_DOWN, "guard", True, None, _days(bound), "It was never trained.")
    since = evidence.watermark - evidence.last_training
    text = f"The last training was {_days(since):.3g} days ago; {_days(bound):g} must pass."
    return Condition(COOLED_DOWN, "guard", since >= bound, _days(since), _days(bound), text)


def _enough_history(spec: ModelSpec, evidence: Evidence) -> Condition:
    windows, rows, history = spec.windows, evidence.training_rows, evidence.history
    folded = windows.folds * windows.fold_length
    if rows is None:
        return Condition(ENOUGH_HISTORY, "guard", True, None, None, "The rows that would train were not counted.")
    text = (
        f"{rows:,} rows over {_days(history):.3g} days would train; {windows.minimum_rows:,} over more than the "
        f"{_days(folded):g} days of the folds are asked for."
    )
    enough = rows >= windows.minimum_rows and history > folded
    return Condition(ENOUGH_HISTORY, "guard", enough, float(rows), float(windows.minimum_rows), text)


def _within_budget(spec: ModelSpec, evidence: Evidence) -> Condition:
    made, bound = evidence.trainings_today, spec.retrain.daily_budget
    text = f"{made} of {bound} trainings a day are spent."
    return Condition(WITHIN_BUDGET, "guard", made < bound, float(made), float(bound), text)


def _asked(evidence: Evidence) -> Condition:
    asked = evidence.asked is not None
    text = f"Training was asked for: {evidence.asked}." if asked else "Nobody asks for training."
    return Condition(ASKED, "trigger", asked, float(asked), None, text)


@dataclass(frozen=True)
class _Mean:
    """The variance of a figure, if it is a mean, and the days that it is the mean of (infinite: it was of rows)."""

    variance: float
    days: float


def _mean(figure: "Figure", confidence: float, length: timedelta) -> _Mean | None:
    """What a bootstrap interval, taken to be normal, says of a figure over ``length``; None without an interval.

    Resamples of n days vary by (n - 1) / n of what their mean does.
    """
    from ml_platform.core.bootstrap import MINIMUM_DAYS

    if figure.low is None or figure.high is None:
        return None
    error = (figure.high - figure.low) / (2 * NormalDist().inv_cdf((1 + confidence) / 2))
    days = _days(length)
    return _Mean(error**2 * days / (days - 1), days) if days >= MINIMUM_DAYS else _Mean(error**2, math.inf)


def _margin(means: list[_Mean], allowed: float) -> float:
    """How far apart two means of the same may be by chance, but for a probability of ``allowed``."""
    from scipy.special import stdtrit

    variance = sum(mean.variance for mean in means)
    spread = sum(mean.variance**2 / (mean.days - 1) for mean in means)
    if not spread:
        return -NormalDist().inv_cdf(allowed) * math.sqrt(variance)
    return float(-stdtrit(variance**2 / spread, allowed)) * math.sqrt(variance)


def _days(length: timedelta) -> float:
    return length / timedelta(days=1)


def _sentence(conditions: tuple[Condition, ...] | list[Condition]) -> str:
    return " ".join(condition.explanation for condition in conditions)


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
