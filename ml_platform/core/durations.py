"""Lengths of time as people write them in YAML: ``15m``, ``2h``, ``7d``. Nothing about calendars."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(value: object) -> timedelta:
    """``"90m"``, ``"2h"``, ``"7d"`` or ``"2w"`` as a :class:`~datetime.timedelta`.

    Raises:
        ValueError: anything else; the message names the value and the known units.
    """
    if isinstance(value, timedelta):
        return value
    match = re.fullmatch(r"(\d+)([mhdw])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration: write a whole number and one of m, h, d, w, as in '7d'")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def format_duration(value: timedelta) -> str:
    """The shortest form that :func:`parse_duration` reads back."""
    minutes = int(value.total_seconds() // 60)
    for unit, size in (("d", 1440), ("h", 60)):
        if minutes and minutes % size == 0:
            return f"{minutes // size}{unit}"
    return f"{minutes}m"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, return_type=str)]
