"""What a team declares about a model: the whole of it, frozen, in YAML; thresholds included.

Belongs here: the shape of a declaration and the rules that make one valid by itself. What a
declaration means (training, gates, drift) belongs to the module that does it.
"""

import math
from datetime import timedelta
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from ml_platform.core.compute import StagesCompute
from ml_platform.core.durations import Duration, parse_duration


class Spec(BaseModel):
    """Base of every declaration: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


MODEL_STAGES = (
    "labels",
    "training_set",
    "tuned_model",
    "evaluation_report",
    "champion",
    "model_card",
    "predictions",
    "performance_report",
    "drift_calibration",
    "drift_report",
)
"""Names of a model's assets, in the order of the loop."""


class Task(StrEnum):
    """What a model predicts: a probability, or a number."""

    BINARY = "binary"
    REGRESSION = "regression"


class Transform(Spec):
    """A pure function from frames to a frame: Python (``package.module:function``) or an SQL file.

    A Python transform is called with one polars frame per input, in the order of ``inputs``, and
    ``params`` as keyword arguments. An SQL file (a path relative to the declaring YAML file) sees each
    input as a table of its own name and is run by DuckDB.
    """

    python: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    sql: str | None = Field(default=None, pattern=r"\.sql$")
    inputs: tuple[str, ...] = Field(min_length=1, description="Raw tables read, by name.")
    look_back: Duration = Field(
        default=parse_duration("0m"), description="How far before a partition its inputs reach (event time)."
    )
    params: dict[str, int | float | str | bool | list[str]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_language(self) -> Self:
        if (self.python is None) == (self.sql is None):
            raise ValueError("a transform is either `python: module:function` or `sql: file.sql`, exactly one of them")
        return self


class Windows(Spec):
    """Event-time windows: how much history trains, how much is held out, how tuning is folded."""

    training: Duration = Field(description="History before the holdout that may train the model.")
    holdout: Duration = Field(description="Newest stretch that neither tuning nor fitting sees.")
    folds: int = Field(default=3, ge=1, le=20)
    fold_length: Duration = Field(default=parse_duration("7d"), description="Validation stretch of one fold.")
    minimum_rows: int = Field(default=1000, ge=1, description="Fewer training rows than this is an error.")


class SearchRange(Spec):
    """Bounds of one tuned LightGBM parameter."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")
        return self


HALVING_REDUCTION, HALVING_RUNGS = 5, 3
"""Of so many trials that reach a rung one passes it, and how many rungs there are before a trial is made whole."""

HALVING_TRIALS = HALVING_REDUCTION**HALVING_RUNGS
"""Of fewer trials none would have been chosen by every rung."""


class Tuning(Spec):
    """The trial budget and what is searched. Everything not searched is in ``fixed``."""

    trials: int = Field(ge=1, le=10_000)
    max_rounds: int = Field(default=400, ge=1)
    early_stopping_rounds: int = Field(default=30, ge=1)
    startup_trials: int = Field(default=5, ge=0)
    threads: int = Field(default=2, ge=1, description="CPU threads of a fit; of a trial at most one for each fold.")
    workers: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Steps that share the trials, each in a process of its own (docs/adr/0011); with one, a study "
        "comes out the same every time.",
    )
    pruning: Literal["median", "halving"] = Field(
        default="median",
        description="How trials are given up: `median` those worse than half of the others at the same point; "
        "`halving` four of five at each of three rungs, the first of which costs little (docs/adr/0014), for at least "
        f"{HALVING_TRIALS} trials.",
    )
    search: dict[str, SearchRange] = Field(min_length=1)
    fixed: dict[str, int | float | str | bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _enough_to_halve(self) -> Self:
        if self.pruning == "halving" and self.trials < HALVING_TRIALS:
            raise ValueError(
                f"`pruning: halving` of {self.trials} trials: it keeps one of {HALVING_TRIALS}, so give at "
                f"least {HALVING_TRIALS} `trials`, or leave it at `pruning: median`"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Studies and code versions are named by what this gives: what was there before these fields keeps its name.
        dumped: dict[str, Any] = dump(self)
        for name in ("workers", "pruning"):
            if getattr(self, name) == type(self).model_fields[name].default:
                dumped.pop(name, None)
        return dumped


class Costs(Spec):
    """What a wrong decision costs, in one unit of the team's choice; the threshold minimises the sum."""

    false_positive: float = Field(gt=0)
    false_negative: float = Field(gt=0)


class Baseline(Spec):
    """The naive rival: the training mean of the label by these columns, then overall for unseen groups."""

    by: tuple[str, ...] = Field(min_length=1)


class BehaviouralCase(Spec):
    """A declared expectation: change these features on held-out rows, and the mean score must react so."""

    name: str
    shift: dict[str, float] = Field(default_factory=dict, description="Added to the feature.")
    assign: dict[str, float | str | None] = Field(default_factory=dict, description="Replaces the feature.")
    expect: Literal["not_lower", "not_higher", "unchanged"]
    tolerance: float = Field(default=0.0, ge=0, description="Allowed movement of the mean score the wrong way.")

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.shift and not self.assign:
            raise ValueError(f"case {self.name!r} changes no feature: give `shift` or `assign`")
        return self


class PromotionGate(Spec):
    """When a candidate may become champion. Every gate must hold."""

    metric: str = Field(description="Decides against baseline and champion, on the same rows.")
    floor: dict[str, float] = Field(
        min_length=1, description="Worst acceptable value by metric (a maximum for metrics where lower is better)."
    )
    baseline_margin: float = Field(default=0.0, ge=0, description="Improvement over the baseline, at least.")
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    stale_after: Duration = Field(
        default=parse_duration("60d"),
        description="How much newer a candidate's data must be for the champion to count as stale.",
    )
    stale_margin: float = Field(
        default=0.0,
        ge=0,
        description="How much worse a challenger of a stale champion may be, lower interval end; one that a person "
        "restored yields to a better one alone.",
    )
    slice_minimum_rows: int = Field(default=200, ge=1)
    slice_max_drop: float = Field(
        default=0.15,
        ge=0,
        description="Allowed loss of `metric` in a slice against overall, relative if its unit is the label's.",
    )
    protected_max_gap: float = Field(
        default=0.2,
        ge=0,
        description="Allowed difference of an error rate (regression: relative mean absolute error) between groups.",
    )
    max_calibration_error: float | None = Field(default=None, ge=0)
    cases: tuple[BehaviouralCase, ...] = ()
    latency_budget_ms: float = Field(default=50.0, gt=0, description="Median of one-row answers in a clean process.")
    approval: Literal["automatic", "required"] = Field(
        default="automatic", description="Whether a candidate that passes every gate waits for a person's word."
    )


class DriftPolicy(Spec):
    """What counts as drift. The limit itself is calibrated on what the champion learned from, to the promised rate."""

    window: Duration = Field(default=parse_duration("7d"), description="Trailing stretch compared with training.")
    false_alarms_per_100_windows: float = Field(
        default=1.0, gt=0, le=50, description="How often chance alone may be an alarm: sets the limit of each champion."
    )
    smallest_effect: float = Field(
        default=0.15,
        ge=0,
        description="Standard deviations (of what is missing: share of rows) below which nothing is drift.",
    )
    persists: int = Field(
        default=2, ge=1, description="Windows in a row, end to end, that must be alarms before drift persists."
    )
    ignored_columns: tuple[str, ...] = Field(
        default=(), description="Features that move by construction, as a calendar does: reported, never judged."
    )
    minimum_rows: int = Field(default=200, ge=1, description="Fewer predictions in a window are not judged.")
    bins: int = Field(default=10, ge=2, description="Of a number's distribution, in the PSI that is shown.")
    sample_rows: int = Field(default=50_000, ge=100, description="Rows of each side in the HTML report.")
    report_columns: int = Field(
        default=12, ge=1, description="Features that the HTML report draws: those that moved most."
    )
    report_every: Duration = Field(
        default=parse_duration("1d"), description="How often the HTML report is drawn; the verdict is of every day."
    )

    @property
    def alarming_days(self) -> int:
        """Daily reports in a row that are alarms when drift persists: the first and last have windows end to end."""
        return 1 + (self.persists - 1) * math.ceil(self.window / timedelta(days=1))


class RetrainPolicy(Spec):
    """When a model is retrained. Lengths of time are event time."""

    cooldown: Duration = Field(default=parse_duration("7d"), description="Between one training and the next.")
    daily_budget: int = Field(
        default=2, ge=1, description="Trainings a day at most, those that people ask for included."
    )
    stale_after: Duration = Field(
        default=parse_duration("30d"),
        description="Time since the end of the champion's data that calls for retraining.",
    )
    performance_window: Duration = Field(
        default=parse_duration("7d"), description="Trailing stretch of labels on which performance is judged."
    )
    performance_drop: float = Field(
        default=0.05, ge=0, description="Loss of the gate's metric, if no chance, that calls for retraining."
    )
    performance_minimum_rows: int = Field(default=500, ge=1, description="Labels without which nothing is judged.")
    minimum_new_labels: int = Field(default=1000, ge=1, description="Labels since the last training, at least.")
    minimum_new_share: float = Field(
        default=0.0,
        ge=0,
        description="The same as a share of the rows that would train: data that grows asks for less.",
    )


class ModelSpec(Spec):
    """One model, declared.

    ``entities`` yields one row per thing to predict: the ``keys``, the entity keys and request-time
    inputs of the feature service, and ``prediction_time`` (UTC). ``labels`` yields the ``keys``,
    ``label`` and ``label_time`` (UTC), the moment the label became known.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    task: Task
    description: str
    intended_use: str
    limits: tuple[str, ...] = ()
    owners: tuple[str, ...] = Field(min_length=1)
    group: str
    tags: dict[str, str] = Field(default_factory=dict)
    service: str = Field(description="The Feast FeatureService; it alone lists the features.")
    keys: tuple[str, ...] = Field(min_length=1)
    entities: Transform
    labels: Transform
    label_unit: str = Field(description="What the label is, with its unit, for people.")
    entity_look_back: Duration = Field(description="How long before its label an entity row may have become known.")
    denied: tuple[str, ...] = Field(min_length=1, description="Columns that are outcomes: never a feature.")
    baseline: Baseline
    slices: tuple[str, ...] = Field(
        default=(), description="Columns, or `prediction_time.month`, whose groups are reported apart."
    )
    protected: tuple[str, ...] = ()
    seed: int = 0
    windows: Windows
    tuning: Tuning
    costs: Costs | None = None
    gate: PromotionGate
    drift: DriftPolicy = DriftPolicy()
    retrain: RetrainPolicy = RetrainPolicy()
    resources: StagesCompute = StagesCompute()

    @model_validator(mode="after")
    def _stages_are_its_own(self) -> Self:
        if unknown := sorted(set(self.resources.stages) - set(MODEL_STAGES)):
            raise ValueError(
                f"model {self.name!r}: `resources.stages` speaks of {unknown}; the stages are {', '.join(MODEL_STAGES)}"
            )
        return self

    @model_validator(mode="after")
    def _task_needs(self) -> Self:
        if self.task is Task.BINARY and self.costs is None:
            raise ValueError(f"model {self.name!r} is binary and needs `costs` (false_positive, false_negative)")
        if self.task is Task.REGRESSION and self.costs is not None:
            raise ValueError(f"model {self.name!r} is a regression: `costs` have no meaning")
        return self


WITHIN = 3
"""Windows in which a shift ought to be found."""
