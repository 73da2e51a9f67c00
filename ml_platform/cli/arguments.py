"""Text of the command line as values: moments and ``name=value`` pairs."""

from collections.abc import Sequence
from datetime import UTC, datetime


def moment(text: str) -> datetime:
    """A date or ISO time as a UTC time; a time without zone is UTC.

    Raises:
        ValueError: it is neither.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write 2013-04-01 or 2013-04-01T15:00 (UTC)") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """``["origin=JFK"]`` as ``{"origin": "JFK"}``.

    Raises:
        ValueError: one has no ``=``.
    """
    found = dict(text.split("=", maxsplit=1) for text in texts if "=" in text)
    if wrong := [text for text in texts if "=" not in text]:
        raise ValueError(f"--key takes name=value, as origin=JFK, not {wrong[0]!r}")
    return found
