"""``ml-platform run``: land recorded events, bring everything up to date, say what came out."""

from typing import TYPE_CHECKING

from ml_platform import settings
from ml_platform.cli.console import console
from ml_platform.cli.declared import datasets

if TYPE_CHECKING:
    from datetime import date

    from ml_platform.settings import Settings
    from ml_platform.stores.declarations import Dataset


def run() -> None:
    """Land the rehearsal of every data set and materialise what is out of date; again: only what changed."""
    from ml_platform.stores.instance import prepare_dagster_home

    here = prepare_dagster_home(settings.load())
    for dataset in datasets():
        for until in dataset.spec.rehearsal:
            _land(here, dataset, until)
            _bring_up_to_date(here, dataset)
        if not dataset.spec.rehearsal:
            _bring_up_to_date(here, dataset)
    from ml_platform.cli.status import show_status

    show_status()


def _land(here: "Settings", dataset: "Dataset", until: "date") -> None:
    from ml_platform.cli.replay import deliver

    deliver(here.landing, dataset.name, until=until.isoformat())


def _bring_up_to_date(here: "Settings", dataset: "Dataset") -> None:
    from ml_platform.stores.planning import plan

    found = plan(here, dataset)
    if found.nothing:
        console(stderr=True).print("Everything is up to date.")
        return
    for table, days in found.stale.items():
        console(stderr=True).print(f"  {table}: {len(days)} partitions out of date", style="dim")
    from ml_platform.cli.execution import execute

    execute(dataset, found)
