"""What Feast's data quality monitoring keeps: one Parquet file for each kind of metric, beside ``feature_store.yaml``.

Feast computes the metrics. The files are where Feast's DuckDB store has them too, and of the same columns.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast.monitoring.monitoring_utils import MONITORING_DIR, monitoring_parquet_meta, normalize_monitoring_row
from feast.repo_config import RepoConfig
from pyarrow.fs import LocalFileSystem

from ml_platform.stores.asof_sources import alone, put

_DAY = "metric_date"
_MOMENTS = {"computed_at", "max_event_timestamp", "started_at", "completed_at"}
_NUMBERS = {
    "row_count",
    "null_count",
    "total_row_count",
    "total_features",
    "total_feature_views",
    "features_with_nulls",
}
_FIGURES = {
    *("null_rate", "avg_null_rate", "max_null_rate"),
    *("mean", "stddev", "min_val", "max_val", "p50", "p75", "p90", "p95", "p99"),
}


def prepare(config: RepoConfig) -> None:
    """Make the folder of the files."""
    (Path(config.repo_path or ".") / MONITORING_DIR).mkdir(parents=True, exist_ok=True)


def save(config: RepoConfig, kind: str, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Keep metrics; each takes the place of the one with its key.

    Raises:
        ValueError: Feast knows no such kind.
    """
    file, columns, key = _file(config, kind)
    prepare(config)
    with alone(str(file)):
        rows = {tuple(_plain(row, key).items()): row for row in _stored(file)}
        for metric in metrics:
            given = _plain(metric, columns)
            rows[tuple(_plain(given, key).items())] = given
        _write(file, columns, list(rows.values()))


def query(
    config: RepoConfig,
    project: str,
    kind: str,
    filters: Mapping[str, Any] | None,
    first: date | None,
    last: date | None,
) -> list[dict[str, Any]]:
    """Metrics of a project, or of all if it has no name, with these values and days, by day; None asks for any.

    Raises:
        ValueError: Feast knows no such kind.
    """
    file, columns, key = _file(config, kind)
    wanted = {name: value for name, value in (filters or {}).items() if value is not None}
    if project:
        wanted["project_id"] = project
    rows = [
        row
        for row in _stored(file)
        if all(row[name] == value for name, value in wanted.items())
        and (first is None or (row[_DAY] is not None and row[_DAY] >= first))
        and (last is None or (row[_DAY] is not None and row[_DAY] <= last))
    ]
    rows.sort(key=lambda row: (row[_DAY] or date.min, *(str(row[name]) for name in key)))
    return [normalize_monitoring_row({name: row.get(name) for name in columns}) for row in rows]


def forget_baseline(config: RepoConfig, filters: Mapping[str, str | None]) -> None:
    """Have features of these values, None meaning any, no baseline."""
    file, columns, _ = _file(config, "feature")
    prepare(config)
    with alone(str(file)):
        rows = _stored(file)
        for row in rows:
            if all(value is None or row[name] == value for name, value in filters.items()):
                row["is_baseline"] = False
        if rows:
            _write(file, columns, rows)


def _file(config: RepoConfig, kind: str) -> tuple[Path, list[str], list[str]]:
    """Where metrics of a kind are, their columns, and those that tell one from another."""
    name, columns, key = monitoring_parquet_meta(kind)
    return Path(config.repo_path or ".") / MONITORING_DIR / name, columns, key


def _stored(file: Path) -> list[dict[str, Any]]:
    return pq.read_table(file).to_pylist() if file.is_file() else []


def _write(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    schema = pa.schema([(name, _type(name)) for name in columns])
    put(LocalFileSystem(), str(file), [pa.Table.from_pylist(rows, schema=schema)])


def _plain(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """Values as the file has them."""
    found = {name: row.get(name) for name in columns}
    for name, value in found.items():
        if isinstance(value, str) and name == _DAY:
            found[name] = date.fromisoformat(value)
        elif isinstance(value, str) and name in _MOMENTS:
            found[name] = datetime.fromisoformat(value)
        elif isinstance(value, dict | list):
            found[name] = json.dumps(value)
    return found


def _type(column: str) -> pa.DataType:
    if column == _DAY:
        return pa.date32()
    if column in _MOMENTS:
        return pa.timestamp("us", "UTC")
    if column == "is_baseline":
        return pa.bool_()
    if column in _NUMBERS:
        return pa.int64()
    return pa.float64() if column in _FIGURES else pa.string()
