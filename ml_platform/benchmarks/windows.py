"""Rolling windows as the flights' features have them, and the same in DuckDB: Arrow in, Arrow out.

``python -m ml_platform.benchmarks.windows ours|duckdb|duckdb_range ROWS route|origin`` gives count, mean delay and
share late of so many arrivals of a year over the flights' four windows: by route at each event and expiry, by origin
every 15 minutes. ``answer`` is a hash of all values.

One convention on all sides: a window ``w`` at ``t`` covers ``(t - w, t]``. Ours and ``duckdb`` take the running total
at ``t`` less that at ``t - w``, both inclusive (as-of, ``>=``): what happened at ``t - w`` itself is taken away.
``duckdb_range`` says it as ``RANGE BETWEEN w - 1 PRECEDING AND CURRENT ROW`` over whole microseconds, where the current
row has its peers with it. Moments are at whole minutes, so that edges are hit all the time.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa

from ml_platform.benchmarks.measuring import measured, tell
from ml_platform.core.durations import parse_duration
from ml_platform.core.windows import MOMENT
from ml_platform.defs.nyc_flights.transforms import LATE_MINUTES, arrival_delays

BEGIN, SPAN, LOOK_BACK = datetime(2023, 1, 1, tzinfo=UTC), timedelta(days=365), timedelta(days=8)
START, END = BEGIN + LOOK_BACK, BEGIN + SPAN
WINDOWS = ("1h", "3h", "24h", "7d")
GRIDS = {"route": None, "origin": "15m"}
_MINUTE = 60_000_000


def arrivals(rows: int) -> pa.Table:
    """Arrivals of three airports and 225 routes at random minutes of a year; a fiftieth has no delay."""
    random = np.random.default_rng(0)
    minutes = np.sort(random.integers(0, SPAN // timedelta(minutes=1), rows))
    delays = pl.Series(random.normal(5.0, 30.0, rows)).round().cast(pl.Int64)
    frame = pl.DataFrame(
        {
            "origin": pl.Series(["EWR", "JFK", "LGA"]).gather(random.integers(0, 3, rows)),
            "dest": pl.Series([f"D{number:02}" for number in range(75)]).gather(random.integers(0, 75, rows)),
            "known_at": pl.Series(_microseconds(BEGIN) + minutes * _MINUTE).cast(pl.Datetime("us", "UTC")),
            "arr_delay_minutes": pl.select(pl.when(pl.Series(random.random(rows)) >= 0.02).then(delays)).to_series(),
        }
    )
    return frame.to_arrow()


def ours(table: pa.Table, by: str) -> pa.Table:
    """The transform of the flights' features."""
    frame = pl.DataFrame(table)
    return arrival_delays(frame, start=START, end=END, by=by, windows=WINDOWS, grid=GRIDS[by]).to_arrow()


def duckdb(table: pa.Table, by: str) -> pa.Table:
    """Running totals and as-of joins in SQL: of what was tried there, it takes the least CPU."""
    joins = " ".join(
        f"ASOF LEFT JOIN totals w{window} ON m.key = w{window}.key AND m.t - {length} >= w{window}.ts"
        for window, length in _lengths().items()
    )
    differences = ", ".join(
        f"coalesce(n.{name}, 0) - coalesce(w{window}.{name}, 0) AS {name}_{window}"
        for window in WINDOWS
        for name in ("count", "delay", "late")
    )
    values = ", ".join(
        f"count_{window}, delay_{window} / nullif(count_{window}, 0) AS delay_{window}, "
        f"late_{window} / nullif(count_{window}, 0) AS late_{window}"
        for window in WINDOWS
    )
    return _run(
        table,
        f"""{_events_and_moments(by)},
        at_once AS (
            SELECT key, ts, count(delay) AS count, coalesce(sum(delay), 0) AS delay,
                countif(delay >= {LATE_MINUTES}) AS late
            FROM events GROUP BY ALL
        ),
        totals AS MATERIALIZED (
            SELECT key, ts, (sum(count) OVER o)::BIGINT AS count, (sum(delay) OVER o)::BIGINT AS delay,
                (sum(late) OVER o)::BIGINT AS late
            FROM at_once WINDOW o AS (PARTITION BY key ORDER BY ts ROWS UNBOUNDED PRECEDING)
        ),
        sums AS (
            SELECT m.key, m.t, {differences}
            FROM moments m ASOF LEFT JOIN totals n ON m.key = n.key AND m.t >= n.ts {joins}
        )
        SELECT key AS {by}, make_timestamptz(t) AS {MOMENT}, {values} FROM sums""",
    )


