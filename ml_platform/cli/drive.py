"""``ml-platform replay --drive``: land a period, let the platform's own sensor and conditions decide, land the next.

The landing sensor and the automation conditions are evaluated here as the daemons evaluate them, on the home's Dagster
instance, and what they request is run in this process: only the waiting between ticks is left out.
"""

import gc
import logging
import resource
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version as installed_version
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ml_platform import defs as declared
from ml_platform import settings
from ml_platform.automation import sensor
from ml_platform.automation.jobs import daily_job_name
from ml_platform.automation.landing import landing_sensor_name
from ml_platform.automation.runs import TRIGGER_TAG, made_here, of_model, reports_itself
from ml_platform.automation.workers import end_abandoned
from ml_platform.benchmarks.report import machine_in_words
from ml_platform.cli.console import console
from ml_platform.cli.execution import cause, hush, quietly
from ml_platform.core import plots
from ml_platform.core.story import Made
from ml_platform.definitions import defs
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.instance import prepare_dagster_home
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.models import ModelStore
from ml_platform.stores.source import commit
from ml_platform.stores.story import tell
from ml_platform.stores.table_names import predictions_table

PLATFORM = "ml-platform"
_DRIVEN = "ml_platform/drive"
"""The tag of runs that a driver makes, and where its conditions' cursor is kept."""

_ROUNDS = 20
"""Ticks after one period: each run may call for another, but not for ever."""


