"""The example's pure functions: raw tables in, feature rows or the models' entities and labels out.

Features: join key, feature columns and ``event_timestamp``. Every duration in a definition is bounded,
so a row depends on the events of that stretch and on nothing else.
"""

from collections.abc import Sequence
from datetime import datetime

import polars as pl

from ml_platform.core.durations import parse_duration
from ml_platform.core.windows import MOMENT, event_moments, grid_moments, mean_of, window_sums

LATE_MINUTES = 15
"""The US Department of Transportation counts a flight as delayed from here on."""


def scheduled_flight(schedule: pl.DataFrame, *, start: datetime, end: datetime) -> pl.DataFrame:
    """What the published schedule says of each flight, known from its publication."""
    return schedule.select(
        "flight_id",
        pl.col("carrier").alias("flight_carrier"),
        pl.col("origin").alias("flight_origin"),
        pl.col("dest").alias("flight_dest"),
        pl.col("known_at").alias(MOMENT),
    )


def arrival_delays(
    arrivals: pl.DataFrame, *, start: datetime, end: datetime, by: str, windows: Sequence[str], grid: str | None = None
) -> pl.DataFrame:
    """How late flights landed lately: count, mean delay (minutes) and share late, by origin, carrier or route.

    Args:
        arrivals: the raw table.
        start: first moment of the rows.
        end: the moment after the last one.
        by: ``origin`` (the New York airport they left), ``carrier`` or ``route`` (``EWR-IAH``).
        windows: lengths, as ``["1h", "7d"]``.
        grid: spacing of the rows, as ``"15m"``; without it there is a row at each event and expiry.
    """
    delay = pl.col("arr_delay_minutes")
    events = _with_route(arrivals).select(
        by,
        "known_at",
        delay.is_not_null().alias("count"),
        delay.alias("delay"),
        (delay >= LATE_MINUTES).alias("late"),
    )
    sums = _sums(events, by, ("count", "delay", "late"), windows, grid, start, end)
    return sums.select(
        by,
        MOMENT,
        *(
            column
            for window in windows
            for column in (
                pl.col(f"count_{window}").alias(f"{by}_arrival_count_{window}"),
                mean_of(f"delay_{window}", f"count_{window}").alias(f"{by}_arrival_delay_mean_minutes_{window}"),
                mean_of(f"late_{window}", f"count_{window}").alias(f"{by}_arrival_late_share_{window}"),
            )
        ),
    )


def departure_delays(
    departures: pl.DataFrame,
    *,
    start: datetime,
    end: datetime,
    by: str,
    windows: Sequence[str],
    grid: str | None = None,
) -> pl.DataFrame:
    """How late flights left lately: count, mean delay (minutes), share late and share cancelled.

    The mean and the share late are of flights that left; the share cancelled is of all. Arguments as for
    :func:`arrival_delays`.
    """
    delay, cancelled = pl.col("dep_delay_minutes"), pl.col("cancelled")
    events = _with_route(departures).select(
        by,
        "known_at",
        pl.lit(value=True).alias("all"),
        cancelled,
        delay.is_not_null().alias("count"),
        delay.alias("delay"),
        (delay >= LATE_MINUTES).alias("late"),
    )
    sums = _sums(events, by, ("all", "cancelled", "count", "delay", "late"), windows, grid, start, end)
    return sums.select(
        by,
        MOMENT,
        *(
            column
            for window in windows
            for column in (
                pl.col(f"count_{window}").alias(f"{by}_departure_count_{window}"),
                mean_of(f"delay_{window}", f"count_{window}").alias(f"{by}_departure_delay_mean_minutes_{window}"),
                mean_of(f"late_{window}", f"count_{window}").alias(f"{by}_departure_late_share_{window}"),
                mean_of(f"cancelled_{window}", f"all_{window}").alias(f"{by}_departure_cancelled_share_{window}"),
            )
        ),
    )


