"""``make study``: habits of retraining compared on the year, with the platform's own core and a day-by-day clock.

At each midnight (UTC) a habit may train on the labels known by then; what is due in the 24 hours after is scored by the
model that serves. ``never``, ``quarterly``, ``monthly`` and ``weekly`` fit on all that is known and serve what they
fitted. The automated champion is the declaration: evidence is judged by :func:`ml_platform.core.retraining.judge`, the
candidate is fitted on its training window without the held-out one, and the gates decide by
:func:`ml_platform.core.promotion.decide`; that it loads in a clean process in time is taken for granted.

Parameters are tuned once, on the first training set, and used for every fit of every habit. Variants of the policy are
chosen between on rows whose label was known by the end of June and on no others (:func:`choose`).
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from ml_platform.core import plots
from ml_platform.core.bootstrap import Figure, metric_figure, resample
from ml_platform.core.digests import digest
from ml_platform.core.evaluation import EvaluationReport, evaluate, scored
from ml_platform.core.metrics import metric
from ml_platform.core.model_spec import BehaviouralCase, ModelSpec, PromotionGate
from ml_platform.core.promotion import decide
from ml_platform.core.retraining import Evidence, judge
from ml_platform.core.rivals import Cadence, by_month, figures, known, moments, paired_difference
from ml_platform.core.scoring import raw_scores
from ml_platform.core.splits import split
from ml_platform.core.training import FittedModel, Params, fit
from ml_platform.core.tuning import tune
from ml_platform.settings import load
from ml_platform.stores.model_tables import join_features
from ml_platform.stores.table_names import labels_table
from ml_platform_tests.loop.homes import FLIGHTS, Home

BEGINNING, FIRST, HALF, END = (
    datetime(2012, 12, 31, tzinfo=UTC),
    datetime(2013, 4, 1, tzinfo=UTC),
    datetime(2013, 7, 1, tzinfo=UTC),
    datetime(2014, 1, 1, tzinfo=UTC),
)
"""Where the data begin, the first champion's day, the end of what defaults are fixed on and of what is reported."""

DAY = timedelta(days=1)
SEEDS = (2013, 2014, 2015, 2016, 2017)
CHOICE_SEEDS, WEEKLY_SEEDS = SEEDS[:2], SEEDS[:1]
"""Seeds on which a variant is chosen, and those for which weekly retraining (40 fits) is computed."""

MODEL, LOSS = "flight_delay", "log_loss"
AUTOMATED = "automated champion"
OFF = 1_000_000
"""As a drop of the metric: performance calls for nothing."""


@dataclass(frozen=True)
class Trained:
    """A training after the first: when, what called for it, the rule that decided and its reason."""

    at: datetime
    triggers: tuple[str, ...]
    rule: str
    reason: str

    @property
    def promoted(self) -> bool:
        """Whether its model serves."""
        return self.rule != "rejected"


@dataclass(frozen=True)
class Course:
    """What came of a habit: its trainings after the first, and a score for each row."""

    scores: pl.DataFrame
    trainings: Sequence[Trained]

    @classmethod
    def kept(cls, path: Path, make: "Callable[[], Course]") -> "Course":
        """The course that is kept at ``path``, or is made and kept now."""
        if not path.exists():
            made = make()
            trainings = [[f"{t.at:%Y-%m-%d}", t.triggers, t.rule, t.reason] for t in made.trainings]
            path.parent.mkdir(parents=True, exist_ok=True)
            made.scores.write_parquet(path, metadata={"trainings": json.dumps(trainings)})
        trainings = json.loads(pl.read_parquet_metadata(path)["trainings"])
        return cls(
            pl.read_parquet(path),
            [
                Trained(datetime.fromisoformat(day).replace(tzinfo=UTC), tuple(triggers), rule, reason)
                for day, triggers, rule, reason in trainings
            ],
        )


@dataclass(frozen=True)
class Candidate:
    """A model made at a moment, by name, and the rows it was fitted on and is judged on."""

    name: str
    model: FittedModel
    since: datetime
    train: pl.DataFrame
    holdout: pl.DataFrame


