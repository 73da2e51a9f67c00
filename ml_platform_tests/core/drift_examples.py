"""Parcels over many days: what one day's parcels share moves a window's mean more than their number tells."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

IMPORTANCES = {"load": 40.0, "queue": 30.0, "depot": 20.0, "express": 10.0, "colour": 0.0}
"""The gain of each feature; ``queue`` follows ``load``, which the day decides as much as the parcel."""


def parcels(days: int, seed: int = 0, a_day: int = 60, first: int = 0) -> pl.DataFrame:
    """Training rows or predictions: features, ``score`` and ``prediction_time``."""
    rng = np.random.default_rng(seed)
    rows = days * a_day
    load = np.repeat(rng.normal(size=days), a_day) + rng.normal(size=rows)
    queue = load + 0.1 * rng.normal(size=rows)
    depot = rng.choice(["north", "south", "east"], rows, p=[0.5, 0.3, 0.2])
    start = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=first)
    return pl.DataFrame(
        {
            "load": load,
            "queue": queue,
            "depot": depot,
            "express": rng.random(rows) < 0.3,
            "colour": rng.integers(0, 5, rows),
            "score": 0.2 + 0.02 * load + 0.1 * (depot == "north"),
            "prediction_time": [start + timedelta(days=i // a_day, minutes=i % a_day) for i in range(rows)],
        },
        schema_overrides={"prediction_time": pl.Datetime("us", "UTC")},
    )