def aircraft_last_flight(
    departures: pl.DataFrame, arrivals: pl.DataFrame, *, start: datetime, end: datetime, memory: str
) -> pl.DataFrame:
    """What was last seen of each aircraft: a row whenever it leaves New York or lands after having left.

    ``aircraft_turnaround_minutes`` belongs to its last departure: minutes since the landing before it. That
    landing was elsewhere, so the return to New York is part of it. Only what happened less than ``memory``
    before the row (and, for the turnaround, before the departure) is known.
    """
    reach = parse_duration(memory)
    order = ["known_at", "flight_id"]
    landings = (
        arrivals.drop_nulls("tailnum")
        .sort(order)
        .unique(["tailnum", "known_at"], keep="last", maintain_order=True)
        .select("tailnum", pl.col("known_at").alias("landed_at"), pl.col("arr_delay_minutes").alias("landing_delay"))
    )
    takeoffs = (
        departures.filter(~pl.col("cancelled"))
        .drop_nulls("tailnum")
        .sort(order)
        .unique(["tailnum", "known_at"], keep="last", maintain_order=True)
        .select("tailnum", pl.col("known_at").alias("left_at"), pl.col("dep_delay_minutes").alias("takeoff_delay"))
        .join_asof(landings, left_on="left_at", right_on="landed_at", by="tailnum", check_sortedness=False)
        .with_columns(
            pl.when(pl.col("left_at") - pl.col("landed_at") < reach)
            .then((pl.col("left_at") - pl.col("landed_at")).dt.total_minutes())
            .alias("turnaround")
        )
        .select("tailnum", "left_at", "takeoff_delay", "turnaround")
    )
    moments = (
        pl.concat(
            [
                landings.select("tailnum", pl.col("landed_at").alias(MOMENT)),
                takeoffs.select("tailnum", pl.col("left_at").alias(MOMENT)),
            ]
        )
        .filter(pl.col(MOMENT).is_between(start, end, closed="left"))
        .unique()
        .sort(MOMENT)
    )
    seen = moments.join_asof(
        landings, left_on=MOMENT, right_on="landed_at", by="tailnum", check_sortedness=False
    ).join_asof(takeoffs, left_on=MOMENT, right_on="left_at", by="tailnum", check_sortedness=False)
    landed_lately = pl.col(MOMENT) - pl.col("landed_at") < reach
    left_lately = pl.col(MOMENT) - pl.col("left_at") < reach
    return seen.select(
        "tailnum",
        MOMENT,
        pl.when(landed_lately).then("landing_delay").alias("aircraft_last_arrival_delay_minutes"),
        pl.when(left_lately).then("takeoff_delay").alias("aircraft_last_departure_delay_minutes"),
        pl.when(left_lately).then("turnaround").alias("aircraft_turnaround_minutes"),
    ).sort("tailnum", MOMENT)


def flights_to_predict(schedule: pl.DataFrame, *, start: datetime, end: datetime, lead: str = "2h") -> pl.DataFrame:
    """One row per flight that was published in time, to be predicted ``lead`` before its scheduled departure."""
    in_time = pl.col("known_at") <= pl.col("scheduled_departure_at") - parse_duration(lead)
    return _with_route(schedule.filter(in_time)).select(
        "flight_id",
        "carrier",
        "origin",
        "dest",
        "route",
        "tailnum",
        "scheduled_departure_at",
        "scheduled_arrival_at",
        "distance_miles",
        (pl.col("scheduled_departure_at") - parse_duration(lead)).alias("prediction_time"),
    )


def late_arrivals(arrivals: pl.DataFrame, *, start: datetime, end: datetime) -> pl.DataFrame:
    """Whether each landed flight was late: ``label`` 1 from 15 minutes on, else 0; known at landing."""
    return _labels(arrivals, (pl.col("arr_delay_minutes") >= LATE_MINUTES).cast(pl.Int8))


def arrival_delay_minutes(arrivals: pl.DataFrame, *, start: datetime, end: datetime) -> pl.DataFrame:
    """How late each landed flight was, in minutes (early is negative); known at landing."""
    return _labels(arrivals, pl.col("arr_delay_minutes").cast(pl.Float64))


def _labels(arrivals: pl.DataFrame, label: pl.Expr) -> pl.DataFrame:
    landed = arrivals.drop_nulls("arr_delay_minutes")
    return landed.select("flight_id", label.alias("label"), pl.col("known_at").alias("label_time"))


def _with_route(flights: pl.DataFrame) -> pl.DataFrame:
    return flights.with_columns(pl.concat_str("origin", "dest", separator="-").alias("route"))


def _sums(
    events: pl.DataFrame,
    by: str,
    sums: Sequence[str],
    windows: Sequence[str],
    grid: str | None,
    start: datetime,
    end: datetime,
) -> pl.DataFrame:
    named = {window: parse_duration(window) for window in windows}
    lengths = list(named.values())
    if grid is None:
        moments = event_moments(events, key=by, at="known_at", windows=lengths, start=start, end=end)
    else:
        moments = grid_moments(
            events, key=by, at="known_at", windows=lengths, grid=parse_duration(grid), start=start, end=end
        )
    return window_sums(events, moments, key=by, at="known_at", sums=sums, windows=named)
