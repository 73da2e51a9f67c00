"""The state of the platform in one value, for people and machines.

Belongs here: reading what the stores already hold. Nothing is computed anew, and MLflow is asked (it takes seconds to
import) only where the lake cannot say which training set a champion learned from.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from ml_platform.core.dataset import DatasetSpec
from ml_platform.core.drift_effects import SCORE
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.settings import Settings
from ml_platform.stores.catalog import PartitionState
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.ledger import Ledger, LedgerEntry
from ml_platform.stores.table_names import (
    REPORTED_DAY,
    calibration_table,
    drift_table,
    evaluation_table,
    performance_table,
    predictions_table,
    quarantine_table,
    raw_table,
    training_table,
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Frozen):
    """Ends of a figure's interval; None where it has none."""

    low: float | None
    high: float | None


class StoredTable(_Frozen):
    """A table of the lake: rows and partitions that stand, and why partitions are blocked, by partition."""

    rows: int
    partitions: int
    newest_partition: str | None
    blocked: dict[str, str]


class RawTableStatus(StoredTable):
    """A raw table. ``landed_through`` is its watermark, ``gaps`` the days or hours without a file before that."""

    quarantined: int
    landed_through: datetime | None
    gaps: tuple[str, ...]


class DecisionStatus(_Frozen):
    """A decision of the ledger; ``failed_gates`` are those that did not hold, with their explanations."""

    version: int
    promoted: bool
    rule: str
    reason: str
    decided_at_watermark: datetime
    decided_at: datetime
    by: str
    failed_gates: dict[str, str]


class PerformanceStatus(_Frozen):
    """A version's figures over the labels of the trailing window ``[start, end)``; ``rows`` have labels."""

    model_version: int
    start: datetime
    end: datetime
    rows: int
    metrics: dict[str, float | None]
    metric_intervals: dict[str, Interval]


class ColumnDriftStatus(_Frozen):
    """A column's population stability index and strongest effect (:class:`ml_platform.core.drift.ColumnDrift`)."""

    psi: float
    asked: str | None
    effect: float | None
    chance: float | None
    importance: float | None
    strength: float | None
    drifted: bool
    ignored: bool


class DriftStatus(_Frozen):
    """The newest drift report: ``strength`` of the strongest effect and its ``limit``, the verdict, figures by column.

    ``prediction`` are the scores' own figures; an alarm is a strength above the limit, on enough rows.
    """

    day: datetime
    strength: float
    limit: float
    alarm: bool
    reason: str
    prediction: ColumnDriftStatus
    columns: dict[str, ColumnDriftStatus]


class ShiftStatus(_Frozen):
    """What became of trials in which one feature was shifted by so many standard deviations.

    Shares of trials: with an alarm in the first window, within three, and in which drift persisted by then.
    """

    feature: str
    shift: float
    found_at_once: float
    found: float
    called: float
    delay_windows: float
    trials: int


class CalibrationStatus(_Frozen):
    """The limit of drift from a version, and what it does: see :mod:`ml_platform.core.drift_calibration`."""

    model_version: int
    alarm_limit: float
    false_alarms_per_100_windows: float
    false_alarms: int
    false_calls: int
    windows: int
    window_days: int
    reference_days: int
    shifts: list[ShiftStatus]


class ModelStatus(_Frozen):
    """One model. What speaks of the champion is None or empty while there is none.

    ``metrics`` and ``baseline_metrics`` were measured on ``evaluated_rows`` held-out rows; ``data_versions`` are the
    Delta versions its training set was made from, and the training set's own.
    """

    champion_version: int | None
    champion_since: datetime | None
    metrics: dict[str, float | None]
    metric_intervals: dict[str, Interval]
    baseline_metrics: dict[str, float | None]
    baseline_metric_intervals: dict[str, Interval]
    evaluated_rows: int | None
    evaluated_at_watermark: datetime | None
    training_rows: int | None
    data_versions: dict[str, int]
    last_decision: DecisionStatus | None
    performance: PerformanceStatus | None
    drift: DriftStatus | None
    predictions_rows: int
    champion_predictions_rows: int
    links: dict[str, str]


class PlatformStatus(_Frozen):
    """Everything. ``watermark`` is the least over all partitioned raw tables; None before each has landed."""

    home: str
    watermark: datetime | None
    tables: dict[str, RawTableStatus]
    features: dict[str, StoredTable]
    models: dict[str, ModelStatus]
    links: dict[str, str]


