"""What a model's predictions would have been worth under other habits of retraining, from what stands in the lake.

Belongs here: the labelled rows of a home, the scores its champions gave them, and those of two rivals which start with
the first champion: left frozen, or retrained every month on all that was known with the first champion's parameters.
How rivals are trained, served and compared is :mod:`ml_platform.core.rivals`.
"""

from datetime import datetime

import polars as pl

from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.rivals import SERVED_SINCE, Cadence, Tenure, moments, serve, train_on_all_past
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger, LedgerEntry
from ml_platform.stores.model_tables import join_features
from ml_platform.stores.models import ModelStore
from ml_platform.stores.table_names import labels_table, predictions_table


def labelled_rows(lake: Lake, features: FeatureClient, spec: ModelSpec) -> pl.DataFrame:
    """Every label that stands, with its features as known at prediction time.

    Raises:
        LookupError: the lake has no labels of the model.
    """
    if not lake.exists(labels_table(spec)):
        raise LookupError(f"{labels_table(spec)} has not been made yet: there is nothing to compare on")
    return join_features(features, spec, lake.read(labels_table(spec)))


def first_champion(lake: Lake, spec: ModelSpec) -> LedgerEntry:
    """The decision that made the first champion; rivals begin at its watermark.

    Raises:
        LookupError: no version was ever promoted.
    """
    promotions = Ledger(lake).history(spec.name).filter("promoted")
    if promotions.is_empty():
        raise LookupError(f"{spec.name} never had a champion: its rivals begin with one")
    return LedgerEntry(**promotions.row(0, named=True))


def automated(lake: Lake, spec: ModelSpec, rows: pl.DataFrame, until: datetime) -> pl.DataFrame:
    """The labelled rows due after the first champion was decided on, with the champion's score at that time.

    Where several versions scored a row, the one that served when it was due counts; what was due before its version
    was decided on (a catch-up) counts by the earliest that scored it. Rows that no version scored are not among them.
    """
    since, keys = first_champion(lake, spec).decided_at_watermark, list(spec.keys)
    served = Ledger(lake).served(spec.name).select(pl.col("version").alias("model_version"), "served_from")
    made = lake.read(predictions_table(spec), columns=[*keys, "prediction_time", "score", "model_version"])
    in_service = pl.col("served_from") < pl.col("prediction_time")
    scores = (
        made.filter(pl.col("prediction_time") > since, pl.col("prediction_time") <= until)
        .join(served, on="model_version", how="inner")
        .sort(*keys, in_service.cast(pl.Int8), pl.when(in_service).then("served_from"), -pl.col("model_version"))
        .unique(keys, keep="last", maintain_order=True)
        .select(*keys, "score", pl.col("served_from").alias(SERVED_SINCE))
    )
    return rows.select(*keys, "prediction_time", "label", "label_time").join(
        scores, on=keys, how="inner", validate="1:1"
    )


def frozen(lake: Lake, models: ModelStore, spec: ModelSpec, rows: pl.DataFrame, until: datetime) -> pl.DataFrame:
    """The same rows scored by the first champion alone."""
    entry = first_champion(lake, spec)
    tenure = Tenure(entry.decided_at_watermark, models.load(spec.name, entry.version))
    return _without_features(spec, serve([tenure], rows, until))


def monthly_on_all_past(
    lake: Lake, models: ModelStore, spec: ModelSpec, rows: pl.DataFrame, until: datetime
) -> pl.DataFrame:
    """The same rows scored by a model fitted on the first of each month on every label known by then.

    The first is fitted when the first champion was decided on. All have that champion's features, parameters and
    rounds, and serve without being judged.
    """
    entry = first_champion(lake, spec)
    first = models.load(spec.name, entry.version)
    at = moments(Cadence.MONTHLY, entry.decided_at_watermark, until)
    tenures = train_on_all_past(spec, rows, first.features, first.params, first.rounds, at)
    return _without_features(spec, serve(tenures, rows, until))


def _without_features(spec: ModelSpec, scores: pl.DataFrame) -> pl.DataFrame:
    return scores.select(*spec.keys, "prediction_time", "label", "label_time", "score", SERVED_SINCE)
