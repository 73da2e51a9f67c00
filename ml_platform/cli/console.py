"""What commands show: tables and lines for people on stdout, JSON for machines."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_PIPE_WIDTH = 240


def console(*, stderr: bool = False) -> "Console":
    """A console that does not colour numbers; what is piped on is as wide as it needs."""
    from rich.console import Console

    wide = None if (sys.stderr if stderr else sys.stdout).isatty() else _PIPE_WIDTH
    return Console(stderr=stderr, highlight=False, soft_wrap=True, width=wide)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> "Table":
    """Rows under headings; columns of numbers are right-aligned."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    cells = [list(row) for row in rows]
    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for number, name in enumerate(columns):
        numeric = all(isinstance(row[number], int | float | None) for row in cells) and bool(cells)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=number == 0)
    for row in cells:
        made.add_row(*(escape(shown(value)) for value in row))
    return made


def shown(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M"))
    return str(value)


def as_json(value: Any) -> str:
    """One JSON document; times are ISO 8601, in UTC with a Z."""
    return json.dumps(value, indent=2, default=_plain) + "\n"


def write_json(value: Any) -> None:
    """:func:`as_json` on stdout."""
    sys.stdout.write(as_json(value))


def _plain(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")