def platform_status(settings: Settings, datasets: Iterable[Dataset]) -> PlatformStatus:
    """The state of a home.

    Args:
        settings: where it is.
        datasets: what is declared.
    """
    lake, landing = Lake.of(settings), Landing(settings.landing)
    known = list(datasets)
    reached = [dataset.watermark(landing) for dataset in known]
    return PlatformStatus(
        home=str(settings.home),
        watermark=min((moment for moment in reached if moment), default=None) if all(reached) else None,
        tables={
            table.name: _raw_table(lake, dataset.landed(landing), dataset.spec, table)
            for dataset in known
            for table in dataset.tables
        },
        features={view: _table(lake, f"features/{view}") for dataset in known for view in dataset.views},
        models={model.name: _model(settings, lake, model) for dataset in known for model in dataset.models},
        links={"dagster": settings.dagster_url, "mlflow": settings.mlflow_url, "reports": settings.reports_url},
    )


def drift_status(lake: Lake, spec: ModelSpec) -> DriftStatus | None:
    """The newest drift report of a model; None if there is none."""
    rows = _newest(lake, drift_table(spec))
    if rows.is_empty():
        return None
    first = rows.row(0, named=True)
    columns = {
        row["column_name"]: ColumnDriftStatus(**{name: row[name] for name in ColumnDriftStatus.model_fields})
        for row in rows.sort("strength", "psi", descending=True, nulls_last=True).iter_rows(named=True)
    }
    return DriftStatus(
        day=first[REPORTED_DAY],
        strength=first["strongest"],
        limit=first["alarm_limit"],
        alarm=first["alarm"],
        reason=first["reason"],
        prediction=columns.pop(SCORE),
        columns=columns,
    )


def calibration_status(lake: Lake, spec: ModelSpec) -> CalibrationStatus | None:
    """The calibration of drift that stands; None if there is none."""
    if not lake.exists(calibration_table(spec)):
        return None
    rows = lake.read(calibration_table(spec)).filter("chosen").to_dicts()
    shifts = [ShiftStatus(**{name: row[name] for name in ShiftStatus.model_fields}) for row in rows]
    figures = {name: rows[0][name] for name in CalibrationStatus.model_fields if name != "shifts"}
    return CalibrationStatus(**figures, shifts=shifts)


def _raw_table(lake: Lake, landing: Landing, calendar: DatasetSpec, spec: TableSpec) -> RawTableStatus:
    quarantined = sum(state.rows for state in lake.partitions(quarantine_table(spec)).values())
    through = landing.landed_through(spec)
    gaps = landing.gaps(spec) if spec.kind is TableKind.PARTITIONED else ()
    stored = _table(lake, raw_table(spec)).model_dump()
    return RawTableStatus(**stored, quarantined=quarantined, landed_through=through, gaps=gaps)


def _table(lake: Lake, name: str) -> StoredTable:
    states = lake.partitions(name)
    return StoredTable(
        rows=sum(state.rows for state in states.values()),
        partitions=len(states),
        newest_partition=max(states, default=None),
        blocked={partition: state.blocked for partition, state in states.items() if state.blocked},
    )


def _model(settings: Settings, lake: Lake, spec: ModelSpec) -> ModelStatus:
    ledger = Ledger(lake)
    champion, latest = ledger.champion(spec.name), ledger.latest(spec.name)
    evaluation = _evaluation(lake, spec, champion)
    own, baseline = (
        evaluation.filter(pl.col("section") == "metric", pl.col("subject") == subject)
        for subject in ("candidate", "baseline")
    )
    measured_at = evaluation["evaluated_at_watermark"].max()
    metrics, intervals = _figures(own, "name")
    baseline_metrics, baseline_intervals = _figures(baseline, "name")
    rows = lake.partitions(predictions_table(spec))
    return ModelStatus(
        champion_version=None if champion is None else champion.version,
        champion_since=None if champion is None else champion.decided_at_watermark,
        metrics=metrics,
        metric_intervals=intervals,
        baseline_metrics=baseline_metrics,
        baseline_metric_intervals=baseline_intervals,
        evaluated_rows=_one(own["rows"]),
        evaluated_at_watermark=measured_at if isinstance(measured_at, datetime) else None,
        training_rows=_one(
            evaluation.filter(pl.col("section") == "score quantile", pl.col("name") == "training")["rows"]
        ),
        data_versions={} if champion is None else _data_versions(settings, lake, spec, champion, measured_at),
        last_decision=None if latest is None else _decision(latest),
        performance=_performance(lake, spec, champion),
        drift=drift_status(lake, spec),
        predictions_rows=sum(state.rows for state in rows.values()),
        champion_predictions_rows=_champion_predictions(lake, spec, champion, rows),
        links=_links(settings, spec, champion),
    )


