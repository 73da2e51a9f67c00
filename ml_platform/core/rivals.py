"""What predictions would have been worth under another habit of retraining: never, or by the calendar.

Belongs here: training at given moments on all that was known, serving each model until the next, and comparing what
came of it by month and by paired differences. When the platform retrains is :mod:`ml_platform.core.retraining`.
All times are event times (UTC); a model trained at a moment knows the labels known by then and predicts what is due
after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import reduce

import numpy as np
import polars as pl

from ml_platform.core.bootstrap import RESAMPLES, Figure, figure, resample
from ml_platform.core.evaluation import scored
from ml_platform.core.metrics import metric
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.scoring import raw_scores
from ml_platform.core.training import FittedModel, Params, cost_threshold, fit

SERVED_SINCE = "served_since"
"""The moment from which the model of a row's score served."""


class Cadence(StrEnum):
    """How often a calendar retrains."""

    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"


@dataclass(frozen=True)
class Tenure:
    """A model and the moment from which it predicts."""

    since: datetime
    model: FittedModel


def moments(cadence: Cadence, start: datetime, end: datetime) -> list[datetime]:
    """``start``, and every following moment before ``end`` at which a calendar retrains.

    Weeks are counted from ``start``; months and quarters begin on their first day.
    """
    if cadence is Cadence.WEEKLY:
        weeks = -(-(end - start) // timedelta(days=7))
        return [start + week * timedelta(days=7) for week in range(weeks)]
    months = 1 if cadence is Cadence.MONTHLY else 3
    found = [start]
    while True:
        last = found[-1]
        number = last.year * 12 + (last.month - 1) // months * months + months
        after = last.replace(year=number // 12, month=number % 12 + 1, day=1, hour=0, minute=0, second=0, microsecond=0)
        if after >= end:
            return found
        found.append(after)


def known(rows: pl.DataFrame, moment: datetime) -> pl.DataFrame:
    """The rows whose label was known at a moment."""
    return rows.filter(pl.col("label_time") <= moment)


def train_on_all_past(
    spec: ModelSpec,
    rows: pl.DataFrame,
    features: Sequence[str],
    params: Params,
    rounds: int,
    at: Sequence[datetime],
) -> list[Tenure]:
    """A model for each moment, fitted on every row whose label was known, none held out, with the same parameters.

    Args:
        spec: the declaration.
        rows: labelled rows with their features.
        features: the feature service's, in its order.
        params: parameters over the declaration's own.
        rounds: boosting rounds.
        at: the moments.
    """
    return [Tenure(moment, fit(spec, known(rows, moment), features, params, rounds)) for moment in at]


def serve(tenures: Sequence[Tenure], rows: pl.DataFrame, until: datetime) -> pl.DataFrame:
    """The rows due after the first tenure began and at or before ``until``, each scored by the model then serving.

    Adds ``score`` and ``served_since``, in the order of time of service.

    Raises:
        ValueError: there is no tenure, or a model had learned from a label known only after its tenure began.
    """
    if not tenures:
        raise ValueError("nothing serves: give at least one tenure")
    ordered = sorted(tenures, key=lambda tenure: tenure.since)
    served = []
    for tenure, end in zip(ordered, [*(later.since for later in ordered[1:]), until], strict=True):
        if tenure.model.trained_through > tenure.since:
            raise ValueError(
                f"a model that serves from {tenure.since} learned from a label known at {tenure.model.trained_through}"
            )
        due = rows.filter(pl.col("prediction_time") > tenure.since, pl.col("prediction_time") <= min(end, until))
        served.append(
            due.with_columns(
                pl.Series("score", raw_scores(tenure.model, due), dtype=pl.Float64),
                pl.lit(tenure.since).cast(pl.Datetime("us", "UTC")).alias(SERVED_SINCE),
            )
        )
    return pl.concat(served)


def figures(spec: ModelSpec, scores: pl.DataFrame, names: Sequence[str]) -> dict[str, float]:
    """Metrics of scored, labelled rows by name."""
    rows = scored(spec, cost_threshold(spec), scores, scores["score"].to_numpy())
    return {name: metric(name, spec.task).value(rows) for name in names}


def by_month(spec: ModelSpec, scores: Mapping[str, pl.DataFrame], names: Sequence[str]) -> pl.DataFrame:
    """Metrics by habit and by the month that rows were due in, on the rows that every habit scored.

    Args:
        spec: the declaration.
        scores: scored, labelled rows by the name of the habit.
        names: of the metrics.

    Returns:
        ``month`` (``2013-04``), ``habit``, ``rows`` and a column per metric.
    """
    keys = list(spec.keys)
    shared = reduce(lambda left, right: left.join(right, on=keys, how="semi"), scores.values())
    found = []
    for habit, frame in scores.items():
        rows = frame.join(shared, on=keys, how="semi").with_columns(
            month=pl.col("prediction_time").dt.strftime("%Y-%m")
        )
        for (month,), part in sorted(rows.group_by("month"), key=lambda pair: str(pair[0][0])):
            found.append({"month": month, "habit": habit, "rows": part.height, **figures(spec, part, names)})
    schema = {"month": pl.String, "habit": pl.String, "rows": pl.Int64, **dict.fromkeys(names, pl.Float64)}
    return pl.DataFrame(found, schema=schema).sort("month", maintain_order=True)


def paired_difference(
    spec: ModelSpec,
    name: str,
    pairs: Sequence[tuple[pl.DataFrame, pl.DataFrame]],
    *,
    resamples: int = RESAMPLES,
) -> Figure:
    """A metric by one way of predicting minus that by another, with the interval of the gate's confidence.

    Both are measured on the same draws of whole days; over several pairs (seeds, say) the differences are averaged
    draw by draw.

    Args:
        spec: the declaration.
        name: of the metric.
        pairs: scored, labelled rows by the one and by the other way.
        resamples: how many are drawn.

    Raises:
        ValueError: nothing is given, or two frames are not of the same rows.
    """
    if not pairs:
        raise ValueError("nothing to compare: give at least one pair of frames")
    keys, judged = list(spec.keys), metric(name, spec.task)
    shared = pairs[0][0].sort(keys)
    drawn = resample(shared["prediction_time"], seed=spec.seed, count=resamples)
    values, draws = [], []
    for pair in pairs:
        ours, theirs = (frame.sort(keys) for frame in pair)
        if not (ours.select(keys).equals(shared.select(keys)) and theirs.select(keys).equals(shared.select(keys))):
            raise ValueError("the frames compared are not of the same rows: each row must be scored by both")
        one, other = (scored(spec, cost_threshold(spec), frame, frame["score"].to_numpy()) for frame in (ours, theirs))
        values.append(judged.value(one) - judged.value(other))
        draws.append(judged.function(one, drawn) - judged.function(other, drawn))
    return figure(float(np.mean(values)), np.mean(draws, axis=0), spec.gate.confidence)
