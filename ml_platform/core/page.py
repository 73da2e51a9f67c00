"""A page whose every figure says where it was read: sections of text, facts and tables, without a look.

Belongs here: the shape of such a page, and how a figure is read from its source. What a page says is told
by the module that builds it (:mod:`ml_platform.core.model_card`); HTML is made of it in ``stores``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Value = int | float | str | bool | None


@dataclass(frozen=True)
class Cited:
    """A value and the place it was read from: a JSON pointer through the sources, ``asset/key/0/key``."""

    value: Value
    source: str

    def __str__(self) -> str:
        return shown(self.value)


@dataclass(frozen=True)
class Table:
    """Rows under column names. A cell is words, a figure, or a figure with the ends of its interval."""

    columns: tuple[str, ...]
    rows: tuple[tuple["Cell", ...], ...]
    caption: str = ""


Cell = str | Cited | tuple[Cited, ...]


@dataclass(frozen=True)
class Section:
    """A titled part of a page: paragraphs, named facts, tables, and names of pictures."""

    title: str
    text: tuple[str, ...] = ()
    facts: tuple[tuple[str, Cell], ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """A titled page of sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]


class Sources:
    """What a page may cite: JSON-able values by the name of the asset they come from."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def cite(self, *path: str | int) -> Cited:
        """The single value at ``path``.

        Raises:
            KeyError: there is none; the message names the part that is missing and what is there.
        """
        value = self._find(path)
        if isinstance(value, dict | list):
            raise KeyError(f"{pointer(path)} is not a single value but a {type(value).__name__}")
        return Cited(value, pointer(path))

    def cite_figure(self, *path: str | int) -> Cell:
        """The figure at ``path`` with its ``low`` and ``high``; a dash where the source has no figure at all."""
        found = self._find(path)
        if found is None:
            return "-"
        return tuple(
            self.cite(*path, part) for part in ("value", "low", "high") if part == "value" or found[part] is not None
        )

    def _find(self, path: Sequence[str | int]) -> Any:
        value: Any = self._values
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                known = sorted(value) if isinstance(value, Mapping) else value
                raise KeyError(f"{pointer(path)} has no {part!r}: there is {known}") from None
        return value


def pointer(path: Sequence[str | int]) -> str:
    """The path as a JSON pointer (RFC 6901), without the leading slash."""
    return "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path)


def shown(value: Value) -> str:
    """A value as people read it: thousands separated, four significant digits, ``undefined`` for None."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value
