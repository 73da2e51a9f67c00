"""Entities, sources, views and services of the New York flights.

Every entity and view is a module-level object: Feast does not find one that is kept in a dict, and joins
on a missing entity are silently wrong.
"""

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

OWNER = "team:flight-data"
WINDOWS = ("1h", "3h", "24h", "7d")
"""Trailing windows of the delay statistics; the transforms are given the same in ``defs.yaml``."""

_TAGS = {"domain": "nyc_flights"}


def _field(name: str, dtype: object, unit: str, description: str) -> Field:
    return Field(name=name, dtype=dtype, description=description, tags={"unit": unit})


def _source(view: str) -> FileSource:
    return FileSource(
        name=f"{view}_source",
        path=f"features/{view}",
        file_format=DeltaFormat(),
        timestamp_field="event_timestamp",
        owner=OWNER,
        description=f"Lake table features/{view}.",
    )


def _delay_view(entity: Entity, events: str, of: str) -> FeatureView:
    """Delay statistics of arrivals or departures by one entity over every window."""
    by, one = entity.name, events.removesuffix("s")
    fields = [_field(entity.join_key, String, "name", entity.description)]
    for window in WINDOWS:
        counted = "Flights that landed" if one == "arrival" else "Flights that left"
        prefix, late = f"{by}_{one}", f"of them at least 15 minutes late, {of}, last {window}."
        fields += [
            _field(f"{prefix}_count_{window}", Int64, "flights", f"{counted}, {of}, last {window}."),
            _field(
                f"{prefix}_delay_mean_minutes_{window}", Float64, "minutes", f"Their mean delay, {of}, last {window}."
            ),
            _field(f"{prefix}_late_share_{window}", Float64, "share", f"Share {late}"),
        ]
        if one == "departure":
            cancelled = f"Share cancelled of the departures due, {of}, last {window}."
            fields.append(_field(f"{prefix}_cancelled_share_{window}", Float64, "share", cancelled))
    view = f"{one}_delays_by_{by}"
    return FeatureView(
        name=view,
        entities=[entity],
        ttl=timedelta(days=7),
        schema=fields,
        source=_source(view),
        owner=OWNER,
        description=f"How late {events} were {of}, over trailing windows up to the row's moment.",
        tags={**_TAGS, "kind": "windowed"},
    )


origin = Entity(
    name="origin",
    join_keys=["origin"],
    value_type=ValueType.STRING,
    description="New York airport a flight leaves from (EWR, JFK, LGA).",
    owner=OWNER,
    tags=_TAGS,
)
carrier = Entity(
    name="carrier",
    join_keys=["carrier"],
    value_type=ValueType.STRING,
    description="Airline, two-letter code.",
    owner=OWNER,
    tags=_TAGS,
)
route = Entity(
    name="route",
    join_keys=["route"],
    value_type=ValueType.STRING,
    description="Origin and destination, as EWR-IAH.",
    owner=OWNER,
    tags=_TAGS,
)
aircraft = Entity(
    name="aircraft",
    join_keys=["tailnum"],
    value_type=ValueType.STRING,
    description="Aircraft by tail number.",
    owner=OWNER,
    tags=_TAGS,
)
flight = Entity(
    name="flight",
    join_keys=["flight_id"],
    value_type=ValueType.STRING,
    description="One scheduled flight: carrier, number, origin and scheduled departure (UTC).",
    owner=OWNER,
    tags=_TAGS,
)

scheduled_flight = FeatureView(
    name="scheduled_flight",
    entities=[flight],
    ttl=timedelta(days=3),
    schema=[
        _field("flight_id", String, "name", flight.description),
        _field("flight_carrier", String, "name", "Airline of the flight, two-letter code."),
        _field("flight_origin", String, "name", "Airport it leaves from."),
        _field("flight_dest", String, "name", "Airport it flies to."),
    ],
    source=_source("scheduled_flight"),
    owner=OWNER,
    description="What the schedule says of a flight, known from a day before it leaves.",
    tags={**_TAGS, "kind": "event"},
)

