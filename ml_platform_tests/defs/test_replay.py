"""The export job: what it leaves in the landing folder, in order and when things go wrong."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from ml_platform import cli
from ml_platform.defs.nyc_flights import replay as replay_module
from ml_platform.defs.nyc_flights.replay import Awkward, Delivered, Fault, deliver, planned_deliveries, replay
from ml_platform.defs.nyc_flights.upstream import KNOWN_AT, REFERENCE_TABLES, upstream_tables

START, UNTIL = "2013-01-01", "2013-01-05"
DAYS = ("2013-01-01", "2013-01-02", "2013-01-03", "2013-01-04")


def land(landing: Path, awkward: Awkward | tuple[str, ...] = (), **asked: str) -> list[Delivered]:
    return list(replay(landing, awkward=awkward, **{"start": START, "until": UNTIL, **asked}))


def files(landing: Path) -> dict[str, bytes]:
    return {str(path.relative_to(landing)): path.read_bytes() for path in landing.rglob("*") if path.is_file()}


def rows(landing: Path, table: str, name: str) -> pl.DataFrame:
    return pl.read_csv(landing / table / f"{name}.csv")


def test_every_table_has_one_file_per_day_and_reference_tables_one_in_all(tmp_path: Path) -> None:
    land(tmp_path)
    assert set(files(tmp_path)) == {f"{table}/{day}.csv" for table in KNOWN_AT for day in DAYS} | {
        f"{table}/{table}.csv" for table in REFERENCE_TABLES
    }


def test_the_whole_range_begins_with_the_first_published_flight() -> None:
    names = {delivery.name for delivery in planned_deliveries()} - set(REFERENCE_TABLES)
    assert (min(names), max(names), len(names)) == ("2012-12-31", "2014-01-02", 368)


def test_all_rows_of_the_year_are_delivered_once() -> None:
    delivered = dict.fromkeys(KNOWN_AT, 0)
    for delivery in planned_deliveries():
        if delivery.table in delivered:
            delivered[delivery.table] += delivery.rows.height
    assert delivered == {table: upstream_tables()[table].height for table in KNOWN_AT}


def test_a_row_is_in_the_file_of_the_day_it_became_known(tmp_path: Path) -> None:
    land(tmp_path)
    for table, known_at in KNOWN_AT.items():
        for day in DAYS:
            assert set(rows(tmp_path, table, day)[known_at].str.head(10)) == {day}


def test_an_empty_period_is_a_file_with_a_header_only(tmp_path: Path) -> None:
    list(replay(tmp_path, until="2013-01-01"))
    assert (tmp_path / "arrivals" / "2012-12-31.csv").read_text() == (
        "flight_id,carrier,origin,dest,tailnum,scheduled_arrival_at,landed_at,arr_delay_minutes,air_time_minutes,"
        "reported_at\n"
    )


def test_values_are_written_as_the_landing_format_says(tmp_path: Path) -> None:
    land(tmp_path)
    lines = (tmp_path / "departures" / "2013-01-01.csv").read_text().splitlines()
    assert lines[1] == (
        "UA1545-EWR-20130101T1015,UA,EWR,IAH,N14228,2013-01-01T10:15:00Z,2013-01-01T10:17:00Z,2,false,"
        "2013-01-01T10:17:00Z"
    )
    cancelled = next(line for line in lines if ",true," in line)
    assert ",,,true," in cancelled


def test_hour_files_put_together_are_the_day_file(tmp_path: Path) -> None:
    land(tmp_path / "days")
    land(tmp_path / "hours", every="1h")
    for table in KNOWN_AT:
        for day in DAYS:
            hours = [(tmp_path / "hours" / table / f"{day}T{hour:02}.csv").read_text() for hour in range(24)]
            header = hours[0].splitlines(keepends=True)[0]
            together = header + "".join(hour.removeprefix(header) for hour in hours)
            assert together == (tmp_path / "days" / table / f"{day}.csv").read_text()


def test_hourly_delivery_can_stop_within_a_day(tmp_path: Path) -> None:
    land(tmp_path, every="1h", until="2013-01-01T03")
    assert sorted(path.stem for path in (tmp_path / "weather").iterdir()) == [
        f"2013-01-01T0{hour}" for hour in range(3)
    ]


def test_an_interrupted_replay_goes_on_where_it_stopped(tmp_path: Path) -> None:
    begun = replay(tmp_path, start=START, until=UNTIL)
    first = [next(begun).path for _ in range(8)]
    begun.close()  # type: ignore[attr-defined]
    assert len(files(tmp_path)) == 8
    resumed = land(tmp_path)
    assert [file.path for file in resumed if not file.written] == first
    land(tmp_path / "at once")
    assert {k: v for k, v in files(tmp_path).items() if "at once" not in k} == files(tmp_path / "at once")


def test_a_file_that_is_there_is_never_touched(tmp_path: Path) -> None:
    land(tmp_path)
    (tmp_path / "weather" / "2013-01-02.csv").write_text("changed")
    assert not any(file.written for file in land(tmp_path))
    assert (tmp_path / "weather" / "2013-01-02.csv").read_text() == "changed"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            land(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(tmp_path) == {}


def test_a_killed_replay_leaves_whole_files_only_and_the_next_one_completes_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ml_platform.defs.nyc_flights.replay import replay; "
        f"list(replay(Path(sys.argv[1]), start={START!r}, until='2013-02-01'))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")])
    while process.poll() is None and len(list((tmp_path / "killed").glob("weather/*.csv"))) < 3:
        time.sleep(0.001)
    process.kill()
    process.wait()
    land(tmp_path / "whole", until="2013-02-01")
    whole, killed = files(tmp_path / "whole"), files(tmp_path / "killed")
    delivered = {name: content for name, content in killed.items() if name.endswith(".csv")}
    assert len(REFERENCE_TABLES) + 3 <= len(delivered) < len(whole)
    assert all(whole[name] == content for name, content in delivered.items())
    land(tmp_path / "killed", until="2013-02-01")
    assert {name: content for name, content in files(tmp_path / "killed").items() if name.endswith(".csv")} == whole


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"until": "yesterday"}, "'yesterday' is no time to deliver at: write 2013-01-05"),
        ({"until": "2013-01-05T06"}, "'2013-01-05T06' is no time to deliver at"),
        ({"until": "2012-12-30"}, "the data run from 2012-12-31 to 2014-01-03"),
        ({"every": "1w"}, "'1w' is not a cadence of delivery: choose from 1d, 1h"),
        ({"awkward": ["lost"]}, "unknown awkward delivery lost: choose from corrections, duplicates, late, corrupt"),
    ],
)
def test_a_wrong_request_is_answered_with_what_is_allowed(asked: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planned_deliveries(**asked)  # type: ignore[arg-type]


def test_a_correction_restates_rows_and_keeps_when_they_became_known(tmp_path: Path) -> None:
    land(tmp_path)
    before = rows(tmp_path, "arrivals", "2013-01-02")
    again = land(tmp_path, Awkward(corrections=["2013-01-02"]))
    assert [file.path.stem for file in again if file.written] == ["2013-01-02"]
    after = rows(tmp_path, "arrivals", "2013-01-02")
    change = after["arr_delay_minutes"] - before["arr_delay_minutes"]
    assert change.to_list() == [-10 if index % 3 == 0 else 0 for index in range(before.height)]
    moved = after["landed_at"].str.to_datetime() - before["landed_at"].str.to_datetime()
    assert (moved.dt.total_minutes() == change).all()
    assert after.drop("landed_at", "arr_delay_minutes").equals(before.drop("landed_at", "arr_delay_minutes"))
    assert not any(file.written for file in land(tmp_path, Awkward(corrections=["2013-01-02"])))


def test_corrections_come_after_everything_else() -> None:
    planned = planned_deliveries(start=START, until=UNTIL, awkward=Awkward(corrections=["2013-01-02"]))
    assert [(d.table, d.name) for d in planned if d.restates] == [("arrivals", "2013-01-02")]
    assert planned[-1].restates


def test_duplicates_stand_within_a_file_and_in_a_second_piece(tmp_path: Path) -> None:
    land(tmp_path, Awkward(duplicates=[("departures", "2013-01-03")]))
    file, piece = rows(tmp_path, "departures", "2013-01-03"), rows(tmp_path, "departures", "2013-01-03.2")
    unique = file.unique(maintain_order=True)
    assert file.height == unique.height + -(-unique.height // 10)
    assert piece.equals(unique.gather_every(4))


def test_a_late_file_comes_after_two_later_periods() -> None:
    order = [
        (d.table, d.name)
        for d in planned_deliveries(
            start=START, until=UNTIL, awkward=Awkward(late=[("arrivals", "2013-01-01"), ("weather", "2013-01-04")])
        )
    ]
    place = order.index(("arrivals", "2013-01-01"))
    assert all(order.index((table, "2013-01-03")) < place for table in KNOWN_AT)
    assert all(order.index((table, "2013-01-04")) > place for table in KNOWN_AT)
    assert order[-1] == ("weather", "2013-01-04")
    assert len(order) == len(set(order)) == len(REFERENCE_TABLES) + len(KNOWN_AT) * len(DAYS)


def _ends_within_a_row(content: bytes) -> bool:
    last = content.rsplit(b"\n", 1)[-1]
    return last != b"" and last.count(b",") == 1


@pytest.mark.parametrize(
    ("fault", "is_broken"),
    [
        (Fault.CUT_OFF, _ends_within_a_row),
        (Fault.BINARY, lambda content: b"\x00" in content and b"\xff" in content),
        (Fault.MISSING_COLUMN, lambda content: "dep_delay_minutes" not in pl.read_csv(BytesIO(content)).columns),
        (Fault.CHANGED_TYPE, lambda content: set(pl.read_csv(BytesIO(content))["dep_delay_minutes"]) == {"many"}),
        (Fault.OUT_OF_BOUNDS, lambda content: pl.read_csv(BytesIO(content))["dep_delay_minutes"][50] == 99_999),
    ],
)
def test_a_corrupt_file_is_broken_as_said_and_is_delivered_whole_once_deleted(
    tmp_path: Path, fault: Fault, is_broken: Callable[[bytes], bool]
) -> None:
    path = tmp_path / "departures" / "2013-01-02.csv"
    land(tmp_path, Awkward(corrupt={("departures", "2013-01-02"): fault}))
    assert is_broken(path.read_bytes())
    path.unlink()
    assert [file.path for file in land(tmp_path) if file.written] == [path]
    assert not is_broken(path.read_bytes())


def test_from_the_change_of_schema_on_weather_renames_a_column_and_adds_one(tmp_path: Path) -> None:
    land(tmp_path, Awkward(schema_change_from="2013-01-03"))
    before, after = rows(tmp_path, "weather", "2013-01-02"), rows(tmp_path, "weather", "2013-01-03")
    assert "visibility_miles" in before.columns
    assert "station" not in before.columns
    assert "visibility_miles" not in after.columns
    assert after["visibility_statute_miles"].dtype == pl.Float64
    assert (after["station"] == "K" + after["origin"]).all()


def test_kinds_by_name_choose_places_within_the_range(tmp_path: Path) -> None:
    land(tmp_path / "plain", until="2013-01-15")
    land(tmp_path / "awkward", replay_module.KINDS, until="2013-01-15")
    plain, awkward = files(tmp_path / "plain"), files(tmp_path / "awkward")
    differing = sorted(name for name in awkward if awkward[name] != plain.get(name))
    assert set(plain) <= set(awkward)
    assert [name for name in differing if name.startswith("arrivals")] == [
        *("arrivals/2013-01-04.csv", "arrivals/2013-01-05.2.csv", "arrivals/2013-01-05.csv"),
        *("arrivals/2013-01-08.csv", "arrivals/2013-01-13.csv"),
    ]
    assert len([name for name in differing if name.startswith("weather")]) == 5


def test_kinds_by_name_ask_for_a_range_with_rows() -> None:
    with pytest.raises(ValueError, match="no rows of departures, arrivals, weather in the range"):
        planned_deliveries(until="2013-01-01", awkward=["late"])


def test_the_command_lands_files_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    monkeypatch.delenv("ML_PLATFORM_LANDING", raising=False)
    result = CliRunner().invoke(cli.app, ["replay", "--until", "2013-01-02", "--every", "1d"])
    assert result.exit_code == 0, result.output
    landed = sum(content.count(b"\n") - 1 for content in files(tmp_path / "landing").values())
    assert f"11 files with {landed:,} rows delivered to {tmp_path / 'landing'}, 0 were there." in result.stdout
    assert set(files(tmp_path / "landing")) == {
        *(f"{table}/{day}.csv" for table in KNOWN_AT for day in ("2012-12-31", "2013-01-01")),
        *(f"{table}/{table}.csv" for table in REFERENCE_TABLES),
    }


def test_the_command_says_in_one_line_what_was_wrong(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("ml-platform"), "replay", "--with", "lost"]
    env = {**os.environ, "ML_PLATFORM_HOME": str(tmp_path)}
    result = subprocess.run(command, env=env, text=True, capture_output=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("ml-platform: unknown awkward delivery lost: choose from corrections")
    assert result.stderr.count("\n") == 1
    assert files(tmp_path) == {}


def test_deliveries_can_be_landed_one_at_a_time(tmp_path: Path) -> None:
    planned = planned_deliveries(start=START, until=UNTIL)
    landed = deliver(tmp_path, planned)
    assert next(landed).path == tmp_path / "planes" / "planes.csv"
    assert len(files(tmp_path)) == 1