@dataclass
class Laboratory:
    """Labelled rows up to a moment, and every fit, score and judgement on them made once.

    ``folder`` keeps fitted models as text: a study that was stopped goes on.
    """

    spec: ModelSpec
    rows: pl.DataFrame
    features: Sequence[str]
    params: Params
    rounds: int
    folder: Path
    _models: dict[str, FittedModel] = field(default_factory=dict)
    _made: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def fitted(self, train: pl.DataFrame, seed: int) -> str:
        """The name of the model of these rows and this seed."""
        ends = (train.height, train["prediction_time"].min(), train["label_time"].max())
        name = digest(self.spec.name, json.dumps(self.params), str(self.rounds), str(seed), *map(str, ends))[:24]
        if name not in self._models:
            path = self.folder / name
            if not path.exists():
                spec = self.spec.model_copy(update={"seed": seed})
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(fit(spec, train, self.features, self.params, self.rounds).to_files()))
            self._models[name] = FittedModel.from_files(json.loads(path.read_text()))
        return name

    def model(self, name: str) -> FittedModel:
        """A fitted model by its name."""
        return self._models[name]

    def scores(self, name: str, since: datetime, until: datetime) -> pl.DataFrame:
        """The rows due in (since, until], scored by a model; a month at a time, as far as asked for."""
        moment = pl.col("prediction_time")

        def make(month: str) -> pl.DataFrame:
            due = self.rows.filter(moment.dt.strftime("%Y-%m") == month)
            values = pl.Series("score", raw_scores(self._models[name], due), dtype=pl.Float64)
            return due.select(*self.spec.keys, "prediction_time", "label", "label_time").with_columns(values)

        asked = self.rows.filter(moment > since, moment <= until)
        months = asked["prediction_time"].dt.strftime("%Y-%m").unique().sort()
        made = [self.once("scores", name, month, make=partial(make, month)) for month in months]
        return pl.concat(made).filter(moment > since, moment <= until)

    def once(self, *key: Any, make: Callable[[], Any]) -> Any:
        """What was made under this key, or is now."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def forget(self) -> None:
        """Let go of what one seed took: nothing of it serves another."""
        self._models.clear()
        self._made.clear()


def by_calendar(laboratory: Laboratory, cadence: Cadence | None, until: datetime, seed: int) -> Course:
    """Fit on all that is known at each moment of a calendar (None: at the first only), and serve it."""
    at = moments(cadence, FIRST, until) if cadence else [FIRST]
    parts = []
    for since, end in zip(at, [*at[1:], until], strict=True):
        name = laboratory.fitted(known(laboratory.rows, since), seed)
        parts.append(laboratory.scores(name, since, end))
    return Course(pl.concat(parts), [Trained(moment, (), "calendar", "") for moment in at[1:]])


def automated(laboratory: Laboratory, spec: ModelSpec, until: datetime, seed: int) -> Course:
    """A policy, day by day from the first champion on."""
    champion = candidate(laboratory, spec, FIRST, seed)
    parts: list[pl.DataFrame] = []
    trainings: list[Trained] = []
    clock, served_from, last_training = FIRST, FIRST, FIRST
    while (clock := clock + DAY) < until:
        verdict = judge(spec, gather(laboratory, spec, champion, clock, last_training))
        if not verdict.retrain:
            continue
        rival = candidate(laboratory, spec, clock, seed)
        decision = decide(
            spec,
            report(laboratory, spec, rival, champion),
            champion_age=clock - champion.model.trained_through,
            latency_ms=1.0,
            loads_cleanly=True,
        )
        trainings.append(Trained(clock, verdict.triggers, decision.rule, decision.reason))
        last_training = clock
        if decision.promote:
            parts.append(laboratory.scores(champion.name, served_from, clock))
            champion, served_from = rival, clock
    return Course(pl.concat([*parts, laboratory.scores(champion.name, served_from, until)]), trainings)


def kept(
    laboratory: Laboratory, name: str, policy: ModelSpec | None, seed: int, make: Callable[[int], Course]
) -> Course:
    """A habit's course for a seed, made once for these parameters and this policy."""
    decides = "" if policy is None else policy.model_dump_json(include={"windows", "retrain", "gate"})
    recipe = digest(json.dumps([laboratory.params, laboratory.rounds]), decides)[:12]
    return Course.kept(laboratory.folder.parent / "courses" / f"{name}-{seed}-{recipe}.parquet", partial(make, seed))


