"""``ml-platform bench``: the platform beside its references, on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform.cli.console import console, write_json

if TYPE_CHECKING:
    from ml_platform.benchmarks.report import Line


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; all of them if none.")] = None,
    rows: Annotated[float, typer.Option(min=0.0001, help="Every number of rows is multiplied by it.")] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="Once each, without what takes minutes: whether it runs.")
    ] = False,
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write benchmarks.md, its picture and benchmarks.json there.")
    ] = None,
    note: Annotated[str, typer.Option(help="What is to be said of it on the page.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="All that was measured, as JSON.")] = False,
) -> None:
    """Measure each piece of work beside its reference; all of them take hours. Exit code 1 if a bound is not kept."""
    from ml_platform import settings
    from ml_platform.benchmarks import report
    from ml_platform.benchmarks.runner import choose, measure
    from ml_platform.benchmarks.suite import suite
    from ml_platform.stores.source import commit

    chosen = choose(suite(rows, quick=quick), names or [])
    said, entries = console(stderr=True), []
    source = commit(settings.load()) or ""
    for measured in measure(chosen, lambda each: said.print(f"{each.name}: {each.work}", style="dim", highlight=False)):
        entries.append(report.entry(measured, rows=rows, commit=source, note=note))
        if write:
            report.write_page(write, report.keep(write, entries[-1:]))
        if not as_json:
            _show(report.lines(measured))
    if as_json:
        write_json(entries)
    if not quick and not all(entry["holds"] for entry in entries):
        raise typer.Exit(1)


def _show(lines: "list[Line]") -> None:
    for line in lines:
        judged = {None: "", True: "[green]holds[/green]", False: "[red]does not hold[/red]"}[line.holds]
        beside = f", {line.reference} {line.beside}" if line.beside else ""
        ratio = "" if line.ratio is None else f": {line.ratio:.3g}x"
        bound = f", {line.bound}: {judged}" if line.bound else ""
        console().print(
            f"[bold]{line.name}[/bold]  {line.value}{beside}{ratio}{bound}", highlight=False, soft_wrap=True
        )
