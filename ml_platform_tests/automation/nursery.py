"""Homes of the meters that processes live in, and what such a home came to."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import polars as pl
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from ml_platform.automation.jobs import UNFINISHED
from ml_platform.settings import Settings, load
from ml_platform.stores.lake import Lake
from ml_platform.stores.models import CHAMPION, ModelStore
from ml_platform_tests.automation.meters_home import deliveries

# A program: imported here, it would take its seconds for nothing.
NURSERY = Path(__file__).with_name("mortal.py")
BEGIN, *WEEK = [f"2024-03-{day:02}" for day in range(3, 11)]
"""Until when lands what a week begins with, and until when on each of its days."""


@dataclass(frozen=True)
class State:
    """What a home came to.

    ``contents`` is by table and partition the hash of its content, ``decisions`` what was decided, on which bytes, when
    in event time and why, and ``told`` by asset and partition the content of which Dagster knows.
    """

    contents: dict[str, dict[str, str]]
    decisions: list[tuple[Any, ...]]
    told: dict[str, dict[str, str]]

    def difference(self, other: "State") -> dict[str, Any]:
        """What is not as in another."""
        found: dict[str, Any] = {}
        for kind, mine, its in (("content", self.contents, other.contents), ("told", self.told, other.told)):
            for name in {*mine, *its}:
                days = sorted({day for day, _ in mine.get(name, {}).items() ^ its.get(name, {}).items()})
                if days or (name in mine) != (name in its):
                    found[f"{kind}: {name}"] = days
        if self.decisions != other.decisions:
            found["decisions"] = self.decisions, other.decisions
        return found


@contextmanager
def instance_of(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance of a home, which need not be the environment's."""
    place = {"DAGSTER_HOME": str(settings.dagster_home)}
    with patch.dict(os.environ, place), dg.DagsterInstance.get() as instance:
        yield instance


def state(settings: Settings, *names: str) -> State:
    """What a home and these models of it came to by now."""
    lake, models = Lake.of(settings), ModelStore(settings)
    # What only grows has no content of its own.
    tables = [table for table in lake.tables() if not table.startswith("ledger/")]
    contents = {table: {n: state.content_hash for n, state in lake.partitions(table).items()} for table in tables}
    columns = ["version", "previous_version", "promoted", "rule", "reason", "decided_at_watermark"]
    decisions = [
        (*row, models.describe(name, row[0]).model_hash)
        for name in names
        for row in models.ledger.history(name).select(columns).iter_rows()
    ]
    with instance_of(settings) as instance:
        keys = [key for key in instance.all_asset_keys() if key.path[0] != "ledger"]
        told = {key.to_user_string(): _told(instance, key) for key in keys}
    return State(contents, decisions, told)


def _told(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    newest = instance.event_log_storage.get_latest_tags_by_partition(key, kind, [DATA_VERSION_TAG])
    return {day: tags[DATA_VERSION_TAG] for day, tags in newest.items()}


def trainings(settings: Settings, name: str) -> list[tuple[Any, ...]]:
    """Each version with what called for it, at which watermark, on which rows, and the bytes it became."""
    models = ModelStore(settings)
    made = [models.describe(name, version) for version in models.versions(name)]
    return [
        (each.version, why.as_of, why.trigger, why.evidence, why.training_set_hash, each.model_hash)
        for each in made
        for why in [each.provenance]
    ]


@dataclass(frozen=True)
class Meters:
    """A project of the meters, and a home of it."""

    project: Path
    home: Path

    @property
    def settings(self) -> Settings:
        return load(
            {"ML_PLATFORM_HOME": str(self.home), "ML_PLATFORM_FEATURE_REPO": str(self.project / "feature_repo")}
        )

    def state(self) -> State:
        """What it came to by now."""
        return state(self.settings, "demand")

    def under_way(self) -> list[str]:
        """Runs that Dagster takes to be unfinished."""
        with instance_of(self.settings) as instance:
            runs = instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))
        return [f"{run.job_name} {run.run_id} {run.status.value}" for run in runs]

    def check(self) -> State:
        """What holds of any home at rest; what it came to."""
        assert self.under_way() == []
        models, found = ModelStore(self.settings), self.state()
        champion = models.ledger.champion("demand")
        assert champion is not None
        alias = models._client.get_model_version_by_alias("demand", CHAMPION)
        assert int(alias.version) == champion.version
        predictions = Lake.of(self.settings).read("demand/predictions")
        keys = ["site", "meter", "hour_at", "model_version"]
        assert predictions.height > 0
        assert predictions.select(pl.struct(keys).is_duplicated().any()).item() is False, "each row once per version"
        days = {table: days for table, days in found.contents.items() if "all" not in days}
        assert {table: found.told[table] for table in days} == days, "Dagster knows of every day"
        return found

    def deliver(self, until: str) -> None:
        """As an upstream: files that are new appear whole, others stay untouched."""
        whole = self.home / "upstream"
        deliveries.land(whole, datetime.fromisoformat(until).replace(tzinfo=UTC))
        for file in sorted(whole.rglob("*.csv")):
            landed = self.settings.landing / file.relative_to(whole)
            if not landed.exists():
                landed.parent.mkdir(parents=True, exist_ok=True)
                file.replace(landed)


@dataclass(frozen=True)
class Week(Meters):
    """A home of the meters, and a copy of it from when the week began; MLflow and Feast name the home's one place."""

    saved: Path

    def again(self) -> "Week":
        """The home as it was when the week began."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.saved, self.home)
        return self


class Nursery:
    """Where processes are born that live through days, one at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(NURSERY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def live(self, meters: Meters, until: Sequence[str], seen: Path, fatal: str = "") -> int:
        """The exit code of a process that lands these days and settles, unless it dies at a write."""
        return self._born("live", meters, until=list(until), seen=str(seen), fatal=fatal)

    def begin(self, project: Path, folder: Path) -> Week:
        """A home with twelve days and its first champion, and its copy."""
        week = Week(project, folder / "home", folder / "begun")
        week.home.mkdir()
        assert self.live(week, [BEGIN], folder / "seen") == 0
        shutil.copytree(week.home, week.saved)
        return week

    def look(self, meters: Meters, *, at_rest: bool = True) -> State:
        """What a home came to, and (at rest) that all holds of it that holds of any."""
        found = meters.home.with_name("found.pickle")
        assert self._born("look", meters, at_rest=at_rest, found=str(found)) == 0
        state = pickle.loads(found.read_bytes())
        assert isinstance(state, State)
        return state

    def _born(self, what: str, meters: Meters, **told: object) -> int:
        life = {"do": what, "project": str(meters.project), "home": str(meters.home), **told}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(life) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process that others are forked from."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
