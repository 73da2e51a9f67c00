"""A run whose process was killed is found to be over; one that lives is left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.launcher import WorkerStatus

from ml_platform.automation import workers
from ml_platform.automation.runs import MADE_ON_TAG
from ml_platform.automation.workers import LocalRunLauncher, end_abandoned
from ml_platform.settings import load
from ml_platform.stores.instance import prepare_dagster_home

RUN = """
import time
import dagster as dg

@dg.op
def sleeps() -> None:
    time.sleep(600)

@dg.job(executor_def=dg.in_process_executor)
def sleeping() -> None:
    sleeps()

with dg.DagsterInstance.get() as instance:
    sleeping.execute_in_process(instance=instance)
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    """That of a home, as its files declare it."""
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    prepare_dagster_home(load())
    with dg.DagsterInstance.get() as made:
        yield made


@pytest.fixture
def sleeper(instance: dg.DagsterInstance) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a run."""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", RUN], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not any(
        instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_START) for run in instance.get_runs(limit=1)
    ):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    yield process
    process.kill()
    process.wait()


def test_a_run_is_over_when_its_process_was_killed_and_not_before(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes]
) -> None:
    (run,) = instance.get_runs()
    assert end_abandoned(instance) == []
    os.kill(sleeper.pid, signal.SIGKILL)
    sleeper.wait()
    assert [ended.run_id for ended in end_abandoned(instance)] == [run.run_id]
    after = instance.get_run_by_id(run.run_id)
    assert after is not None
    assert after.status is dg.DagsterRunStatus.FAILURE
    assert end_abandoned(instance) == [], "it is ended once"


def test_a_killed_process_that_nobody_has_buried_is_gone_too(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes]
) -> None:
    (run,) = instance.get_runs()
    os.kill(sleeper.pid, signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert [ended.run_id for ended in end_abandoned(instance)] == [run.run_id]


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = instance.get_runs()
    launcher = instance.run_launcher
    assert isinstance(launcher, LocalRunLauncher), "the home's dagster.yaml names it, and the daemon asks it"
    assert launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(run).status is WorkerStatus.RUNNING
    monkeypatch.setattr(workers, "_CLOCK_SECONDS", -600.0)
    assert launcher.check_run_worker_health(run).status is WorkerStatus.NOT_FOUND


def test_a_run_on_another_machine_is_over_when_it_has_said_nothing_for_hours(
    instance: dg.DagsterInstance, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = instance.get_runs()
    instance.add_run_tags(run.run_id, {MADE_ON_TAG: "another"})
    sleeper.kill()
    sleeper.wait()
    assert end_abandoned(instance) == [], "its number says nothing here"
    monkeypatch.setattr(workers, "_SILENT_SECONDS", 0.0)
    assert [ended.run_id for ended in end_abandoned(instance)] == [run.run_id]


def test_a_run_that_has_not_named_its_process_yet_gets_a_minute(instance: dg.DagsterInstance) -> None:
    @dg.job
    def nothing() -> None: ...

    run = instance.create_run_for_job(nothing)
    assert end_abandoned(instance) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "_NAMELESS_SECONDS", 0.0)
        assert [ended.run_id for ended in end_abandoned(instance)] == [run.run_id]