@dataclass
class Driver:
    """Evaluates sensor and conditions in turn and runs what they request, until both are content.

    A driver that is killed loses nothing: the next one makes the run again that was killed with it, and its conditions
    go on from the last evaluation of which every request was run.
    """

    definitions: dg.Definitions
    dataset: Dataset
    instance: dg.DagsterInstance
    said: Console
    failures: list[str] = field(default_factory=list)
    run_ids: list[str] = field(default_factory=list)

    @cached_property
    def _definitions(self) -> dg.Definitions:
        return dg.Definitions.merge(self.definitions, quietly())

    @cached_property
    def _repository(self) -> dg.RepositoryDefinition:
        return self._definitions.get_repository_def()

    def settle(self) -> int:
        """Tick until nothing is requested any more; the number of runs.

        Raises:
            RuntimeError: it does not come to rest.
        """
        runs = 0
        for killed in end_abandoned(self.instance):
            # The daemons see to theirs, people to what they started.
            if _DRIVEN in killed.tags:
                self._run_again(killed)
                runs += 1
        for _ in range(_ROUNDS):
            landed = list(self._landing())
            for request in landed:
                self._run(daily_job_name(self.dataset.spec), request)
            runs += len(landed)
            if landed:
                # Conditions wait for data that is out of date: they are asked once it is taken in.
                continue
            called_for, cursor = self._conditions()
            if called_for:
                # The daemon looks again while these are under way, and only then takes them for requested. Seen first
                # when they are over, what they left would count as older than the request.
                _, cursor = self._conditions(cursor)
            for request in called_for:
                self._run(None, request)
            runs += len(called_for)
            self.instance.daemon_cursor_storage.set_cursor_values({_DRIVEN: cursor})
            if not called_for:
                return runs
        raise RuntimeError(f"automation requests runs without end: {_ROUNDS} rounds after one period")

    def _landing(self) -> Iterator[dg.RunRequest]:
        """What the landing sensor requests, each key once, as the daemon does it."""
        watching = self._repository.get_sensor_def(landing_sensor_name(self.dataset))
        with dg.build_sensor_context(self.instance, repository_def=self._repository) as context:
            requests = watching.evaluate_tick(context).run_requests or ()
        for request in requests:
            known = self.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": str(request.run_key)}), limit=1)
            if not known:
                yield request

    def _conditions(self, since: str | None = None) -> tuple[Sequence[dg.RunRequest], str]:
        """What the conditions request ``since`` an evaluation, the last one that was kept, and where they go on."""
        conditions = self._repository.get_sensor_def(sensor.NAME)
        before = since or self.instance.daemon_cursor_storage.get_cursor_values({_DRIVEN}).get(_DRIVEN)
        with (
            dg.build_sensor_context(self.instance, repository_def=self._repository, cursor=before) as context,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            # What they say of every asset at every look is in the evaluations; here it would bury the story.
            context.log.setLevel(logging.WARNING)
            found = conditions.evaluate_tick(context)
        return found.run_requests or (), str(found.cursor)

    def _run_again(self, killed: dg.DagsterRun) -> None:
        tags = {name: value for name, value in killed.tags.items() if not name.startswith(".dagster")}
        selection = sorted(killed.asset_selection) if killed.asset_selection else None
        job = None if killed.job_name.startswith("__") else killed.job_name
        self._run(job, dg.RunRequest(tags=tags, asset_selection=selection))

    def _run(self, job_name: str | None, request: dg.RunRequest) -> None:
        """Run it in this process: a job's request, or (no name) one of conditions on some assets and days."""
        tags = {**request.tags, _DRIVEN: "true"}
        if request.run_key:
            tags["dagster/run_key"] = request.run_key
        if job_name is None and reports_itself(tags):
            job_name = daily_job_name(self.dataset.spec)
        job = (
            self._definitions.resolve_job_def(job_name)
            if job_name
            else self._definitions.resolve_implicit_global_asset_job_def()
        )
        started = time.monotonic()
        result = job.execute_in_process(
            instance=self.instance,
            asset_selection=request.asset_selection,
            tags={**tags, **made_here()},
            run_config={"loggers": {"console": {}}},
            raise_on_error=False,
        )
        self.run_ids.append(result.run_id)
        if any(_interrupted(event) for event in result.all_events):
            # Dagster ends the run and goes on; whoever stopped the run meant the replay.
            raise KeyboardInterrupt
        self._say(result, time.monotonic() - started)

    def _say(self, result: dg.ExecuteInProcessResult, seconds: float) -> None:
        if not result.success:
            causes = "; ".join(cause(event) for event in result.all_events if event.is_step_failure)
            self.failures.append(f"run {result.run_id}: {causes}")
            self.said.print(f"[red]run {result.run_id} failed[/red]: {causes}", highlight=False)
        run = self.instance.get_run_by_id(result.run_id)
        each = {} if run is None else {tag: said for tag, said in run.tags.items() if tag.startswith(f"{TRIGGER_TAG}/")}
        if each:
            trained = ", ".join(f"{tag.removeprefix(f'{TRIGGER_TAG}/')} ({said})" for tag, said in sorted(each.items()))
            self.said.print(f"  trained {trained} in {seconds:.0f} s", highlight=False)


def _interrupted(event: dg.DagsterEvent) -> bool:
    failed = event.step_failure_data.error if event.is_step_failure else None
    return failed is not None and "DagsterExecutionInterruptedError" in failed.to_string()


@contextmanager
def driving(dataset: Dataset, said: Console) -> Iterator[Driver]:
    """A driver on the home's instance, which has looked once; what came before the first driver is no news to it."""
    hush()
    with dg.DagsterInstance.get() as instance:
        driver = Driver(defs(), dataset, instance, said)
        driver.settle()
        # What the libraries made is there to stay: a year of days need not look through it for garbage.
        gc.collect()
        gc.freeze()
        yield driver


def drive_replay(source: ModuleType, dataset_name: str, story: Path | None, **asked: Any) -> list[str]:
    """Land what an example's upstream knows a period at a time, with automation deciding after each; tell what became.

    Args:
        source: the example's ``replay`` module.
        dataset_name: of its data set.
        story: where the story goes; None for the home's reports.
        asked: as the example's ``planned_deliveries``.

    Returns:
        Runs that failed, each with its cause, and models whose accounts do not balance.
    """
    settings.take_files_at_once()
    here = prepare_dagster_home(settings.load())
    (dataset,) = (each for each in declared.datasets() if each.name == dataset_name)
    batches = list(source.by_period(source.planned_deliveries(**asked)))
    history = dataset.spec.rehearsal[0].isoformat() if dataset.spec.rehearsal else ""
    begun = dataset.watermark(Landing(here.landing)) is not None
    started, runs = time.monotonic(), 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress, driving(dataset, progress.console) as driver:
        task = progress.add_task("landing", total=len(batches))
        for (period, batch), following in zip_longest(batches, [name for name, _ in batches[1:]]):
            delivered = list(source.deliver(here.landing, batch))
            news = any(file.written for file in delivered)
            progress.update(task, advance=1, description=period)
            if following is None or (begun and news) or (not begun and following >= history):
                runs += driver.settle()
    made = Made(
        version=installed_version(PLATFORM),
        commit=commit(here) or "no known commit",
        machine=machine_in_words(),
        minutes=(time.monotonic() - started) / 60,
        gigabytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
        periods=len(batches),
        runs=runs,
        failed=len(driver.failures),
    )
    told = tell_story(here, dataset, story, _repeating(asked), made)
    shown = console()
    shown.print(Markdown(told.text) if shown.is_terminal else told.text, markup=False, highlight=False, soft_wrap=True)
    shown.print(f"The story, with its pictures: {told.file}", highlight=False, soft_wrap=True)
    for failure in told.unbalanced:
        console(stderr=True).print(f"[red]{failure}[/red]", highlight=False, soft_wrap=True)
    return [*driver.failures, *told.unbalanced]


def _repeating(asked: Mapping[str, Any]) -> str:
    """The command that asks so again."""
    options = {"--until": asked.get("until"), "--every": asked.get("every"), "--with": ",".join(asked["awkward"])}
    return " ".join(["ml-platform replay --drive", *(f"{name} {value}" for name, value in options.items() if value)])


@dataclass(frozen=True)
class Told:
    """Where a story was written, what it says, and a sentence for each model whose accounts do not balance."""

    file: Path
    text: str
    unbalanced: Sequence[str]


def tell_story(here: settings.Settings, dataset: Dataset, story: Path | None, command: str, made: Made) -> Told:
    """Write the story of every model that has a champion, with its pictures in ``images`` beside it.

    Args:
        here: the home.
        dataset: the data set whose models these are.
        story: the file; None for one among the home's reports.
        command: what repeats it.
        made: how it came to be.
    """
    file = story or here.reports / "story" / f"{dataset.name}.md"
    (file.parent / "images").mkdir(parents=True, exist_ok=True)
    lake, models = Lake.of(here), ModelStore(here)
    watermark = dataset.watermark(Landing(here.landing))
    parts = [
        f"# {dataset.name}: what automation did\n",
        f"{made} Again, in an empty home: `{command} --story FILE.md`. Every figure is read from the tables of the "
        "home; times are event times.\n",
    ]
    unbalanced = []
    for spec in dataset.models:
        if watermark is None or models.ledger.champion(spec.name) is None:
            parts.append(f"## {spec.name}\n\nNo version was promoted.\n")
            continue
        told = tell(lake, FeatureClient(here), models, dataset, spec, watermark, _triggers(models, spec.name))
        picture = f"images/{file.stem}_{spec.name}.png"
        (file.parent / picture).write_bytes(plots.story(told))
        parts.append(told.to_markdown(picture))
        if not told.accounts.balanced:
            unbalanced.append(
                f"{spec.name}: its accounts do not balance. {told.accounts} Compare `raw` tables and "
                f"`{predictions_table(spec)}` by `ml-platform sql`."
            )
    text = "\n".join(parts)
    file.write_text(text)
    return Told(file, text, unbalanced)


def _triggers(models: ModelStore, model: str) -> dict[str, str]:
    """What called for each training that reached a decision, by its run."""
    with dg.DagsterInstance.get() as instance:
        runs = {run_id: instance.get_run_by_id(run_id) for run_id in models.ledger.history(model)["run_id"].unique()}
    return {run_id: run.tags.get(of_model(TRIGGER_TAG, model), "") for run_id, run in runs.items() if run is not None}
