"""The platform's promises on the flights: three weeks of January 2013, and the two days after them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import ml_platform
from ml_platform.core.model_spec import ModelSpec
from ml_platform.defs.nyc_flights.replay import replay
from ml_platform.settings import PROJECT_ROOT
from ml_platform.testing import ModelContract


class TestFlightDelay(ModelContract):
    """The declared model, on less history and with fewer trials."""

    package = Path(ml_platform.__file__).parent
    feature_repo = PROJECT_ROOT / "feature_repo"
    model = "flight_delay"
    trained_at = datetime(2013, 1, 16, tzinfo=UTC)
    predicted_until = datetime(2013, 1, 18, tzinfo=UTC)

    def land(self, landing: Path, until: datetime) -> None:
        list(replay(landing, until=until.date()))

    def adjust(self, spec: ModelSpec) -> ModelSpec:
        windows = {"training": timedelta(days=12), "holdout": timedelta(days=3), "folds": 2}
        fold = {"fold_length": timedelta(days=2), "minimum_rows": 1000}
        return spec.model_copy(
            update={
                "windows": spec.windows.model_copy(update={**windows, **fold}),
                "tuning": spec.tuning.model_copy(update={"trials": 2, "max_rounds": 60}),
            }
        )
