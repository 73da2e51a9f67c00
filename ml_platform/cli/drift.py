"""``ml-platform drift``: how far the present is from what the champion learned from."""

from typing import Annotated

import typer

from ml_platform import settings
from ml_platform.cli.console import console, table, write_json


def drift(
    model: Annotated[str | None, typer.Argument(help="One model; all if absent.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Show the newest drift report of a model, column by column, largest first."""
    from ml_platform.cli import declared
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.status import drift_status

    lake = Lake.of(settings.load())
    specs = [spec for dataset in declared.datasets() for spec in dataset.models]
    if model is not None:
        specs = [declared.model(model)[1]]
    reports = {spec.name: drift_status(lake, spec) for spec in specs}
    if as_json:
        write_json({name: None if found is None else found.model_dump(mode="json") for name, found in reports.items()})
        return
    out = console()
    for name, found in reports.items():
        if found is None:
            out.print(f"[bold]{name}[/bold]  no drift report yet: there is one once a champion has predicted\n")
            continue
        out.print(f"[bold]{name}[/bold]  {found.day:%Y-%m-%d}  {found.reason}")
        rows = [
            (column, each.psi, each.threshold, "ignored" if each.ignored else each.drifted)
            for column, each in found.columns.items()
        ]
        out.print(table(("column", "PSI", "threshold", "drifted"), rows))
