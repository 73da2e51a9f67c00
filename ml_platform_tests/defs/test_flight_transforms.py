"""The example's transforms: literal tables in and out, and what every one of them must keep."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ml_platform.core.feature_manifest import FeatureManifest
from ml_platform.core.view_frames import conform, polars_dtype
from ml_platform.core.windows import MOMENT
from ml_platform.defs.nyc_flights import transforms
from ml_platform.settings import load
from ml_platform.stores.declarations import load_dataset
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.transforms import bind

FOLDER = Path(transforms.__file__).parent
DAY = datetime(2013, 1, 10, tzinfo=UTC)
START, END = DAY, DAY + timedelta(days=1)
UTC_US = pl.Datetime("us", "UTC")


def clock(text: str, day: datetime = DAY) -> datetime:
    hour, minute = text.split(":")
    return day + timedelta(hours=int(hour), minutes=int(minute))


def arrivals(*rows: tuple[str, str, str, str, int]) -> pl.DataFrame:
    """Rows of tail number, carrier, destination, landing and delay; all left EWR."""
    return pl.DataFrame(
        [(f"{c}{n}", c, "EWR", d, tail, clock(t), delay) for n, (tail, c, d, t, delay) in enumerate(rows)],
        schema={
            "flight_id": pl.String,
            "carrier": pl.String,
            "origin": pl.String,
            "dest": pl.String,
            "tailnum": pl.String,
            "known_at": UTC_US,
            "arr_delay_minutes": pl.Int64,
        },
        orient="row",
    )


def departures(*rows: tuple[str, str, str, str, int | None]) -> pl.DataFrame:
    """As :func:`arrivals`; a delay of None is a cancellation."""
    frame = arrivals(*[(*row[:4], row[4] or 0) for row in rows]).rename({"arr_delay_minutes": "dep_delay_minutes"})
    delays = pl.Series([row[4] for row in rows], dtype=pl.Int64)
    return frame.with_columns(dep_delay_minutes=delays, cancelled=delays.is_null())


def test_arrival_delays_count_average_and_share_by_window() -> None:
    landed = arrivals(
        ("N1", "UA", "IAH", "10:00", -5), ("N2", "AA", "MIA", "10:30", 15), ("N3", "UA", "IAH", "12:00", 35)
    )
    result = transforms.arrival_delays(landed, start=START, end=END, by="origin", windows=["1h", "24h"])
    at_noon = result.row(by_predicate=pl.col(MOMENT) == clock("12:00"), named=True)
    assert at_noon == {
        "origin": "EWR",
        MOMENT: clock("12:00"),
        "origin_arrival_count_1h": 1,
        "origin_arrival_delay_mean_minutes_1h": 35.0,
        "origin_arrival_late_share_1h": 1.0,
        "origin_arrival_count_24h": 3,
        "origin_arrival_delay_mean_minutes_24h": 15.0,
        "origin_arrival_late_share_24h": 2 / 3,
    }
    after_expiry = result.row(by_predicate=pl.col(MOMENT) == clock("11:30"), named=True)
    assert after_expiry["origin_arrival_count_1h"] == 0
    assert after_expiry["origin_arrival_delay_mean_minutes_1h"] is None


def test_a_cancellation_counts_in_the_cancelled_share_alone() -> None:
    left = departures(
        ("N1", "UA", "IAH", "10:00", 20), ("N2", "UA", "IAH", "10:10", None), ("N3", "UA", "IAH", "10:10", 0)
    )
    result = transforms.departure_delays(left, start=START, end=END, by="route", windows=["1h"])
    assert result.row(by_predicate=pl.col(MOMENT) == clock("10:10"), named=True) == {
        "route": "EWR-IAH",
        MOMENT: clock("10:10"),
        "route_departure_count_1h": 2,
        "route_departure_delay_mean_minutes_1h": 10.0,
        "route_departure_late_share_1h": 0.5,
        "route_departure_cancelled_share_1h": 1 / 3,
    }


def test_an_aircraft_is_known_by_its_last_landing_departure_and_turnaround() -> None:
    left = departures(
        ("N1", "UA", "IAH", "06:00", 3), ("N1", "UA", "MIA", "15:00", 40), ("N1", "UA", "MIA", "16:00", None)
    )
    landed = arrivals(("N1", "UA", "IAH", "09:30", -12))
    result = transforms.aircraft_last_flight(left, landed, start=START, end=END, memory="3d")
    assert result.rows() == [
        ("N1", clock("06:00"), None, 3, None),
        ("N1", clock("09:30"), -12, 3, None),
        ("N1", clock("15:00"), -12, 40, 330),
    ]


def test_an_aircraft_is_forgotten_after_its_memory_however_much_history_the_batch_has() -> None:
    landed = arrivals(("N1", "UA", "IAH", "00:00", -12))
    left = departures(("N1", "UA", "IAH", "72:00", 3))
    result = transforms.aircraft_last_flight(left, landed, start=clock("24:00"), end=clock("96:00"), memory="3d")
    assert result.rows() == [("N1", clock("72:00"), None, 3, None)]


def test_an_unknown_aircraft_has_no_rows() -> None:
    left = departures(("N1", "UA", "IAH", "06:00", 3)).with_columns(tailnum=pl.lit(None, pl.String))
    landed = arrivals(("N1", "UA", "IAH", "09:00", 3)).with_columns(tailnum=pl.lit(None, pl.String))
    assert transforms.aircraft_last_flight(left, landed, start=START, end=END, memory="3d").is_empty()


def test_a_flight_is_predicted_two_hours_before_it_is_due_to_leave() -> None:
    schedule = pl.DataFrame(
        {
            "flight_id": ["UA1"],
            "carrier": ["UA"],
            "origin": ["EWR"],
            "dest": ["IAH"],
            "tailnum": ["N1"],
            "scheduled_departure_at": [clock("10:15")],
            "scheduled_arrival_at": [clock("14:00")],
            "distance_miles": [1400],
            "known_at": [clock("10:15") - timedelta(days=1)],
        }
    )
    row = transforms.flights_to_predict(schedule, start=START, end=END).row(0, named=True)
    assert row["prediction_time"] == clock("08:15")
    assert row["route"] == "EWR-IAH"

    too_late = schedule.with_columns(pl.lit(clock("08:16")).alias("known_at"))
    assert transforms.flights_to_predict(too_late, start=START, end=END).is_empty(), "nobody could have been warned"


def test_late_is_fifteen_minutes_or_more() -> None:
    landed = arrivals(("N1", "UA", "IAH", "10:00", 14), ("N1", "UA", "IAH", "11:00", 15))
    assert transforms.late_arrivals(landed, start=START, end=END)["label"].to_list() == [0, 1]
    minutes = transforms.arrival_delay_minutes(landed, start=START, end=END)
    assert minutes.select("label", "label_time").rows() == [(14.0, clock("10:00")), (15.0, clock("11:00"))]


def weather(count: int) -> pl.DataFrame:
    numbers = [float(n) for n in range(count)]
    return pl.DataFrame(
        {
            "origin": ["EWR"] * count,
            "known_at": [DAY + timedelta(hours=n) for n in range(count)],
            "observed_at": [DAY + timedelta(hours=n - 1) for n in range(count)],
            **dict.fromkeys(
                ("temp_f", "dewp_f", "humid_pct", "wind_speed_mph", "wind_gust_mph", "pressure_mb", "visibility_miles"),
                numbers,
            ),
            "wind_dir_degrees": list(range(count)),
            "precip_inches": [0.1] * count,
        },
        schema_overrides={"known_at": UTC_US, "observed_at": UTC_US},
    )


def test_of_observations_reported_at_once_the_newest_counts() -> None:
    view = bind(load_dataset(FOLDER).views["weather_at_origin"], FOLDER)
    older = weather(1).with_columns(pl.col("observed_at") - pl.duration(hours=3), temp_f=99.0)
    result = view({"weather": pl.concat([older, weather(1)])}, START, END)
    assert result["temp_f"].to_list() == [0.0]


def test_the_weather_of_three_hours_is_of_three_reports() -> None:
    view = bind(load_dataset(FOLDER).views["weather_at_origin"], FOLDER)
    result = view({"weather": weather(5)}, START, END).sort(MOMENT)
    assert result["precip_inches_3h"].to_list() == [0.1, 0.2, 0.3, 0.3, 0.3]
    assert result["visibility_miles_min_3h"].to_list() == [0.0, 0.0, 0.0, 1.0, 2.0]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> FeatureManifest:
    return FeatureClient(load({"ML_PLATFORM_HOME": str(tmp_path_factory.mktemp("home"))})).manifest()


def test_every_feast_view_is_computed_with_the_columns_and_types_it_declares(manifest: FeatureManifest) -> None:
    declared = load_dataset(FOLDER).views
    assert set(declared) == {view.name for view in manifest.batch_views}
    planes = {"manufactured_year": [1998], "manufacturer": ["BOEING"], "engine": ["Turbo-fan"], "engines": [2]}
    tables = {
        "arrivals": arrivals(*SCATTERED),
        "departures": departures(*SCATTERED),
        "weather": weather(30),
        "schedule": arrivals(*SCATTERED),
        "planes": pl.DataFrame({"tailnum": ["N1"], **planes, "seats": [180]}),
    }
    for name, spec in declared.items():
        rows = bind(spec, FOLDER)({table: tables[table] for table in spec.inputs}, START, END)
        stored = conform(manifest.view(name), rows)
        assert stored.height > 0
        types = {column.name: polars_dtype(column) for column in manifest.view(name).columns}
        assert {column: dtype for column, dtype in rows.schema.items() if column != MOMENT} == types


SCATTERED = [
    (f"N{n % 3}", ("UA", "AA")[n % 2], ("IAH", "MIA")[n % 2], f"{n * 7}:{n % 60}", n % 40 - 9) for n in range(70)
]
# An aircraft with pauses just under its memory, and a last event that expires (grid included) as a day begins.
LEFT = [*SCATTERED, ("N9", "UA", "IAH", "100:00", 5), ("N8", "UA", "IAH", "503:50", 5)]
LANDED = [*SCATTERED, *(("N9", "UA", "IAH", time, 5) for time in ("33:00", "170:00", "503:50"))]
VIEWS = sorted(set(load_dataset(FOLDER).views) - {"aircraft_facts", "scheduled_flight"})


@pytest.mark.parametrize("name", VIEWS)
def test_day_by_day_gives_what_one_go_gives(name: str) -> None:
    """Within the declared look-back: a value depends on event time alone, never on the batch."""
    spec = load_dataset(FOLDER).views[name]
    tables = {"arrivals": arrivals(*LANDED), "departures": departures(*LEFT), "weather": weather(200)}
    view = bind(spec, FOLDER)

    def run(start: datetime, end: datetime) -> pl.DataFrame:
        reach = pl.col("known_at").is_between(start - spec.look_back, end, closed="none")
        rows = view({table: tables[table].filter(reach) for table in spec.inputs}, start, end)
        return rows.filter(pl.col(MOMENT).is_between(start, end, closed="left"))

    days = [DAY + timedelta(days=n) for n in range(30)]
    parts = pl.concat([run(day, day + timedelta(days=1)) for day in days])
    assert parts.height > 50
    assert_frame_equal(run(days[0], days[-1] + timedelta(days=1)), parts, check_row_order=False, check_exact=True)
