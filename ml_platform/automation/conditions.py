"""Why an asset is materialised without anybody asking: named conditions, each with its reason.

The landing sensor takes in what lands; these conditions decide on models, and catch what the daily chain left behind.
Leaves of the trees are of two kinds: Dagster's own, which speak of events (an input has new content), and ours, which
ask the platform's stores and judge by event time (the champion is stale). Every leaf has a label, so the evaluation
of any tick can be read in the UI; the figures behind it are in ``ml-platform plan`` and in the tags of the run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from ml_platform import settings
from ml_platform.automation.jobs import trains, under_way
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.retraining import ASKED, GUARDS, HARD_GUARDS, TRIGGERS, RetrainVerdict, judge
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.feature_repository import FeatureRepository
from ml_platform.stores.landing import Landing

if TYPE_CHECKING:
    from ml_platform.stores.planning import Plan

T = TypeVar("T")


@dataclass(frozen=True)
class Told(dg.AutomationCondition[Any]):
    """A condition on what the platform knows; ``holds`` is asked at each evaluation.

    ``label`` names it in the UI and, within its tree, in Dagster's cursor.
    """

    label: str
    why: str
    holds: Callable[["dg.AutomationContext[Any]"], bool | set[str]]
    """Whether it holds, or, of a partitioned asset, for which partitions."""

    @property
    def name(self) -> str:
        """What Dagster calls it."""
        return self.label

    @property
    def description(self) -> str:
        """Its reason."""
        return self.why

    def get_label(self) -> str:
        """What the UI calls it."""
        return self.label

    def evaluate(self, context: "dg.AutomationContext[Any]") -> "dg.AutomationResult[Any]":
        """Ask, for the asset under evaluation; not if what comes before it in the tree already says no."""
        if context.candidate_subset.is_empty:
            return dg.AutomationResult(context, context.candidate_subset)
        answer = self.holds(context)
        if isinstance(answer, bool):
            return dg.AutomationResult(context, context.candidate_subset if answer else context.get_empty_subset())
        days = context.partitions_def
        if days is None:
            raise ValueError(f"{context.key} has no partitions: {self.label!r} must answer whether, not for which")
        chosen = context.asset_graph_view.get_subset_from_partition_keys(context.key, days, answer)
        return dg.AutomationResult(context, context.candidate_subset.compute_intersection(chosen))

    def __hash__(self) -> int:
        return super().__hash__()


def on_evidence(spec: ModelSpec, dataset: Dataset) -> dg.AutomationCondition[Any]:
    """A training set is made when labels have come in and evidence says that a new model can help.

    - New content of the labels, since the last training set was requested or made: without it there is nothing to
      learn. Requested is enough: a training that fails is not tried again before more labels came in.
    - Any trigger of :func:`~ml_platform.core.retraining.judge` and every guard. A person who asks need not wait for
      new labels or for the cooldown.
    - Data first: nothing of the data set is out of date, nothing that it would read is blocked, and no run of it is
      under way, so that the evidence is whole. What waits for its period to be ready lies after the watermark.
    """
    labels = dg.AssetSelection.assets([spec.name, "labels"])
    new_content = (
        _new_content()
        .allow(labels)
        .since_last_handled()
        .with_label("labels came in since it was last requested or made")
    )
    by_itself = _any(
        "evidence calls for training", [_judged(spec, dataset, name) for name in TRIGGERS if name != ASKED]
    ) & _all("nothing holds it back", [_judged(spec, dataset, name) for name in GUARDS])
    asked = _judged(spec, dataset, ASKED)
    on_word = (
        _not_tried(spec) & asked & _all("nothing forbids it", [_judged(spec, dataset, name) for name in HARD_GUARDS])
    )
    whole = _up_to_date(dataset) & _unblocked(spec, dataset) & _quiet(dataset)
    return (((new_content & by_itself) | on_word) & whole).with_label("evidence calls for a new model")


def on_new_input(dataset: Dataset) -> dg.AutomationCondition[Any]:
    """What is made whole from something else follows it in the same run, or once that has other content.

    The latter is what a failed training left, or what was made by hand; it is requested once.
    """
    requested = dg.AutomationCondition.any_deps_match(dg.AutomationCondition.will_be_requested()).with_label(
        "what it is made from is being requested"
    )
    left = _new_content().since_last_handled().with_label("that has new content since it was last requested or made")
    return (requested | (left & _quiet(dataset))).with_label("what it is made from is new")


def on_leftovers(dataset: Dataset, table: str) -> dg.AutomationCondition[Any]:
    """Days that the daily chain left out of date are requested once more.

    The landing sensor requests what is out of date once, and again as long as a run that failed left another state of
    things than it found. Nobody would come back to what the last of them left. A day is requested again when it is
    found to be left behind, and then not before it has been up to date: what fails for a reason is not tried for ever.
    Days whose inputs are blocked are not out of date: they wait, and hold back nothing else.
    """
    left = Told(
        "out of date, and the run that should have changed that is over",
        "Its content is of other inputs than stand now.",
        lambda context: _left_behind(context, dataset, table),
    )
    return (
        left.newly_true()
        .with_label("found to be left behind")
        .since(dg.AutomationCondition.newly_requested() | ~left)
        .with_label("left since last requested")
        & left
        & _quiet(dataset)
    ).with_label("the daily chain left it behind")


def _judged(spec: ModelSpec, dataset: Dataset, part: str) -> Told:
    """One part of the verdict on a model."""

    def holds(context: "dg.AutomationContext[Any]") -> bool:
        verdict = _verdict(spec, dataset, context.evaluation_time)
        return verdict is not None and any(each.holds for each in verdict.conditions if each.name == part)

    return Told(part, f"{part.capitalize()}, by the retraining policy of {spec.name}.", holds)


def _not_tried(spec: ModelSpec) -> Told:
    def holds(context: "dg.AutomationContext[Any]") -> bool:
        from ml_platform.stores.lake import Lake
        from ml_platform.stores.training_requests import TrainingRequests

        asked = TrainingRequests(Lake.of(settings.load())).waiting(spec.name)
        if asked is None:
            return False
        since = context.asset_graph_view.instance.get_runs(dg.RunsFilter(created_after=asked.recorded_at))
        return not any(trains(run, spec.name) for run in since)

    return Told(
        "a person asked, and no training was begun since",
        "What was asked for is tried once; a training that failed is tried again when a person asks again.",
        holds,
    )


def _new_content() -> Any:
    """An input was written, and is not what it was."""
    written, other = dg.AutomationCondition.newly_updated(), dg.AutomationCondition.data_version_changed()
    return dg.AutomationCondition.any_deps_match(written & other).with_label("an input has new content")


def _unblocked(spec: ModelSpec, dataset: Dataset) -> Told:
    def holds(_: "dg.AutomationContext[Any]") -> bool:
        from ml_platform.stores.lake import Lake
        from ml_platform.stores.model_tables import blocked_inputs

        here = settings.load()
        watermark = _watermark(here, dataset, spec)
        manifest = FeatureRepository(here).manifest()
        return watermark is None or not blocked_inputs(Lake.of(here), manifest, spec, watermark)

    return Told("nothing that it reads is blocked", "A blocked day waits for its file; a training would fail.", holds)


def _up_to_date(dataset: Dataset) -> Told:
    return Told(
        "all data that landed is taken in",
        "Evidence is judged when it is whole.",
        lambda context: not _plan(dataset, context.evaluation_time).stale,
    )


def _quiet(dataset: Dataset) -> Told:
    return Told(
        "no run of the data set is under way",
        "What is under way may be about to make it.",
        lambda context: under_way(context.asset_graph_view.instance, dataset) is None,
    )


def _left_behind(context: "dg.AutomationContext[Any]", dataset: Dataset, table: str) -> bool | set[str]:
    """The days of a table that the landing sensor has requested as they are now, and that are still out of date."""
    found = _plan(dataset, context.evaluation_time)
    requested = dg.RunsFilter(tags={"dagster/run_key": found.run_key})
    tried = found.stale and context.asset_graph_view.instance.get_runs(requested, limit=1)
    days = set(found.stale.get(table, ())) if tried else set()
    return days if context.partitions_def else bool(days)


def _verdict(spec: ModelSpec, dataset: Dataset, evaluation: datetime) -> RetrainVerdict | None:
    """Judged once an evaluation, whichever part asks first; None before anything has landed."""

    def judged() -> RetrainVerdict | None:
        from ml_platform.stores.lake import Lake
        from ml_platform.stores.retraining import gather

        here = settings.load()
        watermark = _watermark(here, dataset, spec)
        return None if watermark is None else judge(spec, gather(Lake.of(here), spec, watermark))

    return _once(_verdicts, spec.name, evaluation, judged)


def _watermark(here: settings.Settings, dataset: Dataset, spec: ModelSpec) -> datetime | None:
    from ml_platform.stores.ingest import known_through
    from ml_platform.stores.lake import Lake

    landing = Landing(here.landing, here.landing_settle)
    return known_through(Lake.of(here), landing, dataset, spec, FeatureRepository(here).manifest())


def _plan(dataset: Dataset, evaluation: datetime) -> "Plan":
    """Made once an evaluation."""

    def made() -> "Plan":
        from ml_platform.stores.planning import plan_now

        return plan_now(settings.load(), dataset)

    return _once(_plans, dataset.name, evaluation, made)


_verdicts: dict[str, tuple[datetime, RetrainVerdict | None]] = {}
_plans: "dict[str, tuple[datetime, Plan]]" = {}


def _once(answers: dict[str, tuple[datetime, T]], subject: str, evaluation: datetime, ask: Callable[[], T]) -> T:
    if subject not in answers or answers[subject][0] != evaluation:
        answers[subject] = evaluation, ask()
    return answers[subject][1]


def _any(label: str, conditions: list[Told]) -> dg.AutomationCondition[Any]:
    joined: dg.AutomationCondition[Any] = conditions[0]
    for condition in conditions[1:]:
        joined = joined | condition
    return joined.with_label(label)  # type: ignore[attr-defined]


def _all(label: str, conditions: list[Told]) -> dg.AutomationCondition[Any]:
    joined: dg.AutomationCondition[Any] = conditions[0]
    for condition in conditions[1:]:
        joined = joined & condition
    return joined.with_label(label)  # type: ignore[attr-defined]