def _evaluation(lake: Lake, spec: ModelSpec, champion: LedgerEntry | None) -> pl.DataFrame:
    """The champion's evaluation, long; empty without one."""
    table = evaluation_table(spec)
    text, number = (
        dict.fromkeys(("section", "name", "subject"), pl.String()),
        dict.fromkeys(("value", "low", "high"), pl.Float64()),
    )
    columns: dict[str, pl.DataType] = {
        "evaluated_at_watermark": pl.Datetime("us", "UTC"),
        **text,
        **number,
        "rows": pl.Int64(),
    }
    if champion is None or not lake.exists(table):
        return pl.DataFrame(schema=columns)
    return lake.scan(table).filter(pl.col("model_version") == champion.version).select(list(columns)).collect()


def _figures(rows: pl.DataFrame, name: str) -> tuple[dict[str, float | None], dict[str, Interval]]:
    values = {row[name]: row["value"] for row in rows.iter_rows(named=True)}
    return values, {
        row[name]: Interval(low=row["low"], high=row["high"])
        for row in rows.iter_rows(named=True)
        if row["low"] is not None
    }


def _one(rows: pl.Series) -> int | None:
    return None if rows.is_empty() else int(rows[0])


def _data_versions(
    settings: Settings, lake: Lake, spec: ModelSpec, champion: LedgerEntry, evaluated_at: Any
) -> dict[str, int]:
    """What the champion's training set was made from, with the training set's own version."""
    table = training_table(spec)
    # A training set is evaluated at the watermark it was built at. Two of one watermark: only the registry knows.
    made: dict[int, Mapping[str, int]] = {
        state.delta_version: state.inputs
        for state in lake.history(table)
        if isinstance(evaluated_at, datetime) and _same_moment(state.facts.get("as_of"), evaluated_at)
    }
    if len(made) != 1:
        from ml_platform.stores.models import ModelStore

        provenance = ModelStore(settings).describe(spec.name, champion.version).provenance
        made = {provenance.training_set_version: provenance.inputs}
    version, inputs = next(iter(made.items()))
    return {**inputs, table: version}


def _same_moment(seconds: float | None, moment: datetime) -> bool:
    return seconds is not None and abs(timedelta(seconds=seconds - moment.timestamp())) < timedelta(milliseconds=1)


def _decision(entry: LedgerEntry) -> DecisionStatus:
    gates: Sequence[Mapping[str, Any]] = json.loads(entry.gates)
    return DecisionStatus(
        version=entry.version,
        promoted=entry.promoted,
        rule=entry.rule,
        reason=entry.reason,
        decided_at_watermark=entry.decided_at_watermark,
        decided_at=entry.decided_at,
        by=entry.decided_by,
        failed_gates={gate["name"]: gate["explanation"] for gate in gates if not gate["passed"]},
    )


def _performance(lake: Lake, spec: ModelSpec, champion: LedgerEntry | None) -> PerformanceStatus | None:
    """The champion's newest trailing window; another version's while the champion's has no labels yet."""
    rows = _newest(lake, performance_table(spec)).filter(pl.col("period") == "trailing", pl.col("rows") > 0)
    if rows.is_empty():
        return None
    versions = rows["model_version"].unique().sort().to_list()
    version = champion.version if champion is not None and champion.version in versions else versions[-1]
    own = rows.filter(pl.col("model_version") == version)
    first = own.row(0, named=True)
    metrics, intervals = _figures(own, "metric")
    return PerformanceStatus(
        model_version=version,
        start=first["period_start"],
        end=first["period_end"],
        rows=first["rows"],
        metrics=metrics,
        metric_intervals=intervals,
    )


def _newest(lake: Lake, table: str) -> pl.DataFrame:
    """The rows of a report table's newest reported day."""
    days = [name for name, state in lake.partitions(table).items() if state.rows]
    if not days:
        return pl.DataFrame(schema={"period": pl.String, "rows": pl.Int64})
    frame = lake.scan(table).filter(pl.col("day").cast(pl.String) == max(days)).collect()
    return frame.filter(pl.col(REPORTED_DAY) == pl.col(REPORTED_DAY).max())


def _champion_predictions(
    lake: Lake, spec: ModelSpec, champion: LedgerEntry | None, states: Mapping[str, PartitionState]
) -> int:
    if champion is None or not states:
        return 0
    own = lake.scan(predictions_table(spec)).filter(pl.col("model_version") == champion.version)
    return int(own.select(pl.len()).collect().item())


def _links(settings: Settings, spec: ModelSpec, champion: LedgerEntry | None) -> dict[str, str]:
    links = {"assets": f"{settings.dagster_url}/assets/{spec.name}"}
    if champion is not None:
        links["champion"] = f"{settings.dagster_url}/assets/{spec.name}/champion"
        links["registry"] = f"{settings.mlflow_url}/#/models/{spec.name}/versions/{champion.version}"
    for page in sorted(settings.reports.glob(f"{spec.name}/*/*.html"), key=lambda page: page.stat().st_mtime):
        links[page.parent.name] = f"{settings.reports_url}/{page.relative_to(settings.reports).as_posix()}"
    return links
