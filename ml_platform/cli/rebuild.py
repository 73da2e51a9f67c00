"""``ml-platform rebuild``: a version made again from what it names, and its bytes compared."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ml_platform import settings
from ml_platform.cli.console import console, table, write_json

if TYPE_CHECKING:
    from ml_platform.core.tuning import TrialSummary

_SHOWN = 60


def rebuild(
    model: Annotated[str, typer.Argument(help="Which model.")],
    version: Annotated[int, typer.Argument(help="Which version.")],
    parameters_only: Annotated[
        bool, typer.Option("--parameters-only", help="Fit with the recorded parameters, without searching them anew.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Make a version again from the data it pins and compare the bytes; exit code 1 if they differ, 2 if it cannot."""
    from ml_platform import defs as declared
    from ml_platform.stores.rebuilding import rebuild as make

    _, spec = declared.model(model)
    with console(stderr=True).status(f"Joining the training set of {model} version {version} …") as progress:

        def tell(trial: "TrialSummary") -> None:
            progress.update(f"Trial {trial.number + 1} of {trial.budget} …")

        made = make(settings.load(), spec, version, search=not parameters_only, on_trial=tell)
    if as_json:
        write_json(
            {
                "model": made.model,
                "version": made.version,
                "equal": made.equal,
                "first_difference": None if made.difference is None else made.difference.what,
                "searched": made.searched,
                "comparisons": [{**asdict(each), "equal": each.equal} for each in made.comparisons],
                "libraries": {name: {"then": then, "now": now} for name, (then, now) in made.libraries.items()},
            }
        )
    else:
        told = [each for each in made.comparisons if not each.equal or not each.what.startswith("parameter ")]
        rows = [(each.what, _cut(each.recorded), _cut(each.rebuilt), each.equal) for each in told]
        console().print(table(("what", "recorded", "rebuilt", "equal"), rows))
        for name, (then, now) in made.libraries.items():
            console().print(f"  {escape(name)} was {escape(then)} and is {escape(now)}")
        if made.difference is None:
            how = "a search anew" if made.searched else "the recorded parameters"
            console().print(f"[bold]{model} version {version}[/bold]  rebuilt with {how}: the same bytes.")
        else:
            console().print(
                f"[bold]{model} version {version}[/bold]  [red]differs[/red], first in {made.difference.what}."
            )
    if not made.equal:
        sys.exit(1)


def _cut(text: str) -> str:
    """The beginning of what is long, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
