"""The home in which the promises are seen to hold: the loop runs in it, and beside it on other arrivals."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import dagster as dg
import polars as pl

from ml_platform.assets.features import online_asset, view_asset
from ml_platform.assets.model import model_assets
from ml_platform.assets.tables import table_asset
from ml_platform.automation.jobs import dataset_jobs, loop_job_name
from ml_platform.automation.runs import range_tags
from ml_platform.core.digests import digest
from ml_platform.core.feature_manifest import FeatureManifest, ServiceSpec, ViewSpec
from ml_platform.core.metrics import metric
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.definitions import platform_definitions
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.settings import Settings, load
from ml_platform.stores.catalog import WHOLE
from ml_platform.stores.declarations import Dataset, load_dataset
from ml_platform.stores.derivation import days_between
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import derive, derive_whole
from ml_platform.stores.ingest import ingest
from ml_platform.stores.labels import labels_derivation
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.ledger import ManualDecision
from ml_platform.stores.model_tables import build_training_set
from ml_platform.stores.models import ModelStore, ModelVersion
from ml_platform.stores.planning import plan
from ml_platform.stores.reports import Reports
from ml_platform.stores.table_names import labels_table, predictions_table, training_table
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation
from ml_platform.testing.landed import cut_up, scramble

if TYPE_CHECKING:
    from ml_platform.testing.contract import ModelContract

_DAY = timedelta(days=1)
_QUIET = dg.LoggerDefinition(lambda _: logging.Logger("ml_platform.testing", logging.ERROR), description="Errors only.")


class ContractHome:
    """A home in which the loop runs once to train and once more to reject; each step when it is first asked for."""

    def __init__(self, contract: "ModelContract", folder: Path) -> None:
        self._contract = contract
        environment = {
            "ML_PLATFORM_HOME": str(folder),
            "ML_PLATFORM_FEATURE_REPO": str(contract.feature_repo),
            "ML_PLATFORM_LANDING_SETTLE_SECONDS": "0",
        }
        self._environment = environment
        self.settings: Settings = load(environment)
        self.declared = _dataset_of(contract.package, contract.model)
        self.spec = contract.adjust(self.declared.model(contract.model))
        self.dataset = replace(self.declared, models=[self.spec])
        self.lake = Lake.of(self.settings)

    # What is declared ------------------------------------------------------------------------------

    @cached_property
    def manifest(self) -> FeatureManifest:
        """Views and services of the feature repository."""
        return FeatureClient(self.settings).manifest()

    @property
    def service(self) -> ServiceSpec:
        """The model's feature service."""
        return self.manifest.service(self.spec.service)

    @property
    def stored_views(self) -> list[ViewSpec]:
        """Views of the service that have a table."""
        return [view for name in self.service.views if (view := self.manifest.view(name)).table is not None]

    @cached_property
    def declared_assets(self) -> dict[str, dg.AssetSpec]:
        """The data set's assets in the code location, by key."""
        with self._as_environment():
            specs = platform_definitions(self._contract.package).resolve_all_asset_specs()
        return {spec.key.to_user_string(): spec for spec in specs if spec.tags.get("dataset") == self.dataset.name}

    # Steps -----------------------------------------------------------------------------------------

    @cached_property
    def _trained(self) -> "_AfterTraining":
        contract = self._contract
        contract.land(self.settings.landing, contract.trained_at)
        self._run(self.dataset)
        if self.models.champion(self.spec.name) is None:
            self._promote_by_hand()
        champion = self.models.champion(self.spec.name)
        assert champion is not None, "no version was promoted"
        return _AfterTraining(
            champion, self._tables(self.lake), _hashes(self.lake, self.dataset, self.spec), self._said()
        )

    def _promote_by_hand(self) -> None:
        """Promote what the gates refused: the promises about a champion hold however good it is."""
        candidate = self.models.candidate(self.spec.name)
        assert candidate is not None, "training registered no version"
        decision = ManualDecision(True, "promoted_by_person", "the contract suite needs a champion")
        self.models.promote(
            self.spec.name,
            candidate.version,
            decision,
            expected_current=None,
            watermark=self._contract.trained_at,
            by="contract suite",
            run_id="",
        )

    @cached_property
    def _predicted(self) -> "_AfterPredictions":
        _ = self._trained
        judged = metric(self.spec.gate.metric, self.spec.task)
        gate = self.spec.gate.model_copy(update={"floor": {judged.name: 1e9 if judged.greater_is_better else -1e9}})
        demanding = replace(self.dataset, models=[self.spec.model_copy(update={"gate": gate})])
        self._contract.land(self.settings.landing, self._contract.predicted_until)
        self._run(demanding)
        said = self._said()
        assert said is not None, "nothing was predicted"
        return _AfterPredictions(said, plan(self.settings, demanding).stale)

    def rejected_and_predicted(self) -> None:
        """Make sure that the second run, with its rejected candidate, is over."""
        _ = self._predicted

    def _run(self, dataset: Dataset) -> None:
        """The data set's whole loop over every day that has landed."""
        watermark = dataset.watermark(Landing(self.settings.landing))
        assert watermark is not None, f"land() delivered nothing for some table: {self.settings.landing}"
        first, last = dataset.spec.start, (watermark - timedelta(microseconds=1)).date()
        with self._as_environment(), dg.DagsterInstance.ephemeral() as instance:
            job = _definitions(dataset, self.manifest).resolve_job_def(loop_job_name(dataset.spec))
            job.execute_in_process(instance=instance, tags=range_tags(first.isoformat(), last.isoformat()))

    @contextmanager
    def _as_environment(self) -> Iterator[None]:
        with patch.dict(os.environ, self._environment):
            yield

    # What came out ---------------------------------------------------------------------------------

    @cached_property
    def models(self) -> ModelStore:
        """Registry and ledger."""
        return ModelStore(self.settings)

    @property
    def champion(self) -> ModelVersion:
        """The version that was promoted after training."""
        return self._trained.champion

    @property
    def tables_after_training(self) -> dict[str, pl.DataFrame]:
        """Feature tables, labels and training set as the champion was made from them, by name."""
        return self._trained.tables

    @property
    def hashes_after_training(self) -> dict[str, str]:
        """Content by table and partition, as of the same moment."""
        return self._trained.hashes

    @property
    def training_set(self) -> pl.DataFrame:
        """What the champion was trained and judged on."""
        return self._trained.tables[training_table(self.spec)]

    @property
    def predictions_after_training(self) -> pl.DataFrame:
        """What was predicted before more data landed."""
        before = self._trained.predictions
        return self.predictions.clear() if before is None else before

    @property
    def predictions(self) -> pl.DataFrame:
        """What was predicted in the end."""
        return self._predicted.predictions

    @property
    def plan_after_predictions(self) -> dict[str, list[str]]:
        """What is out of date after the second run: partitions by table."""
        return self._predicted.stale

    @property
    def lake_after_predictions(self) -> Lake:
        """The lake once both runs are over."""
        self.rejected_and_predicted()
        return self.lake

    @property
    def middle_of_holdout(self) -> datetime:
        """Where the nonsense begins: history on both sides, and not at the border of a day."""
        return self._contract.trained_at - self.spec.windows.holdout / 2 + timedelta(minutes=17)

    def due(self, after: datetime, until: datetime) -> pl.DataFrame:
        """What was to be predicted in between."""
        entities = bind(self.spec.entities, self.dataset.folder)
        frames = {name: self.lake_after_predictions.read(f"raw/{name}") for name in entities.spec.inputs}
        first = datetime.combine(self.dataset.spec.start, datetime.min.time(), UTC)
        moment = pl.col("prediction_time")
        return entities(frames, first, until).filter(moment > after, moment < until)

    def _said(self) -> pl.DataFrame | None:
        table = predictions_table(self.spec)
        return self.lake.read(table).sort(self.spec.keys) if self.lake.exists(table) else None

    # Other arrivals --------------------------------------------------------------------------------

    @cached_property
    def tables_of_nonsense(self) -> dict[str, pl.DataFrame]:
        """The tables, where every row known after the middle of the holdout is nonsense."""
        return self.tables_built(nonsense_after=self.middle_of_holdout)

    def tables_built(self, *, nonsense_after: datetime | None = None) -> dict[str, pl.DataFrame]:
        """The tables built anew from what had landed when the model was trained, or from nonsense after a moment."""
        with self._elsewhere("anew") as settings:
            self._contract.land(settings.landing, self._contract.trained_at)
            if nonsense_after is not None:
                for table in _partitioned(self.dataset):
                    scramble(Landing(settings.landing), table, nonsense_after)
            self._build(settings)
            return self._tables(Lake.of(settings))

    @cached_property
    def hashes_in_pieces(self) -> dict[str, str]:
        """Content by partition, landed in pieces and taken in twice."""
        with self._elsewhere("pieces") as settings:
            self._contract.land(settings.landing, self._contract.trained_at)
            waiting = settings.home / "waiting"
            held = [
                file
                for table in _partitioned(self.dataset)
                for file in cut_up(Landing(settings.landing), table)
                if file.end is not None and file.end > self.middle_of_holdout - _DAY
            ]
            for file in held:
                (waiting / file.name).parent.mkdir(parents=True, exist_ok=True)
                file.path.rename(waiting / file.name)
            self._build(settings, training=False)
            for file in held:
                (waiting / file.name).rename(file.path)
            self._build(settings)
            return _hashes(Lake.of(settings), self.dataset, self.spec)

    @contextmanager
    def _elsewhere(self, name: str) -> Iterator[Settings]:
        """An empty landing folder and lake, read with the features that this home has registered."""
        _ = self.manifest
        home = self.settings.home / name
        yield replace(
            self.settings,
            home=home,
            landing=home / "landing",
            lake_uri=str(home / "lake"),
            feature_store_yaml=self.settings.feast_home / "feature_store.yaml",
        )
        shutil.rmtree(home)

    def _build(self, settings: Settings, *, training: bool = True) -> None:
        """What the assets do, up to the training set, without Dagster."""
        dataset, lake, landing = self.dataset, Lake.of(settings), Landing(settings.landing)
        for table in dataset.tables:
            list(ingest(lake, landing, table, list(landing.periods(table))))
        watermark = dataset.watermark(landing)
        assert watermark is not None, f"nothing has landed in {settings.landing}"
        days = days_between(dataset.spec.start, watermark.date())
        for name, transform in dataset.views.items():
            derivation = view_derivation(self.manifest.view(name), bind(transform, dataset.folder))
            if any(dataset.table(table).known_at for table in transform.inputs):
                list(derive(lake, derivation, days, watermark))
            else:
                derive_whole(lake, derivation)
        list(derive(lake, labels_derivation(self.spec, dataset), days, watermark))
        if training:
            build_training_set(lake, FeatureClient(settings), self.spec, watermark)

    def _tables(self, lake: Lake) -> dict[str, pl.DataFrame]:
        names = [f"features/{view}" for view in self.dataset.views]
        return {name: lake.read(name) for name in (*names, labels_table(self.spec), training_table(self.spec))}

    # The card --------------------------------------------------------------------------------------

    @cached_property
    def card_figures(self) -> list[tuple[str, Any, str]]:
        """What the champion's card cites: source, value and the text that people see."""
        page = Reports(self.settings).file(self.spec.name, "model_card", f"version_{self.champion.version}")
        reader = _CitedFigures()
        reader.feed(page.read_text(encoding="utf-8"))
        return reader.found

    @cached_property
    def card_sources(self) -> dict[str, Any]:
        """Every source of the card, read from where it is kept."""
        version, rows = self.champion, self.training_set
        made = version.provenance
        evaluation = json.loads(self.models.artifact_text(version.run_id, "evaluation/evaluation.json"))
        sources = {
            "training_set": {
                "rows": rows.height,
                "label_mean": rows["label"].cast(pl.Float64).mean(),
                "start": rows["prediction_time"].min(),
                "end": rows["prediction_time"].max(),
                "delta_version": made.training_set_version,
                "content_hash": self.hashes_after_training[f"{training_table(self.spec)} {WHOLE}"],
                "service": self.service.name,
                "service_hash": self.service.hash,
                "inputs": dict(made.inputs),
            },
            "tuned_model": {
                "version": version.version,
                "trained_through": self.models.load(self.spec.name, version.version).trained_through,
                "seed": self.spec.seed,
                "model_hash": digest(self.models.load(self.spec.name, version.version).model_text),
                "code_version": made.code_version,
                "dagster_run_id": made.dagster_run_id,
                "run_id": version.run_id,
                "parameters": dict(version.parameters),
            },
            "evaluation_report": evaluation,
            "champion": self.models.ledger.history(self.spec.name).to_dicts(),
        }
        plain: dict[str, Any] = json.loads(json.dumps(sources, default=str))
        return plain


