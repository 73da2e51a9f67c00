"""A model's own tables: labels, the training set, predictions.

Belongs here: how each follows from the lake, Feast and the champion. Fitting, judging and Dagster do not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from ml_platform.core.content import sort_rows
from ml_platform.core.contracts import legible
from ml_platform.core.declared_features import assert_no_outcomes
from ml_platform.core.digests import digest
from ml_platform.core.feature_manifest import EVENT_TIME, FeatureManifest, ServiceSpec
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.scoring import score
from ml_platform.core.training import FittedModel
from ml_platform.stores.catalog import WHOLE, PartitionState
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import FOREVER, Derivation, Frames, Input, day_bounds
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import Outcome, Status, derive
from ml_platform.stores.lake import Lake
from ml_platform.stores.table_names import labels_table, predictions_table, quarantine_table, training_table
from ml_platform.stores.transforms import BoundTransform, bind

LABEL_COLUMNS = ("label", "label_time")


class BlockedInputError(RuntimeError):
    """Something a training set would read is blocked; the message names every cause."""


class SupersededError(RuntimeError):
    """Another version became champion while one scored; nothing of what it had just scored was written."""


@dataclass(frozen=True)
class TrainingSet:
    """What stands in ``<model>/training_set``, and what it was made from.

    ``as_of`` is the watermark it was built at; ``inputs`` the Delta versions read.
    """

    frame: pl.DataFrame
    state: PartitionState
    service: ServiceSpec
    as_of: datetime

    @property
    def label_rate(self) -> float:
        """The mean of the label."""
        return float(self.frame["label"].cast(pl.Float64).mean() or 0.0)  # type: ignore[arg-type]


def label_rows(
    spec: ModelSpec, entities: BoundTransform, labels: BoundTransform, frames: Frames, start: datetime, end: datetime
) -> pl.DataFrame:
    """The labels that became known from ``start`` to ``end``, each with the entity row that it answers."""
    known = _entities(spec, _run(entities, frames, start - spec.entity_look_back, end))
    answers = _run(labels, frames, start, end).select(*spec.keys, *LABEL_COLUMNS)
    return known.join(answers, on=list(spec.keys), how="inner").filter(pl.col("prediction_time") < pl.col("label_time"))


def build_training_set(
    lake: Lake, features: FeatureClient, spec: ModelSpec, as_of: datetime
) -> tuple[TrainingSet, bool]:
    """The rows labelled in the training and holdout windows before ``as_of``, joined point in time.

    Returns:
        The training set, and whether it was computed anew (else its inputs were what they were).

    Raises:
        BlockedInputError: a partition it would read is blocked.
        ValueError: there are no labels in the window, or the service has a denied column.
    """
    manifest = features.manifest()
    service = manifest.service(spec.service)
    assert_no_outcomes(service.features, spec.denied)
    start = training_start(spec, as_of)
    if blocked := blocked_inputs(lake, manifest, spec, as_of):
        raise BlockedInputError(f"{spec.name}: the training window reads blocked partitions\n" + "\n".join(blocked))
    reached = _reached(lake, spec, service, manifest, start)
    identity = digest(
        service.hash,
        spec.windows.model_dump_json(),
        as_of.isoformat(),
        *(f"{state.table}/{state.partition}={state.content_hash}" for state in reached),
    )
    table = training_table(spec)
    before = lake.partitions(table).get(WHOLE)
    if before is not None and before.inputs_hash == identity:
        return TrainingSet(lake.read(table), before, service, as_of), False
    versions = {name: lake.version(name) for name in (labels_table(spec), *service.tables)}
    frame = training_rows(lake, features, spec, as_of, versions)
    facts = {"as_of": as_of.timestamp()}
    state = lake.write(table, frame, sort_by=spec.keys, inputs_hash=identity, inputs=versions, facts=facts)
    return TrainingSet(frame, state, service, as_of), True


def training_rows(
    lake: Lake, features: FeatureClient, spec: ModelSpec, as_of: datetime, versions: Mapping[str, int]
) -> pl.DataFrame:
    """A training set's rows, from these Delta versions of the labels and of every table the service reads.

    Raises:
        ValueError: there are no labels in the window.
    """
    start = training_start(spec, as_of)
    labels = lake.scan(labels_table(spec), start=start.date(), version=versions[labels_table(spec)])
    rows = labels.drop("day").filter(pl.col("prediction_time") > start, pl.col("label_time") <= as_of).collect()
    if rows.is_empty():
        raise ValueError(f"{spec.name}: no label became known between {start:%Y-%m-%d} and {as_of:%Y-%m-%d}")
    return join_features(features, spec, rows, versions)


def blocked_inputs(lake: Lake, manifest: FeatureManifest, spec: ModelSpec, as_of: datetime) -> list[str]:
    """Why what a training set built at ``as_of`` would read is blocked; empty if nothing is."""
    reached = _reached(lake, spec, manifest.service(spec.service), manifest, training_start(spec, as_of))
    return sorted({state.blocked for state in reached if state.blocked})


def training_start(spec: ModelSpec, as_of: datetime) -> datetime:
    """The moment after which predictions are due that a training set built at ``as_of`` has."""
    return as_of - spec.windows.training - spec.windows.holdout


def training_times(lake: Lake, spec: ModelSpec) -> list[datetime]:
    """When the data of each training set ended, oldest first, whatever was made of it."""
    made = {(state.facts["as_of"], state.content_hash) for state in lake.history(training_table(spec))}
    return sorted(datetime.fromtimestamp(as_of, UTC) for as_of, _ in made)


@dataclass(frozen=True)
class StoredTrainingSet:
    """A training set read back, and the watermark it was built at."""

    frame: pl.DataFrame
    state: PartitionState
    as_of: datetime


def stored_training_set(lake: Lake, spec: ModelSpec, version: int | None = None) -> StoredTrainingSet:
    """The training set as it stands, or as it was at a Delta version.

    Raises:
        LookupError: there is none (of that version).
    """
    table = training_table(spec)
    history = lake.history(table)
    found = [state for state in history if version is None or state.delta_version == version]
    if not found:
        known = sorted({state.delta_version for state in history})
        raise LookupError(f"{table} has {f'no version {version}: it has {known}' if known else 'not been built yet'}")
    state = found[-1]
    as_of = datetime.fromtimestamp(state.facts["as_of"], UTC)
    return StoredTrainingSet(lake.read(table, version=state.delta_version), state, as_of)


def join_features(
    features: FeatureClient, spec: ModelSpec, rows: pl.DataFrame, versions: Mapping[str, int] | None = None
) -> pl.DataFrame:
    """Keys, times, label (if any) and the service's features as known at each row's ``prediction_time``."""
    service = features.manifest().service(spec.service)
    joined = features.historical(
        spec.service, rows.with_columns(pl.col("prediction_time").alias(EVENT_TIME)), versions=versions
    )
    answers = [name for name in LABEL_COLUMNS if name in rows.columns]
    return joined.select(*spec.keys, "prediction_time", *answers, *service.features)


def predictions_derivation(
    lake: Lake,
    features: FeatureClient,
    spec: ModelSpec,
    dataset: Dataset,
    version: int,
    load: Callable[[], FittedModel],
    serves: Callable[[], bool] = lambda: True,
) -> Derivation:
    """Predictions by one version, by the day they are due.

    Rows that stand are never changed: the table is the record of what was predicted, with the features it was
    predicted from. Only what is due after the version's newest training label is scored, and only once.

    Args:
        lake: where predictions stand.
        features: the feature store.
        spec: the declaration.
        dataset: its data set.
        version: the registered version that predicts.
        load: gives that version's model; called only when something is to be scored.
        serves: whether the version is still to predict, asked when its scores are about to be written; if it is not,
            computing raises :class:`SupersededError`.
    """
    entities = bind(spec.entities, dataset.folder)
    manifest = features.manifest()
    service = manifest.service(spec.service)
    table = predictions_table(spec)

    def compute(frames: Frames, start: datetime, end: datetime) -> pl.DataFrame:
        model = load()
        moment = pl.col("prediction_time")
        due = _run(entities, frames, start, end).filter(moment >= start, moment < end, moment > model.trained_through)
        due = _entities(spec, due)
        standing = _standing(lake, table, start, end)
        if standing is not None:
            # Of any day: what upstream published again, for another time, was scored at the first.
            scored = lake.scan(table).filter(pl.col("model_version") == version).select(spec.keys).collect()
            due = due.join(scored, on=list(spec.keys), how="anti")
        rows = score(model, join_features(features, spec, due)).with_columns(
            pl.lit(version, dtype=pl.Int64).alias("model_version"), pl.lit(service.hash).alias("feature_service_hash")
        )
        answers = ("score",) if model.threshold is None else ("score", "decision")
        ordered = rows.select(
            *spec.keys, "prediction_time", *answers, "model_version", "feature_service_hash", *service.features
        )
        if not serves():
            raise SupersededError(f"{spec.name} version {version} predicts no longer")
        return ordered if standing is None else pl.concat([standing, ordered], how="diagonal_relaxed")

    return Derivation(
        table=table,
        inputs=[
            *(Input(f"raw/{name}", entities.spec.look_back) for name in entities.spec.inputs),
            *_feature_inputs(service, manifest),
        ],
        compute=compute,
        code_version=digest(entities.code_version, str(version), service.hash),
        time_column="prediction_time",
        sort_by=[*spec.keys, "model_version"],
    )


def due_rows(lake: Lake, dataset: Dataset, spec: ModelSpec, since: datetime, until: datetime) -> pl.DataFrame:
    """One row for each thing whose prediction was due after ``since`` and before ``until``, by the data that stands."""
    return _due(dataset, spec, {name: lake.read(f"raw/{name}") for name in spec.entities.inputs}, since, until)


def due_in_quarantine(lake: Lake, dataset: Dataset, spec: ModelSpec, since: datetime, until: datetime) -> pl.DataFrame:
    """As :func:`due_rows`, of the things that only rows in quarantine speak of, as far as these can be read."""
    frames = {}
    for name in spec.entities.inputs:
        table, stands = dataset.table(name), lake.read(f"raw/{name}")
        place = quarantine_table(table)
        broken = [legible(table, lake.read(place)).select(stands.columns)] if lake.exists(place) else []
        frames[name] = pl.concat([stands, *broken])
    stands = due_rows(lake, dataset, spec, since, until)
    return _due(dataset, spec, frames, since, until).drop_nulls(spec.keys).join(stands, on=list(spec.keys), how="anti")


def _due(dataset: Dataset, spec: ModelSpec, frames: Frames, since: datetime, until: datetime) -> pl.DataFrame:
    moment = pl.col("prediction_time")
    due = _entities(spec, _run(bind(spec.entities, dataset.folder), frames, since, until))
    return due.filter(moment > since, moment < until)


def predictable_days(lake: Lake, spec: ModelSpec, days: Sequence[str], trained_through: datetime) -> list[str]:
    """The days on which a version may predict something, or on which predictions stand."""
    standing = lake.partitions(predictions_table(spec))
    return [day for day in days if day_bounds(day)[1] > trained_through or day in standing]


def predict(
    lake: Lake,
    features: FeatureClient,
    spec: ModelSpec,
    dataset: Dataset,
    version: int,
    model: FittedModel,
    days: Sequence[str],
    watermark: datetime,
    serves: Callable[[], bool] = lambda: True,
) -> Iterator[Outcome]:
    """Score what is due on these days and not yet scored by this version; one outcome a day.

    Raises:
        SupersededError: ``serves`` said no before some days were written; those before them stand.
    """
    ripe = predictable_days(lake, spec, days, model.trained_through)
    reason = f"version {version} learned from labels up to {model.trained_through:%Y-%m-%d %H:%M}"
    yield from (Outcome(day, Status.WAITING, None, reason) for day in days if day not in ripe)
    derivation = predictions_derivation(lake, features, spec, dataset, version, lambda: model, serves)
    yield from derive(lake, derivation, ripe, watermark)


def _run(transform: BoundTransform, frames: Frames, start: datetime, end: datetime) -> pl.DataFrame:
    return transform({table.removeprefix("raw/"): frame for table, frame in frames.items()}, start, end)


def _entities(spec: ModelSpec, rows: pl.DataFrame) -> pl.DataFrame:
    """One row for each thing to predict: the first due, where upstream published a thing more than once."""
    return sort_rows(rows, ["prediction_time"]).unique(spec.keys, keep="first", maintain_order=True)


def _standing(lake: Lake, table: str, start: datetime, end: datetime) -> pl.DataFrame | None:
    if not lake.exists(table):
        return None
    frame = lake.scan(table, start=start.date()).filter(pl.col("day") <= end.date()).drop("day").collect()
    return frame.filter(pl.col("prediction_time") >= start)


def _feature_inputs(service: ServiceSpec, manifest: FeatureManifest) -> list[Input]:
    views = [manifest.view(name) for name in service.views]
    return [Input(view.table, view.ttl or FOREVER, loaded=False) for view in views if view.table is not None]


def _reached(
    lake: Lake, spec: ModelSpec, service: ServiceSpec, manifest: FeatureManifest, start: datetime
) -> list[PartitionState]:
    """The states of every partition a training set over ``start`` on may read."""
    inputs = [Input(labels_table(spec)), *_feature_inputs(service, manifest)]
    return [
        state
        for source in inputs
        for name, state in sorted(lake.partitions(source.table).items())
        if name == WHOLE or name >= (start - source.look_back).date().isoformat()
    ]
