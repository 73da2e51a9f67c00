"""What became of a model in a stretch of time that nobody watched, month by month, in words and figures.

Belongs here: the story's shape and its words. Where its facts stand is the stores' knowledge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from ml_platform.core.bootstrap import Figure

AUTOMATED, FROZEN, MONTHLY = "automated", "frozen", "monthly"
"""Whose scores are compared: the champions that served, the first of them for ever, and retraining every month."""

HABITS: Mapping[str, str] = {
    AUTOMATED: "the champion at the time",
    FROZEN: "the first champion, left frozen",
    MONTHLY: "retrained every month on all past data, without gates",
}


@dataclass(frozen=True)
class Training:
    """A training: the end of its data, what called for it, and what was decided on what it made.

    ``version`` is None where no decision was reached.
    """

    as_of: datetime
    trigger: str
    version: int | None
    promoted: bool
    rule: str
    reason: str


@dataclass(frozen=True)
class Accounts:
    """Whether every row is accounted for, from the first champion's cut-off (its holdout's beginning) to the watermark.

    What came and was due then is what was scored and what only rows in quarantine speak of, each thing once. ``due``
    things were to be predicted by the rows that were accepted, ``quarantined`` are known from rows that broke their
    contract alone; ``scored`` were by one version at least, ``doubly_scored`` by one version twice, and ``labelled``
    have their outcome by now: what never has one has no label. ``in_quarantine`` are all rows there, of any time, those
    included that cannot be read.
    """

    since: datetime
    until: datetime
    due: int
    scored: int
    doubly_scored: int
    labelled: int
    quarantined: int
    in_quarantine: int

    @property
    def came(self) -> int:
        """Things that were due by any row that landed, accepted or not."""
        return self.due + self.quarantined

    @property
    def balanced(self) -> bool:
        """Whether each thing that came was scored, once by each version that did, or is in quarantine."""
        return self.came == self.scored + self.quarantined and self.doubly_scored == 0

    def __str__(self) -> str:
        return (
            f"{'Balanced' if self.balanced else '**Not balanced**'}: of {self.came:,} things due after "
            f"{self.since:%Y-%m-%d %H:%M} and by {self.until:%Y-%m-%d %H:%M}, {self.scored:,} were scored, "
            f"{self.doubly_scored:,} of them twice by one version, and {self.quarantined:,} are known from rows in "
            f"quarantine alone; {self.labelled:,} have their label. {self.in_quarantine:,} rows of the tables that say "
            "what is due are in quarantine, of all times."
        )


@dataclass(frozen=True)
class Made:
    """How a story came to be: code, machine, and what it took, in wall time and memory of the process."""

    version: str
    commit: str
    machine: str
    minutes: float
    gigabytes: float
    periods: int
    runs: int
    failed: int

    def __str__(self) -> str:
        return (
            f"Made by ml-platform {self.version} at {self.commit} on {self.machine}: {self.periods} periods, "
            f"{self.runs} runs, {self.failed} of them failed, in {self.minutes:.0f} minutes with {self.gigabytes:.1f} "
            "GB of memory at most."
        )


@dataclass(frozen=True)
class Story:
    """One model's stretch of time.

    ``months`` has a row for each month and habit: ``month``, ``habit``, ``rows`` and a column per metric. By month are
    ``scored``, rows that were scored, ``alarms``, days that were drift alarms, and ``falls``, days on which the
    champion's performance had fallen. ``differences`` are the champions' figures less each rival's.
    """

    model: str
    first_champion: datetime
    until: datetime
    trainings: Sequence[Training]
    months: pl.DataFrame
    scored: Mapping[str, int]
    alarms: Mapping[str, int]
    falls: Mapping[str, int]
    differences: Mapping[tuple[str, str], Figure]
    accounts: Accounts

    @property
    def metrics(self) -> list[str]:
        """The metrics compared."""
        return [name for name in self.months.columns if name not in ("month", "habit", "rows")]

    @property
    def retrainings(self) -> int:
        """Trainings after the one that made the first champion, whatever became of them."""
        return sum(training.as_of > self.first_champion for training in self.trainings)

    def to_markdown(self, picture: str) -> str:
        """The story for people; ``picture`` is where its picture is, relative to the text."""
        promotions, alarms = sum(training.promoted for training in self.trainings), sum(self.alarms.values())
        lines = [
            f"## {self.model}",
            "",
            f"First champion as of {self.first_champion:%Y-%m-%d}; told until {self.until:%Y-%m-%d %H:%M} UTC. "
            f"{self.retrainings} retrainings, {promotions} promotions, {alarms} days of drift alarm, "
            f"{sum(self.falls.values())} on which performance had fallen.",
            "",
            f"![{self.model} by month]({picture})",
            "",
            *_table(self._month_rows()),
            "",
            "Champions less rival, all rows, interval by resampling whole days: "
            + "; ".join(f"{metric} {figure} against {rival}" for (metric, rival), figure in self.differences.items())
            + ".",
            "",
            *_table([_training_row(training) for training in self.trainings]),
            "",
            str(self.accounts),
            "",
        ]
        return "\n".join(lines)

    def _month_rows(self) -> list[dict[str, object]]:
        named = sorted({*self.scored, *self.alarms, *self.falls, *(f"{each.as_of:%Y-%m}" for each in self.trainings)})
        rows = []
        for month in named:
            made = [each for each in self.trainings if f"{each.as_of:%Y-%m}" == month]
            triggers = [each.trigger for each in made]
            row: dict[str, object] = {
                "month": month,
                "scored": f"{self.scored.get(month, 0):,}",
                "trainings": f"{len(made)} ({'; '.join(triggers)})" if made else "0",
                "promoted": sum(each.promoted for each in made),
                "refused": sum(not each.promoted for each in made),
                "days of drift": self.alarms.get(month, 0),
                "days fallen": self.falls.get(month, 0),
            }
            for metric in self.metrics:
                found = dict(self.months.filter(pl.col("month") == month).select("habit", metric).iter_rows())
                shown = [f"{found[habit]:.4f}" if habit in found else "-" for habit in HABITS]
                row[f"{metric}: {' / '.join(HABITS)}"] = " / ".join(shown)
            rows.append(row)
        return rows


def _training_row(training: Training) -> dict[str, object]:
    outcome = "promoted" if training.promoted else "refused" if training.version else "failed"
    return {
        "data until": f"{training.as_of:%Y-%m-%d}",
        "trigger": training.trigger,
        "version": training.version or "-",
        "outcome": f"{outcome} ({training.rule.replace('_', ' ')})" if training.rule else outcome,
        "why": training.reason,
    }


def _table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    if not rows:
        return []
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return lines + ["| " + " | ".join(str(value).replace("|", "\\|") for value in row.values()) + " |" for row in rows]
