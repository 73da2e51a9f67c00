"""Homes of the meters that decide in seconds: a dozen meters, a model of few trees, and a world that may change."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from rich.console import Console

from ml_platform.automation.runs import TRIGGER_TAG, of_model
from ml_platform.cli.drive import Driver
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.retraining import GUARDS, judge
from ml_platform.settings import load
from ml_platform.stores.declarations import load_dataset
from ml_platform.stores.retraining import gather
from ml_platform_tests.automation.meters_home import METERS, deliveries
from ml_platform_tests.loop.homes import Home

DATASET = load_dataset(METERS / "energy_demand" / "defs" / "meters")
DEMAND = DATASET.model("demand")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BEGUN = datetime(2024, 2, 24, tzinfo=UTC)
"""Four days have landed."""


def hasty(persists: int = 100, **retrain: Any) -> ModelSpec:
    """The model of the meters, made in seconds.

    Beside a missing champion, nothing calls for it or holds it back but the windows for which drift ``persists`` and
    what ``retrain`` says.
    """
    policy = {
        "cooldown": timedelta(0),
        "stale_after": timedelta(days=300),
        "performance_drop": 1e9,
        "performance_minimum_rows": 100,
        "minimum_new_labels": 1,
        "daily_budget": 100,
        **retrain,
    }
    tuning = {"trials": 1, "max_rounds": 20}
    windows = {"training": 3 * DAY, "holdout": DAY, "minimum_rows": 100}
    return DEMAND.model_copy(
        update={
            "tuning": DEMAND.tuning.model_copy(update=tuning),
            "windows": DEMAND.windows.model_copy(update=windows),
            "drift": DEMAND.drift.model_copy(update={"persists": persists}),
            "retrain": DEMAND.retrain.model_copy(update=policy),
        }
    )


def refused(spec: ModelSpec) -> ModelSpec:
    """The same model under a gate that no candidate passes."""
    return spec.model_copy(update={"gate": spec.gate.model_copy(update={"floor": {"r2": 2.0}})})


@dataclass
class Watched:
    """A home of the meters under some declaration of its model, driven in this process."""

    home: Home
    spec: ModelSpec
    driver: Driver

    @property
    def watermark(self) -> datetime:
        found = self.home.dataset.watermark(self.home.landing)
        assert found is not None
        return found

    def land(self, length: timedelta, **how: Any) -> None:
        """Deliver, and let come of it what will."""
        self.deliver(length, **how)
        self.settle()

    def deliver(self, length: timedelta, *, energy: int = 1, broken: datetime | None = None) -> None:
        """What became known in the next hours or days; what had landed stays as it is.

        Args:
            length: of time.
            energy: how many times as much as usual meters use.
            broken: until when (UTC) they report less than nothing.
        """
        until, upstream = self.watermark + length, self.home.settings.home / "upstream"
        deliveries.land(upstream, until)
        for file in sorted(upstream.rglob("*.csv")):
            landed = self.home.landed / file.relative_to(upstream)
            if landed.exists():
                continue
            if file.parent.name == "readings":
                _multiply(file, -1 if broken and file.stem < f"{broken:%Y-%m-%dT%H}" else energy)
            landed.parent.mkdir(parents=True, exist_ok=True)
            file.rename(landed)

    def settle(self) -> None:
        """Tick until nothing is requested any more; no run may fail."""
        self.driver.settle()
        assert self.driver.failures == []

    @property
    def runs(self) -> list[dg.DagsterRun]:
        """Those of this driver, the first one first."""
        found = [self.driver.instance.get_run_by_id(run_id) for run_id in self.driver.run_ids]
        return [run for run in found if run is not None]

    def trainings(self) -> list[str]:
        """What called for each training by this driver, the first one first."""
        trigger = of_model(TRIGGER_TAG, self.spec.name)
        return [run.tags[trigger] for run in self.runs if trigger in run.tags]

    def held_back_by(self) -> set[str]:
        """The guards that do not hold, while a trigger does."""
        verdict = judge(self.spec, gather(self.home.lake, self.spec, self.watermark))
        assert verdict.triggers
        return {part.name for part in verdict.conditions if part.name in GUARDS and not part.holds}


def _multiply(file: Path, energy: int) -> None:
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    used = header.index("energy_wh")
    with file.open("w", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(
            [header, *([*row[:used], int(row[used]) * energy, *row[used + 1 :]] for row in rows)]
        )


@contextmanager
def watched(folder: Path, spec: ModelSpec) -> Iterator[Watched]:
    """A home in a folder, made there if it is empty: raw tables, features and labels of the first days, no model."""
    home = Home(load({"ML_PLATFORM_HOME": str(folder), "ML_PLATFORM_FEATURE_REPO": str(METERS / "feature_repo")}))
    home = Home(home.settings, DATASET).with_models(spec)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in home.environment.items():
            environment.setenv(name, value)
        if not home.landed.exists():
            deliveries.land(home.landed, BEGUN)
            home.features.manifest()
            home.catch_up()
        with home.instance() as instance:
            driver = Driver(home.definitions, home.dataset, instance, Console(quiet=True))
            driver.settle()
            yield Watched(home, spec, driver)
