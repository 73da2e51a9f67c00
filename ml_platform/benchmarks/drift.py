"""The population stability index of twenty columns: as drift reports have it, in NumPy, and in DuckDB.

``python -m ml_platform.benchmarks.drift ours|numpy|duckdb ROWS`` bins as many reference rows by their quantiles and
counts as many current ones. ``answer`` is every column's index to nine digits.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from ml_platform.benchmarks.measuring import measured, tell

COLUMNS, BINS = 20, 10
SMOOTHING = 0.5


def rows(number: int, seed: int, shift: float) -> pl.DataFrame:
    """Rows of independent normal columns, a hundredth of each missing."""
    random = np.random.default_rng(seed)
    columns = {}
    for column in range(COLUMNS):
        values = random.normal(shift * column / COLUMNS, 1.0, number)
        values[random.random(number) < 0.01] = np.nan
        columns[f"column{column}"] = values
    return pl.DataFrame(columns)


def in_numpy(reference: np.ndarray, current: np.ndarray) -> float:
    """One column's index as people write it: bins by quantiles of the reference, one more for what is missing."""
    known = reference[~np.isnan(reference)]
    ordered = np.sort(known)
    edges = np.unique(ordered[[len(ordered) * bin_ // BINS for bin_ in range(1, BINS)]])

    def counts(values: np.ndarray) -> np.ndarray:
        there = values[~np.isnan(values)]
        inner = np.bincount(np.searchsorted(edges, there, side="left"), minlength=len(edges) + 1)
        return np.append(inner, len(values) - len(there))

    return index(counts(current), counts(reference))


def index(current: np.ndarray, reference: np.ndarray) -> float:
    """The stability index of rows per bin."""
    shares = [(found + SMOOTHING) / (found.sum() + SMOOTHING * len(found)) for found in (current, reference)]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())


def in_duckdb(reference: pl.DataFrame, current: pl.DataFrame) -> list[float]:
    """Every column's index, counted by three queries: rows there, edges, and of each side the rows up to each edge."""
    import duckdb

    names = reference.columns

    def ask(rows: pl.DataFrame, figures: Sequence[str]) -> tuple[Any, ...]:
        known = ", ".join(f"nullif({name}, 'nan'::DOUBLE) AS {name}" for name in names)
        (found,) = duckdb.from_arrow(rows.to_arrow()).project(known).aggregate(", ".join(figures)).fetchall()
        return tuple(found)

    places = [
        [(number * bin_ // BINS + 0.5) / number for bin_ in range(1, BINS)]
        for number in ask(reference, [f"count({name})" for name in names])
    ]
    quantiles = zip(names, places, strict=True)
    edges = ask(reference, [f"list_sort(list_distinct(quantile_disc({name}, {at})))" for name, at in quantiles])
    up_to = [
        [f"count(*) FILTER ({name} <= {edge!r})" for edge in found] + [f"count({name})", f"count(*) - count({name})"]
        for name, found in zip(names, edges, strict=True)
    ]
    counted = [iter(ask(side, [each for column in up_to for each in column])) for side in (current, reference)]
    found = []
    for column in up_to:
        sides = []
        for counts in counted:
            *at_most, missing = [next(counts) for _ in column]
            sides.append(np.append(np.diff(at_most, prepend=0), missing))
        found.append(index(*sides))
    return found


def main(side: str, number: int) -> None:
    """As the module says."""
    from ml_platform.core.drift import psi, reference_profile

    reference, current = rows(number, 0, 0.0), rows(number, 1, 0.3)
    arrays = [(reference[name].to_numpy(), current[name].to_numpy()) for name in reference.columns]

    def ours() -> list[float]:
        profiles = reference_profile(reference, reference.columns, BINS)
        return [psi(profile, current)[0] for profile in profiles]

    def numpy() -> list[float]:
        return [in_numpy(*both) for both in arrays]

    def duckdb() -> list[float]:
        return in_duckdb(reference, current)

    found, figures = measured({"ours": ours, "numpy": numpy, "duckdb": duckdb}[side])
    tell({**figures, "answer": " ".join(f"{value:.9f}" for value in found)})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
