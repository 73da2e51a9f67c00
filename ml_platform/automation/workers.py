"""Whether the process that makes a run is still there: on one machine, a run whose process was killed says nothing.

Such a run would count as under way for ever, and what waits for it would wait for ever. Dagster's daemon asks the
launcher of the home's ``dagster.yaml``, marks the run as failed and tries it again; a driver in its own process asks
here. Where machines share an instance, a run that a command makes on another one is taken to live while it speaks.
"""

import socket
import time
from contextlib import suppress

import dagster as dg
import psutil
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus

from ml_platform.automation.runs import MADE_ON_TAG

_NAMELESS_SECONDS = 60.0
"""A run names its process within seconds of its start."""

_CLOCK_SECONDS = 60.0
"""By how much a process may seem to be younger than what it said; within it no number is given to another process."""

_SILENT_SECONDS = 6 * 3600.0
"""A run on another machine that says nothing for so long is over; no step takes as long without a word."""


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's launcher of processes on this machine, which also knows when one is gone.

    The code server sees to the runs that it started; this is for those whose code server was killed too, and for runs
    that a command made in its own process.
    """

    @property
    def supports_check_run_worker_health(self) -> bool:
        """It does: the daemon asks."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether the process that the run named is running; of one on another machine, whether it still speaks."""
        machine = run.tags.get(MADE_ON_TAG, socket.gethostname())
        elsewhere = machine != socket.gethostname()
        if _speaks(self._instance, run) if elsewhere else _lives(self._instance, run):
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        why = (
            f"it said nothing for {_SILENT_SECONDS / 3600:g} hours on {machine}" if elsewhere else "its process is gone"
        )
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, why)


def end_abandoned(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Mark as failed the runs on this machine whose process is gone; which those were.

    Runs that are still to be launched are the daemon's to look after, and so are all runs of an instance whose launcher
    knows nothing of processes on this machine.
    """
    launcher = instance.run_launcher
    if not isinstance(launcher, LocalRunLauncher):
        return []
    begun = dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
    gone = []
    for run in instance.get_runs(begun):
        health = launcher.check_run_worker_health(run)
        if health.status is WorkerStatus.NOT_FOUND:
            instance.report_run_failed(run, f"Run {run.run_id} was killed: {health.msg}.")
            gone.append(run)
    return gone


def _lives(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        said = entry.dagster_event.event_specific_data if entry.dagster_event else None
        if "pid" in getattr(said, "metadata", {}):
            # The first to speak is the run's own process; later ones are of its steps.
            return _is_running(int(str(said.metadata["pid"].value)), entry.timestamp)  # type: ignore[union-attr]
    record = instance.get_run_record_by_id(run.run_id)
    begun = 0.0 if record is None else record.start_time or record.create_timestamp.timestamp()
    return time.time() - begun < _NAMELESS_SECONDS


def _speaks(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    last = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    return bool(last) and time.time() - last[0].timestamp < _SILENT_SECONDS


def _is_running(pid: int, spoke_at: float) -> bool:
    """Whether the process that had this number at a time (wall, seconds) has it still, and is no zombie."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < spoke_at + _CLOCK_SECONDS
    return False
