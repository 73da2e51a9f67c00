"""A contract suite that a project runs on its own declared model.

A project subclasses :class:`ModelContract` in a test module, says where its package, its feature repository and its
deliveries are, and pytest runs the promises of the platform on it::

    class TestDemand(ModelContract):
        package = Path(energy_demand.__file__).parent
        feature_repo = package.parent / "feature_repo"
        model = "demand"
        trained_at = datetime(2024, 3, 6, tzinfo=UTC)
        predicted_until = datetime(2024, 3, 8, tzinfo=UTC)

        def land(self, landing, until):
            deliveries.land(landing, until)

Every class makes a home in a temporary folder, runs the whole loop in it twice and throws it away. Only what the
promises need is assumed: nothing here knows of pytest, and heavy libraries are imported when first needed.
"""

import csv
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, ClassVar
from unittest.mock import patch

import dagster as dg
import polars as pl
from polars.testing import assert_frame_equal

from ml_platform.assets.features import online_asset, view_asset
from ml_platform.assets.model import model_assets
from ml_platform.assets.tables import table_asset
from ml_platform.automation.jobs import dataset_jobs, loop_job_name
from ml_platform.automation.runs import range_tags
from ml_platform.core.content import digest
from ml_platform.core.feature_manifest import EVENT_TIME, FeatureManifest, ServiceSpec, ViewSpec
from ml_platform.core.metrics import metric
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.page import shown
from ml_platform.core.scoring import raw_scores
from ml_platform.core.splits import LeakageError, split
from ml_platform.core.table_spec import ColumnSpec, ColumnType, TableKind, TableSpec
from ml_platform.core.training import fit
from ml_platform.core.tuning import tune
from ml_platform.definitions import platform_definitions
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.settings import Settings, load, prepare_environment
from ml_platform.stores.catalog import WHOLE
from ml_platform.stores.declarations import Dataset, load_dataset
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import days_between, derive, derive_whole
from ml_platform.stores.ingest import ingest
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import LandedFile, Landing
from ml_platform.stores.ledger import ManualDecision
from ml_platform.stores.model_tables import (
    build_training_set,
    labels_derivation,
    labels_table,
    predictions_table,
    stored_training_set,
    training_table,
)
from ml_platform.stores.models import ModelStore, ModelVersion
from ml_platform.stores.planning import plan
from ml_platform.stores.reports import Reports
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation

_SAMPLED_ROWS = 100
_SEED = 0
_RETOLD = 5
"""One in so many nonsensical rows speaks of something that was known before."""
_DAY = timedelta(days=1)
_QUIET = dg.LoggerDefinition(lambda _: logging.Logger("ml_platform.testing", logging.ERROR), description="Errors only.")


