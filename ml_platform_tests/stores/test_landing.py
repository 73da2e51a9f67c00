"""Landing folders as upstream leaves them: days, hours, pieces, gaps and things that are no delivery."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ml_platform.core.table_spec import TableSpec
from ml_platform.stores import landing as landing_module
from ml_platform.stores.ingest import identities, ingest, stale_partitions
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing, watermark
from ml_platform.stores.table_names import raw_table

COLUMNS = [
    {"name": "gauge", "type": "text", "description": "Where."},
    {"name": "received_at", "type": "timestamp", "description": "When we heard of it."},
]
COMMON = {"description": "A table.", "owners": ["team:rivers"], "key": ["gauge"]}


def table(name: str, source: str = "") -> TableSpec:
    return TableSpec.model_validate(
        COMMON | {"name": name, "source": source, "known_at": "received_at", "contract": {"columns": COLUMNS}}
    )


LEVELS = table("levels")
GAUGES = TableSpec.model_validate(
    COMMON | {"name": "gauges", "kind": "reference", "contract": {"columns": COLUMNS[:1]}}
)


def land(root: Path, *names: str, folder: str = "levels") -> Landing:
    (root / folder).mkdir(exist_ok=True)
    for name in names:
        (root / folder / name).write_text(name)
    return Landing(root)


def test_hours_and_pieces_belong_to_their_utc_day_in_order(tmp_path: Path) -> None:
    landing = land(tmp_path, "2020-05-02.csv", "2020-05-01T23.csv", "2020-05-01T04.late.csv", "2020-05-01T04.csv")

    periods = landing.periods(LEVELS)
    assert {day: [file.name for file in files] for day, files in periods.items()} == {
        "2020-05-01": ["levels/2020-05-01T04.csv", "levels/2020-05-01T04.late.csv", "levels/2020-05-01T23.csv"],
        "2020-05-02": ["levels/2020-05-02.csv"],
    }
    last = periods["2020-05-01"][-1]
    assert (last.start, last.end) == (datetime(2020, 5, 1, 23, tzinfo=UTC), datetime(2020, 5, 2, tzinfo=UTC))
    assert landing.read(LEVELS, "2020-05-02") == [("levels/2020-05-02.csv", b"2020-05-02.csv")]
    assert landing.read(LEVELS, "2020-05-03") == []


def test_a_landing_folder_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    landing = Landing(tmp_path / "nowhere")

    assert landing.periods(LEVELS) == {}
    assert landing.landed_through(LEVELS) is None
    assert landing.gaps(LEVELS) == ()
    assert landing.strangers(LEVELS) == ()
    assert watermark(landing, [LEVELS]) is None


def test_unfinished_and_hidden_files_are_not_there_yet(tmp_path: Path) -> None:
    landing = land(tmp_path, ".2020-05-01.csv", ".2020-05-01.csv.77.tmp", "2020-05-01.csv.part", "2020-05-01.csv~")

    assert landing.periods(LEVELS) == {}
    assert landing.strangers(LEVELS) == ()


def test_a_day_of_which_a_file_may_still_be_written_is_left_alone_whole(tmp_path: Path) -> None:
    """Without the file it would look like a day from which an hour was taken away."""
    land(tmp_path, "2020-05-01T04.csv", "2020-05-01T05.csv", "2020-05-02T00.csv", "notes.txt")
    long_ago = time.time() - 61
    for name in ("2020-05-01T04.csv", "2020-05-02T00.csv"):
        os.utime(tmp_path / "levels" / name, (long_ago, long_ago))
    settling = Landing(tmp_path, timedelta(seconds=60))
    assert list(settling.periods(LEVELS)) == ["2020-05-02"]
    assert settling.strangers(LEVELS) == ()
    os.utime(tmp_path / "levels" / "2020-05-01T05.csv", (long_ago, long_ago))
    assert [len(files) for files in settling.periods(LEVELS).values()] == [2, 1]


def test_how_long_files_take_to_settle_is_known_and_no_clock_makes_it_longer(tmp_path: Path) -> None:
    land(tmp_path, "2020-05-01.csv", "2020-05-02.csv")
    now = time.time()
    settling = Landing(tmp_path, timedelta(seconds=60))
    for name, age, least, most in (("2020-05-01.csv", 20, 40, 60), ("2020-05-02.csv", 50, 30, 40)):
        os.utime(tmp_path / "levels" / name, (now - age, now - age))
        assert timedelta(seconds=least) < settling.settles_in([LEVELS]) <= timedelta(seconds=most)
    os.utime(tmp_path / "levels" / "2020-05-01.csv", (now + 3600, now + 3600))
    assert settling.settles_in([LEVELS]) == timedelta(seconds=60)
    assert Landing(tmp_path).settles_in([LEVELS]) == timedelta(0)


@pytest.mark.parametrize("name", ["2020-05-32.csv", "2020-05-01T24.csv", "2020-5-1.csv", "2020-05-01.CSV", "may.csv"])
def test_a_file_that_is_no_period_is_named_with_what_is_allowed(tmp_path: Path, name: str) -> None:
    landing = land(tmp_path, name, "2020-05-01.csv")

    (error,) = landing.strangers(LEVELS)
    assert error.startswith(f"levels/{name} is no landed file of table 'levels'; allowed: levels/{{period}}.csv")
    assert list(landing.periods(LEVELS)) == ["2020-05-01"]


def test_a_period_outside_the_calendar_is_no_delivery_but_a_stranger(tmp_path: Path) -> None:
    folder = land(
        tmp_path, "1999-12-31T23.csv", "2020-04-30.csv", "2020-05-01.csv", "2020-05-02T23.csv", "2020-05-03.csv"
    )
    landing = replace(folder, start=date(2020, 5, 1), end=date(2020, 5, 3))

    assert list(landing.periods(LEVELS)) == ["2020-05-01", "2020-05-02"]
    assert landing.landed_through(LEVELS) == datetime(2020, 5, 3, tzinfo=UTC)
    assert landing.gaps(LEVELS)[-1] == "2020-05-02T22", "nothing is missed beyond the calendar"
    assert list(landing.fingerprints(LEVELS)) == ["2020-05-01", "2020-05-02"]
    assert landing.strangers(LEVELS) == tuple(
        f"levels/{name}.csv is of {name[:10]}; the days of the data set are from 2020-05-01 until before 2020-05-03"
        for name in ("1999-12-31T23", "2020-04-30", "2020-05-03")
    )


def test_a_source_pattern_names_folder_and_file(tmp_path: Path) -> None:
    landing = land(tmp_path, "lv_2020-05-01.txt", "lv_2020-05-01.b.txt", "2020-05-01.csv", folder="export")
    spec = table("levels", "export/lv_{period}.txt")

    assert [name for name, _ in landing.read(spec, "2020-05-01")] == [
        "export/lv_2020-05-01.b.txt",
        "export/lv_2020-05-01.txt",
    ]
    assert len(landing.strangers(spec)) == 1


def test_the_watermark_is_the_end_of_the_newest_period_of_the_slowest_partitioned_table(tmp_path: Path) -> None:
    other = table("rain")
    land(tmp_path, "gauges.csv", folder="gauges")
    landing = land(tmp_path, "2020-05-01.csv", "2020-05-03.csv")

    assert landing.landed_through(LEVELS) == datetime(2020, 5, 4, tzinfo=UTC)
    assert watermark(landing, [LEVELS, other, GAUGES]) is None, "a table that has landed nothing holds it"
    land(tmp_path, "2020-05-02T05.csv", folder="rain")
    assert watermark(landing, [LEVELS, other, GAUGES]) == datetime(2020, 5, 2, 6, tzinfo=UTC)
    assert watermark(landing, [GAUGES]) is None


def test_gaps_are_missing_days_and_missing_hours_of_days_that_come_by_the_hour(tmp_path: Path) -> None:
    hours = [f"2020-05-04T{hour:02}.csv" for hour in range(24) if hour not in (3, 17)]
    landing = land(tmp_path, "2020-05-01.csv", "2020-05-03.csv", *hours, "2020-05-05T00.csv", "2020-05-05T02.csv")

    assert landing.gaps(LEVELS) == ("2020-05-02", "2020-05-04T03", "2020-05-04T17", "2020-05-05T01")


def test_a_reference_table_is_one_partition_without_a_period(tmp_path: Path) -> None:
    landing = land(tmp_path, "gauges.csv", "gauges.2.csv", "2020-05-01.csv", folder="gauges")

    assert [name for name, _ in landing.read(GAUGES, "all")] == ["gauges/gauges.2.csv", "gauges/gauges.csv"]
    assert landing.landed_through(GAUGES) is None
    assert landing.gaps(GAUGES) == ()
    (stranger,) = landing.strangers(GAUGES)
    assert "gauges/2020-05-01.csv" in stranger


def test_a_fingerprint_changes_exactly_when_names_or_contents_do(tmp_path: Path) -> None:
    landing = land(tmp_path, "2020-05-01.csv", "2020-05-02.csv")
    path = tmp_path / "levels" / "2020-05-01.csv"
    before = landing.fingerprints(LEVELS)

    path.write_bytes(path.read_bytes())
    assert landing.fingerprints(LEVELS) == before == Landing(tmp_path).fingerprints(LEVELS)

    path.write_text("2020-05-01.CSV")
    changed = landing.fingerprints(LEVELS)
    assert changed["2020-05-01"] != before["2020-05-01"]
    assert changed["2020-05-02"] == before["2020-05-02"]

    path.rename(path.with_name("2020-05-01.x.csv"))
    assert landing.fingerprint(LEVELS, "2020-05-01") != changed["2020-05-01"]
    land(tmp_path, "2020-05-02.2.csv")
    assert landing.fingerprint(LEVELS, "2020-05-02") != before["2020-05-02"]


def test_a_replaced_file_of_equal_size_and_time_is_seen(tmp_path: Path) -> None:
    landing = land(tmp_path, "2020-05-01.csv")
    path = tmp_path / "levels" / "2020-05-01.csv"
    before, stat = landing.fingerprint(LEVELS, "2020-05-01"), path.stat()

    replacement = path.with_name(".new")
    replacement.write_text("2020-05-01.CSV")
    os.utime(replacement, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    replacement.replace(path)
    assert landing.fingerprint(LEVELS, "2020-05-01") != before


def test_a_file_that_upstream_renames_meanwhile_and_a_link_to_nothing_do_no_harm(tmp_path: Path) -> None:
    landing = land(tmp_path, "2020-05-01.csv", ".2020-05-02.csv.tmp")
    (tmp_path / "levels" / "2020-05-03.csv").symlink_to(tmp_path / "nowhere")
    gone = tmp_path / "levels" / ".2020-05-02.csv.tmp"

    class Entry:
        """As the listing has it; the file was renamed since."""

        name, path = gone.name, str(gone)

        def stat(self) -> os.stat_result:
            raise FileNotFoundError(self.path)

    scandir = os.scandir

    @contextmanager
    def listed(folder: Path) -> Iterator[list[Any]]:
        with scandir(folder) as entries:
            yield [*(entry for entry in entries if entry.name != gone.name), Entry()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", listed)
        assert list(replace(landing, settle=timedelta(seconds=5)).look(LEVELS)[1]) == ["2020-05-01"]
        assert list(landing.periods(LEVELS)) == ["2020-05-01"]


def test_a_file_that_lands_while_its_day_is_taken_in_is_taken_in_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the folder is looked at, what was not read is not taken for read."""
    hour = "gauge,received_at\n{},2020-05-01T0{}:30:00Z\n"
    landing = land(tmp_path, "2020-05-01T01.csv")
    (tmp_path / "levels" / "2020-05-01T01.csv").write_text(hour.format("upper", 1))
    lake, listed, looks = Lake(str(tmp_path / "lake")), landing_module._listed, count()

    def landing_more(folder: Path, settle: timedelta) -> Iterator[Any]:
        yield from list(listed(folder, settle))
        if next(looks) == 1:
            (folder / "2020-05-01T02.csv").write_text(hour.format("lower", 2))

    with monkeypatch.context() as patch:
        patch.setattr(landing_module, "_listed", landing_more)
        list(ingest(lake, landing, LEVELS, ["2020-05-01"]))
    assert lake.read(raw_table(LEVELS)).height == 1
    assert stale_partitions(lake, raw_table(LEVELS), identities(landing, LEVELS)) == ["2020-05-01"]
    list(ingest(lake, landing, LEVELS, ["2020-05-01"]))
    assert lake.read(raw_table(LEVELS)).height == 2
