"""What is known of a model when the question is whether to retrain it: read from lake and ledger, not from MLflow."""

from dataclasses import replace
from datetime import UTC, datetime

import polars as pl

from ml_platform.core.bootstrap import Figure
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.retraining import Evidence, alarms_in_a_row
from ml_platform.stores.evaluations import evaluation_table
from ml_platform.stores.lake import WHOLE, Lake
from ml_platform.stores.ledger import Ledger, LedgerEntry
from ml_platform.stores.model_tables import labels_table, training_table
from ml_platform.stores.monitoring import REPORTED_DAY, drift_table, performance_table


def gather(lake: Lake, spec: ModelSpec, watermark: datetime) -> Evidence:
    """The evidence on a model at a watermark."""
    ledger = Ledger(lake)
    last_training = _last_training(lake, spec)
    known = Evidence(watermark, last_training=last_training, new_labels=_labels(lake, spec, last_training))
    champion = ledger.champion(spec.name)
    if champion is None:
        return known
    judged = ledger.judgement_on(spec.name, champion.version)
    as_of = champion.decided_at_watermark if judged is None else judged.decided_at_watermark
    delivered, rows = _delivered(lake, spec, champion.version, as_of, watermark)
    return replace(
        known,
        champion=champion.version,
        champion_as_of=as_of,
        promised=_promised(lake, spec, champion.version),
        delivered=delivered,
        delivered_rows=rows,
        drift_days=_drift_days(lake, spec, champion),
    )


def _last_training(lake: Lake, spec: ModelSpec) -> datetime | None:
    """When the data of the newest training set ended, whatever was made of it."""
    made = lake.partitions(training_table(spec)).get(WHOLE)
    seconds = None if made is None else made.facts.get("as_of")
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _labels(lake: Lake, spec: ModelSpec, since: datetime | None) -> int:
    table = labels_table(spec)
    if not lake.exists(table):
        return 0
    rows = lake.scan(table)
    if since is not None:
        rows = rows.filter(pl.col("label_time") > since)
    return int(rows.select(pl.len()).collect().item())


def _promised(lake: Lake, spec: ModelSpec, version: int) -> Figure | None:
    """The gate's metric when the version was judged."""
    if not lake.exists(evaluation_table(spec)):
        return None
    rows = lake.scan(evaluation_table(spec)).filter(
        pl.col("model_version") == version,
        pl.col("section") == "metric",
        pl.col("subject") == "candidate",
        pl.col("name") == spec.gate.metric,
    )
    return _figure(rows.select("value", "low", "high").collect())


def _delivered(
    lake: Lake, spec: ModelSpec, version: int, as_of: datetime, watermark: datetime
) -> tuple[Figure | None, int]:
    """The gate's metric over the newest trailing window, and its labels.

    The window begins after the data that the version was made and judged on, and ends within its length of now: a
    version that was restored is not judged by what it did before.
    """
    if not lake.exists(performance_table(spec)):
        return None, 0
    rows = lake.scan(performance_table(spec)).filter(
        pl.col("model_version") == version,
        pl.col("period") == "trailing",
        pl.col("metric") == spec.gate.metric,
        pl.col("period_start") >= as_of,
        pl.col("period_end") > watermark - spec.retrain.performance_window,
    )
    newest = rows.filter(pl.col(REPORTED_DAY) == pl.col(REPORTED_DAY).max()).collect()
    return _figure(newest.select("value", "low", "high")), 0 if newest.is_empty() else int(newest["rows"][0])


def _drift_days(lake: Lake, spec: ModelSpec, champion: LedgerEntry) -> int:
    """Alarming days in a row up to the newest report, since the champion predicts."""
    if not lake.exists(drift_table(spec)):
        return 0
    since = pl.col(REPORTED_DAY) >= pl.lit(champion.decided_at_watermark).dt.truncate("1d")
    days = lake.scan(drift_table(spec)).filter(since).group_by(REPORTED_DAY).agg(pl.col("alarm").any())
    return alarms_in_a_row(days.collect().iter_rows())


def _figure(rows: pl.DataFrame) -> Figure | None:
    return None if rows.is_empty() else Figure(**rows.row(0, named=True))
