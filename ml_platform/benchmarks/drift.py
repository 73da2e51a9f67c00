"""The population stability index of twenty columns: as drift reports have it, and in NumPy.

``python -m ml_platform.benchmarks.drift ours|numpy ROWS`` bins as many reference rows by their quantiles and counts as
many current ones. ``answer`` is every column's index to nine digits.
"""

import sys

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

    shares = [
        (found + SMOOTHING) / (found.sum() + SMOOTHING * len(found)) for found in (counts(current), counts(reference))
    ]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())


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

    found, figures = measured({"ours": ours, "numpy": numpy}[side])
    tell({**figures, "answer": " ".join(f"{value:.9f}" for value in found)})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
