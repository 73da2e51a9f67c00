"""Tables kept open answer as tables opened anew would, whoever wrote to them since."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from ml_platform.stores.catalog import CATALOG, Catalog, PartitionState
from ml_platform.stores.delta_log import OpenTable
from ml_platform.stores.lake import _CATALOG_CONFIGURATION, Lake

TABLE, DAY = "raw/counts", "2013-01-01"
NUMBERS = {"number": pl.Int64}


def write(lake: Lake, value: int, day: str = DAY) -> PartitionState:
    rows = pl.DataFrame({"number": [value]})
    return lake.write_partitions(TABLE, {day: rows}, sort_by=["number"], inputs_hash={day: str(value)}, inputs={})[day]


def anew(lake: Lake) -> Catalog:
    """The catalog as a process that just started reads it."""
    return Catalog(lake.uri(CATALOG), {})


def test_what_others_recorded_since_is_seen(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    first = write(lake, 1)
    watching = anew(lake)
    assert watching.history(TABLE)[0].content_hash == first.content_hash
    second = write(lake, 2)
    assert [state.content_hash for state in watching.history(TABLE)] == [first.content_hash, second.content_hash]
    assert watching.tables() == [TABLE]


def test_records_are_the_same_after_their_files_were_replaced(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for value in range(4):
        write(lake, value, f"2013-01-0{value + 1}")
    watching, before = anew(lake), lake.partitions(TABLE)
    history = watching.history(TABLE)
    DeltaTable(lake.uri(CATALOG)).optimize.compact()
    assert watching.history(TABLE) == history
    assert lake.partitions(TABLE) == before


def test_many_writes_do_not_leave_as_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml_platform.stores.lake._CATALOG_COMPACTED_EVERY", 5)
    lake = Lake(str(tmp_path))
    written = [write(lake, value, f"2013-01-{value + 1:02d}") for value in range(13)]
    assert len(DeltaTable(lake.uri(CATALOG)).file_uris()) < 5
    assert [state.content_hash for state in lake.partitions(TABLE).values()] == [each.content_hash for each in written]


def test_a_state_that_a_write_by_another_made_untrue_is_not_told(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    write(lake, 1)
    assert list(lake.partitions(TABLE)) == [DAY]
    rows = pl.DataFrame({"number": [9], "day": [datetime(2013, 1, 1, tzinfo=UTC).date()]})
    write_deltalake(lake.uri(TABLE), rows, mode="overwrite", predicate=f"day = '{DAY}'")
    assert lake.partitions(TABLE) == {}


def test_a_scan_made_before_a_write_reads_what_stood_then(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    write(lake, 1)
    before = lake.scan(TABLE)
    write(lake, 2)
    assert before.collect()["number"].to_list() == [1]
    assert lake.read(TABLE)["number"].to_list() == [2]
    assert lake.read(TABLE, version=0)["number"].to_list() == [1]


def test_a_table_made_anew_in_the_place_of_another_is_another(tmp_path: Path) -> None:
    place = str(tmp_path / "table")
    table = OpenTable(place, {})
    assert not table.exists()
    write_deltalake(place, pl.DataFrame({"number": [1]}))
    assert table.news(NUMBERS)[0]["number"].to_list() == [1]
    assert table.news(NUMBERS)[0].is_empty()
    shutil.rmtree(place)
    assert not table.exists()
    write_deltalake(place, pl.DataFrame({"number": [2]}))
    rows, complete = table.news(NUMBERS)
    assert (rows["number"].to_list(), complete) == ([2], True)
    assert table.at(0).to_pyarrow_table()["number"].to_pylist() == [2]


def test_of_many_versions_a_few_are_kept_open(tmp_path: Path) -> None:
    place = str(tmp_path / "table")
    for value in range(8):
        write_deltalake(place, pl.DataFrame({"number": [value]}), mode="append")
    table = OpenTable(place, {})
    assert [table.at(version).to_pyarrow_table().num_rows for version in range(8)] == list(range(1, 9))
    assert table.at().version() == 7


def test_who_looked_long_ago_sees_what_came_since_though_the_log_was_cleaned_up(tmp_path: Path) -> None:
    place = str(tmp_path / "table")
    cleaned = {"delta.logRetentionDuration": "interval 0 seconds", "delta.checkpointInterval": "5"}
    write_deltalake(place, pl.DataFrame({"number": [0]}), configuration=cleaned)
    watching = OpenTable(place, {})
    assert watching.news(NUMBERS)[0].height == 1
    for value in range(1, 23):
        write_deltalake(place, pl.DataFrame({"number": [value]}), mode="append")
    assert not (tmp_path / "table" / "_delta_log" / f"{1:020}.json").exists()
    rows, complete = watching.news(NUMBERS)
    assert (sorted(rows["number"]), complete) == ([*range(23)], True)
    write_deltalake(place, pl.DataFrame({"number": [23]}), mode="append")
    rows, complete = watching.news(NUMBERS)
    assert (rows["number"].to_list(), complete) == ([23], False)


def test_the_log_of_the_catalog_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_CATALOG_CONFIGURATION, "delta.logRetentionDuration", "interval 0 seconds")
    lake = Lake(str(tmp_path))
    written = [write(lake, value) for value in range(50)]
    assert len(list((tmp_path / CATALOG / "_delta_log").iterdir())) < 30
    assert [state.content_hash for state in anew(lake).history(TABLE)] == [state.content_hash for state in written]
    assert lake.partitions(TABLE)[DAY].content_hash == written[-1].content_hash


@pytest.mark.parametrize("mine", [2, 1])
@pytest.mark.parametrize("first", ["mine", "none"])
def test_a_writer_that_was_overtaken_records_nothing_of_the_other_s_rows(
    mine: int, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what it wrote, or found to be equal, and its record of it."""
    lake = Lake(str(tmp_path))
    write(lake, 0, "2013-01-02")
    if first == "mine":
        write(lake, 1)
    record = Lake._record

    def overtaken(self: Lake, *arguments: Any, **named: Any) -> dict[str, PartitionState]:
        monkeypatch.undo()
        write(Lake(str(tmp_path)), 3)
        return record(self, *arguments, **named)

    monkeypatch.setattr(Lake, "_record", overtaken)
    write(lake, mine)
    assert lake.read(TABLE)["number"].sort().to_list() == [0, 3]
    assert lake.partitions(TABLE)[DAY].inputs_hash == "3"
    assert write(lake, mine).changed
    assert lake.read(TABLE)["number"].sort().to_list() == [0, mine]


@pytest.mark.parametrize("look", range(1, 6))
def test_a_table_that_another_makes_meanwhile_keeps_its_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: int
) -> None:
    """Another writer makes the table just after this one looked, for the first time or a later one, and saw none."""
    lake, exists, looks = Lake(str(tmp_path)), Lake.exists, 0

    def looking(self: Lake, table: str) -> bool:
        nonlocal looks
        found = exists(self, table)
        looks += table == TABLE
        if table == TABLE and looks == look:
            write(lake, 2, "2013-01-02")
        return found

    monkeypatch.setattr(Lake, "exists", looking)
    write(lake, 1)
    monkeypatch.undo()
    written = {DAY, "2013-01-02"} if looks >= look else {DAY}
    assert set(lake.partitions(TABLE)) == written
    assert lake.read(TABLE).height == len(written)
