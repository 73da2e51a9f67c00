"""The population stability index of twenty columns: as drift reports have it, in NumPy and in DuckDB.

``python -m ml_platform.benchmarks.drift ours|numpy|duckdb ROWS`` bins as many reference rows by their quantiles and
counts as many current ones. ``answer`` is every column's index to nine digits.
"""

import sys
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

    return _index(counts(reference), counts(current))


def in_duckdb(reference: pl.DataFrame, current: pl.DataFrame) -> list[float]:
    """Every column's index with quantiles and counts by SQL, each in one query over all columns.

    NaN is DuckDB's largest number: it is above every edge, and behind all others in order.
    """
    import duckdb

    names = reference.columns
    with duckdb.connect() as connection:
        connection.register("reference", reference.to_arrow())
        connection.register("present", current.to_arrow())

        def ask(values: list[str], table: str) -> tuple[Any, ...]:
            found: tuple[Any, ...] = connection.sql(f"SELECT {', '.join(values)} FROM {table}").fetchall()[0]
            return found

        known = ask([f"countif(NOT isnan({name}))" for name in names], "reference")
        quantiles = []
        for name, number in zip(names, known, strict=True):
            # Half a row beyond, so that no rounding chooses the row beside it.
            at = [(number * bin_ // BINS + 0.5) / reference.height for bin_ in range(1, BINS)]
            quantiles.append(f"quantile_disc({name}, {at})")
        edges = [sorted(set(found)) for found in ask(quantiles, "reference")]
        counted = [f"countif(NOT isnan({name}))" for name in names] + [
            f"countif({name} <= {edge!r}::DOUBLE)" for name, inner in zip(names, edges, strict=True) for edge in inner
        ]
        before, now = ask(counted, "reference"), ask(counted, "present")

    def counts(found: tuple[Any, ...], rows: int) -> list[np.ndarray]:
        at_most, bins = iter(found[len(names) :]), []
        for there, inner in zip(found, edges, strict=False):
            bins.append(np.diff([0, *(next(at_most) for _ in inner), there, rows]))
        return bins

    return list(map(_index, counts(before, reference.height), counts(now, current.height)))


def _index(reference: np.ndarray, current: np.ndarray) -> float:
    p, q = ((found + SMOOTHING) / (found.sum() + SMOOTHING * len(found)) for found in (current, reference))
    return float(((p - q) * np.log(p / q)).sum())


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
