"""The limit of drift: how strong an effect must be, so that chance alone seldom reaches it, and what is then found.

Belongs here: windows without any change, drawn from the reference; the limit that keeps the promised rate of false
alarms; and what becomes of injected shifts under it. Nothing here has seen data after the reference.

A window without change is ``window_days`` whole days of the reference, drawn at random with replacement. The limit is
set on one set of such windows so that, with 95 % confidence, at most the promised share exceeds it; the rates reported
are counted on windows drawn anew. Windows do not overlap, in the false alarms as in the delays. (Daily reports of a
trailing window do: as many of them are false alarms, in longer runs.)

A trial adds a shift to one feature of :data:`HORIZON` consecutive windows; its delay is the number of windows up to the
first alarm, :data:`HORIZON` + 1 if there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.core.drift_effects import Array, Yardstick
from ml_platform.core.model_spec import WITHIN, DriftPolicy

Alarms = npt.NDArray[np.bool_]

SHIFTS = (0.15, 0.2, 0.25, 0.5)
"""Injected shifts, in standard deviations of the feature over the reference's rows."""

PROMISED_SHIFT = 0.25
"""The shift by which features are shown first."""


HORIZON = 8
"""Windows that a trial lasts."""

METHOD = "days with replacement, 1"
"""Changes when the same reference and policy would be calibrated otherwise."""

WINDOWS, TRIALS = 10_000, 1_000
_IMPORTANT = 3
_CONFIDENCE = 1.645
_LEAST_LIMIT = 2.5
"""However quiet a reference was, an effect of less than so many times its chance is no alarm."""

_CURVE = (50.0, 30.0, 20.0, 10.0, 5.0, 3.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1)


@dataclass(frozen=True)
class Detection:
    """What became of trials in which one feature was shifted by ``shift`` standard deviations, under ``limit``.

    ``found_at_once`` and ``found`` are shares of trials with an alarm in the first window, and within
    :data:`WITHIN`; ``called`` of those in which, by then, alarms were as many in a row as ``policy.persists`` asks;
    ``delay`` is in windows, the mean.
    """

    limit: float
    feature: str
    shift: float
    found_at_once: float
    found: float
    called: float
    delay: float
    trials: int


@dataclass(frozen=True)
class FalseAlarms:
    """Alarms among windows without change under ``limit``, and of them those that came ``policy.persists`` in a row."""

    limit: float
    alarms: int
    calls: int
    windows: int

    @property
    def per_100(self) -> float:
        """False alarms for every 100 windows."""
        return 100 * self.alarms / self.windows


@dataclass(frozen=True)
class Calibration:
    """The limit of a reference, and what it does: the first of ``false_alarms`` is its own, the others a curve's.

    ``days`` is how many whole days the reference has, ``window_days`` how many a window has.
    """

    limit: float
    days: int
    window_days: int
    false_alarms: tuple[FalseAlarms, ...]
    detections: tuple[Detection, ...]

    @property
    def chosen(self) -> FalseAlarms:
        """The false alarms under the limit that holds."""
        return self.false_alarms[0]

    def to_frame(self) -> pl.DataFrame:
        """One row for each limit, feature and shift; ``chosen`` marks the limit that holds."""
        alarms = {each.limit: each for each in self.false_alarms}
        return pl.DataFrame(
            {
                "chosen": each.limit == self.limit,
                "alarm_limit": each.limit,
                "false_alarms_per_100_windows": alarms[each.limit].per_100,
                "false_alarms": alarms[each.limit].alarms,
                "false_calls": alarms[each.limit].calls,
                "windows": alarms[each.limit].windows,
                "feature": each.feature,
                "shift": each.shift,
                "found_at_once": each.found_at_once,
                "found": each.found,
                "called": each.called,
                "delay_windows": each.delay,
                "trials": each.trials,
                "window_days": self.window_days,
                "reference_days": self.days,
            }
            for each in self.detections
        )


