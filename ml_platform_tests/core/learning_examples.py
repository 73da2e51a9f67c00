"""Small declarations and data for the tests of the learning core: parcels that arrive late, nothing of flights."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from ml_platform.core.model_spec import ModelSpec

START = datetime(2020, 1, 1, tzinfo=UTC)
FEATURES = ("load", "is_express", "depot", "weight_kg")


def spec(**changes: Any) -> ModelSpec:
    """A binary model of parcels; nested mappings given are merged over the defaults."""
    values: dict[str, Any] = {
        "name": "parcel_late",
        "task": "binary",
        "description": "Will a parcel be late?",
        "intended_use": "tests",
        "owners": ("team:parcels",),
        "group": "parcels",
        "service": "parcels_v1",
        "keys": ("parcel_id",),
        "entities": {"python": "parcels:entities", "inputs": ["parcels"]},
        "labels": {"python": "parcels:labels", "inputs": ["parcels"]},
        "label_unit": "1 if late",
        "entity_look_back": "2d",
        "denied": ("delivered_minutes",),
        "baseline": {"by": ("depot",)},
        "slices": ("depot", "prediction_time.month"),
        "protected": ("depot",),
        "seed": 5,
        "windows": {"training": "60d", "holdout": "10d", "folds": 2, "fold_length": "8d", "minimum_rows": 10},
        "tuning": {
            "trials": 5,
            "max_rounds": 40,
            "early_stopping_rounds": 8,
            "startup_trials": 2,
            "threads": 1,
            "search": {
                "learning_rate": {"low": 0.05, "high": 0.3, "log": True},
                "num_leaves": {"low": 4, "high": 16, "integer": True},
            },
            "fixed": {"min_data_in_leaf": 20},
        },
        "costs": {"false_positive": 1, "false_negative": 3},
        "gate": {
            "metric": "auc",
            "floor": {"auc": 0.6},
            "slice_minimum_rows": 50,
            "max_calibration_error": 0.1,
            "stale_after": "60d",
            "cases": ({"name": "more load", "shift": {"load": 1.0}, "expect": "not_lower"},),
        },
    }
    for name, change in changes.items():
        merged = isinstance(change, dict) and isinstance(values.get(name), dict)
        values[name] = {**values[name], **change} if merged else change
    return ModelSpec(**values)


def regression_spec(**changes: Any) -> ModelSpec:
    """The same parcels, minutes instead of lateness."""
    gate = {"metric": "mae", "floor": {"r2": 0.1}, "max_calibration_error": None, "cases": (), "slice_max_drop": 0.5}
    return spec(**{"name": "parcel_minutes", "task": "regression", "costs": None, "gate": gate, **changes})


def parcels(rows: int = 3000, days: int = 70, seed: int = 1) -> pl.DataFrame:
    """Labelled parcels spread evenly over ``days``: late more often under load, at depot b, and unless express."""
    rng = np.random.default_rng(seed)
    load, express, depot = rng.normal(size=rows), rng.random(rows) < 0.3, rng.integers(0, 3, rows)
    chance = 1 / (1 + np.exp(-(1.2 * load - express + np.array([-1.0, 0.5, -0.5])[depot])))
    prediction_time = [START + timedelta(days=days * i / rows) for i in range(rows)]
    return pl.DataFrame(
        {
            "parcel_id": [f"p{number:05d}" for number in rng.permutation(rows)],
            "prediction_time": prediction_time,
            "label_time": [
                t + timedelta(hours=float(h)) for t, h in zip(prediction_time, rng.uniform(1, 30, rows), strict=True)
            ],
            "label": (rng.random(rows) < chance).astype(np.int8),
            "load": load,
            "is_express": express,
            "depot": np.array(["a", "b", "c"])[depot],
            "weight_kg": pl.Series(rng.integers(1, 30, rows)).set(pl.Series(rng.random(rows) < 0.1), None),
        },
        schema_overrides={"prediction_time": pl.Datetime("us", "UTC"), "label_time": pl.Datetime("us", "UTC")},
    )


def minutes(frame: pl.DataFrame, seed: int = 2) -> pl.DataFrame:
    """Parcels labelled with minutes of delay."""
    noise = pl.Series(np.random.default_rng(seed).normal(0, 5, frame.height))
    return frame.with_columns(label=10 + 8 * pl.col("load") - 4 * pl.col("is_express").cast(pl.Float64) + noise)
