"""How sure a figure is: percentile intervals over resampled rows, days of rows drawn together.

Belongs here: drawing resamples and reading intervals off them. Rows of one day share weather and
congestion, so intervals that draw rows one by one are too narrow; days are drawn instead when
there are enough of them. All figures of one report use one set of resamples: that makes differences paired.
"""

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from ml_platform.core.metrics import Metric, Scored
from ml_platform.core.resamples import Floats, Resamples

RESAMPLES = 300
MINIMUM_DAYS = 7
"""With fewer days than this, drawing days says little: rows are drawn."""


class Figure(BaseModel):
    """A number and its interval; None where it is undefined on these rows (one class only, say)."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        if self.low is None or self.high is None:
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def resample(prediction_time: pl.Series, *, seed: int, count: int = RESAMPLES) -> Resamples:
    """Draw ``count`` resamples of rows due at ``prediction_time`` (UTC), by day or, with few days, by row."""
    days = prediction_time.dt.date().rank("dense").to_numpy().astype(np.int64) - 1
    by_day = len(days) > 0 and days.max() + 1 >= MINIMUM_DAYS
    units = days if by_day else np.arange(len(days))
    number = int(units.max()) + 1 if len(units) else 0
    rng = np.random.default_rng(seed)
    counts = (
        np.stack([np.bincount(rng.integers(0, number, number), minlength=number) for _ in range(count)])
        if number
        else (np.zeros((count, 0)))
    )
    return Resamples(counts.astype(np.float64), units, "day" if by_day else "row")


def figure(value: float, resampled: Floats, confidence: float) -> Figure:
    """``value`` with the central ``confidence`` of its resampled values, undefined ones left out."""
    defined = resampled[np.isfinite(resampled)]
    if not np.isfinite(value):
        return Figure(value=None)
    if not len(defined):
        return Figure(value=value)
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Figure(value=value, low=float(low), high=float(high))


def metric_figure(metric: Metric, scored: Scored, resamples: Resamples, confidence: float) -> Figure:
    """A metric of scored rows with its interval; ``resamples`` must be of the same rows."""
    return figure(metric.value(scored), metric.function(scored, resamples), confidence)
