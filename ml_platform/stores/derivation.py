"""What a derived table follows from: its inputs, how far back it reads them, the code that computes it.

Belongs here: the declaration alone, which an asset is made of. When a day is out of date, and how it is computed, is
:mod:`ml_platform.stores.incremental`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

Frames = Mapping[str, "pl.DataFrame"]
Compute = Callable[[Frames, datetime, datetime], "pl.DataFrame"]


FOREVER = timedelta(days=36_500)
"""The look-back of what never expires: every earlier day may be read."""


@dataclass(frozen=True)
class Input:
    """A table read, and how far back of a day. ``loaded`` is false where ``compute`` reads it by itself."""

    table: str
    look_back: timedelta = timedelta(0)
    loaded: bool = True


@dataclass(frozen=True)
class Derivation:
    """A derived table: from what, how, and the column that says in which day a row belongs."""

    table: str
    inputs: Sequence[Input]
    compute: Compute
    code_version: str
    time_column: str
    sort_by: Sequence[str]


def days_between(first: date, last: date) -> list[str]:
    """The days from ``first`` to ``last``, both included, as partition names."""
    return [(first + timedelta(days=i)).isoformat() for i in range((last - first).days + 1)]


@lru_cache(maxsize=2**14)
def day_bounds(day: str) -> tuple[datetime, datetime]:
    """The first instant of a UTC day and of the next one."""
    start = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    return start, start + timedelta(days=1)


def look_back_days(look_back: timedelta) -> int:
    """How many earlier days a look-back from the first instant of a day reaches into."""
    return -(-look_back // timedelta(days=1))
