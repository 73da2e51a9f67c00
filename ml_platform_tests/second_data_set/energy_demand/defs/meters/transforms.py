"""Pure functions of the meters: raw tables in; feature rows, hours to predict or what was used out."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import polars as pl

from ml_platform.core.durations import parse_duration
from ml_platform.core.windows import MOMENT, grid_moments, mean_of, window_sums

METER = ["site", "meter"]


def recent_demand(
    readings: pl.DataFrame, *, start: datetime, end: datetime, windows: Sequence[str], grid: str
) -> pl.DataFrame:
    """Mean energy of the readings that arrived over each window, on a grid."""
    named = {window: parse_duration(window) for window in windows}
    events = readings.with_columns(pl.lit(1).alias("count"))
    moments = grid_moments(
        events,
        key=METER,
        at="known_at",
        windows=list(named.values()),
        grid=parse_duration(grid),
        start=start,
        end=end,
    )
    sums = window_sums(events, moments, key=METER, at="known_at", sums=("count", "energy_wh"), windows=named)
    means = (mean_of(f"energy_wh_{name}", f"count_{name}").alias(f"mean_energy_wh_{name}") for name in windows)
    return sums.select(*METER, MOMENT, *means)


def same_hour_yesterday(readings: pl.DataFrame, *, start: datetime, end: datetime) -> pl.DataFrame:
    """At six hours before each hour, what the hour a day before it used, as reported last by then; else nothing."""
    moment = pl.col("measured_at") + timedelta(hours=18)
    used = pl.col("energy_wh").alias("same_hour_yesterday_wh")
    known = readings.filter(pl.col("known_at") <= moment).sort("known_at")
    newest = known.unique([*METER, "measured_at"], keep="last", maintain_order=True)
    return newest.select(*METER, moment.alias(MOMENT), used)


def hours_to_predict(readings: pl.DataFrame, *, start: datetime, end: datetime, lead: str) -> pl.DataFrame:
    """Every hour of every meter that reported within the day before, ``lead`` ahead."""
    hour = timedelta(hours=1)
    moments = grid_moments(
        readings, key=METER, at="known_at", windows=[timedelta(hours=23)], grid=hour, start=start, end=end
    )
    moment = pl.col(MOMENT)
    return moments.select(*METER, (moment + parse_duration(lead)).alias("hour_at"), moment.alias("prediction_time"))


def used_energy(readings: pl.DataFrame, *, start: datetime, end: datetime) -> pl.DataFrame:
    """What was used in the hour, known when the reading arrived."""
    label, label_time = pl.col("energy_wh").cast(pl.Float64).alias("label"), pl.col("known_at").alias("label_time")
    return readings.select(*METER, pl.col("measured_at").alias("hour_at"), label, label_time)
