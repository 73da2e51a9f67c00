"""A process that writes to a lake: ``python writer.py <how> <lake> <numbers…>``, to be killed or to meet another."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Never

import polars as pl

from ml_platform.stores.catalog import PartitionState
from ml_platform.stores.lake import Lake

ROWS = 3_000_000
TABLE = "raw/counts"


def frame(generation: int, rows: int = ROWS) -> pl.DataFrame:
    """Rows that all say which write they belong to, and compress badly."""
    numbers = pl.int_range(rows, eager=True)
    return pl.DataFrame(
        {"number": numbers, "noise": numbers.hash(generation).cast(pl.Float64), "generation": [generation] * rows}
    )


def write(lake: Lake, generation: int, days: Sequence[str], rows: int = ROWS) -> dict[str, PartitionState]:
    """Replace these days by a generation, as one write."""
    return lake.write_partitions(
        TABLE,
        {day: frame(generation, rows) for day in days},
        sort_by=["number"],
        inputs_hash=dict.fromkeys(days, f"generation {generation}"),
        inputs={},
    )


class DiesBeforeRecording(Lake):
    """Dies by SIGKILL when the data are committed and nothing is recorded of them."""

    def _append_records(self, states: Sequence[PartitionState], files: Mapping[str, Sequence[str]]) -> Never:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")


def own_days(writer: int) -> list[str]:
    """Days that no other writer writes."""
    return [(date(2013, 1, 1) + timedelta(days=10 * writer + i)).isoformat() for i in range(3)]


def main(how: str, uri: str, *numbers: str) -> None:
    """Write one generation, die in the middle, or write one's own days again and again."""
    if how == "once":
        write(Lake(uri), int(numbers[0]), ["2013-01-01"])
    elif how == "dying":
        write(DiesBeforeRecording(uri), int(numbers[0]), ["2013-01-01"], 1000)
    else:
        writer, times = map(int, numbers)
        for generation in range(times):
            write(Lake(uri), generation, own_days(writer), 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
