"""What drift's alarms are worth on a finished home, beside Evidently's defaults: the figures of docs/drift.md.

``make drift-study`` prints the tables and draws the picture, of the home that ``make run`` left (20 minutes).

Unlike the calibration, which adds a shift to sums over days, a shift is made here in the rows themselves, and the model
scores them anew. Histories are the days of the reference, each once, in random order, cut into windows.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from ml_platform import settings
from ml_platform.core import plots
from ml_platform.core.drift_calibration import SHIFTS, Calibration, calibrate, important
from ml_platform.core.drift_effects import SCORE, Array, Yardstick, yardstick
from ml_platform.core.model_spec import WITHIN, ModelSpec
from ml_platform.core.scoring import score
from ml_platform.core.training import FittedModel
from ml_platform.defs import datasets
from ml_platform.stores.lake import Lake
from ml_platform.stores.models import ModelStore
from ml_platform.stores.monitoring import drift_reference
from ml_platform.stores.table_names import drift_table

if TYPE_CHECKING:
    import pandas as pd

PICTURE = settings.PROJECT_ROOT / "docs" / "images" / "drift_calibration.png"
PICTURED = "flight_delay"
HISTORIES, TRIALS, HALVES = 1_000, 100, 20

EVIDENTLY_TRIALS, EVIDENTLY_SHIFTS = 40, (0.25, 0.5)
"""Fewer: a window takes seconds."""

SEED = 2013


@dataclass(frozen=True)
class Subject:
    """A champion, what it learned from, and the calibration of it."""

    spec: ModelSpec
    model: FittedModel
    rows: pl.DataFrame
    measure: Yardstick
    calibration: Calibration

    def shifted(self, feature: str, shift: float) -> pl.DataFrame:
        """The reference with one feature shifted, scored anew.

        Of a category, as many rows at random become the one with the highest mean score as shift the mean as much.
        """
        deviation = shift * self.measure.scale[self.measure.features.index(feature)]
        codes = self.measure.codes.get(feature)
        if codes is None:
            changed = pl.col(feature).cast(pl.Float64) + deviation
        else:
            top = max(codes, key=codes.__getitem__)
            share = deviation / (codes[top] - self.measure.centre[self.measure.features.index(feature)])
            chosen = np.random.default_rng(SEED).random(self.rows.height) < share
            changed = pl.when(pl.Series(chosen)).then(pl.lit(top)).otherwise(feature)
        return score(self.model, self.rows.drop(SCORE, "decision", strict=False).with_columns(changed.alias(feature)))

    def by_day(self, rows: pl.DataFrame) -> tuple[Array, Array]:
        """Sums and number of rows of each day."""
        days = rows.with_columns(day=pl.col("prediction_time").dt.date()).sort("day").partition_by("day")
        windows = [self.measure.window(day) for day in days]
        return np.array([sums for sums, _, _ in windows]), np.array([count for _, count, _ in windows])

    def strongest(self, sums: Array, rows: Array, windows: Array) -> Array:
        """The strongest effect in windows, given as the numbers of their days along the last axis."""
        sizes = self.measure.sizes(sums[windows].sum(axis=-2), rows[windows].sum(axis=-1))
        return np.asarray(self.measure.strengths(sizes, windows.shape[-1]).max(axis=-1))


def subjects() -> Iterator[Subject]:
    """Every model of the home that has a champion."""
    here = settings.load()
    lake, models = Lake.of(here), ModelStore(here)
    for spec in (spec for dataset in datasets() for spec in dataset.models):
        champion = models.champion(spec.name)
        if champion is not None:
            model = models.load(spec.name, champion.version)
            learned = drift_reference(lake, spec, champion, model)
            measure = yardstick(spec.drift, learned.rows, learned.importances)
            yield Subject(spec, model, learned.rows, measure, calibrate(spec.drift, measure, spec.seed))


def histories(days: int, window: int, count: int, seed: int) -> np.ndarray:
    """Windows of days in random order: (histories, windows, days of a window)."""
    rng = np.random.default_rng(seed)
    whole = days // window * window
    return np.array([rng.permutation(days)[:whole].reshape(-1, window) for _ in range(count)])


def delay(alarms: np.ndarray) -> Array:
    """Windows up to the first alarm of each trial; one more than there are if there is none."""
    return np.where(alarms.any(axis=1), alarms.argmax(axis=1), alarms.shape[1]) + 1.0


def ours(subject: Subject) -> tuple[list[str], pl.DataFrame]:
    """Lines of the table of what is found, and the points of the curve."""
    limits = [each.limit for each in subject.calibration.false_alarms]
    sums, rows = subject.by_day(subject.rows)
    measure = subject.measure
    still = subject.strongest(sums, rows, histories(measure.days, measure.window_days, HISTORIES, SEED))
    trials = histories(measure.days, measure.window_days, TRIALS, SEED + 1)[:, :WITHIN]
    chosen = subject.calibration.limit
    lines, points = [], []
    for feature in important(measure):
        for shift in SHIFTS:
            moved = subject.strongest(*subject.by_day(subject.shifted(feature, shift)), trials)
            late = delay(moved > chosen)
            lines.append(
                f"| `{subject.spec.name}` | `{feature}` | {shift:g}σ | {(late <= 1).mean():.0%} "
                f"| {(late <= WITHIN).mean():.0%} | {late.mean():.2f} |"
            )
            points += [
                {
                    "line": f"ours, shift of {shift:.2f}σ",
                    "limit": limit,
                    "false_alarms_per_100_windows": 100 * float((still > limit).mean()),
                    "delay_windows": float(delay(moved > limit).mean()),
                    "chosen": bool(limit == chosen),
                }
                for limit in limits
            ]
    lines.append(
        f"| `{subject.spec.name}` | none | | {int((still > chosen).sum())} alarms in {still.size:,} windows "
        f"({100 * (still > chosen).mean():.2f} per 100) | | |"
    )
    return lines, pl.DataFrame(points)


def evidently(subject: Subject) -> tuple[list[str], pl.DataFrame]:
    """The same of Evidently's default: a data set drifts if half of its columns do, each by its default test."""
    features = list(subject.model.features)
    numbers = {day: number for number, day in enumerate(sorted(subject.rows["prediction_time"].dt.date().unique()))}
    day = subject.rows["prediction_time"].dt.date().replace_strict(numbers, return_dtype=pl.Int64).to_numpy()
    columns = {name: _series(subject.rows[name]) for name in (*features, SCORE)}
    trials = histories(subject.measure.days, subject.measure.window_days, EVIDENTLY_TRIALS, SEED + 1)[:, :WITHIN]
    masks = [[np.isin(day, window) for window in trial] for trial in trials]
    tests = {name: _default_test(column) for name, column in columns.items()}
    drifted = np.array([[[tests[name](columns[name][mask]) for name in columns] for mask in row] for row in masks])
    lines, points = [], []
    still = drifted.mean(axis=2)
    for feature in important(subject.measure):
        for shift in EVIDENTLY_SHIFTS:
            rows = subject.shifted(feature, shift)
            moved = drifted.copy()
            for name in (feature, SCORE):
                shifted = _series(rows[name])
                place = list(columns).index(name)
                moved[:, :, place] = [[tests[name](shifted[mask]) for mask in row] for row in masks]
            shares = moved.mean(axis=2)
            late = delay(shares >= 0.5)
            lines.append(
                f"| `{subject.spec.name}` | `{feature}` | {shift:g}σ | {(late <= 1).mean():.0%} "
                f"| {(late <= WITHIN).mean():.0%} | {late.mean():.2f} |"
            )
            points += [
                {
                    "line": f"Evidently, shift of {shift:.2f}σ",
                    "limit": float(limit),
                    "false_alarms_per_100_windows": 100 * float((still >= limit).mean()),
                    "delay_windows": float(delay(shares >= limit).mean()),
                    "chosen": bool(limit == 0.5),
                }
                for limit in np.unique([0.5, *np.quantile(still, np.linspace(0, 1, 21)), 1.0])
            ]
    lines.append(
        f"| `{subject.spec.name}` | none | | {int((still >= 0.5).sum())} alarms in {still.size:,} windows "
        f"({100 * (still >= 0.5).mean():.1f} per 100); columns drifted: {still.mean():.0%} on average | | |"
    )
    return lines, pl.DataFrame(points)


