"""Time-ordered windows, and the guards without which no model is fitted.

Belongs here: which rows train, which are held out, how tuning is folded, and the refusal of rows and
columns that could not have been known. Nothing here knows of LightGBM or of a lake.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.core.declared_features import LeakageError
from ml_platform.core.model_spec import Windows


@dataclass(frozen=True)
class Split:
    """Rows that may train and rows held out; ``cutoff`` (UTC) lies between them."""

    train: pl.DataFrame
    holdout: pl.DataFrame
    cutoff: datetime


@dataclass(frozen=True)
class Fold:
    """One time-ordered fold: ascending row numbers of the training frame, validated in (start, end]."""

    train_rows: npt.NDArray[np.int64]
    validation_rows: npt.NDArray[np.int64]
    start: datetime
    end: datetime


def split(frame: pl.DataFrame, windows: Windows, as_of: datetime) -> Split:
    """Divide labelled rows at ``as_of - windows.holdout``.

    Training rows have ``label_time`` at or before the cutoff and ``prediction_time`` within
    ``windows.training`` before it; held-out rows have ``prediction_time`` after the cutoff and a label
    known at ``as_of``. A row predicted before the cutoff and labelled after it is in neither.

    Args:
        frame: at least ``prediction_time``, ``label_time`` (UTC) and ``label``.
        windows: the declared lengths.
        as_of: the moment (event time, UTC) from which the split is seen.

    Raises:
        ValueError: a label is null, too few rows train, or none is held out.
    """
    if nulls := frame["label"].null_count():
        raise ValueError(f"{nulls} of {frame.height} rows have no label: only labelled rows can be split")
    cutoff = as_of - windows.holdout
    prediction_time, label_time = pl.col("prediction_time"), pl.col("label_time")
    train = frame.filter(label_time <= cutoff, prediction_time > cutoff - windows.training)
    holdout = frame.filter(prediction_time > cutoff, label_time <= as_of)
    if train.height < windows.minimum_rows:
        raise ValueError(
            f"{train.height} rows have a label known by {cutoff:%Y-%m-%d %H:%M} and are predicted after "
            f"{cutoff - windows.training:%Y-%m-%d %H:%M}: `windows.minimum_rows` asks for {windows.minimum_rows}"
        )
    if holdout.is_empty():
        raise ValueError(
            f"no row is predicted after {cutoff:%Y-%m-%d %H:%M} and labelled by {as_of:%Y-%m-%d %H:%M}: "
            "nothing to evaluate on"
        )
    assert_no_leakage(train, holdout)
    return Split(train, holdout, cutoff)


def folds(train: pl.DataFrame, windows: Windows) -> list[Fold]:
    """Expanding folds, oldest first: each validates on the ``fold_length`` that follows its training rows.

    The last fold ends at the newest training label. The guard of :func:`split` holds inside every fold.

    Raises:
        ValueError: a fold would have no rows on one side; the message names its stretch.
    """
    newest = newest_label(train)
    prediction_time, label_time = pl.col("prediction_time"), pl.col("label_time")
    result = []
    for number in range(windows.folds):
        start = newest - (windows.folds - number) * windows.fold_length
        end = start + windows.fold_length
        fold = Fold(
            np.flatnonzero(train.select(label_time <= start).to_series().to_numpy()),
            np.flatnonzero(train.select((prediction_time > start) & (prediction_time <= end)).to_series().to_numpy()),
            start,
            end,
        )
        if not len(fold.train_rows) or not len(fold.validation_rows):
            raise ValueError(
                f"fold {number + 1} of {windows.folds} validates on {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} and "
                f"has {len(fold.train_rows)} training and {len(fold.validation_rows)} validation rows: "
                "use fewer or other folds, or more history"
            )
        assert_no_leakage(train[fold.train_rows], train[fold.validation_rows])
        result.append(fold)
    return result


def newest_label(frame: pl.DataFrame) -> datetime:
    """The latest ``label_time`` of a frame that has rows."""
    newest = frame["label_time"].max()
    if newest is None:
        raise ValueError("no row has a `label_time`")
    return cast(datetime, newest)


def assert_no_leakage(train: pl.DataFrame, holdout: pl.DataFrame) -> None:
    """Refuse a training label that became known after a held-out prediction was due.

    Raises:
        LeakageError: with both times.
    """
    if train["label_time"].null_count() or holdout["prediction_time"].null_count():
        raise LeakageError("a training row has no `label_time` or a held-out row no `prediction_time`")
    if train.is_empty() or holdout.is_empty():
        return
    newest, first = newest_label(train), cast(datetime, holdout["prediction_time"].min())
    if newest > first:
        raise LeakageError(f"a training label became known at {newest}, after the first held-out prediction at {first}")
