"""Which runs those who ask for others wait for."""

import dagster as dg
import pytest

from ml_platform.automation.jobs import CALIBRATION, TRAINING_STAGES, under_way
from ml_platform.defs import datasets

BY_CONDITION = [f"flight_delay/{stage}" for stage in (*TRAINING_STAGES, CALIBRATION)]
"""What a training makes that a condition asked for."""


def found(job_name: str, *assets: str, training_counts: bool) -> bool:
    """Whether a run of a job over these assets is found under way."""
    (flights,) = datasets()
    with dg.DagsterInstance.ephemeral() as instance:
        keys = frozenset(dg.AssetKey(name.split("/")) for name in assets) or None
        instance.add_run(
            dg.DagsterRun(job_name=job_name, status=dg.DagsterRunStatus.STARTED, asset_selection=keys),
        )
        return under_way(instance, flights, training_counts=training_counts) is not None


@pytest.mark.parametrize(
    ("job_name", "assets", "holds_data", "holds_training"),
    [
        ("nyc_flights_daily", (), True, True),
        ("nyc_flights_loop", (), True, True),
        ("maintenance", (), True, True),
        ("flight_delay_training", (), False, True),
        ("flight_delay_training", ("flight_delay/training_set",), False, True),
        ("__ASSET_JOB", BY_CONDITION, False, True),
        ("__ASSET_JOB", (*BY_CONDITION, "flight_delay/predictions"), True, True),
        ("__ASSET_JOB", ("raw/weather",), True, True),
        ("__ASSET_JOB", ("features/weather_at_origin", "online_features"), True, True),
        ("__ASSET_JOB", ("raw/readings", "features/recent_demand", "demand/predictions"), False, False),
        ("demand_training", ("demand/training_set",), False, False),
        ("flight_delay_rollback", (), False, False),
    ],
)
def test_a_run_is_waited_for_if_it_makes_what_the_data_set_has(
    job_name: str, assets: tuple[str, ...], holds_data: bool, holds_training: bool
) -> None:
    assert found(job_name, *assets, training_counts=False) is holds_data
    assert found(job_name, *assets, training_counts=True) is holds_training
