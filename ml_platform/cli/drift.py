"""``ml-platform drift``: how far the present is from what the champion learned from, and what its alarms are worth."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ml_platform import settings
from ml_platform.cli.console import console, table, write_json

if TYPE_CHECKING:
    from ml_platform.core.model_spec import ModelSpec

Model = Annotated[str | None, typer.Argument(help="One model; all if absent.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")]


class _ShowUnlessTold(TyperGroup):
    """``drift [MODEL]`` is ``drift show [MODEL]``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with ``show`` before what names no command."""
        named = bool(args) and args[0] in {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if named else ["show", *args])


drift = typer.Typer(
    cls=_ShowUnlessTold,
    help="Show the newest drift report, or calibrate what counts as an alarm; without a command, show.",
)


@drift.command()
def show(model: Model = None, as_json: AsJson = False) -> None:
    """Show the newest drift report of a model, column by column, strongest effect first."""
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.status import drift_status

    lake = Lake.of(settings.load())
    reports = {spec.name: drift_status(lake, spec) for spec in _specs(model)}
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
            (
                column,
                each.strength,
                "ignored" if each.ignored else each.drifted,
                each.asked,
                each.effect,
                each.chance,
                None if each.importance is None else f"{each.importance:.1%}",
                each.psi,
            )
            for column, each in {"score": found.prediction, **found.columns}.items()
        ]
        headings = ("column", f"strength (limit {found.limit:.2f})", "drifted", "what moved", "effect", "chance")
        out.print(table((*headings, "importance", "PSI"), rows))


@drift.command()
def calibrate(model: Model = None, as_json: AsJson = False) -> None:
    """Calibrate drift from the champion as a Dagster run; how often chance is an alarm, how soon a shift is found."""
    from ml_platform.cli.execution import execute_calibration
    from ml_platform.stores.instance import prepare_dagster_home
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.ledger import Ledger
    from ml_platform.stores.status import calibration_status

    lake = Lake.of(prepare_dagster_home(settings.load()))
    specs = _specs(model)
    calibrated = {spec.name: spec for spec in specs if Ledger(lake).champion(spec.name) is not None}
    for name in calibrated:
        execute_calibration(name)
    found = {spec.name: calibration_status(lake, spec) if spec.name in calibrated else None for spec in specs}
    if as_json:
        write_json({name: None if each is None else each.model_dump(mode="json") for name, each in found.items()})
        return
    out = console()
    for name, each in found.items():
        if each is None:
            out.print(f"[bold]{name}[/bold]  no champion yet: there is nothing to drift from\n")
            continue
        out.print(
            f"[bold]{name}[/bold]  version {each.model_version}: effects stronger than {each.alarm_limit:.2f} are an "
            f"alarm. So are {each.false_alarms:,} of {each.windows:,} windows without change "
            f"({each.false_alarms_per_100_windows:.2f} in 100), each {each.window_days} of {each.reference_days} days "
            f"in random order; {each.false_calls:,} persist."
        )
        shifts = [
            (s.feature, s.shift, *(f"{part:.1%}" for part in (s.found_at_once, s.found, s.called)), s.delay_windows)
            for s in each.shifts
        ]
        headings = (
            "feature",
            "shift (σ)",
            "found in the first window",
            "within 3",
            "persists within 3",
            "mean windows",
        )
        out.print(table(headings, shifts))


def _specs(model: str | None) -> "list[ModelSpec]":
    from ml_platform import defs as declared

    if model is not None:
        return [declared.model(model)[1]]
    return [spec for dataset in declared.datasets() for spec in dataset.models]
