"""The sensor that watches the landing folder and requests the daily chain for what is out of date."""

import dagster as dg

from ml_platform import settings
from ml_platform.automation.jobs import daily_job_name
from ml_platform.automation.runs import range_tags
from ml_platform.core.content import digest_mapping
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.planning import plan

INTERVAL_SECONDS = 30


def landing_sensor(dataset: Dataset) -> dg.SensorDefinition:
    """One range run for everything that landed, was corrected, or was left over by a run that failed."""

    @dg.sensor(
        name=f"{dataset.name}_landing",
        job_name=daily_job_name(dataset.spec),
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches landed files: new, corrected and late ones are taken in, with every day they reach.",
    )
    def landing(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        running = context.instance.get_runs(
            dg.RunsFilter(job_name=daily_job_name(dataset.spec), statuses=[*_UNFINISHED]), limit=1
        )
        if running:
            return dg.SkipReason(f"run {running[0].run_id} is under way")
        found = plan(settings.load(), dataset)
        if found.days is None:
            watermark = found.watermark
            return dg.SkipReason(
                f"everything is up to date; the watermark is {watermark:%Y-%m-%d %H:%M}"
                if watermark
                else "nothing has landed"
            )
        key = digest_mapping({"watermark": str(found.watermark), **found.stale})
        first, last = found.days
        reason = ", ".join(f"{table}: {len(days)}" for table, days in found.stale.items())
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=key, tags={**range_tags(first, last), "ml_platform/reason": reason})],
            cursor=key,
        )

    return landing


_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
