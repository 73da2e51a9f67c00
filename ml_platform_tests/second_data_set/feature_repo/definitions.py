"""Entities, views and the service of the meters."""

from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource
from feast.data_format import DeltaFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

OWNER = "team:metering"


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


site = Entity(
    name="site", join_keys=["site"], value_type=ValueType.STRING, description="Where meters are.", owner=OWNER
)
meter = Entity(
    name="meter",
    join_keys=["meter"],
    value_type=ValueType.INT64,
    description="Number of a meter within its site.",
    owner=OWNER,
)

_SITE = _field("site", String, "name", site.description)
_METER = _field("meter", Int64, "number", meter.description)

recent_demand = FeatureView(
    name="recent_demand",
    entities=[site, meter],
    ttl=timedelta(hours=2),
    schema=[
        _SITE,
        _METER,
        *(
            _field(f"mean_energy_wh_{window}", Float64, "watt hours", f"Mean of the readings of the last {window}.")
            for window in ("3h", "24h", "3d")
        ),
    ],
    source=_source("recent_demand"),
    owner=OWNER,
    description="What a meter used lately, every hour.",
    tags={"kind": "windowed"},
)
same_hour_yesterday = FeatureView(
    name="same_hour_yesterday",
    entities=[site, meter],
    ttl=timedelta(minutes=30),
    schema=[_SITE, _METER, _field("same_hour_yesterday_wh", Int64, "watt hours", "Used a day before the hour.")],
    source=_source("same_hour_yesterday"),
    owner=OWNER,
    description="What the meter used a day before the hour that begins in six hours.",
    tags={"kind": "event"},
)
site_weather = FeatureView(
    name="site_weather",
    entities=[site],
    ttl=timedelta(hours=6),
    schema=[_SITE, _field("temperature_c", Float64, "degrees Celsius", "Air temperature.")],
    source=_source("site_weather"),
    owner=OWNER,
    description="The temperature at the site as last published.",
    tags={"kind": "event"},
)
firmware = FeatureView(
    name="firmware",
    entities=[site, meter],
    ttl=timedelta(0),
    schema=[_SITE, _METER, _field("firmware", Int64, "version", "Version of the meter's firmware.")],
    source=_source("firmware"),
    owner=OWNER,
    description="The firmware a meter was last given; it stays until the next.",
    tags={"kind": "event"},
)
customer_facts = FeatureView(
    name="customer_facts",
    entities=[site, meter],
    ttl=timedelta(0),
    schema=[
        _SITE,
        _METER,
        _field("customer_kind", String, "name", "Kind of customer."),
        _field("contracted_w", Int64, "watts", "Power they may draw."),
    ],
    source=_source("customer_facts"),
    owner=OWNER,
    description="Who is behind a meter.",
    tags={"kind": "reference"},
)

hour_request = RequestSource(
    name="hour_request",
    schema=[Field(name="hour_at", dtype=UnixTimestamp, description="Beginning of the hour to predict.")],
    owner=OWNER,
    description="Which hour is asked for.",
)


@on_demand_feature_view(
    sources=[hour_request],
    schema=[Field(name="hour_of_day", dtype=Int64), Field(name="weekday", dtype=Int64)],
    mode="pandas",
    owner=OWNER,
    description="What follows from the hour itself.",
    tags={
        "kind": "request",
        "column:hour_of_day": "hour of day: Hour to predict (UTC), 0 to 23.",
        "column:weekday": "weekday: Its weekday, Monday is 0.",
    },
)
def hour_calendar(inputs: pd.DataFrame) -> pd.DataFrame:
    """Hour of day and weekday."""
    import pandas as pd

    hour = pd.to_datetime(inputs["hour_at"], utc=True)
    return pd.DataFrame({"hour_of_day": hour.dt.hour.astype("int64"), "weekday": hour.dt.dayofweek.astype("int64")})


demand_v1 = FeatureService(
    name="demand_v1",
    features=[recent_demand, same_hour_yesterday, site_weather, firmware, customer_facts, hour_calendar],
    owner=OWNER,
    description="What is known of a meter six hours before an hour.",
)
