"""How far a window lies from what a model learned from, in units of what windows differ by without any change.

Belongs here: the effects of drift, their chance and their weight, from sums over days. Limits and verdicts do not.

The rows of a day share their weather, their congestion, their mistakes: the unit of noise is the day, not the row. So
every figure is a weighted mean of whole days, and *chance* is the standard deviation between days of the reference,
over the root of the days in the window. Three things are asked of every feature, one of the predictions:

- **value**: its mean, in standard deviations (σ) of the reference's rows;
- **value given the others**: its mean as the other features do not explain it. A feature that follows the weather
  varies much between windows, and so a shift of it hides; but a shift of it alone breaks its relation to the others,
  which hardly varies. It is the residual of a linear regression on all other features, over the reference's rows;
- **missing**: the share of rows without a value the model knows (empty, or a category the reference never had).

A category counts as the mean score that the model gives its rows. An effect's *strength* is its size over its chance,
times the root of its *weight*: the feature's share of the model's gain over that of the most important feature, so that
its square weighs squared effects by importance. Predictions weigh as much as the most important feature. Effects below
``policy.smallest_effect`` have no strength, however sure they are: a small shift does not matter.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.core.model_spec import DriftPolicy

SCORE = "score"
"""The column of predictions; judged beside the features."""

VALUE, GIVEN, MISSING = "value", "value given the others", "missing"
"""What is asked of a column."""

Array = npt.NDArray[np.float64]

_LARGEST = 5.0
"""Standard deviations at which a value is cut: one broken row is no drift."""

_RIDGE = 0.01
"""Added to the features' correlations, which duplicates and constants leave singular."""

_LEAST_CHANCE = 0.01
"""Standard deviations (or share of rows) below which chance is not believed: a schedule may not vary at all."""


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A reference, as windows are held against it.

    ``effects`` names, as (column, what is asked), the rows of ``projection`` (effects from mean values), ``weights``
    and ``day_noise``; the columns of ``projection`` and ``day_sums`` are the values of ``features``, the score, and the
    missing shares of ``features``. ``days`` are the reference's, ``window_days`` how many of them a window has.
    """

    features: tuple[str, ...]
    codes: Mapping[str, Mapping[str, float]]
    centre: Array
    scale: Array
    effects: tuple[tuple[str, str], ...]
    projection: Array
    weights: Array
    day_rows: Array
    day_sums: Array
    day_noise: Array
    smallest_effect: float
    window_days: int

    @property
    def days(self) -> int:
        """Days of the reference."""
        return len(self.day_rows)

    def sizes(self, sums: Array, rows: Array) -> Array:
        """Effects of windows, by their sums (..., columns) and rows (...): σ, or shares of rows."""
        usual = self.day_sums.sum(axis=0) / self.day_rows.sum()
        return np.asarray((sums / rows[..., np.newaxis] - usual) @ self.projection.T)

    def chance(self, days: int) -> Array:
        """The standard deviation of each effect over windows of so many days without any change."""
        return np.asarray(np.maximum(self.day_noise / np.sqrt(days), _LEAST_CHANCE))

    def strengths(self, sizes: Array, days: int) -> Array:
        """The strength of each effect in windows of so many days."""
        strength = np.sqrt(self.weights) * np.abs(sizes) / self.chance(days)
        return np.where(np.abs(sizes) >= self.smallest_effect, strength, 0.0)

    def shifted(self, feature: str, shift: float, sums: Array, rows: Array) -> Array:
        """What ``shift`` σ more of one feature, where it has a value, adds to the effects of such windows.

        The predictions are left as they were: what a model makes of the shift would only add to its effects.
        """
        number = self.features.index(feature)
        known = 1 - sums[..., len(self.features) + 1 + number] / rows
        return np.asarray(shift * known[..., np.newaxis] * self.projection[:, number])

    def window(self, rows: pl.DataFrame) -> tuple[Array, Array, int]:
        """Sums, number of rows and number of days of one window's rows."""
        values = _numbers(rows, self.features, self.codes)
        days = list(_by_day(rows, values, self.centre, self.scale))
        sums = sum((day.sum(axis=0) for day in days), np.zeros(self.projection.shape[1]))
        return sums, np.asarray(float(rows.height)), len(days)