class ModelContract:
    """The promises of the platform as tests on one declared model.

    Attributes:
        package: folder of the project's package, which holds ``defs/`` and can be imported.
        feature_repo: folder of its Feast repository.
        model: name of the declared model.
        trained_at: everything known before it has landed when the model is first trained (UTC).
        predicted_until: everything known before it has landed when a candidate is rejected and the champion
            predicts on (UTC); at least one prediction is due between the two.
    """

    package: ClassVar[Path]
    feature_repo: ClassVar[Path]
    model: ClassVar[str]
    trained_at: ClassVar[datetime]
    predicted_until: ClassVar[datetime]
    _home: ClassVar["_Home"]

    def land(self, landing: Path, until: datetime) -> None:
        """Deliver what is known before ``until`` as files under ``landing``; called with a later one, the rest too."""
        raise NotImplementedError(f"{type(self).__name__} must deliver its files: define land(landing, until)")

    def adjust(self, spec: ModelSpec) -> ModelSpec:
        """The declaration as these tests use it, with shorter windows or fewer trials, say; here as it is."""
        return spec

    @classmethod
    def setup_class(cls) -> None:
        """Prepare an empty home; pytest calls this before the first test."""
        prepare_environment()
        cls._home = _Home(cls(), Path(tempfile.mkdtemp(prefix="ml_platform_contract_")))

    @classmethod
    def teardown_class(cls) -> None:
        """Throw the home away."""
        shutil.rmtree(cls._home.settings.home, ignore_errors=True)

    # Declarations ----------------------------------------------------------------------------------

    def test_the_declarations_become_assets(self) -> None:
        """Tables, views and model of the data set are in the code location, each with its asset."""
        dataset = self._home.dataset
        expected = {f"raw/{table.name}" for table in dataset.tables} | {f"features/{view}" for view in dataset.views}
        stages = ("labels", "training_set", "tuned_model", "evaluation_report", "champion", "model_card")
        watched = ("predictions", "performance_report", "drift_calibration", "drift_report")
        expected |= {f"{self.model}/{name}" for name in (*stages, *watched)}
        missing = expected - set(self._home.declared_assets)
        assert not missing, f"declared, but not in the code location: {sorted(missing)}"

    def test_every_asset_says_what_it_is_and_whose(self) -> None:
        """Owner, kinds, description, group and tags, on every asset."""
        bare = {
            key: absent
            for key, asset in self._home.declared_assets.items()
            if (absent := [name for name in ("owners", "kinds", "description", "tags") if not getattr(asset, name)])
            or asset.group_name in (None, "default")
        }
        assert not bare, f"assets without owners, kinds, description, tags or a group of their own: {bare}"

    def test_every_table_describes_its_columns(self) -> None:
        """The schema of an asset is that of its table, and every column has a description."""
        lake, wrong = self._home.lake_after_predictions, {}
        for key, asset in self._home.declared_assets.items():
            schema = asset.metadata.get("dagster/column_schema")
            if not lake.exists(key):
                continue
            stored = set(lake.scan(key).collect_schema().names()) - {"day"}
            columns = {} if schema is None else {column.name: column.description for column in _columns_of(schema)}
            unsaid = [name for name, text in columns.items() if not text]
            if unsaid or set(columns) != stored:
                wrong[key] = {
                    "undescribed": unsaid,
                    "undeclared": stored - set(columns),
                    "absent": set(columns) - stored,
                }
        assert not wrong, f"tables that are not as their asset describes them: {wrong}"

    def test_no_outcome_is_a_feature(self) -> None:
        """No denied column is among the features, and a declaration that denies one is refused."""
        home = self._home
        leaks = {*home.spec.denied, "label", "label_time"} & set(home.service.features)
        assert not leaks, f"{self.model} would learn from outcomes: {sorted(leaks)}"
        denying = home.spec.model_copy(update={"denied": (*home.spec.denied, home.service.features[0])})
        try:
            model_assets(denying, home.dataset, home.manifest)
        except LeakageError:
            return
        raise AssertionError(f"{home.service.features[0]!r} was denied and is a feature, and nothing refused it")

    # Event time ------------------------------------------------------------------------------------

    def test_nothing_depends_on_what_became_known_later(self) -> None:
        """With every row known after T replaced by nonsense: features stamped, and rows labelled, up to T are equal."""
        home = self._home
        moment = home.middle_of_holdout
        truth, nonsense = home.tables_after_training, home.tables_of_nonsense
        assert truth.keys() == nonsense.keys(), f"other tables: {sorted(truth.keys() ^ nonsense.keys())}"
        differing = 0
        for name, frame in truth.items():
            column = EVENT_TIME if name.startswith("features/") else "label_time"
            early, other = (each.filter(pl.col(column) <= moment) for each in (frame, nonsense[name]))
            _assert_equal(early, other, f"{name} up to {moment:%Y-%m-%d %H:%M} depends on what became known later")
            differing += not frame.equals(nonsense[name])
        assert differing, f"no table differs after {moment}: the nonsense was not read, so this test shows nothing"

    def test_any_arrival_gives_the_same_tables(self) -> None:
        """Landed by the hour, in pieces and in two goes, or at once: the same content of every partition."""
        home = self._home
        at_once, in_pieces = home.hashes_after_training, home.hashes_in_pieces
        wrong = {name for name in at_once.keys() | in_pieces.keys() if at_once.get(name) != in_pieces.get(name)}
        assert not wrong, f"content depends on how it landed: {sorted(wrong)[:10]} of {len(at_once)} partitions"

    # The training set ------------------------------------------------------------------------------

    def test_every_training_row_was_predicted_before_its_label_was_known(self) -> None:
        """Prediction before label, label before the watermark, within the declared windows."""
        home = self._home
        rows, windows = home.training_set, home.spec.windows
        start = self.trained_at - windows.training - windows.holdout
        assert rows.height >= windows.minimum_rows, f"only {rows.height} rows: land more, or declare fewer"
        late = rows.filter(
            ~(
                (pl.col("prediction_time") < pl.col("label_time"))
                & (pl.col("label_time") <= self.trained_at)
                & (pl.col("prediction_time") > start)
            )
        )
        assert late.is_empty(), f"{late.height} rows of the training set are out of order in time, as {_first(late)}"

    def test_features_are_what_was_known_at_each_prediction_time(self) -> None:
        """Stored features of sampled rows, found again by a plain search through each view's rows."""
        home = self._home
        rows = home.training_set.join(
            home.tables_after_training[labels_table(home.spec)].drop("prediction_time", "label", "label_time"),
            on=list(home.spec.keys),
            how="left",
            suffix="__entity",
        )
        step = max(1, rows.height // _SAMPLED_ROWS)
        sample = rows.sort(home.spec.keys).gather_every(step)
        for view in home.stored_views:
            table = home.tables_after_training[str(view.table)]
            names = [column.name for column in view.features if column.name in home.service.features]
            search = _Search(view, table)
            for row in sample.iter_rows(named=True):
                known, stored = search.at(row), {name: row[name] for name in names}
                expected = {name: None if known is None else known[name] for name in names}
                assert stored == expected, (
                    f"{view.name} at {row['prediction_time']}: {stored}, but {expected} was known"
                )

    # The model -------------------------------------------------------------------------------------

    def test_training_again_gives_the_same_bytes(self) -> None:
        """A new study and fit on the same training set, its rows in another order, end in the same model text."""
        home = self._home
        stored = stored_training_set(home.lake, home.spec, home.champion.provenance.training_set_version)
        rows = split(stored.frame, home.spec.windows, home.champion.provenance.as_of).train
        features = home.service.features
        study = tune(home.spec, rows, features, storage_url=None, study_name="again", on_trial=lambda _: None)
        again = fit(home.spec, rows.sample(fraction=1, shuffle=True, seed=_SEED), features, study.params, study.rounds)
        registered = home.models.load(self.model, home.champion.version)
        assert again.model_text == registered.model_text, "the same data, parameters and seed gave another model"
        assert digest(again.model_text) == home.champion.model_hash, "the registry names another hash"

    def test_every_figure_on_the_card_is_its_source_s(self) -> None:
        """Each figure of the model card is the value of the training set, registry, evaluation or ledger it cites."""
        home = self._home
        sources, figures = home.card_sources, home.card_figures
        assert len(figures) > 20, f"the card of version {home.champion.version} cites only {len(figures)} figures"
        wrong = []
        for source, value, text in figures:
            truth = _resolve(sources, source)
            if value != truth or text != shown(truth):
                wrong.append(f"{source}: card says {text!r} ({value!r}), source has {truth!r}")
        assert not wrong, "\n".join(wrong)

    # Predictions -----------------------------------------------------------------------------------

    def test_predictions_come_from_the_champion_and_name_it(self) -> None:
        """Each score is exactly the named version's answer to the features stored with it, due after it learned."""
        home = self._home
        rows, champion = home.predictions, home.champion
        assert rows.filter(pl.col("prediction_time") >= self.trained_at).height, (
            f"nothing was predicted between {self.trained_at} and {self.predicted_until}"
        )
        versions = rows["model_version"].unique().to_list()
        assert versions == [champion.version], f"versions {versions} predicted, the champion is {champion.version}"
        hashes = rows["feature_service_hash"].unique().to_list()
        assert hashes == [home.service.hash], f"predictions name the feature services {hashes}, not {home.service.hash}"
        early = rows.filter(pl.col("prediction_time") <= champion.trained_through)
        assert early.is_empty(), f"{early.height} predictions of what it may have learned, as {_first(early)}"
        answers = raw_scores(home.models.load(self.model, champion.version), rows)
        wrong = rows.filter(pl.col("score") != pl.Series(answers))
        assert wrong.is_empty(), (
            f"{wrong.height} scores are not those of version {champion.version}, as {_first(wrong)}"
        )

    def test_everything_due_is_predicted_once(self) -> None:
        """Every entity due after the champion had learned and before the watermark has one prediction."""
        home = self._home
        keys = [*home.spec.keys, "prediction_time"]
        due = home.due(home.champion.trained_through, self.predicted_until).select(keys).sort(keys)
        scored = home.predictions.select(keys).sort(keys)
        _assert_equal(due, scored, "what was due and what was predicted are not the same")
        twice = home.predictions.filter(home.predictions.select(home.spec.keys).is_duplicated())
        assert twice.is_empty(), f"{twice.height} rows share their key and version, as {_first(twice)}"

    def test_a_prediction_is_never_changed(self) -> None:
        """What was predicted before more data landed stands as it was."""
        before, after = self._home.predictions_after_training, self._home.predictions
        kept = after.join(before.select(self._home.spec.keys), on=list(self._home.spec.keys), how="semi")
        _assert_equal(before, kept, "predictions changed after they were made")

    def test_a_rejected_candidate_never_predicts(self) -> None:
        """A newer version that failed a gate is in the ledger with its reason, and in no prediction."""
        home = self._home
        home.rejected_and_predicted()
        candidate = home.models.candidate(self.model)
        assert candidate is not None, "there is no candidate"
        assert candidate.version > home.champion.version, "more data had landed, and no new candidate was trained"
        entry = home.models.ledger.decision_on(self.model, candidate.version)
        assert entry is not None, f"the ledger has no decision on version {candidate.version}"
        assert not entry.promoted, "an impossible gate held"
        assert any(not gate["passed"] for gate in entry.gate_results), "it was rejected although every gate held"
        assert entry.reason, "a rejection without a reason"
        predicted = home.predictions.filter(pl.col("model_version") == candidate.version)
        assert predicted.is_empty(), f"the rejected version {candidate.version} made {predicted.height} predictions"

    def test_a_finished_run_leaves_nothing_to_do(self) -> None:
        """After the loop has run, nothing is out of date."""
        found = self._home.plan_after_predictions
        assert not found, f"still out of date after a run: { {table: days[:5] for table, days in found.items()} }"


class _Home:
    """A home in which the loop runs once to train and once more to reject; each step when it is first asked for."""

    def __init__(self, contract: ModelContract, folder: Path) -> None:
        self._contract = contract
        environment = {"ML_PLATFORM_HOME": str(folder), "ML_PLATFORM_FEATURE_REPO": str(contract.feature_repo)}
        self._environment = environment
        self.settings: Settings = load(environment)
        self.declared = _dataset_of(contract.package, contract.model)
        self.spec = contract.adjust(self.declared.model(contract.model))
        self.dataset = replace(self.declared, models=[self.spec])
        self.lake = Lake.of(self.settings)

    # What is declared ------------------------------------------------------------------------------

    @cached_property
    def manifest(self) -> FeatureManifest:
        return FeatureClient(self.settings).manifest()

    @property
    def service(self) -> ServiceSpec:
        return self.manifest.service(self.spec.service)

    @property
    def stored_views(self) -> list[ViewSpec]:
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
        return ModelStore(self.settings)

    @property
    def champion(self) -> ModelVersion:
        return self._trained.champion

    @property
    def tables_after_training(self) -> dict[str, pl.DataFrame]:
        return self._trained.tables

    @property
    def hashes_after_training(self) -> dict[str, str]:
        return self._trained.hashes

    @property
    def training_set(self) -> pl.DataFrame:
        return self._trained.tables[training_table(self.spec)]

    @property
    def predictions_after_training(self) -> pl.DataFrame:
        before = self._trained.predictions
        return self.predictions.clear() if before is None else before

    @property
    def predictions(self) -> pl.DataFrame:
        return self._predicted.predictions

    @property
    def plan_after_predictions(self) -> dict[str, list[str]]:
        return self._predicted.stale

    @property
    def lake_after_predictions(self) -> Lake:
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
                    _scramble(Landing(settings.landing), table, nonsense_after)
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
                for file in _cut_up(Landing(settings.landing), table)
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


class _Search:
    """The plainest point-in-time search: of a key's rows, the last one at or before the moment, unless it expired."""

    def __init__(self, view: ViewSpec, table: pl.DataFrame) -> None:
        self._keys = [column.name for column in view.join_keys]
        self._ttl = view.ttl
        self._rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in table.iter_rows(named=True):
            self._rows.setdefault(tuple(row[key] for key in self._keys), []).append(row)

    def at(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the view knew of the row's key at its ``prediction_time``."""
        moment: datetime = row["prediction_time"]
        best = None
        for candidate in self._rows.get(tuple(row[key] for key in self._keys), ()):
            event = candidate[EVENT_TIME]
            if event <= moment and (best is None or event > best[EVENT_TIME]):
                best = candidate
        if best is None or (self._ttl and moment - best[EVENT_TIME] > self._ttl):
            return None
        return best


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


def _scramble(landing: Landing, table: TableSpec, moment: datetime) -> None:
    """Replace, in landed files, every row known after ``moment`` by nonsense that the contract allows.

    Some of it says something else of things that were known before. Those are of earlier days than the moment's:
    two rows on one thing in one partition contradict each other, and both go to quarantine.
    """
    random = Random(f"{_SEED} {table.name}")
    said: list[list[str]] = []
    for file in _files(landing, table):
        header, rows = _read(file)
        known = header.index(_delivered_name(table, header, str(table.known_at)))
        identity = [i for i, name in enumerate(header) if _canonical(table, name) in table.key and i != known]
        if file.partition < moment.date().isoformat():
            said += [[row[i] for i in identity] for row in rows]
        if file.end is None or file.end <= moment:
            continue
        later = [row for row in rows if _instant(row[known]) > moment]
        kept = [row for row in rows if _instant(row[known]) <= moment]
        for position, name in enumerate(header):
            column = _contract_column(table, name)
            if column is not None and position != known:
                values = [row[position] for row in later]
                random.shuffle(values)
                for row, value in zip(later, values, strict=True):
                    row[position] = _nonsense(column, value, moment, random)
        for row in later[:: _RETOLD if said else len(later) + 1]:
            for position, value in zip(identity, random.choice(said), strict=True):
                row[position] = value
        # Some of it never happened, too.
        _write(file.path, header, [*kept, *(row for row in later if random.random() < 0.8)])


def _nonsense(column: ColumnSpec, shuffled: str, moment: datetime, random: Random) -> str:
    if column.nullable and random.random() < 0.1:
        return ""
    if column.one_of:
        return str(random.choice(column.one_of))
    match column.type:
        case ColumnType.INTEGER | ColumnType.NUMBER:
            low = -1000 if column.minimum is None else column.minimum
            high = low + 2000 if column.maximum is None else column.maximum
            value = random.uniform(low, high)
            return str(int(value)) if column.type is ColumnType.INTEGER else f"{value:.3f}"
        case ColumnType.BOOLEAN:
            return random.choice(["true", "false"])
        case ColumnType.TIMESTAMP:
            return _iso(moment + timedelta(seconds=random.randint(-300_000, 300_000)))
        case ColumnType.TEXT:
            return shuffled


def _cut_up(landing: Landing, table: TableSpec) -> list[LandedFile]:
    """Deliver the same rows in other files: days by the hour or in two pieces, hours in two pieces."""
    for number, file in enumerate(_files(landing, table)):
        header, rows = _read(file)
        period, dot, ending = file.path.name.partition(".")
        by_the_hour = file.start is not None and file.end == file.start + _DAY and number % 2 == 0
        parts: dict[str, list[list[str]]] = {}
        if by_the_hour and "{period}" in table.source_pattern.split(".")[0]:
            known = header.index(_delivered_name(table, header, str(table.known_at)))
            parts = {f"{period}T{hour:02}": [] for hour in range(24)}
            for row in rows:
                parts[f"{period}T{_instant(row[known]).hour:02}"].append(row)
        else:
            parts = {f"{period}.first": rows[1::2], f"{period}.second": rows[::2]}
        file.path.unlink()
        for name, part in parts.items():
            _write(file.path.with_name(f"{name}{dot}{ending}"), header, part)
    return _files(landing, table)


def _files(landing: Landing, table: TableSpec) -> list[LandedFile]:
    return [file for files in landing.periods(table).values() for file in files]


def _read(file: LandedFile) -> tuple[list[str], list[list[str]]]:
    header, *rows = csv.reader(StringIO(file.path.read_text(encoding="utf-8")))
    return header, rows


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _canonical(table: TableSpec, name: str) -> str:
    """The contract's name of a column as any version of the export calls it."""
    for layout in table.contract.layouts.values():
        if name in layout:
            return layout[name]
    return name


def _contract_column(table: TableSpec, name: str) -> ColumnSpec | None:
    wanted = _canonical(table, name)
    return next((column for column in table.contract.columns if column.name == wanted), None)


def _delivered_name(table: TableSpec, header: Sequence[str], canonical: str) -> str:
    return next(name for name in header if _canonical(table, name) == canonical)


def _columns_of(schema: Any) -> Sequence[dg.TableColumn]:
    value = schema.schema if isinstance(schema, dg.TableSchemaMetadataValue) else schema
    return list(value.columns)


def _resolve(sources: Any, pointer: str) -> Any:
    value = sources
    for part in pointer.split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


def _assert_equal(left: pl.DataFrame, right: pl.DataFrame, complaint: str) -> None:
    try:
        assert_frame_equal(left, right, check_row_order=False, check_column_order=False, check_exact=True)
    except AssertionError as difference:
        raise AssertionError(f"{complaint}: {difference}") from None


def _first(rows: pl.DataFrame) -> dict[str, Any]:
    return rows.row(0, named=True)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
