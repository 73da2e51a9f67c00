"""Drift: how far the present is from what a model learned from, decided by effect size on full data.

Belongs here: binning, the population stability index (PSI) and the verdict. Which rows are the present,
and what to do about a verdict, do not.

PSI of a column is the sum over its bins of ``(p - q) * ln(p / q)``, p and q the shares of current and
reference rows. By custom 0.1 is a small shift and 0.2 a large one. Unlike the p-value of a test it does
not grow with the number of rows. Bins come from the reference alone:

- numbers: quantiles, equal ones merged;
- text, booleans, and numbers of few distinct values: one bin per value that at least 1 % of the reference
  rows have; rarer values share a bin, and values the reference never had share another;
- missing values (null or NaN) are a bin of every column.

Columns that the policy ignores (a calendar's move by construction: a week is no quarter) have their figures like
any other and no part in the verdict.

Shares are smoothed, ``(count + 0.5) / (rows + 0.5 * bins)``, so that an empty bin gives a large finite
figure. With no drift at all PSI is about ``(bins - 1) * (1/n + 1/m)``, given beside it as ``noise``.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl

from ml_platform.core.model_spec import DriftPolicy

SCORE = "score"
"""The column that holds predictions in both frames; judged apart from the features."""

_RARE = 0.01
_SMOOTHING = 0.5
_NAMED = 5


@dataclass(frozen=True)
class ColumnProfile:
    """The bins of one column and how many reference rows fall into each.

    ``edges`` are the upper bounds (inclusive) of all bins but the last, for numbers; ``values`` are the
    values with a bin of their own, otherwise, and ``rare`` those that share one. ``counts`` has the bins
    in that order, for values followed by rare and never seen; the last is missing.
    """

    name: str
    edges: tuple[float, ...] | None
    values: tuple[str, ...]
    rare: tuple[str, ...]
    counts: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Reference rows."""
        return sum(self.counts)


@dataclass(frozen=True)
class ColumnDrift:
    """One column's figures; ``missing_*`` are shares of rows. One that is ``ignored`` never counts as drifted."""

    name: str
    psi: float
    noise: float
    threshold: float
    drifted: bool
    ignored: bool
    missing_reference: float
    missing_current: float
    rows_reference: int
    rows_current: int


@dataclass(frozen=True)
class DriftReport:
    """Every column's figures and the verdict.

    ``share`` is the share of drifted columns among the features that are not ignored; ``prediction`` the
    scores' own figures, None if either side has no scores; ``drifted`` whether this is an alarm; ``reason``
    says why or why not.
    """

    columns: tuple[ColumnDrift, ...]
    prediction: ColumnDrift | None
    share: float
    rows_reference: int
    rows_current: int
    drifted: bool
    reason: str

    @property
    def judged(self) -> tuple[ColumnDrift, ...]:
        """The columns that the policy does not ignore."""
        return tuple(column for column in self.columns if not column.ignored)

    @property
    def prediction_psi(self) -> float | None:
        """PSI of the scores."""
        return None if self.prediction is None else self.prediction.psi

    def to_frame(self) -> pl.DataFrame:
        """One row per column (the scores' row is named ``score``), with the verdict on each row."""
        rows = [*self.columns, *([self.prediction] if self.prediction else [])]
        frame = pl.DataFrame([asdict(row) for row in rows], schema_overrides={"psi": pl.Float64})
        verdict = {"share": self.share, "alarm": self.drifted, "reason": self.reason}
        return frame.rename({"name": "column_name"}).with_columns(
            pl.lit(value).alias(key) for key, value in verdict.items()
        )

    def as_metadata(self) -> dict[str, int | float]:
        """The figures people follow over time."""
        figures: dict[str, int | float] = {
            "drift_share": self.share,
            "drifted_columns": sum(column.drifted for column in self.columns),
            "largest_psi": max(column.psi for column in self.judged),
            "drift_alarm": int(self.drifted),
            "rows_reference": self.rows_reference,
            "rows_current": self.rows_current,
        }
        if self.prediction is not None:
            figures["prediction_psi"] = self.prediction.psi
        return figures


