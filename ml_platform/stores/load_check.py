"""Run by path in a clean interpreter: can the stored files alone, without the platform, answer?

It imports nothing of ``ml_platform`` on purpose, so it repeats the encoding of
:func:`ml_platform.core.training.encode` in its own words; equal scores show that both say the same.

Reads ``{"model", "declaration", "rows"}`` (two paths and a list of feature mappings) from standard input and
writes ``{"scores", "median_ms"}``, the time being that of encoding and scoring one row.
"""

import json
import statistics
import sys
import time
from typing import Any

import lightgbm as lgb
import numpy as np
import numpy.typing as npt

_TIMED_ROWS = 200


def encoded(row: dict[str, Any], declaration: dict[str, Any]) -> npt.NDArray[np.float64]:
    """One row as the numbers the model was fitted on; unknown and missing values are NaN."""
    categories = declaration["categories"]
    values = []
    for name in declaration["features"]:
        value = row[name]
        if name in categories:
            value = categories[name].index(value) if value in categories[name] else None
        values.append(float("nan") if value is None else float(value))
    return np.array([values])


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    with open(request["declaration"], encoding="utf-8") as file:
        declaration = json.load(file)
    booster = lgb.Booster(model_file=request["model"])
    rows = request["rows"]
    scores = [float(booster.predict(encoded(row, declaration))[0]) for row in rows]
    taken = []
    for index in range(_TIMED_ROWS):
        started = time.perf_counter()
        booster.predict(encoded(rows[index % len(rows)], declaration), num_threads=1)
        taken.append(1000 * (time.perf_counter() - started))
    json.dump({"scores": scores, "median_ms": statistics.median(taken)}, sys.stdout)


if __name__ == "__main__":
    main()
