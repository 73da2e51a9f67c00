"""What a team declares about a data set as a whole: its days, and the views that are derived from it."""

from datetime import date, timedelta

from pydantic import Field

from ml_platform.core.compute import DatasetCompute
from ml_platform.core.durations import Duration, parse_duration
from ml_platform.core.model_spec import Spec, Transform

_SHORTEST = timedelta(minutes=1)
"""Dagster's freshness daemon knows no shorter window."""


class Freshness(Spec):
    """How old each stage's newest data may grow, in wall time, before they count as late; null: never.

    It makes lateness visible and raises an alert, nothing else: what is retrained is decided by event time.
    """

    raw: Duration | None = Field(default=parse_duration("36h"), ge=_SHORTEST, description="Raw tables with days.")
    features: Duration | None = Field(default=parse_duration("36h"), ge=_SHORTEST, description="Views with days.")
    predictions: Duration | None = Field(default=parse_duration("36h"), ge=_SHORTEST)
    models: Duration | None = Field(
        default=parse_duration("45d"), ge=_SHORTEST, description="Tuned models, and decisions on champions."
    )


class DatasetSpec(Spec):
    """The calendar of a data set (``dataset.yaml``), shared by its tables, features and models."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    start: date = Field(description="First UTC day.")
    end: date | None = Field(default=None, description="The day after the last one; open if absent.")
    grace: Duration = Field(
        default=parse_duration("6h"),
        description="How long a period may wait for a table that has not delivered, before it counts as ready.",
    )
    rehearsal: tuple[date, ...] = Field(
        default=(),
        description="Ends (exclusive) up to which `ml-platform run` lands recorded events, one after the other; "
        "models are trained after the first.",
    )
    freshness: Freshness = Freshness()
    resources: DatasetCompute = DatasetCompute()


class FeaturesSpec(Spec):
    """How each Feast feature view of the data set is computed, by view name."""

    views: dict[str, Transform] = Field(min_length=1)
