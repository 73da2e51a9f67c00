"""Which days a change reaches, where values never expire."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.stores.derivation import FOREVER, Derivation, Input
from ml_platform.stores.incremental import derive, stale_days
from ml_platform.stores.lake import Lake

START = datetime(2024, 2, 28, tzinfo=UTC)
DAYS = [(START + timedelta(days=n)).date().isoformat() for n in range(5)]


def write(lake: Lake, day: str, value: int) -> None:
    rows = pl.DataFrame({"key": ["a"], "value": [value]})
    lake.write_partitions("features/facts", {day: rows}, sort_by=["key"], inputs_hash={day: str(value)}, inputs={})


@pytest.mark.parametrize(("look_back", "reached"), [(timedelta(days=1), DAYS[1:3]), (FOREVER, DAYS[1:])])
def test_a_changed_day_reaches_every_later_one_that_may_read_it(
    tmp_path: Path, look_back: timedelta, reached: list[str]
) -> None:
    lake, watermark = Lake(str(tmp_path)), START + timedelta(days=5)
    for number, day in enumerate(DAYS):
        write(lake, day, number)
    derivation = Derivation(
        table="model/predictions",
        inputs=[Input("features/facts", look_back, loaded=False)],
        compute=lambda frames, start, end: pl.DataFrame(
            {"key": ["a"], "at": [start]}, schema_overrides={"at": pl.Datetime("us", "UTC")}
        ),
        code_version="1",
        time_column="at",
        sort_by=["key"],
    )
    list(derive(lake, derivation, DAYS, watermark))
    assert stale_days(lake, derivation, DAYS, watermark) == []
    write(lake, DAYS[1], 100)
    assert stale_days(lake, derivation, DAYS, watermark) == reached
