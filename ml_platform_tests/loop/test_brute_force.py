"""Training rows recomputed from the landed files by plain Python, one row at a time, without any of our code.

What is computed follows the descriptions of the views: windows are ``(t - w, t]``; statistics by origin and carrier
are refreshed every quarter of an hour, those by route whenever something happens; a value older than its view's
time to live is not there.
"""

import csv
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ml_platform_tests.loop.homes import Home

Row = dict[str, str]
Features = dict[str, Any]

ROWS = 400
WINDOWS = {"1h": timedelta(hours=1), "3h": timedelta(hours=3), "24h": timedelta(days=1), "7d": timedelta(days=7)}
LONGEST = timedelta(days=7)
QUARTER = timedelta(minutes=15)
HOLIDAYS = [
    datetime.fromisoformat(day).date()
    for day in ("2012-11-22", "2012-12-25", "2013-01-01", "2013-01-21", "2013-02-18", "2013-05-27", "2013-07-04")
]


def at(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def number(text: str) -> float | None:
    return float(text) if text else None


@dataclass
class Files:
    """All rows of the landed files."""

    folder: Path

    def read(self, table: str) -> list[Row]:
        rows: list[Row] = []
        for file in (self.folder / table).glob("*.csv"):
            with file.open(newline="") as lines:
                rows += csv.DictReader(lines)
        return rows

    @cached_property
    def schedule(self) -> dict[str, Row]:
        return {row["flight_id"]: row for row in self.read("schedule")}

    @cached_property
    def planes(self) -> dict[str, Row]:
        return {row["tailnum"]: row for row in self.read("planes")}

    @cached_property
    def departures(self) -> list[Row]:
        return self.read("departures")

    @cached_property
    def arrivals(self) -> list[Row]:
        return self.read("arrivals")

    @cached_property
    def weather(self) -> list[Row]:
        # The contract holds the one impossible wind back.
        return [row for row in self.read("weather") if float(row["wind_speed_mph"] or 0) <= 250]

    @cached_property
    def _by(self) -> dict[tuple[str, str, str], list[tuple[datetime, Row]]]:
        """Events of a table that share a value, oldest first."""
        found: dict[tuple[str, str, str], list[tuple[datetime, Row]]] = {}
        for table, rows in (("arrivals", self.arrivals), ("departures", self.departures)):
            for row in rows:
                named = {**row, "route": f"{row['origin']}-{row['dest']}"}
                for by in ("origin", "carrier", "route", "tailnum"):
                    found.setdefault((table, by, named[by]), []).append((at(row["reported_at"]), row))
        for events in found.values():
            events.sort(key=lambda event: (event[0], event[1]["flight_id"]))
        return found

    def events(self, table: str, by: str, value: str) -> list[tuple[datetime, Row]]:
        return self._by.get((table, by, value), [])


def within(events: list[tuple[datetime, Row]], after: datetime, until: datetime) -> list[Row]:
    """Events known in ``(after, until]``."""
    return [row for known, row in events if after < known <= until]


def mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return sum(listed) / len(listed) if listed else None


def last_quarter(events: list[tuple[datetime, Row]], moment: datetime) -> datetime | None:
    """The newest quarter of an hour by ``moment`` at which something of the longest window was still in reach."""
    point = moment.replace(minute=moment.minute - moment.minute % 15, second=0, microsecond=0)
    while point >= moment - LONGEST:
        if within(events, point - LONGEST - QUARTER, point):
            return point
        point -= QUARTER
    return None


def last_change(events: list[tuple[datetime, Row]], moment: datetime) -> datetime | None:
    """The newest moment at which an event entered or left a window."""
    changes = [known + gone for known, _ in events for gone in (timedelta(0), *WINDOWS.values())]
    point = max((change for change in changes if change <= moment), default=None)
    return point if point is not None and point >= moment - LONGEST else None


def delays(files: Files, by: str, value: str, moment: datetime) -> Features:
    point_of: Callable[..., datetime | None] = last_change if by == "route" else last_quarter
    found: Features = {}
    landings, leavings = files.events("arrivals", by, value), files.events("departures", by, value)
    landed_at, left_at = point_of(landings, moment), point_of(leavings, moment)
    for name, length in WINDOWS.items():
        landed = within(landings, landed_at - length, landed_at) if landed_at else []
        late = [float(row["arr_delay_minutes"]) for row in landed if row["arr_delay_minutes"]]
        prefix = f"{by}_arrival"
        found[f"{prefix}_count_{name}"] = len(late) if landed_at else None
        found[f"{prefix}_delay_mean_minutes_{name}"] = mean(late)
        found[f"{prefix}_late_share_{name}"] = mean(minutes >= 15 for minutes in late)
        due = within(leavings, left_at - length, left_at) if left_at else []
        left = [float(row["dep_delay_minutes"]) for row in due if row["cancelled"] == "false"]
        prefix = f"{by}_departure"
        found[f"{prefix}_count_{name}"] = len(left) if left_at else None
        found[f"{prefix}_delay_mean_minutes_{name}"] = mean(left)
        found[f"{prefix}_late_share_{name}"] = mean(minutes >= 15 for minutes in left)
        found[f"{prefix}_cancelled_share_{name}"] = mean(row["cancelled"] == "true" for row in due)
    return found


def weather(files: Files, origin: str, moment: datetime) -> Features:
    reports = [(at(row["reported_at"]), row) for row in files.weather if row["origin"] == origin]
    known = [(when, row) for when, row in reports if when <= moment and when >= moment - timedelta(hours=6)]
    columns = ("temp_f", "dewp_f", "humid_pct", "wind_dir_degrees", "wind_speed_mph", "wind_gust_mph")
    columns = (*columns, "precip_inches", "pressure_mb", "visibility_miles")
    if not known:
        return dict.fromkeys((*columns, "precip_inches_3h", "visibility_miles_min_3h"))
    when, newest = max(known, key=lambda report: report[0])
    lately = within(reports, when - timedelta(hours=3), when)
    rain = [float(row["precip_inches"]) for row in lately if row["precip_inches"]]
    sight = [float(row["visibility_miles"]) for row in lately if row["visibility_miles"]]
    return {
        **{column: number(newest[column]) for column in columns},
        "precip_inches_3h": round(sum(round(inches * 100) for inches in rain)) / 100 if rain else None,
        "visibility_miles_min_3h": min(sight, default=None),
    }


def aircraft(files: Files, tailnum: str, moment: datetime) -> Features:
    reach = timedelta(days=3)
    landings = files.events("arrivals", "tailnum", tailnum) if tailnum else []
    leavings = [event for event in files.events("departures", "tailnum", tailnum) if event[1]["cancelled"] == "false"]
    seen = max((when for when, _ in [*landings, *leavings] if when <= moment), default=None) if tailnum else None
    if seen is None or seen < moment - reach:
        return dict.fromkeys(
            f"aircraft_{name}_minutes" for name in ("last_arrival_delay", "last_departure_delay", "turnaround")
        )
    landed, left = newest(landings, seen), newest(leavings, seen)
    before = newest(landings, left[0]) if left else None
    return {
        "aircraft_last_arrival_delay_minutes": number(landed[1]["arr_delay_minutes"])
        if landed and seen - landed[0] < reach
        else None,
        "aircraft_last_departure_delay_minutes": number(left[1]["dep_delay_minutes"])
        if left and seen - left[0] < reach
        else None,
        "aircraft_turnaround_minutes": (left[0] - before[0]).total_seconds() // 60
        if left and before and seen - left[0] < reach and left[0] - before[0] < reach
        else None,
    }


def newest(events: list[tuple[datetime, Row]], moment: datetime) -> tuple[datetime, Row] | None:
    position = bisect_right([when for when, _ in events], moment)
    return events[position - 1] if position else None


def facts(files: Files, tailnum: str) -> Features:
    plane = files.planes.get(tailnum, {})
    return {
        **{f"aircraft_{name}": number(plane.get(name, "")) for name in ("manufactured_year", "engines", "seats")},
        "aircraft_manufacturer": plane.get("manufacturer"),
        "aircraft_engine": plane.get("engine"),
    }


def request(flight: Row) -> Features:
    leaves, arrives = at(flight["scheduled_departure_at"]), at(flight["scheduled_arrival_at"])
    local = leaves.astimezone(ZoneInfo("America/New_York"))
    block = (arrives - leaves).total_seconds() / 60
    miles = int(flight["distance_miles"])
    days = [(day - local.date()).days for day in HOLIDAYS]
    return {
        "local_hour": local.hour,
        "local_weekday": local.isoweekday(),
        "route_distance_miles": miles,
        "scheduled_block_minutes": block,
        "scheduled_speed_mph": miles / (block / 60),
        "days_since_holiday": min(-away for away in days if away <= 0),
        "days_to_holiday": min(away for away in days if away >= 0),
    }


def recomputed(files: Files, flight_id: str) -> Features:
    flight = files.schedule[flight_id]
    moment = at(flight["scheduled_departure_at"]) - timedelta(hours=2)
    landing = next(row for row in files.arrivals if row["flight_id"] == flight_id)
    found: Features = {
        "prediction_time": moment,
        "label_time": at(landing["reported_at"]),
        "flight_carrier": flight["carrier"],
        "flight_origin": flight["origin"],
        "flight_dest": flight["dest"],
        **request(flight),
        **weather(files, flight["origin"], moment),
        **aircraft(files, flight["tailnum"], moment),
        **facts(files, flight["tailnum"]),
    }
    for by, value in (
        ("origin", flight["origin"]),
        ("carrier", flight["carrier"]),
        ("route", f"{flight['origin']}-{flight['dest']}"),
    ):
        found |= delays(files, by, value, moment)
    return found


def same(given: Any, by_hand: Any) -> bool:
    """Whether two values are equal, but for the last digits of a floating point number."""
    return given == (pytest.approx(by_hand, rel=1e-12) if isinstance(by_hand, float) else by_hand)


@pytest.fixture(scope="module")
def files(three_weeks: Home) -> Files:
    return Files(three_weeks.landed)


def test_training_rows_are_what_plain_python_makes_of_the_files(three_weeks: Home, files: Files) -> None:
    frame = three_weeks.lake.read("flight_delay/training_set")
    minutes = dict(three_weeks.lake.read("delay_minutes/training_set").select("flight_id", "label").iter_rows())
    delay = {row["flight_id"]: float(row["arr_delay_minutes"]) for row in files.arrivals}
    # By route most of all that can go wrong goes wrong at rare flights: half of the rows are theirs.
    chosen = random.Random(4).sample(range(frame.height), ROWS // 2)
    seldom = {key for key, events in files._by.items() if key[:2] == ("arrivals", "route") and len(events) < 12}
    rare = [
        index
        for index, flight_id in enumerate(frame["flight_id"])
        if ("arrivals", "route", f"{files.schedule[flight_id]['origin']}-{files.schedule[flight_id]['dest']}") in seldom
    ]
    chosen += random.Random(5).sample(rare, min(len(rare), ROWS // 2))
    filled: dict[str, int] = {}
    for row in frame[chosen].iter_rows(named=True):
        expected = recomputed(files, row["flight_id"])
        expected["label"] = delay[row["flight_id"]] >= 15
        assert minutes[row["flight_id"]] == delay[row["flight_id"]]
        assert set(row) - {"flight_id"} == set(expected)
        for name, value in expected.items():
            said = f"{row['flight_id']} at {row['prediction_time']}: {name} is {row[name]}, by hand {value}"
            assert same(row[name], value), said
            filled[name] = filled.get(name, 0) + (value is not None)
    assert min(filled.values()) > 10, f"hardly ever there, so hardly tested: {min(filled, key=lambda n: filled[n])}"


def test_training_rows_are_all_flights_that_landed_and_only_they(three_weeks: Home, files: Files) -> None:
    frame = three_weeks.lake.read("flight_delay/training_set")
    assert sorted(frame["flight_id"]) == sorted(row["flight_id"] for row in files.arrivals)
