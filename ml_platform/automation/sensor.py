"""The sensor that evaluates every automation condition."""

import warnings

import dagster as dg

from ml_platform.automation.runs import REASON_TAG

NAME, INTERVAL_SECONDS = "automation", 10


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions where their code is, and requests what they call for; on by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.AutomationConditionSensorDefinition(
            NAME,
            target=dg.AssetSelection.all(),
            # Our conditions are classes of ours: the daemon does not know them.
            use_user_code_server=True,
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=INTERVAL_SECONDS,
            run_tags={REASON_TAG: "its automation condition holds; the evaluation says which part"},
            description="Evaluates why models are retrained, and what the daily chain left behind.",
        )
