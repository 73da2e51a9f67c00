"""The nightly maintenance: tables and old runs, a job with one op for each concern.

What a table keeps is :mod:`ml_platform.stores.maintenance`'s to say; here is which of Dagster's runs may be forgotten,
and when maintenance may start.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.automation.jobs import MAINTENANCE_JOB, UNFINISHED
from ml_platform.resources.platform import Platform

if TYPE_CHECKING:
    from ml_platform.stores.maintenance import Upkeep
    from ml_platform.stores.models import ModelStore

_POOL = "maintenance"
_NIGHT_TAG = "ml_platform/night"
"""Of which night a run is the maintenance."""

_FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
_FETCHED = 500


def maintenance_job() -> dg.JobDefinition:
    """Compacts tables and lets go of versions and runs that no registered model version needs."""

    @dg.op(name="maintain_tables", pool=_POOL, description="Compaction, and removal of old versions.")
    def tables(context: dg.OpExecutionContext, platform: Platform) -> None:
        from ml_platform.stores.maintenance import maintain_tables

        kept = platform.settings.keep_versions
        done = list(maintain_tables(platform.lake, platform.models, older_than=kept))
        for each in done:
            context.log.info("%s", told(each))
        context.add_output_metadata(
            {
                "tables": len(done),
                "files_compacted": sum(each.compacted for each in done),
                "files_removed": sum(each.removed for each in done),
                "bytes_freed": sum(each.before.data_bytes - each.after.data_bytes for each in done),
                "skipped": sum(bool(each.skipped) for each in done),
            }
        )

    @dg.op(name="forget_mlflow_runs", pool=_POOL, description="Failed and killed MLflow runs of long ago.")
    def mlflow_runs(context: dg.OpExecutionContext, platform: Platform) -> None:
        before = datetime.now(UTC) - platform.settings.keep_runs
        forgotten = forget_mlflow_runs(context.instance, platform.models, before)
        context.add_output_metadata({"runs_forgotten": len(forgotten)})

    @dg.op(name="forget_dagster_runs", pool=_POOL, description="Dagster runs of long ago that nothing names.")
    def dagster_runs(context: dg.OpExecutionContext, platform: Platform) -> None:
        before = datetime.now(UTC) - platform.settings.keep_runs
        forgotten = forget_dagster_runs(context.instance, before, named_runs(platform.models))
        context.add_output_metadata({"runs_forgotten": len(forgotten)})

    @dg.job(
        name=MAINTENANCE_JOB,
        description="Compacts tables and lets go of table versions and runs that no registered model version needs.",
        tags={"ml_platform/reason": "maintenance of every night"},
    )
    def maintenance() -> None:
        tables()
        mlflow_runs()
        dagster_runs()

    return maintenance


def maintenance_schedule(job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Once a night, in the first hour in which nothing else runs."""

    @dg.schedule(
        name=MAINTENANCE_JOB,
        job=job,
        cron_schedule="15 1-5 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Tries every hour of the night until nothing else runs and it has succeeded; once a night.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        night = f"{context.scheduled_execution_time:%Y-%m-%d}"
        # A run key would not do: to Dagster it is another at each of a schedule's times.
        done = dg.RunsFilter(job_name=MAINTENANCE_JOB, tags={_NIGHT_TAG: night}, statuses=[dg.DagsterRunStatus.SUCCESS])
        if runs := context.instance.get_runs(done, limit=1):
            return dg.SkipReason(f"it was done this night (run {runs[0].run_id})")
        busy = runs_under_way(context.instance)
        if busy:
            return dg.SkipReason(f"{busy[0].job_name} is under way (run {busy[0].run_id})")
        return dg.RunRequest(tags={_NIGHT_TAG: night})

    return nightly


def runs_under_way(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """Runs that have not ended, of any job."""
    return instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))


def forget_mlflow_runs(
    instance: dg.DagsterInstance, models: "ModelStore", before: datetime, *, dry_run: bool = False
) -> list[str]:
    """Forget MLflow's runs that failed, were killed or were abandoned and ended before a moment; their ids."""
    from ml_platform.stores.maintenance import forget_failed_runs

    if not dry_run:
        for model in models.registered():
            models.end_abandoned(model, lambda run_id: is_over(instance, run_id))
    return forget_failed_runs(models, before, dry_run=dry_run)


def forget_dagster_runs(
    instance: dg.DagsterInstance, before: datetime, named: Collection[str], *, dry_run: bool = False
) -> list[str]:
    """Forget Dagster's runs that ended before a moment and that nothing needs, with their output; their ids."""
    forgotten = forgettable_runs(instance, before, named)
    if not dry_run:
        for run_id in forgotten:
            # Dagster would leave it, and nobody could find it any more.
            instance.compute_log_manager.delete_logs(prefix=[run_id, "compute_logs"])
            instance.delete_run(run_id)
    return forgotten


def is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether a run has ended, or is not known any more."""
    run = instance.get_run_by_id(run_id) if run_id else None
    return run is None or run.is_finished


def named_runs(models: "ModelStore") -> set[str]:
    """The Dagster runs that a registered version or a decision names."""
    trained = {
        models.describe(model, version).provenance.dagster_run_id
        for model in models.registered()
        for version in models.versions(model)
    }
    return trained | set(models.ledger.history()["run_id"])


def forgettable_runs(instance: dg.DagsterInstance, before: datetime, named: Collection[str]) -> list[str]:
    """The runs that ended before a moment and that nothing needs; their ids.

    With a run Dagster forgets its events. So a run stays while it is the last that materialised or observed some
    partition of some asset: otherwise that partition would count as missing and be computed again.
    """
    ended = instance.get_run_records(dg.RunsFilter(statuses=list(_FINISHED), updated_before=before))
    old = [record.dagster_run.run_id for record in ended if record.dagster_run.run_id not in named]
    if not old:
        return []
    needed = set(_last_runs(instance))
    return [run_id for run_id in old if run_id not in needed]


def _last_runs(instance: dg.DagsterInstance) -> Iterator[str]:
    """The run of the newest materialisation and observation of every asset, and of each of its partitions."""
    kinds = {
        dg.DagsterEventType.ASSET_MATERIALIZATION: instance.fetch_materializations,
        dg.DagsterEventType.ASSET_OBSERVATION: instance.fetch_observations,
    }
    for key in instance.all_asset_keys():
        for kind, fetch in kinds.items():
            newest = list(instance.event_log_storage.get_latest_storage_id_by_partition(key, kind).values())
            chunks = [newest[start : start + _FETCHED] for start in range(0, len(newest), _FETCHED)]
            for asked in chunks:
                found = fetch(dg.AssetRecordsFilter(asset_key=key, storage_ids=asked), limit=len(asked))
                yield from (record.run_id for record in found.records)
            yield from (record.run_id for record in fetch(key, limit=1).records)


def told(upkeep: "Upkeep") -> str:
    """What was done to a table, in a sentence."""
    done = f"{upkeep.compacted} small files compacted, {upkeep.removed} old files removed"
    freed = upkeep.before.data_bytes - upkeep.after.data_bytes
    kept = f"; {len(upkeep.kept)} versions pinned" if upkeep.kept else ""
    left = f"; left alone: {upkeep.skipped}" if upkeep.skipped else ""
    return f"{upkeep.table}: {done}, {freed:,} bytes freed{kept}{left}"
