"""Rows drawn again: how often each counts in every resample.

Belongs here: totals over resamples, and the weights of their rows. How resamples are drawn, and what intervals they
give, is ``bootstrap``.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CHUNK_CELLS = 100_000
"""Weights looked at in one go: what a core's cache holds."""


@dataclass(frozen=True)
class Resamples:
    """How often each unit (a row, or a day of rows) was drawn.

    ``counts`` is (resamples, units); ``units`` is the unit of each row.
    """

    counts: Floats
    units: npt.NDArray[np.int64]
    unit: Literal["row", "day"]

    @classmethod
    def as_they_are(cls, rows: int) -> Self:
        """One resample, with every row once."""
        return cls(np.ones((1, 1)), np.zeros(rows, dtype=np.int64), "row")

    def take(self, rows: npt.NDArray[np.int64]) -> Self:
        """The same draws, seen by these rows only, in this order."""
        return replace(self, units=self.units[rows])

    def total(self, values: Floats) -> Floats:
        """The sum of values (rows,) in each resample: (resamples,)."""
        return self.counts @ np.bincount(self.units, weights=values, minlength=self.counts.shape[1])

    def totals(self, values: Floats, groups: npt.NDArray[np.int64], number: int) -> Floats:
        """The sum of values (rows,) in each resample and each of ``number`` groups: (resamples, groups)."""
        cells = self.counts.shape[1] * number
        sums = np.bincount(self.units * number + groups, weights=values, minlength=cells)
        return self.counts @ sums.reshape(-1, number)

    def rows(self) -> Floats:
        """How many rows each resample has: (resamples,)."""
        return self.counts @ np.bincount(self.units, minlength=self.counts.shape[1])

    def weights(self) -> Iterator[Floats]:
        """Row weights (resamples, rows), a bounded number of resamples at a time."""
        size = max(1, _CHUNK_CELLS // max(1, len(self.units)))
        for start in range(0, len(self.counts), size):
            yield self.counts[start : start + size, self.units]