def candidate(laboratory: Laboratory, spec: ModelSpec, at: datetime, seed: int) -> Candidate:
    """What the declaration trains at a moment."""

    def make() -> Candidate:
        reach = at - spec.windows.training - spec.windows.holdout
        rows = split(known(laboratory.rows, at).filter(pl.col("prediction_time") > reach), spec.windows, at)
        name = laboratory.fitted(rows.train, seed)
        return Candidate(name, laboratory.model(name), at, rows.train, rows.holdout)

    made: Candidate = laboratory.once("candidate", spec.windows, at, seed, make=make)
    return made


def report(laboratory: Laboratory, spec: ModelSpec, made: Candidate, rival: Candidate | None) -> EvaluationReport:
    """The evaluation of a candidate, beside a champion if given."""

    def make() -> EvaluationReport:
        champion = None if rival is None else rival.model
        return evaluate(spec, made.model, made.train, made.holdout, champion=champion)

    key = (
        made.name,
        made.since,
        rival and rival.name,
        spec.windows,
        spec.gate.model_dump_json(include={"metric", "cases"}),
    )
    found: EvaluationReport = laboratory.once("report", *key, make=make)
    return found


def gather(
    laboratory: Laboratory, spec: ModelSpec, champion: Candidate, clock: datetime, last_training: datetime
) -> Evidence:
    """The evidence, as the stores would find it at that watermark; drift is none."""
    retrain, windows = spec.retrain, spec.windows
    delivered, rows, looks = None, 0, (clock - champion.since) // retrain.performance_window
    if retrain.performance_drop < OFF and looks:
        look = champion.since + looks * retrain.performance_window
        key = ("delivered", champion.name, champion.since, look, retrain.performance_window, spec.gate.metric)
        delivered, rows = laboratory.once(*key, make=lambda: trailing(laboratory, spec, champion, look))
    cutoff, labelled, due = clock - windows.holdout, pl.col("label_time"), pl.col("prediction_time")
    counts = laboratory.rows.select(
        new=labelled.is_between(last_training, clock, closed="right").sum(),
        trains=((labelled <= cutoff) & (due > cutoff - windows.training)).sum(),
    ).row(0, named=True)
    return Evidence(
        clock,
        champion=1,
        champion_as_of=champion.since,
        last_training=last_training,
        new_labels=counts["new"],
        training_rows=counts["trains"],
        promised=report(laboratory, spec, champion, None)[spec.gate.metric].candidate if rows else None,
        delivered=delivered,
        delivered_rows=rows,
        looks=max(1, looks),
    )


def trailing(laboratory: Laboratory, spec: ModelSpec, champion: Candidate, clock: datetime) -> tuple[Figure, int]:
    """The gate's metric over the trailing window of labels, as the performance report has it, and its rows."""
    scores = laboratory.scores(champion.name, champion.since, clock)
    rows = scores.filter(pl.col("label_time").is_between(clock - spec.retrain.performance_window, clock, closed="left"))
    values = scored(spec, champion.model.threshold, rows, rows["score"].to_numpy())
    drawn = resample(rows["prediction_time"], seed=spec.seed)
    return metric_figure(metric(spec.gate.metric, spec.task), values, drawn, spec.gate.confidence), rows.height


