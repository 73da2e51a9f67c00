"""Sums over rolling windows as the flights' features have them: in Polars, as the platform does, and in DuckDB.

``python -m ml_platform.benchmarks.windows ours|duckdb ROWS`` sums three columns over four windows ``(t - w, t]``
at every moment at which one of them changes, a thousand rows a key. DuckDB is asked for running totals by as-of joins,
as the platform is; ranges over events and moments together take it twice as long. ``answer`` is the digest of all rows.
"""

import sys
from datetime import UTC, datetime, timedelta
from typing import cast

import numpy as np
import polars as pl

from ml_platform.benchmarks.measuring import measured, tell
from ml_platform.core.content import content_hash
from ml_platform.core.windows import MOMENT, event_moments, window_sums

START, DAYS, ROWS_A_KEY = datetime(2013, 1, 1, tzinfo=UTC), 90, 1000
SUMS = ("flights", "minutes", "late")
WINDOWS = {"1h": timedelta(hours=1), "3h": timedelta(hours=3), "24h": timedelta(days=1), "7d": timedelta(days=7)}


def events(number: int) -> pl.DataFrame:
    """Events of many keys at random minutes of a quarter, several at once among them."""
    random = np.random.default_rng(0)
    minutes = random.integers(0, DAYS * 24 * 60, number)
    late = random.integers(-20, 90, number)
    return pl.DataFrame(
        {
            "key": random.integers(0, max(1, number // ROWS_A_KEY), number),
            "known_at": pl.Series(minutes).cast(pl.Int64) * 60_000_000 + int(START.timestamp() * 1e6),
            "flights": np.ones(number, dtype=np.int64),
            "minutes": late,
            "late": late >= 15,
        }
    ).with_columns(pl.col("known_at").cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))


def ours(rows: pl.DataFrame, end: datetime) -> pl.DataFrame:
    """As the transforms of the flights call it."""
    lengths = list(WINDOWS.values())
    moments = event_moments(rows, key="key", at="known_at", windows=lengths, start=START, end=end)
    return window_sums(rows, moments, key="key", at="known_at", sums=SUMS, windows=WINDOWS)


_MOMENTS = """
    SELECT DISTINCT key, moment FROM (
        SELECT key, unnest([known_at, {shifted}]) AS moment FROM events
    ) WHERE moment >= $start AND moment < $end
"""
_TOTALS = """
    WITH moments AS ({moments}), by_moment AS (
        SELECT key, known_at, sum(flights) AS flights, sum(minutes) AS minutes, sum(late::BIGINT) AS late
        FROM events GROUP BY key, known_at
    ), totals AS (
        SELECT key, known_at, {totals} FROM by_moment WINDOW so_far AS (PARTITION BY key ORDER BY known_at)
    )
    SELECT moments.key, moments.moment AS event_timestamp, {columns} FROM moments
    ASOF LEFT JOIN totals now ON moments.key = now.key AND moments.moment >= now.known_at
    {joins} ORDER BY 1, 2
"""
_IN_SQL = {"1h": "INTERVAL 1 HOUR", "3h": "INTERVAL 3 HOUR", "24h": "INTERVAL 24 HOUR", "7d": "INTERVAL 7 DAY"}


def _moments() -> str:
    return _MOMENTS.format(shifted=", ".join(f"known_at + {length}" for length in _IN_SQL.values()))


def in_sql() -> str:
    """The running total at the moment, less that at the window's beginning."""
    joins = [
        f"ASOF LEFT JOIN totals t{window} ON moments.key = t{window}.key "
        f"AND moments.moment - {length} >= t{window}.known_at"
        for window, length in _IN_SQL.items()
    ]
    columns = [
        f'(coalesce(now.{name}, 0) - coalesce(t{window}.{name}, 0))::BIGINT AS "{name}_{window}"'
        for window in _IN_SQL
        for name in SUMS
    ]
    totals = [f"sum({name}) OVER so_far AS {name}" for name in SUMS]
    return _TOTALS.format(
        moments=_moments(), totals=", ".join(totals), columns=", ".join(columns), joins="\n".join(joins)
    )


def main(side: str, number: int) -> None:
    """As the module says."""
    import duckdb

    rows, end = events(number), START + timedelta(days=DAYS)
    with duckdb.connect() as connection:
        # Arithmetic with time zones is an extension of DuckDB's; all is UTC.
        connection.register("events", rows.with_columns(pl.col("known_at").dt.replace_time_zone(None)).to_arrow())

        def work() -> pl.DataFrame:
            if side == "ours":
                return ours(rows, end)
            between = {"start": START.replace(tzinfo=None), "end": end.replace(tzinfo=None)}
            return cast(pl.DataFrame, pl.from_arrow(connection.execute(in_sql(), between).to_arrow_table()))

        found, figures = measured(work)
    typed = found.with_columns(pl.col(MOMENT).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    tell({**figures, "rows": typed.height, "answer": content_hash(typed, ["key", MOMENT])})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
