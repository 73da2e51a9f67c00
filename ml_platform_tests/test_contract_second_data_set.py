"""The platform's promises on a data set nothing like the flights, declared by YAML, views and transforms alone."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from ml_platform.testing import ModelContract

PROJECT = Path(__file__).parent / "second_data_set"
sys.path.insert(0, str(PROJECT))

import deliveries  # noqa: E402


class TestDemand(ModelContract):
    """Hourly demand by site and meter, two key columns, six hours ahead."""

    package = PROJECT / "energy_demand"
    feature_repo = PROJECT / "feature_repo"
    model = "demand"
    trained_at = datetime(2024, 3, 6, tzinfo=UTC)
    predicted_until = datetime(2024, 3, 8, tzinfo=UTC)

    def land(self, landing: Path, until: datetime) -> None:
        deliveries.land(landing, until)
