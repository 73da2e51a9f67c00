"""What the clock owns: a weekly look at every model, and a nightly one at what nobody has scored."""

import dagster as dg

from ml_platform import settings
from ml_platform.automation.jobs import daily_job_name, training_job_name, under_way
from ml_platform.automation.runs import REASON_TAG, range_tags
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.retraining import judge
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.feature_repository import FeatureRepository
from ml_platform.stores.table_names import predictions_table

WEEKLY, NIGHTLY = "0 6 * * 1", "0 3 * * *"


def weekly_review(dataset: Dataset, model: ModelSpec) -> dg.ScheduleDefinition:
    """Has a model's retraining condition evaluated anew, whatever happened to earlier requests.

    The condition on the training set waits for labels that came in since its last request; what was requested and
    failed is therefore looked at again here. The verdict is the same, by event time.
    """

    @dg.schedule(
        name=f"{model.name}_weekly_review",
        cron_schedule=WEEKLY,
        job_name=training_job_name(model.name),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Trains the model if it is due by its retraining policy.",
    )
    def review(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from ml_platform.stores.lake import Lake
        from ml_platform.stores.model_tables import blocked_inputs
        from ml_platform.stores.planning import plan_now
        from ml_platform.stores.retraining import gather

        here = settings.load()
        lake = Lake.of(here)
        found = plan_now(here, dataset)
        if found.watermark is None:
            return dg.SkipReason("nothing has landed")
        if found.stale or under_way(context.instance, dataset) is not None:
            return dg.SkipReason("evidence is not whole: data is out of date, or a run is under way")
        verdict = judge(model, gather(lake, model, found.watermark))
        if not verdict.retrain:
            return dg.SkipReason(verdict.reason)
        if blocked := blocked_inputs(lake, FeatureRepository(here).manifest(), model, found.watermark):
            return dg.SkipReason(f"{verdict.reason} But what it would read is blocked: {'; '.join(blocked)}")
        return dg.RunRequest(tags={REASON_TAG: verdict.reason})

    return review


def nightly_scoring(dataset: Dataset) -> dg.ScheduleDefinition:
    """Scores what is due and has no score, should the chain that scores it have failed by day."""
    tables = {predictions_table(model): dg.AssetKey(predictions_table(model).split("/")) for model in dataset.models}

    @dg.schedule(
        name=f"{dataset.name}_nightly_scoring",
        cron_schedule=NIGHTLY,
        job_name=daily_job_name(dataset.spec),
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Scores what is due and was not scored by day.",
    )
    def scoring(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        from ml_platform.stores.planning import plan_now

        stale = plan_now(settings.load(), dataset).stale
        days = sorted({day for table in tables for day in stale.get(table, ())})
        if not days or under_way(context.instance, dataset, training_counts=False) is not None:
            return dg.SkipReason("a run is under way" if days else "everything due is scored")
        tags = {**range_tags(days[0], days[-1]), REASON_TAG: f"{len(days)} days have unscored rows"}
        return dg.RunRequest(asset_selection=[key for table, key in tables.items() if table in stale], tags=tags)

    return scoring
