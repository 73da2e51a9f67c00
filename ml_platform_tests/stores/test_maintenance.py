"""Compaction and removal: what is pinned reads as before, what nobody needs is gone, and a crash loses nothing."""

import signal
import subprocess
import sys
from collections.abc import Collection
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ml_platform.core.content import content_hash
from ml_platform.settings import load
from ml_platform.stores.catalog import CATALOG, PartitionState
from ml_platform.stores.lake import Lake
from ml_platform.stores.maintenance import Upkeep, maintain_table, pinned_versions
from ml_platform.stores.models import ModelStore
from ml_platform.stores.sql import UnknownTableError
from ml_platform_tests.loop import writer
from ml_platform_tests.stores.model_examples import PROVENANCE, log

TABLE = "raw/counts"
DAY = "2013-01-01"
NOW = timedelta(0)
"""Nothing is kept for its age alone."""

DIES_BEFORE_RENEWING = """
import os, signal, sys
from ml_platform.stores.lake import Lake

class Dying(Lake):
    def renew(self, table):
        os.kill(os.getpid(), signal.SIGKILL)

Dying(sys.argv[1]).compact("raw/counts")
"""


def write(lake: Lake, value: int, day: str = DAY) -> PartitionState:
    rows = pl.DataFrame({"number": [value, value + 1]})
    return lake.write_partitions(TABLE, {day: rows}, sort_by=["number"], inputs_hash={day: str(value)}, inputs={})[day]


def in_pieces(lake: Lake, pieces: int = 5, day: str = DAY) -> PartitionState:
    """A day in many files, recorded as one write of many files would be."""
    rows = pl.DataFrame({"number": [1.5, None, 3.0], "text": ["a", "b", None]})
    for piece in range(pieces):
        frame = rows.with_columns(pl.lit(piece).alias("piece"), pl.lit(date.fromisoformat(day)).alias("day"))
        write_deltalake(lake.uri(TABLE), frame, mode="append", partition_by=["day"])
    standing = lake.read(TABLE)
    hashed = content_hash(standing, ["piece"])
    state = PartitionState(TABLE, day, standing.height, hashed, "inputs", lake.version(TABLE), {"raw/x": 3}, {"f": 1.0})
    lake._append_records([state], lake._look(TABLE)[1])
    return lake.partitions(TABLE)[day]


def upkeep(lake: Lake, keep: Collection[int] = (), older_than: timedelta = NOW) -> Upkeep:
    return maintain_table(lake, TABLE, keep, older_than=older_than)


def values(lake: Lake, version: int | None = None) -> list[int]:
    return sorted(lake.read(TABLE, version=version)["number"])


