"""Processes that live through a day of landing, or die at a named write. Started as a program: the tests' nursery.

Every process is forked from one that has imported what is slow to import and used none of it; it is told on standard
input, as one line of JSON, what to live through or to look at, and its exit code is answered on standard output.
"""

import json
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import deltalake  # noqa: F401
import evidently  # noqa: F401
import feast  # noqa: F401
import lightgbm  # noqa: F401
import mlflow.lightgbm
import optuna  # noqa: F401
from dagster._core.storage.event_log import SqliteEventLogStorage
from rich.console import Console

from ml_platform.cli.drive import Driver
from ml_platform.cli.execution import hush
from ml_platform.definitions import platform_definitions
from ml_platform.settings import load
from ml_platform.stores.declarations import load_dataset
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.instance import prepare_dagster_home
from ml_platform.stores.lake import Lake


class Doom:
    """Names every write that lasts, and dies before or after one of them.

    ``fatal`` is that write with its moment (``after Delta raw/readings``), or empty; ``seen`` is a file to which the
    names are added in the order of the writes.
    """

    def __init__(self, fatal: str, seen: Path) -> None:
        self._fatal, self._seen = fatal, seen

    def watch(self, owner: Any, method: str, name: Callable[..., str | None]) -> None:
        """Have a method meet its doom; ``name`` of its arguments says which write it is, if it is one."""
        honest = getattr(owner, method)

        def watched(*given: Any, **named: Any) -> Any:
            write = name(*given, **named)
            if write is None:
                return honest(*given, **named)
            self._reach(f"before {write}")
            answer = honest(*given, **named)
            self._reach(f"after {write}")
            return answer

        setattr(owner, method, watched)

    def _reach(self, moment: str) -> None:
        with self._seen.open("a") as file:
            file.write(f"{moment}\n")
        if moment == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)


def _materialised(_: Any, event: dg.EventLogEntry) -> str | None:
    told = event.dagster_event
    if told is None or told.event_type is not dg.DagsterEventType.ASSET_MATERIALIZATION or told.asset_key is None:
        return None
    return f"event {told.asset_key.to_user_string()}"


def _ended(_: Any, event: dg.EventLogEntry, **__: Any) -> str | None:
    told = event.dagster_event
    return "end of run" if told and told.event_type is dg.DagsterEventType.RUN_SUCCESS else None


def doom(fatal: str, seen: Path) -> None:
    """Let this process die as :class:`Doom` says, at any durable write of the platform."""
    fate = Doom(fatal, seen)
    fate.watch(Lake, "_commit", lambda _, table, *__, **___: f"Delta {table}")
    fate.watch(Lake, "append_claimed", lambda _, table, *__, **___: f"Delta {table}")
    fate.watch(Lake, "_append_records", lambda _, states, *__, **___: f"record {states[0].table}" if states else None)
    fate.watch(FeatureClient, "push_online", lambda _, view, *__, **___: f"online {view}")
    fate.watch(mlflow, "register_model", lambda *_, **__: "registration")
    fate.watch(mlflow.MlflowClient, "set_registered_model_alias", lambda *_, **__: "alias")
    fate.watch(mlflow.MlflowClient, "log_artifact", lambda _, __, path, *___: f"artifact {Path(path).name}")
    fate.watch(SqliteEventLogStorage, "store_event", _materialised)
    fate.watch(dg.DagsterInstance, "handle_new_event", _ended)


def live(project: str, home: str, until: list[str], fatal: str, seen: str) -> None:
    """Land each day of ``until`` and let the platform's automation settle."""
    sys.path.insert(0, project)
    import deliveries

    os.environ |= {
        "ML_PLATFORM_HOME": home,
        "ML_PLATFORM_FEATURE_REPO": f"{project}/feature_repo",
        "ML_PLATFORM_LANDING_SETTLE_SECONDS": "0",
        "DAGSTER_HOME": f"{home}/dagster",
    }
    doom(fatal, Path(seen))
    hush()
    settings = prepare_dagster_home(load())
    package = Path(project) / "energy_demand"
    dataset = load_dataset(package / "defs" / "meters")
    with dg.DagsterInstance.get() as instance:
        driver = Driver(platform_definitions(package), dataset, instance, Console(stderr=True))
        driver.settle()
        for day in until:
            deliveries.land(settings.landing, datetime.fromisoformat(day).replace(tzinfo=UTC))
            driver.settle()
        if driver.failures:
            raise RuntimeError(f"runs failed: {driver.failures}")


def look(project: str, home: str, at_rest: bool, found: str) -> None:
    """Leave in a file what a home came to: processes remember of it what no longer holds if it was put back."""
    from ml_platform_tests.automation.nursery import Meters

    meters = Meters(Path(project), Path(home))
    Path(found).write_bytes(pickle.dumps(meters.check() if at_rest else meters.state()))


def _fates(lines: Iterator[str]) -> Iterator[int]:
    for line in lines:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                told = json.loads(line)
                {"live": live, "look": look}[told.pop("do")](**told)
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stderr.flush()
                os._exit(code)
        yield os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for code in _fates(iter(sys.stdin.readline, "")):
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