def yardstick(policy: DriftPolicy, reference: pl.DataFrame, importances: Mapping[str, float]) -> Yardstick:
    """Learn from a reference what windows are held against.

    Args:
        policy: the window, what is ignored and the smallest effect that counts.
        reference: the rows a champion learned from: the features, ``score`` and ``prediction_time`` (UTC).
        importances: the gain of each feature in the champion.

    Raises:
        ValueError: the reference has fewer than two days, or no judged feature has any importance.
    """
    features = tuple(name for name in importances if name not in policy.ignored_columns)
    largest = max((importances[name] for name in features), default=0.0)
    if largest <= 0:
        raise ValueError(f"no judged feature has any importance in the model: {dict(importances)}")
    codes = {name: _codes(reference, name) for name in features if not _is_number(reference.schema[name])}
    values = _numbers(reference, features, codes)
    centre = np.array([values[name].mean() or 0.0 for name in values.columns], dtype=float)
    scale = np.array([values[name].std(ddof=0) or 0.0 for name in values.columns], dtype=float)
    # What never varies has a deviation of nothing but rounding.
    scale[scale <= 1e-9 * np.abs(centre)] = 1.0
    products = np.zeros((len(features), len(features)))
    rows, sums = [], []
    for columns in _by_day(reference, values, centre, scale):
        rows.append(len(columns))
        sums.append(columns.sum(axis=0))
        products += columns[:, : len(features)].T @ columns[:, : len(features)]
    if len(rows) < 2:
        raise ValueError(f"the reference has {len(rows)} day: between fewer than two, nothing is known of chance")
    day_rows, day_sums = np.array(rows, dtype=float), np.array(sums)
    usual = day_sums.sum(axis=0) / day_rows.sum()
    weights = np.array([importances[name] / largest for name in features])
    projection = _projection(products / day_rows.sum() - np.outer(usual[: len(features)], usual[: len(features)]))
    deviations = (day_sums - day_rows[:, np.newaxis] * usual) @ projection.T / day_rows.mean()
    dates = reference["prediction_time"].dt.date()
    span = int((dates.max() - dates.min()).days) + 1  # type: ignore[operator, union-attr]
    return Yardstick(
        features=features,
        codes=codes,
        centre=centre,
        scale=scale,
        effects=(*((name, asked) for asked in (VALUE, GIVEN, MISSING) for name in features), (SCORE, VALUE)),
        projection=projection,
        weights=np.concatenate([weights, weights, weights, [1.0]]),
        day_rows=day_rows,
        day_sums=day_sums,
        day_noise=np.sqrt((deviations**2).sum(axis=0) / (len(day_rows) - 1)),
        smallest_effect=policy.smallest_effect,
        window_days=max(1, round(policy.window.total_seconds() / 86_400 * len(day_rows) / span)),
    )


def _projection(covariance: Array) -> Array:
    """From mean values, score and missing shares to effects: values, residuals, missing shares, and the score."""
    count = len(covariance)
    precision = np.linalg.inv(covariance + _RIDGE * np.eye(count))
    residuals = precision / np.diag(precision)[:, np.newaxis]
    same, none = np.eye(2 * count + 1), np.zeros((count, count + 1))
    return np.vstack([same[:count], np.hstack([residuals, none]), same[count + 1 :], same[count]])


def _codes(reference: pl.DataFrame, name: str) -> dict[str, float]:
    """The mean score of each category."""
    known = reference.select(pl.col(name).cast(pl.String), SCORE).drop_nulls(name)
    # Part by part: in a group-by, threads add up scores in an order that differs from run to run, and so do last bits.
    parts = known.partition_by(name, as_dict=True)
    return {category: float(part[SCORE].mean()) for (category,), part in parts.items()}  # type: ignore[arg-type]


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)


def _numbers(rows: pl.DataFrame, features: tuple[str, ...], codes: Mapping[str, Mapping[str, float]]) -> pl.DataFrame:
    """Features and score as numbers; null where a value is missing or was never seen."""
    return rows.select(
        (
            pl.col(name).cast(pl.String).replace_strict(codes[name], default=None, return_dtype=pl.Float64)
            if name in codes
            else pl.col(name).cast(pl.Float64).fill_nan(None)
        )
        for name in (*features, SCORE)
    )


def _by_day(rows: pl.DataFrame, values: pl.DataFrame, centre: Array, scale: Array) -> Iterator[Array]:
    """The rows of each UTC day of prediction: values in σ, 0 where missing, and then 1 where a feature is missing."""
    numbers = values.to_numpy()
    day = rows["prediction_time"].dt.date().to_physical().to_numpy()
    order = np.argsort(day, kind="stable")
    for chosen in np.split(order, np.flatnonzero(np.diff(day[order])) + 1):
        missing = np.isnan(numbers[chosen])
        standard = np.clip((numbers[chosen] - centre) / scale, -_LARGEST, _LARGEST)
        yield np.hstack([np.where(missing, 0.0, standard), missing[:, :-1]])
