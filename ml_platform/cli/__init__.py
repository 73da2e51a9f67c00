"""``ml-platform``: the platform in a terminal, for people.

A command is a function of its own name, or a group of them, registered here. Each is thin: it reads its arguments,
calls the layer that does the work and shows what came out. What a command needs is imported when it runs, so that
``--help`` answers at once.
"""

import sys
from importlib import import_module

import typer

from ml_platform import settings

COMMANDS = {
    "run": "run",
    "replay": "replay",
    "up": "up",
    "status": "status",
    "plan": "plan",
    "explain": "explain",
    "rebuild": "rebuild",
    "maintain": "maintain",
    "backup": "keep",
    "restore": "keep",
    "promote": "decide",
    "reject": "decide",
    "rollback": "decide",
    "retrain": "retrain",
    "predict": "predict",
    "drift": "drift",
    "features": "features",
    "sql": "sql",
    "alerts": "alerts",
    "doctor": "doctor",
    "bench": "bench",
}
"""Every command and the module its function is in, in the order of ``--help``."""

app = typer.Typer(
    name="ml-platform",
    help="The whole machine-learning loop as one Dagster asset graph that closes itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def platform() -> None:
    """The whole machine-learning loop as one Dagster asset graph that closes itself."""
    settings.prepare_environment()


for _name, _module in COMMANDS.items():
    _command = getattr(import_module(f"{__name__}.{_module}"), _name)
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


def main() -> None:
    """Run the command line. What a person can put right is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, LookupError, OSError, ImportError, RuntimeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"ml-platform: {' '.join(str(reason).split())}\n")
        sys.exit(2)
