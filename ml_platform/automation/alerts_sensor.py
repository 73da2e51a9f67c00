"""The sensor that tells people, as the code location declares it; :mod:`ml_platform.automation.alerts` is its tick."""

from collections.abc import Sequence

import dagster as dg

from ml_platform.stores.declarations import Dataset

SENSOR = "alerts"
INTERVAL_SECONDS = 30


def alerts_sensor(datasets: Sequence[Dataset]) -> dg.SensorDefinition:
    """The sensor ``alerts``: once per cause, to every sink."""

    @dg.sensor(
        name=SENSOR,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches runs, tables, models, the ledger, freshness and the other sensors, and tells people once "
        "of each cause: in the log, and by webhook and e-mail if they are configured.",
    )
    def alerts(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from ml_platform.automation.alerts import tick

        return tick(context, datasets)

    return alerts
