"""How fast automation is: ``evaluation`` of every condition, and ``latency`` from a landed file to a started run.

``python -m ml_platform.benchmarks.automation evaluation|latency``.
"""

import os
import statistics
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import dagster as dg

from ml_platform.automation import sensor
from ml_platform.benchmarks.measuring import tell
from ml_platform.definitions import defs
from ml_platform.defs import datasets
from ml_platform.defs.nyc_flights.replay import START, replay
from ml_platform.serving.servers import Servers, servers
from ml_platform.settings import Settings, load
from ml_platform.stores.instance import prepare_dagster_home
from ml_platform.stores.lake import Lake

ROUNDS, LANDINGS = 7, 40


def evaluation() -> float:
    """The median of evaluations of all conditions on a home as it stands, the first (which has no cursor) left out."""
    prepare_dagster_home(load())
    repository = defs().get_repository_def()
    conditions, cursor, seconds = repository.get_sensor_def(sensor.NAME), None, []
    with dg.DagsterInstance.get() as instance:
        for _ in range(ROUNDS + 1):
            with dg.build_sensor_context(instance, repository_def=repository, cursor=cursor) as context:
                started = time.perf_counter()
                cursor = conditions.evaluate_tick(context).cursor
                seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def latency() -> float:
    """The 95th percentile of the time from a day's last file to the start of its run, with the daemons of `up`.

    Each day lands when the last one's run has ended. The first is not counted: bytecode is compiled then.
    """
    os.environ["DAGSTER_HOME"] = str(load().dagster_home)
    settings = prepare_dagster_home(load())
    waits = []
    with Servers(settings, servers(settings)) as running, dg.DagsterInstance.get() as instance:
        list(running.wait_until_ready(threading.Event()))
        for number in range(1, LANDINGS + 2):
            list(replay(settings.landing, until=START + timedelta(days=number)))
            landed = time.time()
            waits.append(_started(instance, landed) - landed)
            _finished(settings, instance, number)
    return statistics.quantiles(waits[1:], n=20)[-1]


def _started(instance: dg.DagsterInstance, landed: float) -> float:
    """When the first run that was made since then started."""
    while True:
        records = instance.get_run_records(limit=3)
        begun = [each.start_time for each in records if each.start_time and each.create_timestamp.timestamp() > landed]
        if begun:
            return min(begun)
        time.sleep(0.1)


def _finished(settings: Settings, instance: dg.DagsterInstance, days: int) -> None:
    """Wait until the days are taken in and nothing runs."""
    (dataset,) = datasets()
    table = f"{dataset.models[0].name}/labels"
    while len(Lake.of(settings).partitions(table)) < days or instance.get_runs(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]), limit=1
    ):
        time.sleep(0.5)


if __name__ == "__main__":
    Path(load().home).mkdir(parents=True, exist_ok=True)
    found = {"evaluation": evaluation, "latency": latency}[sys.argv[1]]()
    tell({"seconds": found})
