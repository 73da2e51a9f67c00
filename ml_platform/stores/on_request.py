"""Scores asked for by hand: rows named by key or given whole, by the champion, through the path of all predictions.

Nothing is written: the record of predictions is :mod:`ml_platform.stores.model_tables`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from ml_platform.core.feature_manifest import EVENT_TIME, FeatureManifest
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.scoring import score
from ml_platform.core.view_frames import polars_dtype
from ml_platform.settings import Settings
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.models import ModelStore, ModelVersion
from ml_platform.stores.transforms import bind

_UTC = pl.Datetime("us", "UTC")


class NoChampionError(LookupError):
    """The model has no champion, and nothing else may predict."""


@dataclass(frozen=True)
class Scored:
    """Rows with ``score`` (and ``decision``), ``known_until`` (the moment its features are of), by which version."""

    version: ModelVersion
    rows: pl.DataFrame


def entity_rows(
    lake: Lake, dataset: Dataset, spec: ModelSpec, keys: Mapping[str, str], *, watermark: datetime
) -> pl.DataFrame:
    """The model's entity rows with these values, from all that has landed, in order of ``prediction_time``.

    Args:
        lake: where the raw tables are.
        dataset: the model's data set.
        spec: the model.
        keys: value by column of the entity frame, as text; a time in ISO format, UTC if it names no offset.
        watermark: how far the data go; no row is derived for a later moment.

    Raises:
        LookupError: a column does not exist, or no row has these values.
        ValueError: the value for a time is none.
    """
    entities = bind(spec.entities, dataset.folder)
    frames = {name: lake.read(f"raw/{name}") for name in entities.spec.inputs}
    rows = entities(frames, datetime.combine(dataset.spec.start, datetime.min.time(), UTC), watermark)
    if unknown := sorted(set(keys) - set(rows.columns)):
        raise LookupError(f"{spec.name} has no column {unknown[0]!r} to find rows by; it has {', '.join(rows.columns)}")
    found = rows.filter(_equals(rows, name, value) for name, value in keys.items())
    if found.is_empty():
        asked = ", ".join(f"{name}={value}" for name, value in keys.items())
        raise LookupError(f"{spec.name}: no row with {asked} has landed; keys look like {_example(spec, rows)}")
    return found.sort("prediction_time")


def given_rows(manifest: FeatureManifest, spec: ModelSpec, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows from JSON in the types of the model's feature service; ``prediction_time`` may be among them.

    Raises:
        ValueError: a column is missing, or a value is not of its type.
    """
    service = manifest.service(spec.service)
    columns = [
        column for name in service.views for column in (*manifest.view(name).join_keys, *manifest.view(name).request)
    ]
    dtypes: dict[str, pl.DataType] = {column.name: polars_dtype(column) for column in columns}
    dtypes["prediction_time"] = pl.Datetime("us", "UTC")
    for number, row in enumerate(rows, start=1):
        if missing := sorted(set(service.entity_columns) - set(row)):
            raise ValueError(f"row {number} lacks {missing}; {spec.name} needs {list(service.entity_columns)}")
    series = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            series.append(_typed(name, values, dtypes.get(name)))
        except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
            raise ValueError(f"column {name!r} must be {dtypes.get(name)}, not {values[0]!r}: {error}") from None
    return pl.DataFrame(series)


def score_rows(
    settings: Settings,
    spec: ModelSpec,
    rows: pl.DataFrame,
    *,
    watermark: datetime,
    until: datetime | None = None,
    online: bool = False,
) -> Scored:
    """Let the champion score rows, with features as they were known at each row's moment.

    That moment is the row's ``prediction_time``, or ``until`` or the watermark if that is earlier or it has none.

    Args:
        settings: of the home.
        spec: the model.
        rows: columns of the feature service's request, as :func:`entity_rows` or :func:`given_rows` give them.
        watermark: how far the data go.
        until: nothing that became known after this is used.
        online: read features from the online store, which knows only the newest.

    Raises:
        NoChampionError: no version was ever promoted.
    """
    models, client = ModelStore(settings), FeatureClient(settings)
    champion = models.champion(spec.name)
    if champion is None:
        raise NoChampionError(f"{spec.name} has no champion yet, and nothing else may predict: run `ml-platform run`")
    limit = min(watermark, until) if until else watermark
    due = pl.col("prediction_time") if "prediction_time" in rows.columns else pl.lit(limit)
    moments = rows.with_columns(pl.min_horizontal(due, pl.lit(limit)).cast(_UTC).alias(EVENT_TIME))
    if online:
        joined = client.online(spec.service, moments, as_of=limit).with_columns(
            pl.lit(limit).cast(_UTC).alias(EVENT_TIME)
        )
    else:
        joined = client.historical(spec.service, moments)
    scored = score(models.load(spec.name, champion.version), joined)
    shown = [name for name in (*spec.keys, "prediction_time") if name in scored.columns]
    answers = [name for name in ("score", "decision") if name in scored.columns]
    return Scored(champion, scored.select(*shown, pl.col(EVENT_TIME).alias("known_until"), *answers))


def _equals(rows: pl.DataFrame, name: str, text: str) -> pl.Expr:
    if rows.schema[name] != _UTC:
        return pl.col(name).cast(pl.String) == text
    moment = datetime.fromisoformat(text)
    return pl.col(name) == (moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _typed(name: str, values: Sequence[Any], dtype: pl.DataType | None) -> pl.Series:
    if dtype == _UTC:
        moments = [None if value is None else datetime.fromisoformat(value) for value in values]
        return pl.Series(name, [m and (m.replace(tzinfo=UTC) if m.tzinfo is None else m) for m in moments], dtype=_UTC)
    return pl.Series(name, values, dtype=dtype)


def _example(spec: ModelSpec, rows: pl.DataFrame) -> str:
    if rows.is_empty():
        return "nothing: no row has landed"
    return ", ".join(f"{key}={rows.get_column(key)[-1]}" for key in spec.keys)
