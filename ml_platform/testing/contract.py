"""The promises of the platform as tests on one declared model."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import polars as pl
from polars.testing import assert_frame_equal

from ml_platform.assets.model import model_assets
from ml_platform.core.declared_features import LeakageError
from ml_platform.core.digests import digest
from ml_platform.core.feature_manifest import EVENT_TIME, ViewSpec
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.page import shown
from ml_platform.core.scoring import raw_scores
from ml_platform.core.splits import split
from ml_platform.core.training import fit
from ml_platform.core.tuning import tune
from ml_platform.settings import prepare_environment
from ml_platform.stores.model_tables import stored_training_set
from ml_platform.stores.table_names import labels_table
from ml_platform.testing.home import ContractHome

_SAMPLED_ROWS = 100
_SEED = 0


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
    _home: ClassVar[ContractHome]

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
        cls._home = ContractHome(cls(), Path(tempfile.mkdtemp(prefix="ml_platform_contract_")))

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
        registered = home.models.load(self.model, home.champion.version)
        params, rounds = registered.params, registered.rounds
        if home.spec.tuning.workers == 1:  # What several found depends on who of them was how fast.
            study = tune(home.spec, rows, features, storage_url=None, study_name="again", on_trial=lambda _: None)
            params, rounds = study.params, study.rounds
        again = fit(home.spec, rows.sample(fraction=1, shuffle=True, seed=_SEED), features, params, rounds)
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
