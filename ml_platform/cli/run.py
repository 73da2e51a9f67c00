"""``ml-platform run``: land recorded events, bring everything up to date, say what came out."""

from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform import settings
from ml_platform.cli.console import console

if TYPE_CHECKING:
    from ml_platform.settings import Settings
    from ml_platform.stores.declarations import Dataset


_ONLINE = "online_features"


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

    out, found = console(stderr=True), plan(here, dataset)
    only = None
    if found.nothing:
        if not _online_is_behind(here, dataset):
            out.print(f"{dataset.name}: everything is up to date.")
            return
        only = _ONLINE
        out.print("  the online store is behind the lake", style="dim")
    for table, partitions in found.stale.items():
        out.print(f"  {table}: {len(partitions)} partitions out of date", style="dim")
    from ml_platform.cli.execution import execute

    execute(dataset, found, only=only)


def _online_is_behind(here: "Settings", dataset: "Dataset") -> bool:
    """Whether features have changed since they were pushed online: a run may have failed in between."""
    import dagster as dg
    from dagster._core.definitions.data_version import DATA_VERSION_TAG

    from ml_platform.assets.steps.features import online_version
    from ml_platform.stores.features import FeatureClient
    from ml_platform.stores.lake import Lake

    lake, manifest = Lake.of(here), FeatureClient(here).manifest()
    stored = [view for name in dataset.views if (view := manifest.view(name)).kind == "batch"]
    if not any(lake.exists(str(view.table)) for view in stored):
        return False
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(_ONLINE))
    told = None if event is None or event.asset_materialization is None else event.asset_materialization.tags
    return (told or {}).get(DATA_VERSION_TAG) != online_version(lake, stored)
