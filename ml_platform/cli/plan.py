"""``ml-platform plan``: what is out of date, which models are due for training and why, and what that took before."""

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ml_platform import settings
from ml_platform.cli.console import console, table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagster import DagsterInstance, DagsterRun
    from rich.console import Console

    from ml_platform.core.model_spec import ModelSpec
    from ml_platform.stores.declarations import Dataset
    from ml_platform.stores.planning import Plan

_PAST_RUNS = 20


def plan(
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Say what would be computed now and which models are due for training, and why; nothing is run."""
    from ml_platform import defs as declared

    found = {dataset.name: _planned(dataset) for dataset in declared.datasets()}
    if as_json:
        write_json(found)
        return
    out = console()
    for name, planned in found.items():
        _show(out, name, planned)


def _planned(dataset: "Dataset") -> dict[str, Any]:
    from ml_platform.core.retraining import judge
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.planning import plan_now
    from ml_platform.stores.retraining import gather

    here = settings.load()
    lake, found = Lake.of(here), plan_now(here, dataset)
    verdicts = {}
    if found.watermark is not None:
        for spec in dataset.models:
            verdict = judge(spec, gather(lake, spec, found.watermark))
            waits_for = held_back(here, dataset, spec, found) if verdict.retrain else []
            verdicts[spec.name] = {**asdict(verdict), "held_back_by": waits_for}
    return {
        "watermark": found.watermark,
        "days": None if found.days is None else {"first": found.days[0], "last": found.days[1]},
        "stale": found.stale,
        "waiting": found.waiting,
        "models": verdicts,
        "past_runs": _past_runs(here, dataset),
    }


def held_back(here: settings.Settings, dataset: "Dataset", spec: "ModelSpec", found: "Plan") -> list[str]:
    """What a training that is due has to wait for, as the conditions see it."""
    import dagster as dg

    from ml_platform.automation.jobs import under_way
    from ml_platform.stores.feature_repository import FeatureRepository
    from ml_platform.stores.instance import prepare_dagster_home
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.model_tables import blocked_inputs

    prepare_dagster_home(here)
    with dg.DagsterInstance.get() as instance:
        run = under_way(instance, dataset)
    manifest = FeatureRepository(here).manifest()
    blocked = [] if found.watermark is None else blocked_inputs(Lake.of(here), manifest, spec, found.watermark)
    return [
        *(["data that landed is not taken in"] if found.stale else []),
        *([f"{run.job_name} is under way (run {run.run_id})"] if run is not None else []),
        *blocked,
    ]


def _past_runs(here: settings.Settings, dataset: "Dataset") -> dict[str, dict[str, float]]:
    """How many runs of each job succeeded lately, and the median of their seconds; trainings by whoever asked."""
    import dagster as dg

    from ml_platform.automation.jobs import daily_job_name, loop_job_name, training_job_name
    from ml_platform.stores.instance import prepare_dagster_home

    prepare_dagster_home(here)
    whole_loop = loop_job_name(dataset.spec)
    with dg.DagsterInstance.get() as instance:
        took = {job: _seconds(instance, job_name=job) for job in (daily_job_name(dataset.spec), whole_loop)}
        for spec in dataset.models:
            took[training_job_name(spec.name)] = _training_seconds(instance, spec.name, apart_from=whole_loop)
    return {job: {"runs": len(seconds), "median_seconds": median(seconds)} for job, seconds in took.items() if seconds}


def _training_seconds(instance: "DagsterInstance", model: str, *, apart_from: str) -> list[float]:
    """Of runs that trained a model up to its decision, whatever job they were; what a condition requests is of none."""
    import dagster as dg

    from ml_platform.automation.runs import TRIGGER_TAG, of_model

    tag, decision = of_model(TRIGGER_TAG, model), dg.AssetKey([model, "champion"])
    called_for = {value for _, values in instance.get_run_tags(tag_keys=[tag]) for value in values}
    if not called_for:
        return []
    return _seconds(
        instance,
        lambda run: run.job_name != apart_from and (run.asset_selection is None or decision in run.asset_selection),
        tags={tag: sorted(called_for)},
    )


def _seconds(
    instance: "DagsterInstance", counts: "Callable[[DagsterRun], bool]" = lambda _: True, **wanted: Any
) -> list[float]:
    """What the newest runs that succeeded took."""
    import dagster as dg

    succeeded = dg.RunsFilter(**wanted, statuses=[dg.DagsterRunStatus.SUCCESS])
    return [
        run.end_time - run.start_time
        for run in instance.get_run_records(succeeded, limit=_PAST_RUNS)
        if run.start_time is not None and run.end_time is not None and counts(run.dagster_run)
    ]


def _show(out: "Console", name: str, planned: dict[str, Any]) -> None:
    watermark = planned["watermark"]
    if watermark is None:
        out.print(f"[bold]{name}[/bold]  nothing has landed: ml-platform replay lands recorded events")
        return
    out.print(f"[bold]{name}[/bold]  watermark {watermark:%Y-%m-%d %H:%M}")
    for title, partitions in (("out of date", planned["stale"]), ("waits for others", planned["waiting"])):
        if partitions:
            rows = [(asset, len(days), days[0], days[-1]) for asset, days in partitions.items()]
            out.print(table((title, "partitions", "first", "last"), rows))
    if not planned["stale"] and not planned["waiting"]:
        out.print("Everything that has landed and settled is taken in.\n")
    for model, verdict in planned["models"].items():
        due = "[bold]due for training[/bold]" if verdict["retrain"] else "not due for training"
        out.print(f"[bold]{model}[/bold]  {due}. {verdict['reason']}")
        if verdict["held_back_by"]:
            out.print(f"It waits: {'; '.join(verdict['held_back_by'])}", markup=False)
        columns = ("name", "role", "holds", "value", "bound")
        out.print(table(columns, [[_whole(each[column]) for column in columns] for each in verdict["conditions"]]))
    for job, took in planned["past_runs"].items():
        out.print(f"{job} took {took['median_seconds']:.0f} s (median of the last {took['runs']:.0f} that succeeded)")


def _whole(value: object) -> object:
    """Counts are floats in JSON and whole numbers for people."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