def assert_judged(features: Collection[str], policy: DriftPolicy) -> None:
    """Refuse a policy that ignores what is no feature, or every feature.

    Raises:
        ValueError: naming each such column and the features there are.
    """
    if unknown := sorted(set(policy.ignored_columns) - set(features)):
        raise ValueError(f"`drift.ignored_columns` has {unknown}, which are no features; there are {sorted(features)}")
    if set(features) <= set(policy.ignored_columns):
        raise ValueError(f"`drift.ignored_columns` has every feature, and nothing would be judged: {sorted(features)}")


def reference_profile(frame: pl.DataFrame, columns: Sequence[str], bins: int) -> tuple[ColumnProfile, ...]:
    """Bins of each column, from the rows a model learned from.

    Raises:
        ValueError: a column is missing or of a type that has no bins, or there are no rows.
    """
    _require(frame, columns, "reference")
    if frame.is_empty():
        raise ValueError("the reference has no rows: there is nothing to compare with")
    unfilled = [_bins_of(frame, name, bins) for name in columns]
    return tuple(replace(profile, counts=_count(frame, profile)) for profile in unfilled)


def drift_report(
    policy: DriftPolicy, reference: pl.DataFrame, current: pl.DataFrame, columns: Sequence[str]
) -> DriftReport:
    """Compare the present with what the model learned from.

    Args:
        policy: bins and thresholds.
        reference: the champion's training rows: ``columns`` and, if known, ``score``.
        current: the rows of the present, alike.
        columns: the features judged.

    Raises:
        ValueError: as :func:`reference_profile`, or no column is given that is not ignored.
    """
    if not columns:
        raise ValueError("no columns to compare: give at least one feature")
    scored = SCORE in reference.columns and SCORE in current.columns
    return compare(policy, reference_profile(reference, [*columns, *([SCORE] if scored else [])], policy.bins), current)


def compare(policy: DriftPolicy, reference: Sequence[ColumnProfile], current: pl.DataFrame) -> DriftReport:
    """As :func:`drift_report`, against profiles that are made once for many comparisons.

    Raises:
        ValueError: the present lacks a profiled column, or the policy ignores every one.
    """
    _require(current, [profile.name for profile in reference], "current")
    features = [profile for profile in reference if profile.name != SCORE]
    scores = [profile for profile in reference if profile.name == SCORE]
    prediction = _judge(scores[0], current, policy.prediction_threshold) if scores else None
    columns = [
        _judge(profile, current, policy.column_threshold, ignored=profile.name in policy.ignored_columns)
        for profile in features
    ]
    judged = sum(not column.ignored for column in columns)
    if not judged:
        raise ValueError(f"every column is ignored, and nothing is left to judge: {[c.name for c in columns]}")
    share = sum(column.drifted for column in columns) / judged
    drifted, reason = _verdict(policy, columns, prediction, share, current.height)
    return DriftReport(tuple(columns), prediction, share, features[0].rows, current.height, drifted, reason)


def _verdict(
    policy: DriftPolicy, columns: Sequence[ColumnDrift], prediction: ColumnDrift | None, share: float, rows: int
) -> tuple[bool, str]:
    if rows < policy.minimum_rows:
        return False, f"No alarm: {rows:,} rows are too few to judge, at least {policy.minimum_rows:,} are needed"
    alarms = share >= policy.share_threshold
    said = [_columns_in_words(policy, columns, share)]
    if prediction is not None:
        alarms = alarms or prediction.drifted
        moved = "moved" if prediction.drifted else "moved little"
        said.insert(0, f"the predictions {moved} (PSI {prediction.psi:.3f}, limit {policy.prediction_threshold:g})")
    return alarms, f"{'Alarm' if alarms else 'No alarm'}: {'; '.join(said)}"