def variants(spec: ModelSpec) -> dict[str, ModelSpec]:
    """The policies that were tried. Drift calls for nothing in them: what triggers may do, the guards bound."""
    strict = spec.gate.model_copy(
        update={"max_calibration_error": 0.08, "slice_max_drop": 0.15, "cases": _with(spec, 0)}
    )
    lenient = spec.gate.model_copy(
        update={"max_calibration_error": 0.12, "slice_max_drop": 0.2, "cases": _with(spec, 0.01)}
    )

    def policy(
        *,
        stale: int = 30,
        cooldown: int = 14,
        new_share: float = 0.0,
        holdout: int = 15,
        training: int = 365,
        gate: PromotionGate = lenient,
        drop: float = OFF,
    ) -> ModelSpec:
        windows = {"holdout": holdout * DAY, "training": training * DAY}
        retrain = {"stale_after": stale * DAY, "cooldown": cooldown * DAY, "performance_drop": drop}
        retrain["minimum_new_share"] = new_share
        return spec.model_copy(
            update={
                "windows": spec.windows.model_copy(update=windows),
                "retrain": spec.retrain.model_copy(update=retrain),
                "gate": gate.model_copy(update={"stale_after": 30 * DAY, "stale_margin": 0.01}),
            }
        )

    return {
        "28 % new": policy(new_share=0.28),
        "28 % new, strict gates": policy(new_share=0.28, gate=strict),
        "28 % new, 7 days held out": policy(new_share=0.28, holdout=7),
        "28 % new, of 120 days": policy(new_share=0.28, training=120),
        "20 % new": policy(new_share=0.2),
        "stale after 30 days": policy(stale=30, cooldown=14),
        "stale after 45 days": policy(stale=45, cooldown=45),
        "stale after 55 days": policy(stale=55, cooldown=55),
        "stale after 60 days or a fall of AUC by 0.02": policy(stale=60, cooldown=30, drop=0.02),
    }


def _with(spec: ModelSpec, tolerance: float) -> tuple[BehaviouralCase, ...]:
    """The declared cases, one-sided ones with another tolerance."""
    return tuple(
        case if case.expect == "unchanged" else case.model_copy(update={"tolerance": tolerance})
        for case in spec.gate.cases
    )


def most_retrainings(spec: ModelSpec) -> int:
    """How many retrainings to the end the guards allow, whatever calls and is decided: arithmetic of days.

    Labels are taken to come in evenly, so nothing of the second half is looked at.
    """
    windows, policy = spec.windows, spec.retrain
    count, last, clock = 0, FIRST, FIRST
    while (clock := clock + DAY) < END:
        trains = min(windows.training, clock - windows.holdout - BEGINNING)
        if clock - last >= max(policy.cooldown, policy.minimum_new_share * trains):
            count, last = count + 1, clock
    return count


def choose(laboratory: Laboratory, spec: ModelSpec, at_most: int, console: Console) -> pl.DataFrame:
    """Every variant on April to June, the chosen one first.

    The rule: of those whose guards allow at most ``at_most`` retrainings by the end of the year, the one with the
    smallest mean difference of log loss to monthly retraining.
    """
    if laboratory.rows["label_time"].max() > HALF:  # type: ignore[operator]
        raise ValueError("defaults are fixed on the first half: rows of the second are in the laboratory")
    found = []
    for name, variant in variants(spec).items():
        pairs, trainings = [], []
        for seed in CHOICE_SEEDS:
            course = kept(
                laboratory, f"{name}, first half", variant, seed, partial(automated, laboratory, variant, HALF)
            )
            pairs.append((course.scores, by_calendar(laboratory, Cadence.MONTHLY, HALF, seed).scores))
            trainings.append(len(course.trainings))
        difference = paired_difference(spec, LOSS, pairs)
        row = {"variant": name, "by July": float(np.mean(trainings)), "at most": most_retrainings(variant)}
        found.append({**row, "difference": difference.value, "low": difference.low, "high": difference.high})
        console.print(found[-1])
    return (
        pl.DataFrame(found).with_columns(eligible=pl.col("at most") <= at_most).sort(~pl.col("eligible"), "difference")
    )


