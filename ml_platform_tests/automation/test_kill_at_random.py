"""Daemons, code servers and runs are killed at random over a week of landing, which ends as if nothing had been."""

import os
import random
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ml_platform.serving.servers import servers
from ml_platform.settings import Settings
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.nursery import WEEK, Nursery

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

NOTHING_ELSE = (
    ("performance_drop: 100}", "performance_drop: 100000}"),
    ("minimum_rows: 100}", "minimum_rows: 100, persists: 30}"),
)
"""Days that land while runs are killed are looked at together: only age calls for training, and that on one day."""

KILLS, ATTEMPTS, SEED = 20, 60, 3
"""An attempt misses where nothing of its kind is at work."""

HERE_WITHIN_SECONDS, SETTLED_WITHIN_SECONDS = 45, 600


class Supervisor:
    """Keeps Dagster's webserver and daemon running as `ml-platform up` starts them, and kills what belongs to them.

    A server that died is started again; a code server or a run that died is left to those who survived.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._wanted = {server.name: server for server in servers(settings) if server.name.startswith("dagster")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._sessions: set[int] = set()

    def __enter__(self) -> "Supervisor":
        self._settings.logs.mkdir(parents=True, exist_ok=True)
        for name in self._wanted:
            self._start(name)
        end = time.monotonic() + 300
        while not all(server.answers() for server in self._wanted.values()):
            assert time.monotonic() < end, "the servers never answered"
            time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._own():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for server in self._running.values():
            server.wait(30)

    def _start(self, name: str) -> None:
        with (self._settings.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                list(self._wanted[name].command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._settings.logs,
                start_new_session=True,
            )
        self._running[name] = process
        self._sessions.add(process.pid)

    def _own(self) -> list[psutil.Process]:
        """Every process of every server that was ever started here, orphans too."""
        own = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) in self._sessions and process.status() != psutil.STATUS_ZOMBIE:
                    own.append(process)
        return own

    def kill(self, kind: str, patience: float, delay: float) -> bool:
        """Kill a process of a kind some time after there is one; whether there was."""
        end, waited = time.monotonic() + patience, False
        while time.monotonic() < end:
            for process in reversed(self._own()):
                with suppress(ProcessLookupError, psutil.NoSuchProcess):
                    of_the_ui = os.getsid(process.pid) == self._running["dagster"].pid
                    if KINDS[kind] not in " ".join(process.cmdline()) or of_the_ui:
                        continue
                    if not waited:
                        time.sleep(delay)
                        waited = True
                        break  # It may be over by now: a kill must hit.
                    process.kill()
                    if kind == "daemon":
                        self._running["dagster-daemon"].wait(30)
                        self._start("dagster-daemon")
                    return True
            time.sleep(0.2)
        return False


KINDS = {"daemon": "dagster._daemon run", "code server": "api grpc", "run": "spawn_main"}
"""How each is told by its command."""


def test_a_week_of_twenty_kills_at_random_with_real_daemons_ends_as_if_undisturbed(
    tmp_path: Path, nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = meters_home.project(tmp_path / "project", *NOTHING_ELSE)
    week = nursery.begin(project, tmp_path)
    assert nursery.live(week, WEEK, tmp_path / "seen") == 0
    undisturbed = nursery.look(week)
    assert len(undisturbed.decisions) == 2, "stale on the last day: one watermark to train at"
    week.again()

    for name, value in meters_home.environment(week.home, project).items():
        monkeypatch.setenv(name, value)
    settings = meters_home.prepared(week.home, project)
    chance, to_land, killed = random.Random(SEED), list(WEEK), list[str]()
    with Supervisor(settings) as supervisor:
        for kind in chance.choices([*KINDS], k=ATTEMPTS):
            if len(killed) * len(WEEK) // KILLS == len(WEEK) - len(to_land):
                week.deliver(to_land.pop(0))
            if supervisor.kill(kind, HERE_WITHIN_SECONDS, chance.uniform(0, 12)):
                killed.append(kind)
            if len(killed) == KILLS:
                break
        assert len(killed) == KILLS, killed
        assert to_land == []
        assert set(killed) == set(KINDS)
        end = time.monotonic() + SETTLED_WITHIN_SECONDS
        while (different := nursery.look(week, at_rest=False).difference(undisturbed)) or week.under_way():
            assert time.monotonic() < end, (different, week.under_way())
            time.sleep(3)
    assert nursery.look(week).difference(undisturbed) == {}
