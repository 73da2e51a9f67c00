"""Runs on a cluster end as they should: done, failed for a reason that is told, cancelled, or taken up again."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ml_platform_tests.kubernetes.conftest import Platform

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

LATE_SECONDS = 4
POOL_SECONDS = 30
"""In which a run would begin its step, had it a turn."""


def test_a_failing_step_fails_the_run_and_what_follows_is_not_begun(platform: Platform) -> None:
    run_id = platform.launch("breaking")
    run = platform.end_of(run_id)
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert "the tyre is flat" in platform.said(run_id)
    assert [job.step for job in platform.cluster.jobs_of(run_id)] == ["", "breaks"]
    assert not (platform.told / "followed").exists()


def test_steps_and_runs_are_jobs_and_no_secret_is_in_what_is_posted(platform: Platform) -> None:
    (platform.told / "go").touch()
    run_id = platform.launch("waiting")
    assert platform.end_of(run_id).status is dg.DagsterRunStatus.SUCCESS, platform.story(run_id)
    jobs = platform.cluster.jobs_of(run_id)
    assert [(job.component, job.step) for job in jobs] == [
        ("run_worker", ""),
        ("step_worker", "waits"),
        ("step_worker", "follows"),
    ]
    assert len({job.pod.process.pid for job in jobs}) == 3
    for job in jobs:
        assert platform.credentials.postgres in Path(job.pod.environment["PGSERVICEFILE"]).read_text()
        assert platform.credentials.key == job.pod.environment["AWS_SECRET_ACCESS_KEY"]
    logs = [job.pod.log.read_text() for job in jobs]
    written = [*platform.cluster.posted, *logs, platform.said(run_id), str(platform.instance.get_run_by_id(run_id))]
    assert not [text for text in written for word in platform.credentials.words if word in text]
    assert type(platform.instance.event_log_storage).__name__ == "PostgresEventLogStorage"


def test_steps_of_a_pool_take_turns_across_runs_and_a_killed_one_gives_its_turn_back(platform: Platform) -> None:
    first = platform.launch("turning")
    holder = platform.begun(first, "takes_turns")
    second = platform.launch("turning")
    time.sleep(POOL_SECONDS)
    assert not platform.cluster.jobs_of(second, "takes_turns")
    platform.cluster.kill(holder)
    assert platform.end_of(first).status is dg.DagsterRunStatus.FAILURE
    platform.until("its turn", lambda: platform.cluster.jobs_of(second, "takes_turns"), 300, second)
    (platform.told / "go").touch()
    assert platform.end_of(second).status is dg.DagsterRunStatus.SUCCESS, platform.story(second)


def test_what_a_step_prints_is_found_by_its_run(platform: Platform) -> None:
    (platform.told / "go").touch()
    run_id = platform.launch("waiting")
    assert platform.end_of(run_id).status is dg.DagsterRunStatus.SUCCESS, platform.story(run_id)
    captured = platform.instance.all_logs(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED)
    [key] = [data.file_key for data in (_captured(entry) for entry in captured) if "waits" in (data.step_keys or ())]
    found = platform.instance.compute_log_manager.get_log_data([run_id, "compute_logs", key])
    assert found.stdout == b"it was told to go on\n"


def _captured(entry: dg.EventLogEntry) -> Any:
    assert entry.dagster_event is not None
    return entry.dagster_event.event_specific_data


def test_a_terminated_run_is_cancelled_and_leaves_no_process(platform: Platform) -> None:
    run_id = platform.launch("waiting")
    step = platform.begun(run_id, "waits")
    [run, _] = platform.cluster.jobs_of(run_id)
    assert platform.instance.run_launcher.terminate(run_id)
    ended = platform.end_of(run_id)
    assert ended.status is dg.DagsterRunStatus.CANCELED, platform.story(run_id)
    platform.until("the step's end", lambda: step.pod.exit_code is not None, 30, run_id)
    platform.until("the run's end", lambda: run.pod.exit_code is not None, 30, run_id)
    assert not (platform.told / "followed").exists()
    (platform.told / "go").touch()
    time.sleep(5)
    assert [job.step for job in platform.cluster.jobs_of(run_id)] == ["", "waits"], "it was tried again"
    assert not platform.instance.get_runs(dg.RunsFilter(tags={"dagster/parent_run_id": run_id}))


def test_a_step_whose_process_is_killed_fails_the_run_by_the_name_of_its_job(platform: Platform) -> None:
    run_id = platform.launch("waiting")
    step = platform.begun(run_id, "waits")
    platform.cluster.kill(step)
    ended = platform.end_of(run_id)
    assert ended.status is dg.DagsterRunStatus.FAILURE
    name = step.manifest["metadata"]["name"]
    assert f"Discovered failed Kubernetes job {name} for step waits" in platform.said(run_id)
    assert not (platform.told / "followed").exists()


def test_a_killed_step_that_may_be_tried_again_is(platform: Platform) -> None:
    run_id = platform.launch("trying_again")
    first = platform.begun(run_id, "waits_and_is_tried_again")
    platform.cluster.kill(first)
    again = platform.begun(run_id, "waits_and_is_tried_again", attempt=1)
    assert again.manifest["metadata"]["name"] == f"{first.manifest['metadata']['name']}-1"
    (platform.told / "go").touch()
    assert platform.end_of(run_id).status is dg.DagsterRunStatus.SUCCESS, platform.story(run_id)


def test_a_run_whose_process_is_killed_fails_and_is_tried_again(platform: Platform) -> None:
    run_id = platform.launch("waiting")
    platform.begun(run_id, "waits")
    [run, _] = platform.cluster.jobs_of(run_id)
    platform.cluster.kill(run)
    ended = platform.end_of(run_id)
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert "Run has not completed but K8s job has no active pods" in platform.said(run_id)

    _succeeds_when_tried_again(platform, run_id)


def test_the_end_of_a_step_that_is_committed_after_younger_events_is_not_missed(platform: Platform) -> None:
    run_id = platform.launch("waiting")
    platform.begun(run_id, "waits")
    run = platform.instance.get_run_by_id(run_id)
    with _late(platform, "waits"):
        (platform.told / "go").touch()
        end = time.monotonic() + 3 * LATE_SECONDS
        while time.monotonic() < end:
            platform.instance.report_engine_event("younger than the step's end", run)
            time.sleep(0.25)
        assert platform.end_of(run_id, 120).status is dg.DagsterRunStatus.SUCCESS, platform.story(run_id)
    records = platform.instance.get_records_for_run(run_id).records
    said = {record.storage_id: record.event_log_entry.message for record in records}
    [ended] = [number for number, message in said.items() if message.startswith('Finished execution of step "waits"')]
    assert [number for number, message in said.items() if number > ended and "younger" in message]


@contextmanager
def _late(platform: Platform, step: str) -> Iterator[None]:
    """The end of a step is written with its id, and to be seen some seconds later, as on a database under load."""
    when = f"NEW.dagster_event_type = 'STEP_SUCCESS' AND NEW.step_key = '{step}'"
    body = f"BEGIN PERFORM pg_sleep({LATE_SECONDS}); RETURN NULL; END"
    with platform.stores.postgres.connection("dagster") as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS '{body}'")
        cursor.execute(
            f"CREATE TRIGGER late AFTER INSERT ON event_logs FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION late()"
        )
    try:
        yield
    finally:
        with platform.stores.postgres.connection("dagster") as connection, connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION late CASCADE")


def test_an_api_that_is_unavailable_for_a_while_is_waited_for(platform: Platform) -> None:
    run_id = platform.launch("waiting")
    platform.begun(run_id, "waits")
    with platform.cluster.unavailable():
        # Its next step is to be made while nothing answers.
        (platform.told / "go").touch()
        refused = platform.until(
            "a Job that is refused",
            lambda: [asked for asked in platform.cluster.asked if asked.status == 503 and asked.verb == "create"],
            300,
            run_id,
        )
    assert refused
    assert platform.end_of(run_id).status is dg.DagsterRunStatus.SUCCESS, platform.story(run_id)
    assert [job.step for job in platform.cluster.jobs_of(run_id)] == ["", "waits", "follows"]


def test_an_api_that_stays_away_fails_the_run_which_is_tried_again_once_it_is_back(platform: Platform) -> None:
    run_id = platform.launch("waiting")
    platform.begun(run_id, "waits")
    with platform.cluster.unavailable():
        (platform.told / "go").touch()
        ended = platform.end_of(run_id)
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert "Service Unavailable" in platform.said(run_id)
    assert not (platform.told / "followed").exists()
    _succeeds_when_tried_again(platform, run_id)


def test_a_run_whose_image_is_not_to_be_had_fails_says_so_and_is_tried_again(platform: Platform) -> None:
    image = platform.release.image
    with pytest.MonkeyPatch.context() as patch, platform.with_runs_that_start_within(20):
        patch.setattr(platform.cluster, "images", {})
        run_id = platform.launch("waiting")
        ended = platform.end_of(run_id)
    assert ended.status is dg.DagsterRunStatus.FAILURE
    said = platform.said(run_id)
    assert "Run timed out due to taking longer than" in said
    assert "ErrImagePull" in said
    assert f"Failed to pull image {image}" in said
    _succeeds_when_tried_again(platform, run_id)


def _succeeds_when_tried_again(platform: Platform, run_id: str) -> None:
    parent = dg.RunsFilter(tags={"dagster/parent_run_id": run_id})
    platform.until("another try", lambda: platform.instance.get_runs(parent), 300, run_id)
    (platform.told / "go").touch()
    [again] = platform.instance.get_runs(parent)
    assert platform.end_of(again.run_id).status is dg.DagsterRunStatus.SUCCESS, platform.story(again.run_id)