weather_at_origin = FeatureView(
    name="weather_at_origin",
    entities=[origin],
    ttl=timedelta(hours=6),
    schema=[
        _field("origin", String, "name", origin.description),
        _field("temp_f", Float64, "degrees Fahrenheit", "Air temperature."),
        _field("dewp_f", Float64, "degrees Fahrenheit", "Dew point."),
        _field("humid_pct", Float64, "percent", "Relative humidity."),
        _field("wind_dir_degrees", Int64, "degrees", "Where the wind comes from; 0 and 360 are north."),
        _field("wind_speed_mph", Float64, "miles per hour", "Wind speed."),
        _field("wind_gust_mph", Float64, "miles per hour", "Gusts, where reported."),
        _field("precip_inches", Float64, "inches", "Precipitation of the hour."),
        _field("pressure_mb", Float64, "millibars", "Pressure at sea level."),
        _field("visibility_miles", Float64, "miles", "Visibility."),
        _field("precip_inches_3h", Float64, "inches", "Precipitation reported in the last 3 hours."),
        _field("visibility_miles_min_3h", Float64, "miles", "Lowest visibility reported in the last 3 hours."),
    ],
    source=_source("weather_at_origin"),
    owner=OWNER,
    description="The weather at the origin as last reported, one hour after it was observed.",
    tags={**_TAGS, "kind": "event"},
)

arrival_delays_by_origin = _delay_view(origin, "arrivals", "from this airport")
departure_delays_by_origin = _delay_view(origin, "departures", "from this airport")
arrival_delays_by_carrier = _delay_view(carrier, "arrivals", "of this airline")
departure_delays_by_carrier = _delay_view(carrier, "departures", "of this airline")
arrival_delays_by_route = _delay_view(route, "arrivals", "on this route")
departure_delays_by_route = _delay_view(route, "departures", "on this route")

aircraft_last_flight = FeatureView(
    name="aircraft_last_flight",
    entities=[aircraft],
    ttl=timedelta(days=3),
    schema=[
        _field("tailnum", String, "name", aircraft.description),
        _field(
            "aircraft_last_arrival_delay_minutes", Int64, "minutes", "Delay at its last landing, of the last 3 days."
        ),
        _field("aircraft_last_departure_delay_minutes", Int64, "minutes", "Delay at its last departure from New York."),
        _field(
            "aircraft_turnaround_minutes",
            Int64,
            "minutes",
            "From the landing before its last departure to that departure, its return to New York included.",
        ),
    ],
    source=_source("aircraft_last_flight"),
    owner=OWNER,
    description="What was last seen of an aircraft at its departures from New York and the landings after them.",
    tags={**_TAGS, "kind": "event"},
)

aircraft_facts = FeatureView(
    name="aircraft_facts",
    entities=[aircraft],
    ttl=timedelta(0),
    schema=[
        _field("tailnum", String, "name", aircraft.description),
        _field("aircraft_manufactured_year", Int64, "year", "Year it was built."),
        _field("aircraft_manufacturer", String, "name", "Who built it."),
        _field("aircraft_engine", String, "name", "Kind of engine."),
        _field("aircraft_engines", Int64, "engines", "Number of engines."),
        _field("aircraft_seats", Int64, "seats", "Number of seats."),
    ],
    source=_source("aircraft_facts"),
    owner=OWNER,
    description="The register of aircraft: reference data that never expire.",
    tags={**_TAGS, "kind": "reference"},
)

flight_request = RequestSource(
    name="flight_request",
    schema=[
        Field(name="scheduled_departure_at", dtype=UnixTimestamp, description="Scheduled departure."),
        Field(name="scheduled_arrival_at", dtype=UnixTimestamp, description="Scheduled arrival."),
        Field(name="distance_miles", dtype=Int64, description="Distance of the route, miles."),
    ],
    owner=OWNER,
    description="What a caller says of the flight in the request.",
    tags=_TAGS,
)


