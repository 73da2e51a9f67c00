"""Writers at once in object storage: nothing is lost, and of what excludes one another one wins."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import polars as pl
import pytest

from ml_platform.stores.lake import Lake
from ml_platform_tests.stores.racing import race

pytestmark = pytest.mark.deploy

WRITERS, TURNS = 4, 5


def test_of_processes_that_promote_at_once_exactly_one_wins_each_race(on_shared_stores: dict[str, str]) -> None:
    race(f"{on_shared_stores['ML_PLATFORM_LAKE_URI']}-{uuid4()}", rounds=3)


def test_rows_that_many_add_at_once_are_all_kept(on_shared_stores: dict[str, str]) -> None:
    lake = Lake(f"{on_shared_stores['ML_PLATFORM_LAKE_URI']}-{uuid4()}")

    def write(writer: int) -> None:
        for turn in range(TURNS):
            lake.append("of/many", pl.DataFrame({"writer": [writer], "turn": [turn]}))

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    found = lake.scan("of/many").collect().sort("writer", "turn")
    assert found.rows() == [(writer, turn) for writer in range(WRITERS) for turn in range(TURNS)]
