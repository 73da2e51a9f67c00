"""``ml-platform run``: land recorded events, bring everything up to date, say what came out."""

from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform import settings
from ml_platform.cli.console import console

if TYPE_CHECKING:
    from ml_platform.settings import Settings
    from ml_platform.stores.declarations import Dataset


def run(
    as_landed: Annotated[bool, typer.Option("--as-landed", help="Land nothing: take in what has landed.")] = False,
) -> None:
    """Land the rehearsal of every data set and materialise what is out of date; again: only what changed."""
    from ml_platform.cli.replay import deliver
    from ml_platform.cli.status import show_status
    from ml_platform.defs import datasets
    from ml_platform.stores.instance import prepare_dagster_home

    if not as_landed:
        settings.take_files_at_once()
    here = prepare_dagster_home(settings.load())
    for dataset in datasets():
        for until in () if as_landed else dataset.spec.rehearsal:
            deliver(here.landing, dataset.name, until=until.isoformat())
            _bring_up_to_date(here, dataset)
        if as_landed or not dataset.spec.rehearsal:
            _bring_up_to_date(here, dataset)
    show_status()


def _bring_up_to_date(here: "Settings", dataset: "Dataset") -> None:
    from ml_platform.stores.planning import plan

    found = plan(here, dataset)
    if found.nothing:
        console(stderr=True).print(f"{dataset.name}: everything is up to date.")
        return
    for table, partitions in found.stale.items():
        console(stderr=True).print(f"  {table}: {len(partitions)} partitions out of date", style="dim")
    from ml_platform.cli.execution import execute

    execute(dataset, found)
