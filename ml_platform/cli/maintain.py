"""``ml-platform maintain``: compact tables and let go of what no registered model version needs."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ml_platform import settings
from ml_platform.cli.console import console, table, write_json

if TYPE_CHECKING:
    from ml_platform.stores.maintenance import Upkeep


def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be removed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Compact tables, and remove old table versions and old runs that no registered model version needs."""
    from datetime import UTC, datetime

    import dagster as dg

    from ml_platform.automation.maintenance import forget_dagster_runs, forget_mlflow_runs, named_runs, runs_under_way
    from ml_platform.stores.instance import prepare_dagster_home
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.maintenance import maintain_tables
    from ml_platform.stores.models import ModelStore

    here = prepare_dagster_home(settings.load())
    lake, models = Lake.of(here), ModelStore(here)
    before = datetime.now(UTC) - here.keep_runs
    with dg.DagsterInstance.get() as instance:
        busy = runs_under_way(instance)
        if busy and not dry_run:
            raise RuntimeError(f"{busy[0].job_name} is under way (run {busy[0].run_id}): maintain when it has ended")
        done: list[Upkeep] = []
        with console(stderr=True).status("Looking for what nobody needs …") as progress:
            for each in maintain_tables(lake, models, older_than=here.keep_versions, dry_run=dry_run):
                progress.update(f"{each.table} …")
                done.append(each)
            mlflow_runs = forget_mlflow_runs(instance, models, before, dry_run=dry_run)
            dagster_runs = forget_dagster_runs(instance, before, named_runs(models), dry_run=dry_run)
    if as_json:
        write_json(
            {
                "dry_run": dry_run,
                "tables": {each.table: _figures(each) for each in done},
                "mlflow_runs": mlflow_runs,
                "dagster_runs": dagster_runs,
            }
        )
    else:
        _show(done, len(mlflow_runs), len(dagster_runs), dry_run=dry_run)


def _figures(upkeep: "Upkeep") -> dict[str, Any]:
    return {name: value for name, value in asdict(upkeep).items() if name != "table"}


def _show(done: "list[Upkeep]", mlflow_runs: int, dagster_runs: int, *, dry_run: bool) -> None:
    out = console()
    rows = [
        (e.table, e.before.files, e.after.files, e.before.data_bytes, e.after.data_bytes, e.removed, len(e.kept))
        for e in done
    ]
    out.print(table(("table", "files", "after", "bytes", "after", "removed", "pinned"), rows))
    for each in done:
        if each.skipped:
            out.print(f"  [red]left alone[/red] {each.table}: {escape(each.skipped)}")
    would = "would be removed" if dry_run else "were removed"
    removed = sum(each.removed for each in done)
    out.print(f"{removed:,} old files of tables, {mlflow_runs} MLflow runs and {dagster_runs} Dagster runs {would}.")