@dataclass(frozen=True)
class _AfterTraining:
    champion: ModelVersion
    tables: dict[str, pl.DataFrame]
    hashes: dict[str, str]
    predictions: pl.DataFrame | None


@dataclass(frozen=True)
class _AfterPredictions:
    predictions: pl.DataFrame
    stale: dict[str, list[str]]


class _CitedFigures(HTMLParser):
    """Collects the elements of a page that name their source."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, Any, str]] = []
        self._open: tuple[str, Any] | None = None

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        """Remember an element that cites."""
        given = dict(attrs)
        if "data-source" in given:
            self._open = str(given["data-source"]), json.loads(given["data-value"] or "null")

    def handle_data(self, data: str) -> None:
        """Take its text."""
        if self._open is not None:
            self.found.append((*self._open, data))
            self._open = None


def _dataset_of(package: Path, model: str) -> Dataset:
    datasets = [load_dataset(calendar.parent) for calendar in sorted((package / "defs").glob("*/dataset.yaml"))]
    for dataset in datasets:
        if any(spec.name == model for spec in dataset.models):
            return dataset
    known = [spec.name for dataset in datasets for spec in dataset.models]
    raise LookupError(f"{package}/defs declares no model {model!r}; it declares {', '.join(known) or 'none'}")


def _definitions(dataset: Dataset, manifest: FeatureManifest) -> dg.Definitions:
    """The code location of a data set whose declarations were changed in code."""
    views = {name: manifest.view(name) for name in dataset.views}
    assets = [
        *(table_asset(table, dataset) for table in dataset.tables),
        *(view_asset(view, dataset.views[name], dataset) for name, view in views.items()),
        online_asset(list(views.values()), dataset),
        *(asset for spec in dataset.models for asset in model_assets(spec, dataset, manifest)),
    ]
    return dg.Definitions(
        assets=assets,
        jobs=dataset_jobs(dataset),
        resources={"platform": Platform(), "mlflow": MlflowResource()},
        executor=dg.in_process_executor,
        loggers={"console": _QUIET},
    )


def _hashes(lake: Lake, dataset: Dataset, spec: ModelSpec) -> dict[str, str]:
    """The content of every partition of every table up to the training set."""
    tables = [f"raw/{table.name}" for table in dataset.tables] + [f"features/{view}" for view in dataset.views]
    return {
        f"{table} {name}": state.content_hash
        for table in (*tables, labels_table(spec), training_table(spec))
        for name, state in lake.partitions(table).items()
    }


def _partitioned(dataset: Dataset) -> list[TableSpec]:
    return [table for table in dataset.tables if table.kind is TableKind.PARTITIONED]