def ageing(laboratory: Laboratory, seed: int, weeks: int = 10) -> pl.DataFrame:
    """Log loss of June's flights by the age of the model that scores them, in whole weeks: each flight at every age."""
    start = HALF - 30 * DAY
    age = (pl.col("prediction_time") - pl.col("since")).dt.total_days() // 7
    parts = []
    for since in moments(Cadence.WEEKLY, FIRST - 2 * 7 * DAY, HALF):
        name = laboratory.fitted(known(laboratory.rows, since), seed)
        scores = laboratory.scores(name, max(since, start), HALF)
        parts.append(scores.with_columns(since=since).with_columns(weeks=age))
    found = pl.concat(parts).filter(pl.col("weeks") < weeks).partition_by("weeks", as_dict=True)
    rows = [
        {"weeks": week, "rows": part.height, **figures(laboratory.spec, part, [LOSS])}
        for (week,), part in found.items()
    ]
    return pl.DataFrame(rows).sort("weeks")


@dataclass(frozen=True)
class Habit:
    """A habit over the year: its courses by seed."""

    name: str
    courses: Mapping[int, Course]

    @property
    def retrainings(self) -> float:
        """Trainings after the first: their mean over seeds."""
        return float(np.mean([len(course.trainings) for course in self.courses.values()]))


def year(laboratory: Laboratory, chosen: ModelSpec, console: Console) -> list[Habit]:
    """Every habit from April to December, for every seed."""
    spec = laboratory.spec
    courses: dict[str, dict[int, Course]] = {}
    for seed in SEEDS:
        habits: dict[str, Callable[[int], Course]] = {
            cadence.value if cadence else "never": partial(by_calendar, laboratory, cadence, END)
            for cadence in (None, *Cadence)
            if cadence is not Cadence.WEEKLY or seed in WEEKLY_SEEDS
        }
        habits[AUTOMATED] = partial(automated, laboratory, chosen, END)
        for name, make in habits.items():
            course = kept(laboratory, name, chosen if name == AUTOMATED else None, seed, make)
            courses.setdefault(name, {})[seed] = course
            console.print(seed, name, figures(spec, course.scores, [LOSS, "auc"]))
        laboratory.forget()
    return [Habit(name, by_seed) for name, by_seed in courses.items()]


def summary(spec: ModelSpec, habits: Sequence[Habit]) -> pl.DataFrame:
    """A row per habit: retrainings, figures (means over seeds), and differences to monthly and to never, pooled."""
    named = {habit.name: habit for habit in habits}
    found = []
    for habit in habits:
        row: dict[str, Any] = {"habit": habit.name, "seeds": len(habit.courses), "retrainings": habit.retrainings}
        values = [figures(spec, course.scores, [LOSS, "auc"]) for course in habit.courses.values()]
        row |= {name: float(np.mean([value[name] for value in values])) for name in (LOSS, "auc")}
        for rival in ("monthly", "never"):
            row[f"to {rival}"] = str(difference(spec, habit, named[rival]))
        found.append(row)
    return pl.DataFrame(found)


def difference(spec: ModelSpec, habit: Habit, rival: Habit, seeds: Sequence[int] | None = None) -> Figure:
    """The difference of log loss between two habits, pooled over the seeds that both have."""
    shared = [seed for seed in seeds or SEEDS if seed in habit.courses and seed in rival.courses]
    return paired_difference(spec, LOSS, [(habit.courses[s].scores, rival.courses[s].scores) for s in shared])


def picture(spec: ModelSpec, habits: Sequence[Habit]) -> bytes:
    """Log loss against retrainings; the bars are of the difference to monthly, which is what can be compared."""
    monthly = next(habit for habit in habits if habit.name == "monthly")
    level = float(np.mean([figures(spec, course.scores, [LOSS])[LOSS] for course in monthly.courses.values()]))
    rows = []
    for habit in habits:
        found = difference(spec, habit, monthly)
        ends = {name: level + (getattr(found, name) or 0.0) for name in ("value", "low", "high")}
        rows.append({"habit": habit.name, "retrainings": habit.retrainings, **ends})
    return plots.habits(
        pl.DataFrame(rows).sort("retrainings"),
        metric="log loss, April to December",
        unit="nats",
        title=f"{spec.name}: what retraining is worth (bars: 95 % of the difference to monthly)",
    )