def _columns_in_words(policy: DriftPolicy, columns: Sequence[ColumnDrift], share: float) -> str:
    """How many drifted, and which most."""
    worst = sorted((column for column in columns if column.drifted), key=lambda column: -column.psi)
    ignored = sum(column.ignored for column in columns)
    count = f"{len(worst):,} of {len(columns) - ignored:,} columns drifted ({share:.0%}, limit "
    count += f"{policy.share_threshold:.0%}{f'; {ignored:,} ignored' if ignored else ''})"
    if not worst:
        return count
    named = ", ".join(f"{column.name} {column.psi:.2f}" for column in worst[:_NAMED])
    more = f" and {len(worst) - _NAMED:,} more" if len(worst) > _NAMED else ""
    return f"{count}: {named}{more}"


def _judge(profile: ColumnProfile, frame: pl.DataFrame, threshold: float, *, ignored: bool = False) -> ColumnDrift:
    current = _count(frame, profile)
    bins, rows, now = len(profile.counts), profile.rows, frame.height
    p = (np.array(current) + _SMOOTHING) / (now + _SMOOTHING * bins)
    q = (np.array(profile.counts) + _SMOOTHING) / (rows + _SMOOTHING * bins)
    psi = float(((p - q) * np.log(p / q)).sum()) if now else 0.0
    return ColumnDrift(
        name=profile.name,
        psi=psi,
        noise=(bins - 1) * (1 / rows + 1 / now) if now else math.inf,
        threshold=threshold,
        drifted=psi >= threshold and not ignored,
        ignored=ignored,
        missing_reference=profile.counts[-1] / rows,
        missing_current=current[-1] / now if now else 0.0,
        rows_reference=rows,
        rows_current=now,
    )


def _require(frame: pl.DataFrame, columns: Sequence[str], side: str) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"the {side} rows lack {missing}; they have {frame.columns}")
    for name in columns:
        dtype = frame.schema[name]
        if not (dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Null) or dtype in (pl.Categorical, pl.Enum)):
            raise ValueError(
                f"column {name!r} of the {side} rows has type {dtype}: only numbers, text and booleans have bins"
            )


def _bins_of(frame: pl.DataFrame, name: str, bins: int) -> ColumnProfile:
    column = _comparable(frame, name, numeric=frame.schema[name].is_numeric())
    if column.dtype == pl.Float64:
        ordered = column.drop_nulls().sort()
        if ordered.n_unique() > bins:
            edges = ordered.gather([len(ordered) * i // bins for i in range(1, bins)]).unique().sort()
            return ColumnProfile(name, tuple(edges), (), (), ())
    rows = column.cast(pl.String).drop_nulls().value_counts(sort=True).sort("count", name, descending=[True, False])
    frequent = pl.col("count") >= _RARE * frame.height
    return ColumnProfile(name, None, tuple(rows.filter(frequent)[name]), tuple(rows.filter(~frequent)[name]), ())


def _count(frame: pl.DataFrame, profile: ColumnProfile) -> tuple[int, ...]:
    """Rows per bin, in the order of the profile's bins."""
    numeric = profile.edges is not None or frame.schema[profile.name].is_numeric()
    column = _comparable(frame, profile.name, numeric=numeric)
    missing = column.null_count()
    if profile.edges is not None:
        # One comparison per edge is several times faster than a search per value, and needs no sort.
        at_most = [0, *(int((column <= edge).sum()) for edge in profile.edges), column.len() - missing]
        return (*(high - low for low, high in pairwise(at_most)), missing)
    counts: dict[str, int] = dict(column.cast(pl.String).drop_nulls().value_counts().iter_rows())
    own = [counts.pop(value, 0) for value in profile.values]
    rare = sum(counts.pop(value, 0) for value in profile.rare)
    return (*own, rare, sum(counts.values()), missing)


def _comparable(frame: pl.DataFrame, name: str, *, numeric: bool) -> pl.Series:
    """The column as numbers with NaN as null, or as it is."""
    return frame[name].cast(pl.Float64).fill_nan(None) if numeric else frame[name]
