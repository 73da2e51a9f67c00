"""The nightly job: what Dagster may forget, when maintenance may start, and that it runs."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from typer.testing import CliRunner

from ml_platform import cli
from ml_platform.automation.jobs import MAINTENANCE_JOB
from ml_platform.automation.maintenance import (
    forget_dagster_runs,
    forgettable_runs,
    maintenance_job,
    maintenance_schedule,
    named_runs,
    runs_under_way,
)
from ml_platform.core.promotion import Decision
from ml_platform.resources.platform import Platform
from ml_platform.settings import Settings, load
from ml_platform.stores.instance import prepare_dagster_home
from ml_platform.stores.models import ModelStore
from ml_platform_tests.stores.model_examples import PROVENANCE, log

DAYS = dg.StaticPartitionsDefinition(["monday", "tuesday"])


@dg.asset(partitions_def=DAYS)
def daily() -> None:
    """Of two days."""


@dg.asset
def whole() -> None:
    """Without days."""


@dg.op
def fails() -> None:
    raise ValueError("it had to")


@dg.job
def failing() -> None:
    fails()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as made:
        yield made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    return prepare_dagster_home(load())


def made(instance: dg.DagsterInstance, *assets: dg.AssetsDefinition, day: str | None = None) -> str:
    return dg.materialize(assets, instance=instance, partition_key=day).run_id


def test_a_run_is_forgotten_once_all_that_it_made_was_made_again(instance: dg.DagsterInstance) -> None:
    superseded = made(instance, daily, day="monday")
    only_tuesday = made(instance, daily, day="tuesday")
    newest_monday = made(instance, daily, day="monday")
    old_whole, new_whole = made(instance, whole), made(instance, whole)
    failed = failing.execute_in_process(instance=instance, raise_on_error=False).run_id
    later = datetime.now(UTC)
    assert set(forgettable_runs(instance, later, ())) == {superseded, old_whole, failed}
    assert set(forgettable_runs(instance, later, {superseded, failed})) == {old_whole}
    for run_id in (superseded, old_whole, failed):
        instance.delete_run(run_id)
    assert instance.get_materialized_partitions(daily.key) == {"monday", "tuesday"}
    last = instance.get_latest_materialization_event(whole.key)
    assert last is not None
    assert last.run_id == new_whole
    assert {run.run_id for run in instance.get_runs()} == {only_tuesday, newest_monday, new_whole}


def test_a_forgotten_run_takes_its_output_with_it(instance: dg.DagsterInstance) -> None:
    old, new = made(instance, whole), made(instance, whole)

    def output(run_id: str) -> set[str]:
        return {path.name for path in Path(instance.storage_directory(), run_id, "compute_logs").glob("*.err")}

    assert output(old)
    assert output(new)
    forget_dagster_runs(instance, datetime.now(UTC), (), dry_run=True)
    assert output(old)
    assert forget_dagster_runs(instance, datetime.now(UTC), ()) == [old]
    assert not output(old)
    assert output(new)


def test_a_young_run_stays(instance: dg.DagsterInstance) -> None:
    before = datetime.now(UTC)
    failing.execute_in_process(instance=instance, raise_on_error=False)
    assert forgettable_runs(instance, before, ()) == []


def test_the_runs_that_a_version_or_a_decision_names_stay(home: Settings) -> None:
    store = ModelStore(home)
    version = log(store, "churn")
    decision = Decision(promote=True, rule="first_champion", reason="every gate holds", gates=())
    store.promote(
        "churn", version, decision, expected_current=None, watermark=PROVENANCE.as_of, by="someone", run_id="decided"
    )
    assert named_runs(store) == {PROVENANCE.dagster_run_id, "decided"}


def test_it_is_done_once_a_night_and_only_when_nothing_else_runs(instance: dg.DagsterInstance) -> None:
    schedule = maintenance_schedule(maintenance_job())
    assert schedule.default_status is dg.DefaultScheduleStatus.RUNNING

    def tick(hour: int, day: int = 5) -> dg.RunRequest | dg.SkipReason:
        at = datetime(2026, 1, day, hour, 15, tzinfo=UTC)
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=at) as context:
            answer = schedule.evaluate_tick(context)
        return answer.run_requests[0] if answer.run_requests else dg.SkipReason(answer.skip_message)

    chain = instance.create_run_for_job(failing, status=dg.DagsterRunStatus.STARTED)
    skipped = tick(1)
    assert isinstance(skipped, dg.SkipReason)
    assert f"failing is under way (run {chain.run_id})" in str(skipped.skip_message)
    instance.report_run_failed(chain)
    assert runs_under_way(instance) == []

    asked = tick(2)
    assert isinstance(asked, dg.RunRequest)
    failed = instance.create_run_for_job(maintenance_job(), tags=asked.tags, status=dg.DagsterRunStatus.FAILURE)
    again = tick(3)
    assert isinstance(again, dg.RunRequest), f"run {failed.run_id} failed: the next hour tries again"
    done = instance.create_run_for_job(maintenance_job(), tags=again.tags, status=dg.DagsterRunStatus.STARTED)
    assert f"maintenance is under way (run {done.run_id})" in str(tick(4).skip_message)  # type: ignore[union-attr]
    instance.report_dagster_event(
        dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, job_name=MAINTENANCE_JOB), done.run_id
    )
    for hour in (4, 5):
        assert f"it was done this night (run {done.run_id})" in str(tick(hour).skip_message)  # type: ignore[union-attr]
    assert isinstance(tick(1, day=6), dg.RunRequest)


def test_the_job_runs_on_a_home(home: Settings) -> None:
    log(ModelStore(home), "churn")
    with dg.DagsterInstance.get() as instance:
        job = dg.Definitions(jobs=[maintenance_job()], resources={"platform": Platform()}).resolve_job_def(
            MAINTENANCE_JOB
        )
        result = job.execute_in_process(instance=instance)
        assert result.success
        assert {event.step_key for event in result.get_step_success_events()} == {
            "maintain_tables",
            "forget_mlflow_runs",
            "forget_dagster_runs",
        }


def test_the_command_waits_for_runs_that_are_under_way_but_may_always_look(home: Settings) -> None:
    store = ModelStore(home)
    log(store, "churn")
    with pytest.raises(ValueError, match="it had to"), store.training_run("churn"):
        raise ValueError("it had to")
    looked = CliRunner().invoke(cli.app, ["maintain", "--dry-run", "--json"])
    assert looked.exit_code == 0, looked.output
    assert json.loads(looked.stdout)["mlflow_runs"] == [], "it failed just now"
    (failed,) = store.failed_runs(datetime.now(UTC))
    assert failed
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(failing, status=dg.DagsterRunStatus.STARTED)
        refused = CliRunner().invoke(cli.app, ["maintain"])
        assert f"failing is under way (run {run.run_id})" in str(refused.exception)
        instance.report_run_failed(run)
    done = CliRunner().invoke(cli.app, ["maintain"])
    assert done.exit_code == 0, done.output
    assert "0 MLflow runs and 0 Dagster runs were removed" in done.stdout


@pytest.mark.parametrize("value", ["0", "-1", "x"])
def test_a_length_of_time_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(
        ValueError, match=f"ML_PLATFORM_KEEP_RUNS_DAYS must be a whole number of days, 1 or more, not '{value}'"
    ):
        load({"ML_PLATFORM_KEEP_RUNS_DAYS": value})