def honest(subject: Subject) -> str:
    """Alarms where windows are not drawn from the days that set the limit, or are in their own order."""
    spec, measure = subject.spec, subject.measure
    sums, rows = subject.by_day(subject.rows)
    order = np.array(
        [range(first, first + measure.window_days) for first in range(measure.days - measure.window_days + 1)]
    )
    real = subject.strongest(sums, rows, order) > subject.calibration.limit
    dates = sorted(subject.rows["prediction_time"].dt.date().unique())
    importances = subject.model.importances
    shares = []
    for number in range(HALVES):
        half = set(np.random.default_rng([SEED, number]).permutation(len(dates))[: len(dates) // 2].tolist())
        mine = subject.rows["prediction_time"].dt.date().is_in([dates[place] for place in half])
        part = yardstick(spec.drift, subject.rows.filter(mine), importances)
        other = Subject(spec, subject.model, subject.rows.filter(~mine), part, calibrate(spec.drift, part, spec.seed))
        windows = histories(len(dates) - len(half), measure.window_days, HISTORIES // 10, SEED)
        alarms = other.strongest(*other.by_day(other.rows), windows) > other.calibration.limit
        shares.append(100 * float(alarms.mean()))
    lake = Lake.of(settings.load())
    since = lake.read(drift_table(spec)).filter(pl.col("reported_day") >= subject.rows["prediction_time"].max())
    days = since.group_by("reported_day").agg(pl.col("alarm").first())
    return (
        f"`{spec.name}`: of {len(real)} windows of the reference in their own order {int(real.sum())} are alarms. "
        f"Calibrated on a random half of the days, windows of the other half: {np.median(shares):.1f} alarms per 100 "
        f"(median of {HALVES} halves, {min(shares):.1f} to {max(shares):.1f}). "
        f"Of the {days.height} days reported since, {int(days['alarm'].sum())} are alarms."
    )


def _series(column: pl.Series) -> "pd.Series":
    return (column if column.dtype == pl.String else column.cast(pl.Float64)).to_pandas()


def _default_test(reference: "pd.Series") -> "Callable[[pd.Series], bool]":
    """Whether a column drifted, by the test that Evidently's data drift preset takes for it by default."""
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    known = reference.dropna()
    kind = ColumnType.Numerical if known.dtype.kind == "f" else ColumnType.Categorical
    test = get_stattest(known, known, kind, None)

    def drifted(current: "pd.Series") -> bool:
        values = current.dropna()
        return bool(len(values)) and bool(test(known, values, kind, None).drifted)

    return drifted


def _say(title: str, lines: Sequence[str]) -> None:
    sys.stdout.write("\n".join([f"\n{title}\n", *lines, ""]))
    sys.stdout.flush()


def main() -> None:
    """Measure, print and draw."""
    settings.prepare_environment()
    header = ["| model | shifted | by | found in the first window | within 3 | mean windows (4: not found) |"]
    header.append("|---|---|---|---|---|---|")
    for subject in subjects():
        lines, points = ours(subject)
        _say(f"ours, limit {subject.calibration.limit:.2f}", [*header, *lines])
        lines, rivals = evidently(subject)
        _say("Evidently's defaults", [*header, *lines])
        if subject.spec.name == PICTURED:
            mean = pl.concat([points, rivals]).group_by("line", "limit", "chosen").mean()
            PICTURE.write_bytes(plots.drift_curve(mean, title=f"{PICTURED}: false alarms and delay"))
        _say("Beyond the promise", [honest(subject)])


if __name__ == "__main__":
    main()
