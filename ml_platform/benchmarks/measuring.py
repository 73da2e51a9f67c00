"""Figures of one piece of work: its time, its memory above what the process held before, its CPU.

A workload is a process that prints its figures as one line of JSON, the last of its output. Where only a part of the
process is the work (a join, without imports and without making its input), it is measured here, from within.
"""

import json
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psutil

Figures = dict[str, Any]
"""``seconds`` (wall clock), ``cpu_seconds`` (user and system, all threads), ``gigabytes``, and what a workload adds."""

_LOOK_SECONDS = 0.005
_WATCH_SECONDS = 0.1

Result = TypeVar("Result")


class WorkFailedError(RuntimeError):
    """A workload ended with an error; the message has the end of what it said."""


def measured(work: Callable[[], Result]) -> tuple[Result, Figures]:
    """The result of a call in this process, and its figures; ``gigabytes`` is its peak above what was held before."""
    process, stop, peak = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not stop.wait(_LOOK_SECONDS):
            peak[0] = max(peak[0], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    started, cpu = time.perf_counter(), time.process_time()
    try:
        result = work()
    finally:
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        stop.set()
        watching.join()
    most = max(peak[0], process.memory_info().rss)
    return result, {"seconds": seconds, "cpu_seconds": cpu_seconds, "gigabytes": (most - before) / 1024**3}


def tell(figures: Figures) -> None:
    """Print a workload's figures for whoever runs it."""
    sys.stdout.write(f"{json.dumps(figures)}\n")


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    tells: bool,
    at_most_seconds: float,
    at_most_gigabytes: float,
) -> Figures:
    """The figures of a fresh process: its own, where it ``tells`` them, else of the process as a whole.

    ``process_gigabytes`` is always that of the largest process among it and its children. A process that goes beyond
    its time or memory is killed with its children, and its only figure is ``died``: of what. So is one that the system
    killed.

    Raises:
        WorkFailedError: it ended with an error.
    """
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryFile("w+") as complained,
        tempfile.TemporaryDirectory() as place,  # DuckDB spills to where it works
    ):
        process = subprocess.Popen(command, env=dict(environment), stdout=said, stderr=complained, text=True, cwd=place)
        died, most = _watched(process, started + at_most_seconds, at_most_gigabytes)
        seconds = time.perf_counter() - started
        said.seek(0)
        complained.seek(0)
        lines, errors = said.read().splitlines(), complained.read()
    if process.returncode == -signal.SIGKILL:
        # A system that runs out of memory ends the largest.
        return {"died": died or f"the system killed it at {most:.0f} GB"}
    if process.returncode:
        raise WorkFailedError(f"{' '.join(command)} ended with {process.returncode}:\n{errors[-2000:]}")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    whole = {"seconds": seconds, "cpu_seconds": cpu_seconds, "gigabytes": most, "process_gigabytes": most}
    return {**whole, **json.loads(lines[-1])} if tells else whole


def _watched(process: "subprocess.Popen[str]", until: float, at_most_gigabytes: float) -> tuple[str, float]:
    """Wait for a process; of what it had to be killed, if it had to, and the most memory of one process (GB)."""
    family, most = psutil.Process(process.pid), 0.0
    while process.poll() is None:
        try:
            held = [each.memory_info().rss / 1024**3 for each in (family, *family.children(recursive=True))]
        except psutil.NoSuchProcess:
            held = []
        most = max([most, *held])
        reason = ""
        if time.perf_counter() > until:
            reason = "its time was over"
        elif sum(held) > at_most_gigabytes:
            reason = f"it held more than {at_most_gigabytes:g} GB"
        if reason:
            for each in (*family.children(recursive=True), family):
                each.kill()
            process.wait()
            return reason, most
        try:
            process.wait(_WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    return "", most
