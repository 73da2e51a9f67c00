"""Whether a candidate becomes champion: gates, one rule, one reason in plain words.

Belongs here: judging an evaluation by the declared bounds. Moving the alias and writing the ledger are
the stores' work; they are handed a :class:`Decision` and nothing else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Literal, get_args

from ml_platform.core.bootstrap import Figure
from ml_platform.core.durations import format_duration
from ml_platform.core.evaluation_report import EvaluationReport, MetricResult
from ml_platform.core.metrics import metric
from ml_platform.core.model_spec import ModelSpec

Rule = Literal["first_champion", "better_than_champion", "replaces_stale_champion", "awaits_approval", "rejected"]
"""What decided. ``rejected`` means that at least one gate did not hold: the champion, if any, stays.
``awaits_approval`` means that all hold and a person has the last word."""


@dataclass(frozen=True)
class GateResult:
    """One condition of promotion: what was measured (None if it could not be), the bound, and what that means."""

    name: str
    passed: bool
    value: float | None
    bound: float | None
    explanation: str


@dataclass(frozen=True)
class Decision:
    """Promote or keep, with the rule that applied, a reason with its figures, and every gate."""

    promote: bool
    rule: Rule
    reason: str
    gates: tuple[GateResult, ...]

    def __post_init__(self) -> None:
        """Refuse a decision that contradicts itself: only rejection has failed gates, only approval is waited for."""
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule {self.rule!r} is unknown: one of {list(get_args(Rule))}")
        holds = all(gate.passed for gate in self.gates)
        if holds != (self.rule != "rejected") or self.promote != (self.rule not in ("rejected", "awaits_approval")):
            raise ValueError(
                f"promote={self.promote} by rule {self.rule!r} contradicts its gates, which "
                f"{'all hold' if holds else 'do not all hold'}"
            )

    @property
    def failed(self) -> tuple[GateResult, ...]:
        """The gates that did not hold."""
        return tuple(gate for gate in self.gates if not gate.passed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; :meth:`from_dict` reads them back equal."""
        return {**asdict(self), "gates": [asdict(gate) for gate in self.gates]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Decision":
        """The decision written by :meth:`to_dict`."""
        return cls(**{**values, "gates": tuple(GateResult(**gate) for gate in values["gates"])})


def decide(
    spec: ModelSpec,
    report: EvaluationReport,
    *,
    champion_age: timedelta | None,
    latency_ms: float | None,
    loads_cleanly: bool,
    restored: bool = False,
) -> Decision:
    """Judge the candidate of ``report`` by ``spec.gate``.

    Without a champion every other gate must hold. Against a champion, the lower end of the paired interval of the
    improvement must be above zero; a champion older than ``stale_after`` may be replaced by a candidate
    that is not shown to be worse by ``stale_margin`` or more, unless a person restored that champion. Where
    ``spec.gate.approval`` is required, a candidate that passes is not promoted but waits.

    Args:
        spec: the declaration.
        report: the candidate's evaluation.
        champion_age: event time since the champion was trained through; None if there is no champion.
        latency_ms: median time of a one-row answer in a clean process; None if it was not measured.
        loads_cleanly: the model loaded and answered in a clean process.
        restored: a person made the champion champion again; only a better candidate may undo that, however old it is.

    Raises:
        ValueError: report and arguments disagree about a champion, or a floor names an unknown metric.
    """
    if report.has_champion != (champion_age is not None):
        raise ValueError(
            f"the report {'has' if report.has_champion else 'has no'} champion, but champion_age is {champion_age}"
        )
    gates = [
        *_floors(spec, report),
        _beats_baseline(spec, report),
        *_slices(spec, report),
        *_protected(spec, report),
        *_calibration(spec, report),
        *_cases(report),
        _loads(loads_cleanly),
        _latency(spec, latency_ms),
    ]
    rule: Rule = "first_champion"
    if champion_age is not None:
        stale = champion_age >= spec.gate.stale_after
        rule, gate = _beats_champion(spec, report, champion_age, stale, restored)
        gates.insert(len(spec.gate.floor) + 1, gate)
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        kept = "The champion stays" if champion_age is not None else "There is still no champion"
        reason = f"{kept}: {len(failed)} of {len(gates)} gates failed. " + " ".join(gate.explanation for gate in failed)
        return Decision(False, "rejected", reason, tuple(gates))
    judged = report[spec.gate.metric]
    if rule == "first_champion":
        lead = f"First champion: {spec.gate.metric} is {judged.candidate} on {report.rows:,} held-out rows"
    else:
        lead = next(gate.explanation for gate in gates if gate.name == "champion").rstrip(".")
    reason = (
        f"{lead}; all {len(gates)} gates hold, {judged.over_baseline} better than the baseline in {spec.gate.metric}."
    )
    if spec.gate.approval == "required":
        return Decision(False, "awaits_approval", f"{reason} It waits for a person's approval.", tuple(gates))
    return Decision(True, rule, reason, tuple(gates))


def _floors(spec: ModelSpec, report: EvaluationReport) -> Iterator[GateResult]:
    for name, bound in spec.gate.floor.items():
        judged, value = metric(name, spec.task), report[name].candidate.value
        good = value is not None and (value >= bound if judged.greater_is_better else value <= bound)
        side = "at least" if judged.greater_is_better else "at most"
        yield GateResult(
            f"floor:{name}", good, value, bound, f"{name} is {_number(value)}; it must be {side} {bound:g}."
        )


def _beats_baseline(spec: ModelSpec, report: EvaluationReport) -> GateResult:
    result, margin = report[spec.gate.metric], spec.gate.baseline_margin
    low = None if result.over_baseline is None else result.over_baseline.low
    return GateResult(
        "baseline",
        low is not None and low > margin,
        low,
        margin,
        f"{_improvement(result, result.over_baseline)} over the baseline (mean label by "
        f"{', '.join(report.baseline_by)}); the lower end must be above {margin:g}.",
    )


def _beats_champion(
    spec: ModelSpec, report: EvaluationReport, age: timedelta, stale: bool, restored: bool
) -> tuple[Rule, GateResult]:
    result = report[spec.gate.metric]
    low = None if result.over_champion is None else result.over_champion.low
    better = low is not None and low > 0
    bound = 0.0 - spec.gate.stale_margin if stale and not restored and not better else 0.0
    passed = low is not None and low > bound
    rule: Rule = "replaces_stale_champion" if passed and not better else "better_than_champion"
    if not report.champion_rows:
        measured = "No held-out row is newer than what the champion learned from, so the two cannot be compared"
    else:
        measured = f"{_improvement(result, result.over_champion)} over the champion on {report.champion_rows:,} rows"
    explanation = f"{measured}; the lower end must be above {bound:g}"
    if stale:
        explanation += (
            f" (the champion is stale: {age.days} days old in event time, stale after "
            f"{format_duration(spec.gate.stale_after)}{'; a person restored it' if restored else ''})"
        )
    return rule, GateResult("champion", passed, low, bound, f"{explanation}.")


def _slices(spec: ModelSpec, report: EvaluationReport) -> Iterator[GateResult]:
    """One gate per slice column: its worst group. It has collapsed if even the kind end of its drop is too large."""
    bound = spec.gate.slice_max_drop
    unit = " of the overall value" if metric(spec.gate.metric, spec.task).relative else ""
    for column in spec.slices:
        judged = [
            (each.drop.low if each.drop.low is not None else each.drop.value, each)
            for each in report.slices
            if each.column == column and each.rows >= spec.gate.slice_minimum_rows
        ]
        defined = [(drop, each) for drop, each in judged if drop is not None]
        if not defined:
            text = f"No group of {column} has {spec.gate.slice_minimum_rows:,} rows and a defined {spec.gate.metric}."
            yield GateResult(f"slice:{column}", True, None, bound, text)
            continue
        drop, worst = max(defined, key=lambda pair: pair[0])
        yield GateResult(
            f"slice:{column}",
            drop <= bound,
            drop,
            bound,
            f"In {column} = {worst.group} ({worst.rows:,} rows) {spec.gate.metric} is {worst.figure}, a drop of "
            f"{worst.drop}{unit} against overall; the lower end may be at most {bound:g}.",
        )


def _protected(spec: ModelSpec, report: EvaluationReport) -> Iterator[GateResult]:
    """One gate per protected column and error rate; groups too small to judge have no gap."""
    bound = spec.gate.protected_max_gap
    for gap in report.gaps:
        name = f"protected:{gap.column}:{gap.rate}"
        if len(gap.groups) < 2:
            text = f"Fewer than two groups of {gap.column} have {spec.gate.slice_minimum_rows:,} rows: there is no gap."
            yield GateResult(name, True, None, bound, text)
            continue
        good = gap.gap.value is not None and gap.gap.value <= bound
        text = f"The {gap.rate} differs by {gap.gap} between groups of {gap.column}; at most {bound:g} is allowed."
        yield GateResult(name, good, gap.gap.value, bound, text)


def _calibration(spec: ModelSpec, report: EvaluationReport) -> Iterator[GateResult]:
    bound = spec.gate.max_calibration_error
    if bound is not None:
        value = report["calibration_error"].candidate.value
        text = f"The calibration error is {_number(value)}; at most {bound:g} is allowed."
        yield GateResult("calibration", value is not None and value <= bound, value, bound, text)


def _cases(report: EvaluationReport) -> Iterator[GateResult]:
    for case in report.cases:
        text = (
            f"Case {case.name!r}: the mean score goes from {case.before:.4g} to {case.after:.4g}; expected "
            f"{case.expect.replace('_', ' ')}, within {case.tolerance:g}."
        )
        yield GateResult(f"case:{case.name}", case.held, case.after - case.before, case.tolerance, text)


def _loads(loads_cleanly: bool) -> GateResult:
    text = f"The model {'loaded' if loads_cleanly else 'did not load'} and {'answered' if loads_cleanly else 'answer'}"
    return GateResult("loads", loads_cleanly, float(loads_cleanly), 1.0, f"{text} in a clean process.")


def _latency(spec: ModelSpec, latency_ms: float | None) -> GateResult:
    bound = spec.gate.latency_budget_ms
    good = latency_ms is not None and latency_ms <= bound
    return GateResult(
        "latency", good, latency_ms, bound, f"One row takes {_number(latency_ms)} ms; at most {bound:g} is allowed."
    )


def _improvement(result: MetricResult, gain: Figure | None) -> str:
    return f"{result.metric} is {result.candidate}, an improvement of {gain or 'undefined'}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4g}"
