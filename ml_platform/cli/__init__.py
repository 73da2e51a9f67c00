"""``ml-platform``: the platform in a terminal, for people.

A command is a function in the module of its own name, registered here. Each is thin: it reads its arguments, calls
the layer that does the work and shows what came out. What a command needs is imported when it runs, so that
``--help`` answers at once.
"""

import sys
from importlib import import_module

import typer

from ml_platform import settings

COMMANDS = ("run", "replay", "up", "status", "predict", "drift", "features", "sql", "doctor")
"""In the order of ``--help``."""

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


for _name in COMMANDS:
    app.command(_name)(getattr(import_module(f"{__name__}.{_name}"), _name))


def main() -> None:
    """Run the command line. What a person can put right is one line on stderr and exit code 2."""
    try:
        app()
    except (ValueError, LookupError, OSError, ImportError, RuntimeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"ml-platform: {' '.join(str(reason).split())}\n")
        sys.exit(2)
