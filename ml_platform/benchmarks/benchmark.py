"""What is measured beside what, what it must reach, and whether it did. Nothing is run here."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from ml_platform.benchmarks.measuring import Figures


@dataclass(frozen=True)
class Bound:
    """What a figure may be at most, or must be at least: itself, or its ratio to the reference's.

    Ratios are of medians. A reference that died is worse than any figure.
    """

    figure: str
    at_most: float | None = None
    at_least: float | None = None
    ratio: bool = True

    def holds(self, value: float) -> bool:
        """Whether a figure, or a ratio, is within it."""
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


@dataclass(frozen=True)
class Benchmark:
    """A command, and the command it is measured beside, if there is one.

    Attributes:
        name: one word, by which it is asked for.
        work: what is done, in words.
        command: what does it.
        beside: what the reference is, in words; empty where there is none.
        reference: the command that does the same otherwise.
        bounds: what must be reached.
        shows: the figures told where nothing must be reached.
        rounds: how often each is run, in turn, so that a busy machine slows both.
        tells: the commands print their own figures.
        same_answer: the figure ``answer`` of both must be equal.
        fresh_home: every process finds the landed quarter and no other state; else benchmarks of one ``home`` share it.
        home: name of the home.
        warm: each command is run once before it counts; caches of bytecode and manifests are not what is measured.
        at_most_seconds: after which a process is killed.
        at_most_gigabytes: beyond which a process is killed.
        slow: takes minutes; a quick run leaves it out.
    """

    name: str
    work: str
    command: Sequence[str]
    beside: str = ""
    reference: Sequence[str] = ()
    bounds: Sequence[Bound] = ()
    shows: Sequence[str] = ("seconds", "gigabytes")
    rounds: int = 5
    tells: bool = False
    same_answer: bool = False
    fresh_home: bool = False
    home: str = "home"
    warm: bool = True
    at_most_seconds: float = 600.0
    at_most_gigabytes: float = 20.0
    slow: bool = False


@dataclass(frozen=True)
class Measured:
    """The figures of every round of a benchmark's command and of its reference."""

    benchmark: Benchmark
    command: Sequence[Figures]
    reference: Sequence[Figures] = field(default_factory=list)

    def verdicts(self) -> list["Verdict"]:
        """What became of each bound."""
        return [_verdict(self, bound) for bound in self.benchmark.bounds]

    @property
    def answers_differ(self) -> bool:
        """Whether rounds gave different answers where they must be the same."""
        given = {each.get("answer") for each in (*self.command, *self.reference) if "died" not in each}
        return self.benchmark.same_answer and len(given) > 1

    @property
    def holds(self) -> bool:
        """Whether every bound is kept and the answers are the same."""
        return not self.answers_differ and all(verdict.holds for verdict in self.verdicts())


@dataclass(frozen=True)
class Verdict:
    """A bound, what was measured for it (infinite or zero where a side died), and whether it holds."""

    bound: Bound
    value: float
    holds: bool


def _verdict(measured: Measured, bound: Bound) -> Verdict:
    value = middle(measured.command, bound.figure)
    if value is None:
        return Verdict(bound, float("nan"), holds=False)
    if not bound.ratio:
        return Verdict(bound, value, bound.holds(value))
    beside = middle(measured.reference, bound.figure)
    if beside is None:
        # It finished where the reference did not.
        return Verdict(bound, 0.0 if bound.at_least is None else float("inf"), holds=True)
    ratio = value / beside if beside else float("inf")
    return Verdict(bound, ratio, bound.holds(ratio))


def middle(rounds: Sequence[Figures], figure: str) -> float | None:
    """The median of a figure; None if a round died or there are none."""
    if not rounds or any(figure not in each for each in rounds):
        return None
    return statistics.median(float(each[figure]) for each in rounds)