def curve(calibration: pl.DataFrame) -> pl.DataFrame:
    """A calibration's frame as :func:`ml_platform.core.plots.drift_curve` draws it, each shift over all features."""
    return (
        calibration.with_columns(
            pl.format("shift of {}σ", pl.col("shift").cast(pl.String).str.pad_end(4, "0")).alias("line")
        )
        .group_by("line", "alarm_limit", "false_alarms_per_100_windows", "chosen")
        .agg(pl.col("delay_windows").mean())
    )


def calibrate(policy: DriftPolicy, reference: Yardstick, seed: int) -> Calibration:
    """Set the limit of a reference, and count what it does on windows that did not set it.

    Args:
        policy: the promised rate of false alarms, and how many alarms in a row persist.
        reference: what windows are held against.
        seed: of the drawn windows; the same gives the same result.
    """
    learned = np.sort(_strongest(reference, *_draw(reference, WINDOWS, [seed, 0])))
    chosen = max(_LEAST_LIMIT, _limit(learned, policy.false_alarms_per_100_windows))
    limits = list(dict.fromkeys([chosen, *(_limit(learned, rate) for rate in _CURVE)]))
    fresh = _strongest(reference, *_draw(reference, WINDOWS, [seed, 1]))
    sums, rows = _draw(reference, TRIALS * HORIZON, [seed, 2])
    sizes = reference.sizes(sums, rows)
    detections = []
    for feature in important(reference):
        for shift in SHIFTS:
            moved = sizes + reference.shifted(feature, shift, sums, rows)
            strongest = reference.strengths(moved, reference.window_days).max(axis=-1).reshape(TRIALS, HORIZON)
            detections += [detection(strongest > limit, policy, limit, feature, shift) for limit in limits]
    return Calibration(
        limit=chosen,
        days=reference.days,
        window_days=reference.window_days,
        false_alarms=tuple(
            FalseAlarms(limit, int((fresh > limit).sum()), int(_runs(fresh > limit, policy.persists).sum()), WINDOWS)
            for limit in limits
        ),
        detections=tuple(detections),
    )


def important(reference: Yardstick) -> Sequence[str]:
    """The features whose shifts are tried: those with the largest weights."""
    weights = reference.weights[: len(reference.features)]
    return [reference.features[number] for number in np.argsort(-weights, kind="stable")[:_IMPORTANT]]


def detection(alarms: Alarms, policy: DriftPolicy, limit: float, feature: str, shift: float) -> Detection:
    """What trials (in rows) with these alarms (in columns, window by window) found."""
    first = np.where(alarms.any(axis=1), alarms.argmax(axis=1), alarms.shape[1]) + 1
    return Detection(
        limit=limit,
        feature=feature,
        shift=shift,
        found_at_once=float((first <= 1).mean()),
        found=float((first <= WITHIN).mean()),
        called=float(_runs(alarms[:, :WITHIN], policy.persists).any(axis=1).mean()),
        delay=float(first.mean()),
        trials=len(alarms),
    )


def _limit(strongest: Array, per_100: float) -> float:
    """The least limit that, with 95 % confidence, windows without change exceed at this rate or more seldom."""
    share, count = per_100 / 100, len(strongest)
    allowed = max(0, int(count * share - _CONFIDENCE * np.sqrt(count * share * (1 - share))))
    return float(strongest[count - 1 - allowed])


def _draw(reference: Yardstick, windows: int, seed: Sequence[int]) -> tuple[Array, Array]:
    """Sums and rows of windows without change."""
    generator = np.random.default_rng(seed)
    shares = np.full(reference.days, 1 / reference.days)
    times = generator.multinomial(reference.window_days, shares, size=windows).astype(float)
    return times @ reference.day_sums, times @ reference.day_rows


def _strongest(reference: Yardstick, sums: Array, rows: Array) -> Array:
    return np.asarray(reference.strengths(reference.sizes(sums, rows), reference.window_days).max(axis=-1))


def _runs(alarms: Alarms, length: int) -> Alarms:
    """Where, along the last axis, ``length`` alarms in a row end."""
    count = alarms.shape[-1] - length + 1
    if count < 1:
        return np.zeros((*alarms.shape[:-1], 1), dtype=bool)
    return np.asarray(np.all([alarms[..., start : start + count] for start in range(length)], axis=0))
