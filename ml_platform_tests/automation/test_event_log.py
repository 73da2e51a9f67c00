"""Dagster's storage in SQLite with connections that stay open."""

import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from ml_platform.automation.event_log import SqliteEventLog

_CONFIG = """
storage:
  custom: {module: ml_platform.automation.event_log, class: SqliteStorage, config: {base_dir: {env: DAGSTER_HOME}}}
compute_logs: {module: dagster._core.storage.noop_compute_log_manager, class: NoOpComputeLogManager}
telemetry: {enabled: false}
"""

_DIES = """
import os, dagster as dg
with dg.DagsterInstance.get() as instance:
    instance.report_runless_asset_event(dg.AssetMaterialization("survivor"))
    os.kill(os.getpid(), 9)
"""


@dg.op
def one() -> None:
    pass


@dg.asset
def thing() -> None:
    pass


@dg.job
def job() -> None:
    one()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dagster.yaml").write_text(_CONFIG)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def _open_databases(home: Path) -> list[str]:
    return sorted(
        {file.path for file in psutil.Process().open_files() if file.path.startswith(f"{home}/history/runs/")}
    )


def test_what_is_written_is_what_dagsters_own_storage_reads(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        assert isinstance(instance.event_log_storage, SqliteEventLog)
        result = dg.materialize([thing], instance=instance)
        said = [event.message for event in instance.all_logs(result.run_id)]
        stock = SqliteEventLogStorage(str(home / "history" / "runs"))
        assert [entry.message for entry in stock.get_logs_for_run(result.run_id)] == said
        assert len(said) > 5
        assert stock.get_latest_materialization_events([thing.key])[thing.key] is not None


def test_databases_stay_open_but_not_one_for_every_run_ever(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        runs = [job.execute_in_process(instance=instance).run_id for _ in range(8)]
        first = len(_open_databases(home))
        assert any(runs[-1] in path for path in _open_databases(home))
        assert not any(runs[0] in path for path in _open_databases(home))
        # What was closed is opened again.
        assert all(instance.all_logs(run_id) for run_id in runs)
        assert len(_open_databases(home)) == first
    assert _open_databases(home) == []


def test_tables_are_looked_for_once_not_at_each_event(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    look = SqliteEventLogStorage.has_table

    def counted(storage: SqliteEventLogStorage, name: str) -> bool:
        looked.append(name)
        return look(storage, name)

    monkeypatch.setattr(SqliteEventLogStorage, "has_table", counted)
    with dg.DagsterInstance.get() as instance:
        for _ in range(3):
            dg.materialize([thing], instance=instance)
        assert not instance.event_log_storage.has_table("no_such_table")
    assert "asset_event_tags" in looked
    assert len(looked) == len(set(looked))


def test_a_follower_in_another_instance_sees_events_while_the_run_goes_on(home: Path) -> None:
    run_ends, seen = threading.Event(), threading.Event()

    @dg.op
    def waits(context: dg.OpExecutionContext) -> None:
        context.log.info("half way")
        run_ends.wait(120)

    @dg.job
    def long() -> None:
        waits()

    def follow(event: dg.EventLogEntry, _: str) -> None:
        if "half way" in event.message or "half way" in event.user_message:
            seen.set()

    with dg.DagsterInstance.get() as follower, dg.DagsterInstance.get() as instance:
        run_id = str(uuid.uuid4())
        follower.watch_event_logs(run_id, None, follow)
        execution = threading.Thread(target=long.execute_in_process, kwargs={"instance": instance, "run_id": run_id})
        execution.start()
        try:
            assert seen.wait(120)
        finally:
            run_ends.set()
            execution.join()


def test_who_reads_a_run_wakes_none_of_its_followers(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        run_id = job.execute_in_process(instance=instance).run_id
        database = home / "history" / "runs" / f"{run_id}.db"
        written = database.stat().st_mtime_ns
        assert instance.all_logs(run_id)
        assert database.stat().st_mtime_ns == written


def test_a_killed_process_loses_no_event_that_was_reported(home: Path) -> None:
    died = subprocess.run([sys.executable, "-c", _DIES], env=dict(os.environ), check=False)
    assert died.returncode == -9
    with dg.DagsterInstance.get() as instance:
        assert instance.get_latest_materialization_event(dg.AssetKey("survivor")) is not None


def test_wiped_runs_are_gone_and_new_ones_are_kept(home: Path) -> None:
    with dg.DagsterInstance.get() as instance:
        old = job.execute_in_process(instance=instance).run_id
        instance.wipe()
        assert not list((home / "history" / "runs").glob(f"{old}*"))
        new = job.execute_in_process(instance=instance).run_id
        assert instance.all_logs(new)