def duckdb_range(table: pa.Table, by: str) -> pa.Table:
    """The windows as SQL has them; without ``avg``, which rounds a mean's last bit otherwise."""
    frames = ", ".join(
        f"w{window} AS (PARTITION BY key ORDER BY t RANGE BETWEEN {length - 1} PRECEDING AND CURRENT ROW)"
        for window, length in _lengths().items()
    )
    values = ", ".join(
        f"count(delay) OVER w{window} AS count_{window}, "
        f"(sum(delay) OVER w{window})::BIGINT / nullif(count(delay) OVER w{window}, 0) AS delay_{window}, "
        f"countif(delay >= {LATE_MINUTES}) OVER w{window} / nullif(count(delay) OVER w{window}, 0) AS late_{window}"
        for window in WINDOWS
    )
    return _run(
        table,
        f"""{_events_and_moments(by)},
        both_kinds AS (
            SELECT key, ts AS t, delay, false AS asked FROM events
            UNION ALL SELECT key, t, NULL, true FROM moments
        ),
        statistics AS (SELECT key, t, asked, {values} FROM both_kinds WINDOW {frames})
        SELECT key AS {by}, make_timestamptz(t) AS {MOMENT}, * EXCLUDE (key, t, asked) FROM statistics WHERE asked""",
    )


def _events_and_moments(by: str) -> str:
    key = "origin || '-' || dest" if by == "route" else by
    start, end, grid = _microseconds(START), _microseconds(END), GRIDS[by]
    if grid is None:
        shifts = ", ".join(map(str, (0, *_lengths().values())))
        moments = f"SELECT DISTINCT key, t FROM (SELECT key, ts + unnest([{shifts}]) AS t FROM events)"
        moments += f" WHERE t >= {start} AND t < {end}"
    else:
        step = parse_duration(grid) // timedelta(microseconds=1)
        points = f"range({-(-start // step) * step}, {end}, {step}) AS points(t)"
        moments = f"SELECT key, t FROM (SELECT DISTINCT key FROM events), {points}"
    return f"""WITH events AS MATERIALIZED (
            SELECT {key} AS key, epoch_us(known_at) AS ts, arr_delay_minutes AS delay FROM arrivals
        ),
        moments AS ({moments})"""


def _run(table: pa.Table, sql: str) -> pa.Table:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("arrivals", table)
        return connection.sql(sql).to_arrow_table()


def _lengths() -> dict[str, int]:
    return {window: parse_duration(window) // timedelta(microseconds=1) for window in WINDOWS}


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000


def answer(table: pa.Table) -> int:
    """A hash of all values and of what they belong to, whatever the order of rows and the names of columns."""
    frame = pl.DataFrame(table)
    key, moment, *values = frame.columns
    counts, others = values[::3], [name for number, name in enumerate(values) if number % 3]
    same = frame.select(
        pl.col(key).cast(pl.String).alias("key"),
        pl.col(moment).cast(pl.Datetime("us", "UTC")).alias("moment"),
        *(pl.col(name).cast(pl.Int64).alias(f"count{number}") for number, name in enumerate(counts)),
        *(pl.col(name).cast(pl.Float64).alias(f"value{number}") for number, name in enumerate(others)),
    )
    return int(same.hash_rows(seed=0).sum())


def main(side: str, rows: int, by: str) -> None:
    """As the module says."""
    table = arrivals(rows)
    sides: dict[str, Callable[[pa.Table, str], pa.Table]] = {
        "ours": ours,
        "duckdb": duckdb,
        "duckdb_range": duckdb_range,
    }
    found, figures = measured(lambda: sides[side](table, by))
    tell({**figures, "answer": answer(found)})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