# Feast 0.67 keeps neither description nor tags of a request-time column: the view's tags carry them,
# as `column:<name>` = `<unit>: <description>`.
_REQUEST_COLUMNS = (
    ("local_hour", Int64, "hour of day: Hour of scheduled departure, New York time, 0 to 23."),
    ("local_weekday", Int64, "ISO weekday: Weekday of scheduled departure, New York time, Monday is 1."),
    ("route_distance_miles", Int64, "miles: Distance of the route."),
    ("scheduled_block_minutes", Int64, "minutes: Scheduled time from gate to gate."),
    ("scheduled_speed_mph", Float64, "miles per hour: Distance over block; a slack schedule is slow."),
    ("days_since_holiday", Int64, "days: Since the last US federal holiday; 0 on one."),
    ("days_to_holiday", Int64, "days: To the next US federal holiday; 0 on one."),
)


@on_demand_feature_view(
    sources=[flight_request],
    schema=[Field(name=name, dtype=dtype) for name, dtype, _ in _REQUEST_COLUMNS],
    mode="pandas",
    owner=OWNER,
    description="What follows from the request alone: local time, the route's length, nearness of holidays.",
    tags={**_TAGS, "kind": "request", **{f"column:{name}": text for name, _, text in _REQUEST_COLUMNS}},
)
def flight_request_features(inputs: pd.DataFrame) -> pd.DataFrame:
    """Local calendar (America/New_York), distance and block of the requested flights."""
    # Imported here because Feast stores this function by itself, without its module.
    import numpy as np
    import pandas as pd
    from pandas.tseries.holiday import USFederalHolidayCalendar

    departure = pd.to_datetime(inputs["scheduled_departure_at"], utc=True)
    arrival = pd.to_datetime(inputs["scheduled_arrival_at"], utc=True)
    local = departure.dt.tz_convert("America/New_York")
    days = local.dt.tz_localize(None).dt.normalize().to_numpy().astype("datetime64[D]")
    # New Year's Day is a holiday: one lies within a year of any day, on either side.
    year = np.timedelta64(366, "D")
    calendar = USFederalHolidayCalendar().holidays(days.min() - year, days.max() + year)
    holidays = calendar.to_numpy().astype("datetime64[D]")
    next_holiday = holidays[np.searchsorted(holidays, days, side="left")]
    last_holiday = holidays[np.searchsorted(holidays, days, side="right") - 1]
    block = (arrival - departure).dt.total_seconds() / 60
    return pd.DataFrame(
        {
            "local_hour": local.dt.hour.astype("int64"),
            "local_weekday": local.dt.dayofweek.astype("int64") + 1,
            "route_distance_miles": inputs["distance_miles"].astype("int64"),
            "scheduled_block_minutes": block.astype("int64"),
            "scheduled_speed_mph": inputs["distance_miles"] / (block / 60),
            "days_since_holiday": (days - last_holiday).astype("int64"),
            "days_to_holiday": (next_holiday - days).astype("int64"),
        }
    )


_FEATURES = [
    scheduled_flight,
    flight_request_features,
    weather_at_origin,
    arrival_delays_by_origin,
    departure_delays_by_origin,
    arrival_delays_by_carrier,
    departure_delays_by_carrier,
    arrival_delays_by_route,
    departure_delays_by_route,
    aircraft_last_flight,
    aircraft_facts,
]

flight_delay_v1 = FeatureService(
    name="flight_delay_v1",
    features=_FEATURES,
    owner=OWNER,
    description="What is known two hours before scheduled departure, for the risk of arriving late.",
    tags=_TAGS,
)
delay_minutes_v1 = FeatureService(
    name="delay_minutes_v1",
    features=_FEATURES,
    owner=OWNER,
    description="What is known two hours before scheduled departure, for the minutes of delay.",
    tags=_TAGS,
)
