"""Analysts' queries come out whole in every format, and nothing but reads goes in."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import Result

Run = Callable[..., Result]
COUNT = "select origin, count(*) as flights from raw.arrivals group by origin order by origin"


def test_csv_json_and_parquet_hold_the_same_rows(run: Run) -> None:
    csv = pl.read_csv(io.StringIO(run("sql", COUNT, "--format", "csv").stdout))
    rows = json.loads(run("sql", COUNT, "--format", "json").stdout)
    parquet = pl.read_parquet(io.BytesIO(run("sql", COUNT, "--format", "parquet").stdout_bytes))
    assert csv["origin"].to_list() == ["EWR", "JFK", "LGA"]
    assert csv.to_dicts() == rows == parquet.to_dicts()


def test_a_table_for_people_has_every_row(run: Run) -> None:
    shown = run("sql", COUNT).stdout
    assert [origin in shown for origin in ("EWR", "JFK", "LGA")] == [True] * 3


def test_output_goes_to_a_file_and_says_how_many_rows(run: Run, tmp_path: Path) -> None:
    result = run("sql", COUNT, "--format", "parquet", "--output", str(tmp_path / "new" / "flights.parquet"))
    assert result.stdout == ""
    assert "3 rows written" in result.stderr
    assert pl.read_parquet(tmp_path / "new" / "flights.parquet").height == 3
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["flights.parquet"]


def test_predictions_can_be_joined_with_labels(run: Run) -> None:
    query = "select count(*) as n from flight_delay.predictions join flight_delay.labels using (flight_id)"
    assert json.loads(run("sql", query, "--format", "json").stdout)[0]["n"] > 100


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("delete from raw.arrivals", "is not a read"),
        ("select 1; select 2", "exactly one statement"),
        ("select nope from raw.arrivals", 'Referenced column "nope" not found'),
        ("select * from raw.nothing", "The tables are: .*raw.arrivals"),
        ("select * from read_csv('/etc/passwd')", "disabled|Permission"),
    ],
)
def test_what_is_not_a_read_of_a_known_table_is_refused(run: Run, query: str, message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        raise run("sql", query).exception


def test_a_table_cannot_be_written_to_a_file(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--output takes --format csv, json or parquet"):
        raise run("sql", COUNT, "--output", str(tmp_path / "x")).exception
