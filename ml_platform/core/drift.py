"""Drift: how far the present is from what a model learned from, decided by the effects that matter to the model.

Belongs here: what is said of each column, and the verdict. How effects are measured is
:mod:`ml_platform.core.drift_effects`, where the limit comes from :mod:`ml_platform.core.drift_calibration`. Which rows
are the present, and what to do about a verdict, do not belong here.

A window is an alarm if the strongest effect exceeds the limit. Beside it each column has its population stability index
(PSI), which people know and which has no part in the verdict: the sum over its bins of ``(p - q) * ln(p / q)``, p and
q the shares of current and reference rows. By custom 0.1 is a small shift and 0.2 a large one. Bins come from the
reference alone:

- numbers: quantiles, equal ones merged;
- text, booleans, and numbers of few distinct values: one bin per value that at least 1 % of the reference
  rows have; rarer values share a bin, and values the reference never had share another;
- missing values (null or NaN) are a bin of every column.

Shares are smoothed, ``(count + 0.5) / (rows + 0.5 * bins)``, so that an empty bin gives a large finite figure.

Columns that the policy ignores (a calendar's move by construction: a week is no quarter) have their PSI like any other
and no effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl

from ml_platform.core.drift_effects import GIVEN, MISSING, SCORE, Yardstick, yardstick
from ml_platform.core.model_spec import DriftPolicy

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
    """One column's figures. What is said of its effect is of the strongest; None if it is ``ignored``.

    ``asked`` is what moved (its value, its value given the others, the share missing), ``effect`` by how much (standard
    deviations of the reference's rows, or share of rows), ``chance`` what windows without change differ by,
    ``importance`` the column's share of the model's gain (None for the predictions). ``missing_*`` are shares of rows.
    """

    name: str
    psi: float
    asked: str | None
    effect: float | None
    chance: float | None
    importance: float | None
    strength: float | None
    drifted: bool
    ignored: bool
    missing_reference: float
    missing_current: float
    rows_reference: int
    rows_current: int

    def in_words(self) -> str:
        """What moved, by how much, and what it is to the model."""
        if self.effect is None or self.strength is None:
            return f"{self.name} is ignored"
        if self.asked == MISSING:
            moved = f"{self.name} is missing in {100 * self.effect:+.0f} points of the rows"
        else:
            subject = "the predictions" if self.name == SCORE else self.name
            moved = f"{subject} moved by {self.effect:+.2f}σ{' given the others' if self.asked == GIVEN else ''}"
        matters = "" if self.importance is None else f", {self.importance:.1%} of the model's gain"
        return f"{moved} (strength {self.strength:.1f}{matters})"


@dataclass(frozen=True)
class DriftReport:
    """Every column's figures and the verdict.

    ``prediction`` are the scores' own figures; ``strength`` is that of the strongest effect, an alarm if it exceeds
    ``limit`` on enough rows; ``drifted`` whether this is an alarm; ``reason`` says why or why not.
    """

    columns: tuple[ColumnDrift, ...]
    prediction: ColumnDrift
    limit: float
    rows_reference: int
    rows_current: int
    drifted: bool
    reason: str

    @property
    def judged(self) -> tuple[ColumnDrift, ...]:
        """The features that the policy does not ignore and the predictions, strongest effect first."""
        kept = (each for each in (*self.columns, self.prediction) if not each.ignored)
        return tuple(sorted(kept, key=lambda each: (-(each.strength or 0.0), -each.psi, each.name)))

    @property
    def strength(self) -> float:
        """Strength of the strongest effect."""
        return self.judged[0].strength or 0.0

    def to_frame(self) -> pl.DataFrame:
        """One row per column (the scores' row is named ``score``), with the verdict on each row."""
        frame = pl.DataFrame([asdict(row) for row in (*self.columns, self.prediction)], infer_schema_length=None)
        verdict = {
            "strongest": self.strength,
            "alarm_limit": self.limit,
            "alarm": self.drifted,
            "reason": self.reason,
        }
        return frame.rename({"name": "column_name"}).with_columns(
            pl.lit(value).alias(key) for key, value in verdict.items()
        )

    def as_metadata(self) -> dict[str, int | float]:
        """The figures people follow over time."""
        return {
            "strongest_effect": self.strength,
            "alarm_limit": self.limit,
            "drifted_columns": sum(column.drifted for column in self.judged),
            "drift_alarm": int(self.drifted),
            "prediction_shift": self.prediction.effect or 0.0,
            "prediction_psi": self.prediction.psi,
            "largest_psi": max(column.psi for column in self.judged),
            "rows_reference": self.rows_reference,
            "rows_current": self.rows_current,
        }


@dataclass(frozen=True)
class Reference:
    """What a champion learned from, made once for many windows: bins for PSI, and what effects are measured by.

    ``importances`` are the features' shares of the model's gain; ``limit`` is the calibrated one.
    """

    profiles: tuple[ColumnProfile, ...]
    measure: Yardstick
    importances: Mapping[str, float]
    limit: float


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


def learned(policy: DriftPolicy, reference: pl.DataFrame, importances: Mapping[str, float], limit: float) -> Reference:
    """Make ready what windows are compared with.

    Args:
        policy: bins, and what is ignored.
        reference: the champion's training rows: its features, ``score`` and ``prediction_time``.
        importances: the gain of each of its features.
        limit: the strength that chance seldom exceeds, as calibrated on this reference.

    Raises:
        ValueError: as :func:`reference_profile` and :func:`ml_platform.core.drift_effects.yardstick`.
    """
    profiles = reference_profile(reference, [*importances, SCORE], policy.bins)
    total = sum(importances.values())
    shares = {name: gain / total for name, gain in importances.items()} if total else dict(importances)
    return Reference(profiles, yardstick(policy, reference, importances), shares, limit)


def compare(policy: DriftPolicy, reference: Reference, current: pl.DataFrame) -> DriftReport:
    """Compare the present with what the model learned from.

    Raises:
        ValueError: the present lacks a column of the reference's.
    """
    _require(current, [profile.name for profile in reference.profiles], "current")
    *columns, prediction = _judge(reference, current)
    strongest = max((each for each in (*columns, prediction) if each.strength is not None), key=_strength)
    drifted = _strength(strongest) > reference.limit and current.height >= policy.minimum_rows
    return DriftReport(
        tuple(columns),
        prediction,
        reference.limit,
        prediction.rows_reference,
        current.height,
        drifted,
        _reason(policy, reference, [*columns, prediction], current.height),
    )


def _reason(policy: DriftPolicy, reference: Reference, columns: Sequence[ColumnDrift], rows: int) -> str:
    if rows < policy.minimum_rows:
        return f"No alarm: {rows:,} rows are too few to judge, at least {policy.minimum_rows:,} are needed"
    ordered = sorted((each for each in columns if each.strength), key=lambda each: -_strength(each))
    limit = f"limit {reference.limit:.1f}"
    if not ordered:
        return f"No alarm: nothing moved by {policy.smallest_effect:g}σ or more ({limit})"
    alarming = [each for each in ordered if each.drifted]
    if not alarming:
        return f"No alarm: the strongest effect is that {ordered[0].in_words()}, {limit}"
    named = "; ".join(each.in_words() for each in alarming[:_NAMED])
    more = f"; and {len(alarming) - _NAMED:,} more" if len(alarming) > _NAMED else ""
    return f"Alarm: {named}{more}; {limit}"


def _strength(column: ColumnDrift) -> float:
    return column.strength or 0.0


def _judge(reference: Reference, current: pl.DataFrame) -> list[ColumnDrift]:
    """Every column's figures, in the order of the profiles."""
    measure = reference.measure
    sums, rows, days = measure.window(current)
    sizes = measure.sizes(sums, np.asarray(rows)) if current.height else np.zeros(len(measure.effects))
    chance = measure.chance(max(days, 1))
    strengths = measure.strengths(sizes, max(days, 1))
    strongest: dict[str, int] = {}
    for number, (name, _) in enumerate(measure.effects):
        best = strongest.setdefault(name, number)
        if (strengths[number], abs(sizes[number]) / chance[number]) > (
            strengths[best],
            abs(sizes[best]) / chance[best],
        ):
            strongest[name] = number
    judged = []
    for profile in reference.profiles:
        number = strongest.get(profile.name, -1)
        ignored = number < 0
        index, missing = psi(profile, current)
        judged.append(
            ColumnDrift(
                name=profile.name,
                psi=index,
                asked=None if ignored else measure.effects[number][1],
                effect=None if ignored else float(sizes[number]),
                chance=None if ignored else float(chance[number]),
                importance=reference.importances.get(profile.name),
                strength=None if ignored else float(strengths[number]),
                drifted=not ignored and bool(strengths[number] > reference.limit),
                ignored=ignored,
                missing_reference=profile.counts[-1] / profile.rows,
                missing_current=missing,
                rows_reference=profile.rows,
                rows_current=current.height,
            )
        )
    return judged


def psi(profile: ColumnProfile, frame: pl.DataFrame) -> tuple[float, float]:
    """The population stability index of one column's present, and the share of it that is missing."""
    if frame.is_empty():
        return 0.0, 0.0
    current = _count(frame, profile)
    bins, rows, now = len(profile.counts), profile.rows, frame.height
    p = (np.array(current) + _SMOOTHING) / (now + _SMOOTHING * bins)
    q = (np.array(profile.counts) + _SMOOTHING) / (rows + _SMOOTHING * bins)
    return float(((p - q) * np.log(p / q)).sum()), current[-1] / now


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
