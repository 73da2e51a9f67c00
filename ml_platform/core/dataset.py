"""What a team declares about a data set as a whole: its days, and the views that are derived from it."""

from datetime import date

from pydantic import Field

from ml_platform.core.durations import Duration, parse_duration
from ml_platform.core.model_spec import Spec, Transform


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


class FeaturesSpec(Spec):
    """How each Feast feature view of the data set is computed, by view name."""

    views: dict[str, Transform] = Field(min_length=1)
