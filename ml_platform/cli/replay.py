"""``ml-platform replay``: play the upstream's export job."""

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Annotated

import typer

from ml_platform import settings


class Cadence(StrEnum):
    """How much time one landing file covers."""

    DAY = "1d"
    HOUR = "1h"


def replay(
    until: Annotated[str | None, typer.Option(metavar="DATE", help="End (exclusive) of what is known.")] = None,
    every: Annotated[Cadence, typer.Option(help="One file per day or per hour.")] = Cadence.DAY,
    awkward: Annotated[
        str,
        typer.Option("--with", metavar="KINDS", help="corrections,duplicates,late,corrupt,schema-change or some."),
    ] = "",
    upstream: Annotated[str | None, typer.Option(metavar="NAME", help="Which example's data; if several.")] = None,
    drive: Annotated[
        bool, typer.Option("--drive", help="After each period let sensor and conditions decide, and tell the story.")
    ] = False,
    story: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Where the story goes; by default among the reports.")
    ] = None,
) -> None:
    """Land recorded events as files, as they became known. Delivers what is missing; running it again is cheap.

    With --drive the platform's own automation decides after each period, in this process and without waiting; an empty
    home begins with the history that its data set declares. Exit code 1 if a run failed, or a row is not accounted for.
    """
    asked = {
        "every": every.value,
        "awkward": [kind.strip() for kind in awkward.split(",") if kind.strip()],
        **({"until": until} if until else {}),
    }
    if not drive:
        deliver(settings.load().landing, upstream, **asked)
        return
    settings.work_on_small_frames()
    from ml_platform.cli.drive import drive_replay

    source = _upstream(upstream)
    failures = drive_replay(source, source.__name__.split(".")[-2], story, **asked)
    if failures:
        raise typer.Exit(1)


def deliver(landing: Path, upstream: str | None, **asked: object) -> None:
    """Land what an example's upstream knows, with a progress bar; ``asked`` as its ``planned_deliveries``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    source = _upstream(upstream)
    deliveries = source.planned_deliveries(**asked)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    written = rows = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("landing", total=len(deliveries))
        for file in source.deliver(landing, deliveries):
            written, rows = written + file.written, rows + file.rows * file.written
            progress.update(task, advance=1, description=f"{file.table}/{file.path.stem}")
    Console().print(
        f"{written:,} files with {rows:,} rows delivered to {landing}, {len(deliveries) - written:,} were there.",
        highlight=False,
        soft_wrap=True,
    )


def _upstream(name: str | None) -> ModuleType:
    folder = Path(__file__).parents[1] / "defs"
    names = sorted(m.name for m in iter_modules([str(folder)]) if (folder / m.name / "replay.py").exists())
    chosen = names[0] if name is None and len(names) == 1 else name
    if chosen not in names:
        raise ValueError(f"--upstream {name or ''} is none of those that can be replayed: {', '.join(names)}")
    return import_module(f"ml_platform.defs.{chosen}.replay")
