"""``ml-platform promote``, ``reject`` and ``rollback``: a person's word on a model, as a Dagster run."""

import getpass
from typing import Annotated

import typer

from ml_platform import settings
from ml_platform.cli.console import console, write_json

Model = Annotated[str, typer.Argument(help="Which model.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, in your words; it goes to the ledger.")]
Person = Annotated[str | None, typer.Option("--by", help="On whose word; by default whoever is logged in.")]
Candidate = Annotated[int | None, typer.Argument(help="Which version; by default the newest that waits.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")]


def promote(
    model: Model, reason: Reason, version: Candidate = None, by: Person = None, as_json: AsJson = False
) -> None:
    """Make a candidate champion that passed its gates and waits for approval."""
    _decide("promote", model, version, reason, by, as_json)


def reject(model: Model, reason: Reason, version: Candidate = None, by: Person = None, as_json: AsJson = False) -> None:
    """Refuse a candidate that waits for approval: the champion stays."""
    _decide("reject", model, version, reason, by, as_json)


def rollback(
    model: Model,
    reason: Reason,
    to: Annotated[int | None, typer.Option("--to", help="Which version; by default the champion before.")] = None,
    by: Person = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier champion the champion again; the next predictions are its own."""
    _decide("rollback", model, to, reason, by, as_json)


def _decide(verdict: str, model: str, version: int | None, reason: str, by: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.markup import escape

    from ml_platform import defs as declared
    from ml_platform.cli.execution import execute_decision
    from ml_platform.stores.instance import prepare_dagster_home
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.ledger import Ledger

    declared.model(model)
    here = prepare_dagster_home(settings.load())
    entry = execute_decision(here, model, verdict, {"reason": reason, "person": by or user(), "version": version})
    if as_json:
        write_json({**asdict(entry), "gates": entry.gate_results})
        return
    champion = Ledger(Lake.of(here)).champion(model)
    predicting = "no version predicts" if champion is None else f"version {champion.version} predicts"
    console().print(
        f"[bold]{model}[/bold]  version {entry.version}: {entry.rule.replace('_', ' ')} "
        f"({escape(entry.decided_by)}: {escape(entry.reason)}). From now on {predicting}.\n"
        f"  run  {here.dagster_url}/runs/{entry.run_id}"
    )


def user() -> str:
    """Whoever is logged in.

    Raises:
        ValueError: they have no name here.
    """
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ValueError("whoever is logged in has no name here: say on whose word with --by PERSON") from None