def months(spec: ModelSpec, habits: Sequence[Habit]) -> pl.DataFrame:
    """Log loss and AUC by month and habit for the first seed."""
    scores = {habit.name: habit.courses[SEEDS[0]].scores for habit in habits}
    found = by_month(spec, scores, [LOSS, "auc"])
    return found.pivot("habit", index=["month", "rows"], values=[LOSS, "auc"])


def frame(folder: Path) -> pl.DataFrame:
    """Every label of the year with its features, made once: the whole year landed, its tables by the stores alone."""
    path = folder / f"{MODEL}.parquet"
    if not path.exists():
        home = Home(load({"ML_PLATFORM_HOME": str(folder / "home")}))
        home.land()
        home.catch_up()
        spec = FLIGHTS.model(MODEL)
        join_features(home.features, spec, home.lake.read(labels_table(spec))).write_parquet(path)
    return pl.read_parquet(path)


def tuned(spec: ModelSpec, rows: pl.DataFrame, features: Sequence[str], folder: Path) -> tuple[Params, int]:
    """The parameters and rounds of the first champion's study, searched once."""
    path = folder / "parameters.json"
    if not path.exists():
        reach = FIRST - spec.windows.training - spec.windows.holdout
        first = split(known(rows, FIRST).filter(pl.col("prediction_time") > reach), spec.windows, FIRST)
        result = tune(spec, first.train, features)
        path.write_text(json.dumps([result.params, result.rounds]))
    params, rounds = json.loads(path.read_text())
    return params, rounds


def main(folder: Path) -> None:
    """The whole study; its tables and its picture go to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(soft_wrap=True)
    declared = FLIGHTS.model(MODEL)
    spec = declared.model_copy(update={"tuning": declared.tuning.model_copy(update={"threads": 1})})
    rows = frame(folder)
    features = [name for name in rows.columns if name not in (*spec.keys, "prediction_time", "label", "label_time")]
    params, rounds = tuned(spec, rows, features, folder)

    def laboratory(known_rows: pl.DataFrame) -> Laboratory:
        return Laboratory(spec, known_rows, features, params, rounds, folder / "models")

    at_most = len(moments(Cadence.MONTHLY, FIRST, END)[1:]) // 2
    first_half = laboratory(known(rows, HALF))
    choice = choose(first_half, spec, at_most, console)
    chosen = variants(spec)[choice["variant"][0]]
    habits = year(laboratory(rows), chosen, console)
    automatic, monthly = (next(h for h in habits if h.name == name) for name in (AUTOMATED, "monthly"))
    by_seed = [
        {
            "seed": seed,
            "retrainings": len(course.trainings),
            "promoted": sum(training.promoted for training in course.trainings),
            "to monthly": str(difference(spec, automatic, monthly, [seed])),
        }
        for seed, course in automatic.courses.items()
    ]
    trainings = [
        {"day": f"{t.at:%Y-%m-%d}", "called by": ", ".join(t.triggers), "decision": t.rule, "reason": t.reason}
        for t in automatic.courses[SEEDS[0]].trainings
    ]
    tables = {
        "A model's age, June": ageing(first_half, SEEDS[0]),
        "Variants, April to June": choice,
        "Habits, April to December": summary(spec, habits),
        "By seed": pl.DataFrame(by_seed),
        "By month": months(spec, habits),
        "Trainings": pl.DataFrame(trainings),
    }
    text = "\n".join(f"## {title}\n\n{markdown(table)}\n" for title, table in tables.items())
    (folder / "tables.md").write_text(text)
    (folder / "retraining_policies.png").write_bytes(picture(spec, habits))
    console.print(text, markup=False)


def markdown(table: pl.DataFrame) -> str:
    """A table as markdown, figures to four decimals."""
    lines = [table.columns, ["---"] * table.width]
    lines += [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row] for row in table.iter_rows()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
