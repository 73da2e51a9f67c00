"""How good the rows delivered for one partition were, as numbers people can follow over time.

Belongs here: the five dimensions and what each means. Which rows keep a contract is decided in
:mod:`ml_platform.core.contracts`.
"""

from dataclasses import asdict, dataclass

import polars as pl

from ml_platform.core.table_spec import KNOWN_AT, ConsistentWith


@dataclass(frozen=True)
class Quality:
    """The quality of one partition as delivered. Shares are in [0, 1], and 1 where there is nothing to judge.

    Attributes:
        delivered_rows: rows in all files of the partition; always valid + quarantined + duplicate rows.
        valid_rows: rows that went on to the raw table.
        quarantined_rows: distinct rows that broke the contract.
        duplicate_rows: exact copies of another row, which collapsed into it.
        completeness: share of filled cells among all delivered cells.
        validity: share of distinct rows that keep the contract.
        uniqueness: share of distinct rows among those delivered.
        timeliness: share of delivered rows that became known within their partition's period.
        median_lag_minutes: from event to knowledge of it, over valid rows; None where there is none.
        consistency: share of valid rows that the other table already knew of; None where none is declared.
    """

    delivered_rows: int = 0
    valid_rows: int = 0
    quarantined_rows: int = 0
    duplicate_rows: int = 0
    completeness: float = 1.0
    validity: float = 1.0
    uniqueness: float = 1.0
    timeliness: float = 1.0
    median_lag_minutes: float | None = None
    consistency: float | None = None

    def as_metadata(self) -> dict[str, int | float]:
        """The figures by name, without those that have no value."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def share(part: float, whole: float) -> float:
    """``part / whole``; 1 where there is nothing to judge."""
    return part / whole if whole else 1.0


def consistent_share(declared: ConsistentWith, rows: pl.DataFrame, other: pl.DataFrame) -> float:
    """The share of ``rows`` whose key ``other`` knew at or before they became known, at most ``look_back`` earlier.

    Args:
        declared: the key and how far back the other table counts.
        rows: valid rows of one partition, with the key and ``known_at``.
        other: rows of the other table, with the key and ``known_at``, from ``look_back`` before the partition on.
    """
    key = list(declared.key)
    pairs = rows.select(*key, KNOWN_AT).with_row_index("row").join(other.select(*key, other_known_at=KNOWN_AT), on=key)
    age = pl.col(KNOWN_AT) - pl.col("other_known_at")
    known = pairs.filter(age.is_between(pl.duration(), declared.look_back))["row"].n_unique()
    return share(known, rows.height)
