"""What is known of a model when the question is whether to retrain it: read from lake and ledger, not from MLflow."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from ml_platform.core.bootstrap import Figure
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.retraining import PERFORMANCE_FELL, Evidence, alarms_in_a_row, judge, spaced
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger, LedgerEntry
from ml_platform.stores.table_names import REPORTED_DAY, drift_table, evaluation_table, labels_table, performance_table
from ml_platform.stores.training_requests import TrainingRequests


def gather(lake: Lake, spec: ModelSpec, watermark: datetime) -> Evidence:
    """The evidence on a model at a watermark.

    A training counts once its gates have decided: one that failed before that taught nothing, and may be tried again
    as soon as the daily budget, which every attempt is charged to, allows.
    """
    ledger = Ledger(lake)
    last_training = _last_judged(ledger, spec)
    requests = TrainingRequests(lake)
    asked = requests.waiting(spec.name)
    labels = _labels(lake, spec, last_training, watermark)
    known = Evidence(
        watermark,
        last_training=last_training,
        new_labels=labels.new,
        training_rows=labels.training,
        history=labels.history,
        trainings_today=requests.begun(spec.name, since=watermark - timedelta(days=1)),
        asked=None if asked is None else str(asked),
    )
    champion = ledger.champion(spec.name)
    if champion is None:
        return known
    judged = ledger.judgement_on(spec.name, champion.version)
    as_of = champion.decided_at_watermark if judged is None else judged.decided_at_watermark
    delivered, rows, looks = _delivered(lake, spec, champion.version, as_of, watermark)
    return replace(
        known,
        champion=champion.version,
        champion_as_of=as_of,
        promised=_promised(lake, spec, champion.version),
        delivered=delivered,
        delivered_rows=rows,
        looks=looks,
        drift_days=_drift_days(lake, spec, champion),
    )


def _last_judged(ledger: Ledger, spec: ModelSpec) -> datetime | None:
    """When the data of the newest candidate that its gates decided on ended."""
    ends: list[datetime] = ledger.judgements(spec.name)["decided_at_watermark"].to_list()
    return max(ends, default=None)


@dataclass(frozen=True)
class _Labels:
    """Labels since the last training, those that would train now, and how far these reach back."""

    new: int = 0
    training: int = 0
    history: timedelta = timedelta(0)


def _labels(lake: Lake, spec: ModelSpec, since: datetime | None, watermark: datetime) -> _Labels:
    table, cutoff = labels_table(spec), watermark - spec.windows.holdout
    if not lake.exists(table):
        return _Labels()
    rows, known = lake.scan(table), pl.col("label_time")
    train = (known <= cutoff) & (pl.col("prediction_time") > cutoff - spec.windows.training)
    found = rows.select(
        new=(known > since).sum() if since else pl.len(), training=train.sum(), first=known.filter(train).min()
    ).collect()
    new, training, first = found.row(0)
    return _Labels(new, training, cutoff - first if first else timedelta(0))


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
) -> tuple[Figure | None, int, int]:
    """The gate's metric over the newest trailing window that was looked at, its labels, and which look that was.

    The window begins after the data that the version was made and judged on, and ends within its length of now: a
    version that was restored is not judged by what it did before. Each look is a window after the one before.
    """
    if not lake.exists(performance_table(spec)):
        return None, 0, 1
    window = spec.retrain.performance_window
    seen = lake.scan(performance_table(spec)).filter(
        pl.col("model_version") == version,
        pl.col("period") == "trailing",
        pl.col("metric") == spec.gate.metric,
        pl.col("period_start") >= as_of,
        pl.col("period_end") <= watermark,
    )
    reports = seen.sort("period_end").select("period_end", "rows", "value", "low", "high").collect()
    ends = spaced(reports["period_end"], window)
    newest = reports.filter(pl.col("period_end").is_in(ends[-1:]), pl.col("period_end") > watermark - window)
    rows = 0 if newest.is_empty() else int(newest["rows"][0])
    return _figure(newest.select("value", "low", "high")), rows, max(len(ends), 1)


def falls(lake: Lake, spec: ModelSpec, until: datetime) -> list[datetime]:
    """When the performance of the champion of the time had fallen: the end of each day on which that was known.

    Each champion is judged as :func:`gather` and :func:`judge` would have on that day.
    """
    ledger, found = Ledger(lake), []
    for version, since, end in ledger.served(spec.name).select("version", "served_from", "served_until").iter_rows():
        judged, promised = ledger.judgement_on(spec.name, version), _promised(lake, spec, version)
        as_of = since if judged is None else judged.decided_at_watermark
        day = since.replace(hour=0, minute=0, second=0, microsecond=0)
        while (day := day + timedelta(days=1)) <= min(end or until, until):
            delivered, rows, looks = _delivered(lake, spec, version, as_of, day)
            known = Evidence(
                day, version, as_of, promised=promised, delivered=delivered, delivered_rows=rows, looks=looks
            )
            if PERFORMANCE_FELL in judge(spec, known).triggers:
                found.append(day)
    return found


def _drift_days(lake: Lake, spec: ModelSpec, champion: LedgerEntry) -> int:
    """Alarming days in a row up to the newest report, since the champion predicts."""
    if not lake.exists(drift_table(spec)):
        return 0
    since = pl.col(REPORTED_DAY) >= pl.lit(champion.decided_at_watermark).dt.truncate("1d")
    days = lake.scan(drift_table(spec)).filter(since).group_by(REPORTED_DAY).agg(pl.col("alarm").any())
    return alarms_in_a_row(days.collect().iter_rows())


def _figure(rows: pl.DataFrame) -> Figure | None:
    return None if rows.is_empty() else Figure(**rows.row(0, named=True))