def test_small_files_become_one_and_neither_rows_nor_record_change(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    before = in_pieces(lake)
    rows, version = lake.read(TABLE), lake.version(TABLE)
    done = upkeep(lake, older_than=timedelta(days=1))
    assert (done.before.files, done.compacted, done.removed, done.skipped) == (5, 5, 0, "")
    assert lake.partitions(TABLE) == {DAY: before}
    assert lake.read(TABLE).sort("piece", "text").equals(rows.sort("piece", "text"))
    assert content_hash(lake.read(TABLE), ["piece"]) == before.content_hash
    assert lake.read(TABLE, version=version).height == rows.height, "the version before is still readable"
    assert lake.partitions(TABLE, version) == {DAY: before}
    assert upkeep(lake, older_than=timedelta(days=1)).compacted == 0


def test_killed_between_compaction_and_its_record_the_rerun_completes_it(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    before = in_pieces(lake)
    killed = subprocess.run([sys.executable, "-c", DIES_BEFORE_RENEWING, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert lake.partitions(TABLE) == {}, "at worst it would be computed anew"
    write(lake, 7, "2013-01-02")
    assert upkeep(lake, older_than=timedelta(days=1)).renewed == 1
    assert lake.partitions(TABLE)[DAY] == before


def test_a_day_whose_rows_did_change_is_not_renewed(tmp_path: Path) -> None:
    """A write that was killed before it was recorded is no compaction."""
    lake = Lake(str(tmp_path))
    write(lake, 1)
    rows = pl.DataFrame({"number": [5, 6], "day": [date(2013, 1, 1)] * 2})
    write_deltalake(lake.uri(TABLE), rows, mode="overwrite", predicate=f"day = '{DAY}'", partition_by=["day"])
    assert upkeep(lake).renewed == 0
    assert lake.partitions(TABLE) == {}


def test_a_record_of_files_that_another_write_replaced_hides_no_other(tmp_path: Path) -> None:
    """The compaction's record comes after that of a writer who was faster: the writer's counts."""
    lake = Lake(str(tmp_path))
    old = write(lake, 1)
    files = {DAY: lake._open(TABLE).get_add_actions(flatten=True)["path"].to_pylist()}
    new = write(lake, 2)
    lake._append_records([old], files)
    assert lake.partitions(TABLE)[DAY].content_hash == new.content_hash


def test_pinned_versions_stay_and_what_nobody_needs_is_gone(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for value in range(6):
        write(lake, 10 * value)
    orphan = tmp_path / TABLE / f"day={DAY}" / "part-of-a-killed-write.parquet"
    orphan.write_bytes(b"unfinished")
    assert upkeep(lake, [2], timedelta(days=30)).removed == 0, "all of it is young"
    done = upkeep(lake, [2])
    assert done.removed == 5
    assert not orphan.exists()
    assert values(lake) == [50, 51]
    assert values(lake, 2) == [20, 21]
    for gone in (0, 1, 3, 4):
        assert lake.lost_files(TABLE, gone), gone
    assert lake.lost_files(TABLE, 2) == []
    assert lake.partitions(TABLE)[DAY].inputs_hash == "50"
    assert lake.partitions(TABLE, 0)[DAY].inputs_hash == "0", "what it was remains known"


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    in_pieces(lake)
    for value in range(3):
        write(lake, value, "2013-01-02")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert maintain_table(lake, TABLE, [], older_than=NOW, dry_run=True).removed == 2
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_table_whose_log_lacks_a_pinned_version_is_left_alone(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for value in range(3):
        write(lake, value)
    done = upkeep(lake, [99])
    assert "99" in done.skipped
    assert [lake.lost_files(TABLE, version) for version in range(3)] == [[], [], []]


def test_a_long_log_is_summed_up(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    for value in range(25):
        write(lake, value)
    assert list(Path(lake.uri(TABLE)).glob("_delta_log/*.checkpoint.parquet"))
    assert values(lake, 3) == [3, 4]


def test_the_catalog_is_compacted_too(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    states = [write(lake, value, f"2013-01-{value:02d}") for value in range(1, 9)]
    done = maintain_table(lake, CATALOG, [], older_than=NOW)
    assert (done.before.files, done.after.files) == (8, 1)
    assert [state.content_hash for state in lake.partitions(TABLE).values()] == [state.content_hash for state in states]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    days=st.lists(st.sampled_from(["2013-01-01", "2013-01-02", "2013-01-03"]), min_size=1, max_size=8),
    pins=st.sets(st.integers(0, 7), max_size=3),
    again=st.integers(1, 2),
)
def test_whatever_was_written_and_pinned_reads_as_before(
    tmp_path_factory: pytest.TempPathFactory, days: list[str], pins: set[int], again: int
) -> None:
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    frames = []
    for value, day in enumerate(days):
        write(lake, 10 * value, day)
        frames.append(lake.read(TABLE).sort("number"))
    kept = {pin for pin in pins if pin < len(days)}
    states = lake.partitions(TABLE)
    for _ in range(again):
        assert upkeep(lake, kept).skipped == ""
    assert lake.partitions(TABLE) == states
    needed = set()
    for version in {*kept, len(days) - 1}:
        assert lake.read(TABLE, version=version).sort("number").equals(frames[version])
        needed |= {Path(uri) for uri in lake._open(TABLE, version).file_uris()}
    assert set(Path(lake.uri(TABLE)).glob("day=*/*.parquet")) == needed


def test_writers_at_work_lose_nothing_to_maintenance(tmp_path: Path) -> None:
    """Two processes replace their own days while the table is compacted and cleaned again and again."""
    lake = Lake(str(tmp_path))
    writer.write(lake, 0, writer.own_days(0), 10)
    writers = [
        subprocess.Popen([sys.executable, writer.__file__, "again", str(tmp_path), str(number), "12"])
        for number in (1, 2)
    ]
    rounds = 0
    while any(process.poll() is None for process in writers):
        maintain_table(lake, writer.TABLE, [], older_than=timedelta(hours=1))
        maintain_table(lake, CATALOG, [], older_than=timedelta(hours=1))
        rounds += 1
    assert [process.wait() for process in writers] == [0, 0]
    assert rounds, "maintenance ran beside them"
    assert lake.read(writer.TABLE)["generation"].value_counts().sort("generation").rows() == [(0, 30), (11, 6000)]
    states = lake.partitions(writer.TABLE)
    assert sorted(states) == sorted(day for number in range(3) for day in writer.own_days(number))
    assert {states[day].inputs_hash for number in (1, 2) for day in writer.own_days(number)} == {"generation 11"}


def test_every_registered_version_pins_its_training_set_and_its_inputs(tmp_path: Path) -> None:
    store = ModelStore(load({"ML_PLATFORM_HOME": str(tmp_path)}))
    lake = store.ledger._lake
    log(store, "churn")
    log(store, "churn")
    standing = pl.DataFrame({"key": [1]})
    lake.write("other/training_set", standing, sort_by=["key"], inputs={"features/x": 4})
    assert pinned_versions(lake, store) == {
        "churn/training_set": {PROVENANCE.training_set_version},
        "raw/arrivals": {7},
        "other/training_set": {0},
        "features/x": {4},
    }


def test_a_version_that_never_was_is_named(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    write(lake, 1)
    with pytest.raises(UnknownTableError, match=f"{TABLE} has no version 5"):
        lake.partitions(TABLE, 5)
