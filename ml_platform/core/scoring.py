"""The one path by which anything is predicted: batch, online, evaluation and load checks alike."""

from typing import cast

import numpy as np
import numpy.typing as npt
import polars as pl

from ml_platform.core.training import FittedModel, encode


def raw_scores(model: FittedModel, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
    """One score per row: the probability of label 1 (binary), or the predicted label in its unit.

    A score depends on its own row alone, never on the others of the batch.

    Raises:
        ValueError: a feature of the model is absent or cannot be encoded.
    """
    if frame.is_empty():
        return np.empty(0)
    return cast("npt.NDArray[np.float64]", model.booster.predict(encode(frame, model.features, model.categories)))


def score(model: FittedModel, frame: pl.DataFrame) -> pl.DataFrame:
    """``frame`` with ``score`` (Float64) and, for a binary model, ``decision`` (score at or above the threshold)."""
    scored = frame.with_columns(pl.Series("score", raw_scores(model, frame), dtype=pl.Float64))
    if model.threshold is None:
        return scored
    return scored.with_columns((pl.col("score") >= model.threshold).alias("decision"))
