"""A run in this process, on the home's Dagster instance, with its progress in the terminal."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ml_platform.assets.champion import decision_job_name
from ml_platform.automation.jobs import CALIBRATION, loop_job_name, training_job_name, training_keys
from ml_platform.automation.runs import OWN_EVENTS, made_here, range_tags
from ml_platform.definitions import defs
from ml_platform.settings import Settings
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger, LedgerEntry
from ml_platform.stores.planning import Plan

# Dagster says so of every check without a partition of its own, which is every one here (docs/adr/0004).
_UNYIELDED = "did not yield or return expected outputs"


class RunFailedError(RuntimeError):
    """A run ended in failure; the message names its failed steps and where to look."""


def execute(dataset: Dataset, plan: Plan, *, only: str | None = None) -> None:
    """Run the data set's loop over the days of the plan, training the models that have no decision yet.

    Args:
        dataset: what is declared.
        plan: what is out of date.
        only: the one asset that is to be made, if not all.

    Raises:
        RunFailedError: a step failed.
    """
    hush()
    terminal = _Terminal()
    watched = dg.Definitions.merge(defs(), dg.Definitions(loggers={"console": _logger(terminal)}))
    job = watched.resolve_job_def(loop_job_name(dataset.spec))
    decided = [model.name for model in dataset.models if model.name not in plan.undecided]
    skipped = set(training_keys(decided))
    chosen = job.asset_layer.selected_asset_keys if only is None else [dg.AssetKey(only)]
    selected = [key for key in chosen if key not in skipped]
    first, last = plan.days or (dataset.spec.start.isoformat(),) * 2
    with dg.DagsterInstance.get() as instance, terminal.over(len(selected)):
        result = job.execute_in_process(
            instance=instance,
            asset_selection=selected,
            tags={**range_tags(first, last), **made_here(), "ml_platform/reason": "ml-platform run"},
            run_config={"loggers": {"console": {}}},
            raise_on_error=False,
        )
    if not result.success:
        failed = [event for event in result.all_events if event.is_step_failure]
        reasons = "; ".join(f"{event.step_key}: {cause(event)}" for event in failed)
        raise RunFailedError(f"run {result.run_id} failed in {len(failed)} steps: {reasons}")


def execute_decision(settings: Settings, model: str, verdict: str, said: Mapping[str, Any]) -> LedgerEntry:
    """Run the job by which a person decides on a model.

    Args:
        settings: the home.
        model: which model.
        verdict: promote, reject or rollback.
        said: reason, person and version, as the job's configuration.

    Returns:
        What was recorded.

    Raises:
        RunFailedError: the decision was refused, or recorded and not told to Dagster; the message says which and why.
    """
    hush()
    name = decision_job_name(model, verdict)
    job = dg.Definitions.merge(defs(), quietly()).resolve_job_def(name)
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            tags=made_here(),
            run_config={"ops": {f"{name}_decision": {"config": dict(said)}}, "loggers": {"console": {}}},
            raise_on_error=False,
        )
    recorded = Ledger(Lake.of(settings)).by_run(model, result.run_id)
    if recorded is not None and result.success:
        return recorded
    reasons = "; ".join(cause(event) for event in result.all_events if event.is_step_failure)
    # "module.NameOfError: why": people are told why.
    outcome = (
        f"refused: {reasons.partition(': ')[2] or reasons}" if recorded is None else f"recorded, but then: {reasons}"
    )
    raise RunFailedError(f"{verdict} was {outcome} (run {result.run_id})")


def execute_calibration(model: str) -> None:
    """Calibrate drift from the model's champion, if what stands is not of it and the declared policy.

    Raises:
        RunFailedError: the step failed.
    """
    hush()
    job = dg.Definitions.merge(defs(), quietly()).resolve_job_def(training_job_name(model))
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey([model, CALIBRATION])],
            tags={**OWN_EVENTS, **made_here(), "ml_platform/reason": "ml-platform drift calibrate"},
            run_config={"loggers": {"console": {}}},
            raise_on_error=False,
        )
    if not result.success:
        reasons = "; ".join(cause(event) for event in result.all_events if event.is_step_failure)
        raise RunFailedError(f"{model}/{CALIBRATION} failed (run {result.run_id}): {reasons}")


def quietly() -> dg.Definitions:
    """What makes runs keep their log to the instance: nothing of it is printed."""
    return dg.Definitions(loggers={"console": _logger(logging.NullHandler())})


def hush() -> None:
    """Keep out of the terminal what libraries say there beside the run's own log."""
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    for name in ("mlflow", "alembic", "dagster._core.execution.plan.active"):
        logging.getLogger(name).setLevel(logging.ERROR)


def cause(event: dg.DagsterEvent) -> str:
    """What the step itself said, beneath what Dagster says of it."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None and str(error.cls_name).startswith("Dagster"):
        error = error.cause
    return "unknown" if error is None else error.message.strip().splitlines()[0]


def _logger(handler: logging.Handler) -> dg.LoggerDefinition:
    def create(_: dg.InitLoggerContext) -> logging.Logger:
        made = logging.Logger("ml_platform.run", logging.INFO)
        made.addHandler(handler)
        return made

    return dg.LoggerDefinition(create, description="Progress in a terminal.")


class _Terminal(logging.Handler):
    """Dagster's log as a progress bar over steps, with what the steps themselves say above it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True, highlight=False))
        self._task = self._progress.add_task("starting")

    @contextmanager
    def over(self, steps: int) -> Iterator[None]:
        """Show the bar while the block runs."""
        self._progress.update(self._task, total=steps)
        with self._progress:
            yield

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record: a step that starts or ends moves the bar, what a step logs is printed."""
        meta: dict[str, Any] = getattr(record, "dagster_meta", {})
        step = str(meta.get("step_key") or "").replace("__", "/")
        event = getattr(record, "dagster_event", None)
        kind = None if event is None else event.event_type
        if kind is dg.DagsterEventType.STEP_START:
            self._progress.update(self._task, description=step)
        elif kind in (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_SKIPPED):
            self._progress.advance(self._task)
        elif kind is dg.DagsterEventType.STEP_FAILURE:
            self._progress.print(f"[red]{step} failed[/red]")
        elif event is None and step and _UNYIELDED not in record.getMessage():
            self._progress.print(f"[dim]{step}[/dim]  {escape(str(meta.get('orig_message', record.getMessage())))}")
