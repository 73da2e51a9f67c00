"""Trained models: MLflow runs, the registry, and which version is champion.

Belongs here: how a model and everything it came from is logged, found and loaded again, and how the
registry's ``champion`` alias follows the ledger. What makes a version worth promoting does not.

Models are stored as LightGBM's text and JSON, so that loading one executes nothing.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ml_platform.core.digests import digest
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.recipe import declaration
from ml_platform.core.training import DECLARATION_FILE, MODEL_FILE, FittedModel, encode
from ml_platform.settings import Settings, prepare_environment
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger, LedgerEntry, ManualDecision

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from ml_platform.core.promotion import Decision

CHAMPION = "champion"
"""The registry alias of the version that predicts."""

DAGSTER_RUN_TAG = "dagster_run_id"
"""The tag by which dagster-mlflow joins an MLflow run to its Dagster run."""

_NATIVE_FILE = "model.lgb"
_EXTRA_FILES = "extra_files"
_DECLARED_FILE = "declaration.json"
_MAPPINGS = ("inputs", "libraries")
_LOAD_CHECK = Path(__file__).with_name("load_check.py")
_PAGE = 1000
"""How much MLflow is asked for at once: it gives no more registered models than that."""

_LOGGER = logging.getLogger(__name__)


class UnknownModelError(LookupError):
    """A model or version that the registry does not hold was asked for."""


@dataclass(frozen=True)
class TrainingRun:
    """An open MLflow run and the page that shows it."""

    run_id: str
    experiment_id: str
    url: str


@dataclass(frozen=True)
class Provenance:
    """What a version was made from: with the seed, enough to make the same bytes again.

    ``inputs`` are the Delta versions of the tables its training set read; ``training_set_version`` is the
    training set's own and ``training_set_hash`` its content; ``as_of`` is the watermark from which rows were split
    into those that trained and those held out.

    Why it was made is kept here too, because Dagster forgets old runs: the run's ``reason``, the names of the
    ``trigger`` that held, and its ``evidence`` as JSON. ``commit`` is the source's and ``libraries`` are the versions
    of what computes the bytes. All of these are empty where nobody said, as in versions made before they were recorded.
    """

    training_set_version: int
    training_set_hash: str
    training_rows: int
    as_of: datetime
    inputs: Mapping[str, int]
    service: str
    service_hash: str
    code_version: str
    dagster_run_id: str
    reason: str = ""
    trigger: str = ""
    evidence: str = ""
    commit: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """A registered version. ``metrics`` and ``parameters`` are those of its MLflow run, ``made_at`` is wall time."""

    name: str
    version: int
    run_id: str
    run_url: str
    url: str
    made_at: datetime
    provenance: Provenance
    trained_through: datetime
    seed: int
    model_hash: str
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]


@dataclass(frozen=True)
class LoadCheck:
    """How a version did in a clean process.

    ``ok``: it loaded, answered, and gave exactly the expected scores (``equal``); ``median_ms`` is the
    median time of one row, infinite if there was no answer; ``error`` says what failed.
    """

    ok: bool
    equal: bool
    median_ms: float
    error: str = ""


class ModelStore:
    """Runs and versions of every model: one MLflow experiment and one registered model for each."""

    def __init__(self, settings: Settings, ledger: Ledger | None = None) -> None:
        # MLflow reads its telemetry switch when it is first imported.
        prepare_environment()
        self._settings = settings
        self.ledger = ledger or Ledger(Lake.of(settings))

    # Training --------------------------------------------------------------------------------------

    @contextmanager
    def training_run(self, model: str, tags: Mapping[str, str] | None = None) -> Iterator[TrainingRun]:
        """An MLflow run that ends as FINISHED, as FAILED on an exception, or as KILLED if interrupted."""
        import mlflow

        experiment_id = self.experiment(model)
        run = mlflow.start_run(experiment_id=experiment_id, tags=dict(tags or {}))
        with self.closing(run.info.run_id, experiment_id) as opened:
            yield opened

    @contextmanager
    def closing(self, run_id: str, experiment_id: str) -> Iterator[TrainingRun]:
        """End the active MLflow run with the status that its block deserves."""
        import mlflow

        try:
            yield TrainingRun(run_id, experiment_id, self.run_url(experiment_id, run_id))
        except BaseException as error:
            mlflow.end_run("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        mlflow.end_run("FINISHED")

    def end_abandoned(self, model: str, is_over: Callable[[str], bool]) -> list[str]:
        """Mark as FAILED the runs whose process was killed before it could; their ids.

        Args:
            model: whose experiment is looked at.
            is_over: whether the Dagster run of this id has ended.
        """
        abandoned = [run_id for run_id, dagster_run_id in self.open_runs(model).items() if is_over(dagster_run_id)]
        for run_id in abandoned:
            self._client.set_terminated(run_id, "FAILED")
        return abandoned

    def open_runs(self, model: str) -> dict[str, str]:
        """The model's runs that have not ended, each with its Dagster run (empty: it names none)."""
        experiment = self._client.get_experiment_by_name(model)
        if experiment is None:
            return {}
        running = _every(self._client.search_runs, [experiment.experiment_id], "attributes.status = 'RUNNING'")
        return {run.info.run_id: run.data.tags.get(DAGSTER_RUN_TAG, "") for run in running}

    def experiment(self, model: str) -> str:
        """The id of the model's experiment, made if it is new; MLflow's fluent functions then log to this store."""
        import mlflow
        from mlflow.exceptions import MlflowException

        client = self._client
        mlflow.set_tracking_uri(self._settings.mlflow_tracking_uri)
        found = client.get_experiment_by_name(model)
        if found is None:
            location = self._settings.mlflow_artifacts_uri
            root = location if "://" in location else Path(location).absolute().as_uri()
            try:
                return str(client.create_experiment(model, artifact_location=f"{root}/{model}"))
            except MlflowException:
                # Another process made it first; if it did not, the failure is real.
                if (found := client.get_experiment_by_name(model)) is None:
                    raise
        return str(found.experiment_id)

    def log_candidate(
        self,
        run: TrainingRun,
        name: str,
        model: FittedModel,
        provenance: Provenance,
        *,
        spec: ModelSpec,
        example: pl.DataFrame,
        metrics: Mapping[str, float],
        plots: Mapping[str, bytes] | None = None,
    ) -> int:
        """Log a fitted model to the open run and register it.

        The version appears last and complete: a crash on the way leaves a run but no version.

        Args:
            run: the open run.
            name: of the registered model.
            model: what was fitted.
            provenance: what it was made from.
            spec: the declaration; what of it decides a training is stored with the version.
            example: a few rows with the model's features, stored as the input example.
            metrics: figures of the training (the study's).
            plots: PNG bytes by name.

        Returns:
            The new version.
        """
        import mlflow
        import mlflow.lightgbm
        from mlflow.models import infer_signature

        inputs = encode(example, model.features, model.categories).to_pandas()
        self._log_parameters(run.run_id, {**model.params, "rounds": model.rounds, "seed": model.seed})
        self.log_metrics(run.run_id, metrics)
        self.attach(run.run_id, {f"{key}.png": image for key, image in (plots or {}).items()}, folder="plots")
        self.attach(run.run_id, {_DECLARED_FILE: declaration(spec)})
        with tempfile.TemporaryDirectory() as folder:
            described = Path(folder) / DECLARATION_FILE
            described.write_text(model.to_files()[DECLARATION_FILE], encoding="utf-8")
            logged = mlflow.lightgbm.log_model(
                model.booster,
                name="model",
                signature=infer_signature(inputs, model.booster.predict(inputs)),
                input_example=inputs,
                extra_files=[str(described)],
                # Given, because MLflow otherwise finds them by loading the model in a subprocess.
                pip_requirements=[f"{package}=={installed_version(package)}" for package in ("lightgbm", "numpy")],
            )
        facts = {
            **{key: json.dumps(value) if key in _MAPPINGS else str(value) for key, value in asdict(provenance).items()},
            "trained_through": model.trained_through.isoformat(),
            "seed": str(model.seed),
            "model_hash": digest(model.model_text),
        }
        for key, value in facts.items():
            self._client.set_tag(run.run_id, key, value)
        return int(mlflow.register_model(logged.model_uri, name, tags=facts).version)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add figures to a run, open or not."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(run_id, metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()])

    def attach(self, run_id: str, files: Mapping[str, bytes | str], folder: str | None = None) -> None:
        """Add files (by name) to a run's artifacts, open or not."""
        with tempfile.TemporaryDirectory() as temporary:
            for name, content in files.items():
                path = Path(temporary) / name
                path.write_bytes(content.encode() if isinstance(content, str) else content)
                self._client.log_artifact(run_id, str(path), folder)

    def artifact_text(self, run_id: str, path: str) -> str:
        """A text artifact of a run.

        Raises:
            LookupError: the run has no such artifact.
        """
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as temporary:
            try:
                return Path(self._client.download_artifacts(run_id, path, temporary)).read_text(encoding="utf-8")
            except (MlflowException, OSError) as error:
                raise LookupError(f"MLflow run {run_id} has no artifact {path!r}") from error

    # Versions --------------------------------------------------------------------------------------

    def versions(self, name: str) -> list[int]:
        """Every registered version, ascending; empty if the model is not registered."""
        found = _every(self._client.search_model_versions, f"name = '{name}'")
        return sorted(int(version.version) for version in found)

    def candidate(self, name: str) -> ModelVersion | None:
        """The newest version; None if there is none."""
        versions = self.versions(name)
        return self.describe(name, versions[-1]) if versions else None

    def describe(self, name: str, version: int) -> ModelVersion:
        """What is known of a version.

        Raises:
            UnknownModelError: there is no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version(name, str(version))
        except MlflowException as error:
            known = self.versions(name)
            raise UnknownModelError(f"{name} has no version {version}; it has {known or 'none'}") from error
        run = self._client.get_run(found.run_id)
        facts = found.tags
        return ModelVersion(
            name=name,
            version=int(found.version),
            run_id=found.run_id,
            run_url=self.run_url(run.info.experiment_id, found.run_id),
            url=self.version_url(name, version),
            made_at=datetime.fromtimestamp(found.creation_timestamp / 1000, UTC),
            provenance=Provenance(
                training_set_version=int(facts["training_set_version"]),
                training_set_hash=facts["training_set_hash"],
                training_rows=int(facts["training_rows"]),
                as_of=datetime.fromisoformat(facts["as_of"]),
                inputs=json.loads(facts["inputs"]),
                service=facts["service"],
                service_hash=facts["service_hash"],
                code_version=facts["code_version"],
                dagster_run_id=facts["dagster_run_id"],
                **{key: facts.get(key, "") for key in ("reason", "trigger", "evidence", "commit")},
                libraries=json.loads(facts.get("libraries", "{}")),
            ),
            trained_through=datetime.fromisoformat(facts["trained_through"]),
            seed=int(facts["seed"]),
            model_hash=facts["model_hash"],
            metrics=dict(run.data.metrics),
            parameters=dict(run.data.params),
        )

    def declared(self, version: ModelVersion) -> str:
        """What of the declaration decided the version's training, as :func:`~ml_platform.core.learning.declaration`.

        Raises:
            LookupError: the version was made before this was stored.
        """
        return self.artifact_text(version.run_id, _DECLARED_FILE)

    def load(self, name: str, version: int) -> FittedModel:
        """The model, bit for bit as it was logged.

        Raises:
            UnknownModelError: there is no such version.
        """
        native, declaration = self._files(name, version)
        return FittedModel.from_files(
            {MODEL_FILE: native.read_text(encoding="utf-8"), DECLARATION_FILE: declaration.read_text(encoding="utf-8")}
        )

    def check_clean_process(
        self,
        name: str,
        version: int,
        sample: pl.DataFrame,
        expected: Sequence[float],
        *,
        timeout_seconds: float = 120.0,
    ) -> LoadCheck:
        """Load the version in a fresh interpreter that has LightGBM and numpy but not the platform, and let it answer.

        Args:
            name: of the registered model.
            version: which one.
            sample: rows with the model's features, one at least.
            expected: the platform's score of each row.
            timeout_seconds: after which the version counts as not answering.
        """
        native, declaration = self._files(name, version)
        features = json.loads(declaration.read_text(encoding="utf-8"))["features"]
        request = {"model": str(native), "declaration": str(declaration), "rows": sample.select(features).to_dicts()}
        try:
            answer = subprocess.run(
                [sys.executable, "-I", str(_LOAD_CHECK)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                check=True,
                env={},
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired:
            return LoadCheck(ok=False, equal=False, median_ms=float("inf"), error=f"no answer in {timeout_seconds:g} s")
        except subprocess.CalledProcessError as error:
            return LoadCheck(ok=False, equal=False, median_ms=float("inf"), error=error.stderr.strip()[-2000:])
        result = json.loads(answer.stdout)
        equal = result["scores"] == list(expected)
        message = (
            "" if equal else f"{name} version {version} gives other scores in a clean process than on the platform"
        )
        return LoadCheck(ok=equal, equal=equal, median_ms=result["median_ms"], error=message)

    # Upkeep ----------------------------------------------------------------------------------------

    def registered(self) -> list[str]:
        """Every model that has a version, declared or not."""
        return sorted(model.name for model in _every(self._client.search_registered_models))

    def failed_runs(self, before: datetime) -> list[str]:
        """Runs of every experiment that failed or were killed and ended before a moment (wall time)."""
        experiments = [found.experiment_id for found in _every(self._client.search_experiments)]
        ended = f"attributes.end_time < {int(before.timestamp() * 1000)}"
        return [
            run.info.run_id
            for status in ("FAILED", "KILLED")
            for run in _every(self._client.search_runs, experiments, f"attributes.status = '{status}' AND {ended}")
        ]

    def delete_run(self, run_id: str) -> None:
        """Put a run into MLflow's bin, from which ``mlflow gc`` removes it for good."""
        self._client.delete_run(run_id)

    # Champion --------------------------------------------------------------------------------------

    def champion(self, name: str) -> ModelVersion | None:
        """The version that predicts, by the ledger; None if no version was ever promoted.

        The alias is brought in line first, so a promotion that was killed half way is completed here.
        """
        entry = self._align(name)
        return None if entry is None else self.describe(name, entry.version)

    def promote(
        self,
        name: str,
        version: int,
        decision: "Decision | ManualDecision",
        *,
        expected_current: int | None,
        watermark: datetime,
        by: str,
        run_id: str,
    ) -> LedgerEntry:
        """Record a decision, move the alias if it promotes, and say in MLflow how the version was decided on.

        Arguments as of :meth:`Ledger.record`.

        The ledger decides between promotions made at once; the alias is moved after it.

        Raises:
            PromotionConflictError: the champion is no longer ``expected_current``.
            UnknownModelError: there is no such version.
        """
        self.describe(name, version)
        entry = self.ledger.record(
            name, version, decision, expected_current=expected_current, watermark=watermark, by=by, run_id=run_id
        )
        self._align(name)
        said = f"{entry.rule.replace('_', ' ').capitalize()} by {entry.decided_by}: {entry.reason}"
        self._client.update_model_version(name, str(version), description=said)
        return entry

    # Inside ----------------------------------------------------------------------------------------

    def _align(self, name: str) -> LedgerEntry | None:
        """Point the alias to the ledger's champion, again if that changed meanwhile: the last write is right."""
        from mlflow.exceptions import MlflowException

        entry = self.ledger.champion(name)
        while True:
            try:
                aliases = self._client.get_registered_model(name).aliases
            except MlflowException:
                if entry is not None:
                    raise
                return None
            wanted = None if entry is None else entry.version
            current = int(aliases[CHAMPION]) if CHAMPION in aliases else None
            if current == wanted:
                return entry
            if wanted is None:
                _LOGGER.warning(
                    "%s: alias %s named version %s, which the ledger never promoted", name, CHAMPION, current
                )
                self._client.delete_registered_model_alias(name, CHAMPION)
            else:
                self._client.set_registered_model_alias(name, CHAMPION, str(wanted))
            entry = self.ledger.champion(name)

    def _files(self, name: str, version: int) -> tuple[Path, Path]:
        from mlflow.artifacts import download_artifacts

        found = self.describe(name, version)
        folder = Path(download_artifacts(self._client.get_model_version_download_uri(name, str(found.version))))
        return folder / _NATIVE_FILE, folder / _EXTRA_FILES / DECLARATION_FILE

    def _log_parameters(self, run_id: str, parameters: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])

    def run_url(self, experiment_id: str, run_id: str) -> str:
        """The run's page in the MLflow UI."""
        return f"{self._settings.mlflow_url}/#/experiments/{experiment_id}/runs/{run_id}"

    def version_url(self, name: str, version: int) -> str:
        """The version's page in the MLflow UI."""
        return f"{self._settings.mlflow_url}/#/models/{name}/versions/{version}"

    def dagster_run_url(self, run_id: str) -> str:
        """The Dagster run's page."""
        return f"{self._settings.dagster_url}/runs/{run_id}"

    @cached_property
    def _client(self) -> "MlflowClient":
        import mlflow
        from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
        uri = self._settings.mlflow_tracking_uri
        if uri.startswith("sqlite:///"):
            Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        # Downloads of registered models go through the fluent registry URI, not the client's.
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def _every(search: Callable[..., Any], *asked: object) -> Iterator[Any]:
    """All that a search of MLflow finds, which it gives a page at a time."""
    page = search(*asked, max_results=_PAGE)
    yield from page
    while page.token:
        page = search(*asked, max_results=_PAGE, page_token=page.token)
        yield from page
