"""Homes for the hard tests: real files landed, real tables made from them, real Dagster runs.

A home is brought up to date either by the stores alone, as a run would (its plan says which days), or by a Dagster
run in this process. Both take the flights as they are declared; tests may cut the models' specs.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

import ml_platform
from ml_platform.assets.features import online_asset, view_asset
from ml_platform.assets.ledger import ledger_spec
from ml_platform.assets.model import model_assets, model_jobs
from ml_platform.assets.tables import table_asset
from ml_platform.automation.jobs import daily_job_name, dataset_jobs
from ml_platform.automation.landing import landing_sensor
from ml_platform.automation.runs import range_tags
from ml_platform.automation.schedules import nightly_scoring, weekly_review
from ml_platform.automation.sensor import automation_sensor
from ml_platform.core.content import sort_rows
from ml_platform.core.model_spec import ModelSpec
from ml_platform.defs.nyc_flights.replay import Delivered, replay
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.settings import Settings, load
from ml_platform.stores.catalog import WHOLE
from ml_platform.stores.declarations import Dataset, load_dataset
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import derive, derive_whole
from ml_platform.stores.ingest import ingest
from ml_platform.stores.instance import prepare_dagster_home
from ml_platform.stores.labels import labels_derivation
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.planning import Plan, days_between_names, plan
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation

FLIGHTS = load_dataset(Path(ml_platform.__file__).parent / "defs" / "nyc_flights")

Contents = dict[str, dict[str, str]]
"""By table and partition, the hash of its content."""


def small(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """A declaration cut to what three weeks of flights and a test's patience allow; ``changes`` by field."""
    windows = {"training": timedelta(days=30), "folds": 2, "fold_length": timedelta(days=2), "minimum_rows": 1000}
    tuning = {"trials": 3, "max_rounds": 40, "early_stopping_rounds": 10, "startup_trials": 2}
    update = {
        "windows": spec.windows.model_copy(update={**windows, "holdout": timedelta(days=3)}),
        "tuning": spec.tuning.model_copy(update=tuning),
        **changes,
    }
    return spec.model_copy(update=update)


@dataclass(frozen=True)
class Home:
    """A home in a folder of its own."""

    settings: Settings
    dataset: Dataset = FLIGHTS

    @classmethod
    def at(cls, folder: Path, manifests: Path, dataset: Dataset = FLIGHTS) -> "Home":
        """An empty home that need not ask Feast for its views again."""
        home = cls(load({"ML_PLATFORM_HOME": str(folder)}), dataset)
        shutil.copytree(manifests, home.settings.feast_home / "manifests")
        return home

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to work in this home."""
        return {
            "ML_PLATFORM_HOME": str(self.settings.home),
            "DAGSTER_HOME": str(self.settings.dagster_home),
            "ML_PLATFORM_FEATURE_REPO": str(self.settings.feature_repo),
            # Tests land whole files, and run at once.
            "ML_PLATFORM_LANDING_SETTLE_SECONDS": "0",
        }

    @property
    def landed(self) -> Path:
        """The folder upstream delivers to."""
        return self.settings.landing

    @property
    def landing(self) -> Landing:
        return Landing(self.settings.landing)

    @property
    def lake(self) -> Lake:
        return Lake.of(self.settings)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.lake)

    @property
    def features(self) -> FeatureClient:
        return FeatureClient(self.settings)

    def land(self, **asked: Any) -> list[Delivered]:
        """Have upstream deliver; see :func:`replay`."""
        return list(replay(self.landed, **asked))

    def plan(self) -> Plan:
        return plan(self.settings, self.dataset)

    def catch_up(self) -> Plan:
        """Raw tables, features and labels over the days of the plan, as a run over them computes them."""
        found = self.plan()
        if found.watermark is None:
            return found
        first, last = found.days or (None, None)
        days = days_between_names(first, last) if first and last else []
        for table in self.dataset.tables:
            list(ingest(self.lake, self.landing, table, days if table.known_at else [WHOLE]))
        for name, transform in self.dataset.views.items():
            derivation = view_derivation(self.features.manifest().view(name), bind(transform, self.dataset.folder))
            if any(self.dataset.table(table).known_at for table in transform.inputs):
                list(derive(self.lake, derivation, days, found.watermark))
            else:
                derive_whole(self.lake, derivation)
        for model in self.dataset.models:
            list(derive(self.lake, labels_derivation(model, self.dataset), days, found.watermark))
        return found

    def contents(self) -> Contents:
        """What is recorded of raw tables, features and labels: the content hash of every day that stands."""
        made = [t for t in self.lake.tables() if t.startswith(("raw/", "features/")) or t.endswith("/labels")]
        return {
            table: {name: state.content_hash for name, state in self.lake.partitions(table).items()} for table in made
        }

    def rows(self, table: str) -> pl.DataFrame:
        """A table's rows in their one order."""
        return sort_rows(self.lake.read(table), [])

    def versions(self) -> dict[str, int]:
        """The newest Delta version of every table."""
        return {table: self.lake.version(table) for table in self.lake.tables()}

    # Dagster ---------------------------------------------------------------------------------------

    @cached_property
    def definitions(self) -> dg.Definitions:
        """The assets and jobs of the data set, as its components make them."""
        manifest = self.features.manifest()
        views = {name: manifest.view(name) for name in self.dataset.views}
        assets = [
            *(table_asset(table, self.dataset) for table in self.dataset.tables),
            *(view_asset(view, self.dataset.views[name], self.dataset) for name, view in views.items()),
            online_asset(list(views.values()), self.dataset),
            *(asset for spec in self.dataset.models for asset in model_assets(spec, self.dataset, manifest)),
            ledger_spec(self.dataset.models),
        ]
        decisions = [job for spec in self.dataset.models for job in model_jobs(spec, self.dataset, manifest)]
        return dg.Definitions(
            assets=assets,
            jobs=[*dataset_jobs(self.dataset), *decisions],
            sensors=[landing_sensor(self.dataset), automation_sensor()],
            schedules=[
                nightly_scoring(self.dataset),
                *(weekly_review(self.dataset, model) for model in self.dataset.models),
            ],
            resources={"platform": Platform(), "mlflow": MlflowResource()},
            executor=dg.in_process_executor,
        )

    def run(
        self,
        selection: Sequence[str] | None,
        days: tuple[str, str] | None = None,
        *,
        job: str | None = None,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """A run of a job (the daily chain) over some assets (``raw/arrivals``; all) and days, in this process."""
        resolved = self.definitions.resolve_job_def(job or daily_job_name(self.dataset.spec))
        with self.instance() as instance:
            return resolved.execute_in_process(
                instance=instance,
                asset_selection=None if selection is None else [dg.AssetKey(key.split("/")) for key in selection],
                tags=tags if tags is not None else (range_tags(*days) if days else {}),
                run_config=config,
                raise_on_error=False,
            )

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The home's Dagster instance; the environment must be this home's (:func:`in_home`)."""
        prepare_dagster_home(self.settings)
        with dg.DagsterInstance.get() as instance:
            yield instance

    def with_models(self, *models: ModelSpec) -> "Home":
        """The same home under other declarations of its models."""
        return Home(self.settings, replace(self.dataset, models=models))
