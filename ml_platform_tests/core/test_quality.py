"""Consistency of one table's rows with what another table knew."""

from datetime import UTC, datetime, timedelta

import polars as pl

from ml_platform.core.quality import consistent_share
from ml_platform.core.table_spec import ConsistentWith

NOON = datetime(2020, 5, 1, 12, tzinfo=UTC)
DECLARED = ConsistentWith(table="sent", key=("parcel",), look_back=timedelta(hours=2))


def known(**parcels: int) -> pl.DataFrame:
    rows = [(parcel.rstrip("_"), NOON + timedelta(minutes=minutes)) for parcel, minutes in parcels.items()]
    return pl.DataFrame(rows, {"parcel": pl.String, "known_at": pl.Datetime("us", "UTC")}, orient="row")


def test_a_row_is_consistent_if_the_other_table_knew_of_it_no_later_and_not_too_long_before() -> None:
    received = known(same=0, earlier=0, limit=0, later=0, stale=0, never=0)
    sent = known(same=0, same_=-1, earlier=-60, limit=-120, later=1, stale=-121)

    assert consistent_share(DECLARED, received, sent) == 3 / 6


def test_nothing_to_judge_is_consistent_and_an_empty_other_table_knows_nothing() -> None:
    assert consistent_share(DECLARED, known(), known(a=0)) == 1.0
    assert consistent_share(DECLARED, known(a=0), known()) == 0.0
