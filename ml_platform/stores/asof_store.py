"""Feast's offline store over the lake: point-in-time joins in polars.

Only Feast imports this module, by the name in ``feature_store.yaml``; it therefore imports Feast at its
top, which nothing else under ``ml_platform`` may. Sources are ``FileSource`` with ``DeltaFormat`` whose
path is a table of the lake. Why not a stock store: none reads Delta without a download (docs/adr).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import Field

from ml_platform.core.asof import join_as_of
from ml_platform.stores.lake import Lake

_UTC = pl.Datetime("us", "UTC")


class AsOfOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """Where the lake is, and which versions of its tables to read (the newest where none is named).

    A relative ``lake`` is relative to the folder of ``feature_store.yaml``.
    """

    type: Literal["ml_platform.stores.asof_store.AsOfOfflineStore"] = "ml_platform.stores.asof_store.AsOfOfflineStore"
    lake: str
    storage_options: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, int] = Field(default_factory=dict)


class AsOfOfflineStore(OfflineStore):  # type: ignore[misc]
    """Historical retrieval, and the newest or all rows of a source, from Delta tables."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **unsupported: object,
    ) -> RetrievalJob:
        """``entity_df`` with each view's values as known at each row's ``event_timestamp``.

        ``entity_df`` is a pandas frame, or SQL over the lake that gives one; the other arguments are those of
        Feast's interface.

        Raises:
            NotImplementedError: no ``entity_df`` (retrieval over a time range).
            ValueError: an entity column is missing; the message names it and the view.
        """
        if entity_df is None:
            raise NotImplementedError(
                "give an entity frame (pandas, or SQL over the lake): ranges are not supported yet"
            )
        lake = _lake(config)
        frame = lake.query(entity_df) if isinstance(entity_df, str) else pl.from_pandas(entity_df)
        at = offline_utils.infer_event_timestamp_from_entity_df(
            dict.fromkeys(frame.columns, None)
            if "event_timestamp" in frame.columns
            else frame.to_pandas().dtypes.to_dict()
        )
        frame = frame.with_columns(_as_utc(frame, at))
        entity_columns = frame.columns
        for view in feature_views:
            frame = _join_view(
                lake, config, frame, view, feature_refs, at, full_feature_names, filter_by_created_timestamp
            )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in entity_columns if name != at],
            min_event_timestamp=frame[at].min(),
            max_event_timestamp=frame[at].max(),
        )
        return AsOfRetrievalJob(frame, on_demand, full_feature_names=full_feature_names, metadata=metadata)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row of each key in ``[start_date, end_date]``; what ``feast materialize`` writes."""
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        rows = _rows(
            config,
            data_source,
            [*join_key_columns, *feature_name_columns, *order],
            timestamp_field,
            start_date,
            end_date,
        )
        if join_key_columns:
            newest = rows.sort(order, maintain_order=True).unique(join_key_columns, keep="last", maintain_order=True)
        else:
            newest = rows.sort(order, maintain_order=True).tail(1)
        return AsOfRetrievalJob(newest, [], full_feature_names=False, metadata=None)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row in ``[start_date, end_date]``."""
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        rows = _rows(
            config,
            data_source,
            [*join_key_columns, *feature_name_columns, *order],
            timestamp_field,
            start_date,
            end_date,
        )
        return AsOfRetrievalJob(rows, [], full_feature_names=False, metadata=None)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """Accept any table name: a view is applied before its first rows are written."""

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> list[tuple[str, str]]:
        """Refuse to guess: views declare their schema.

        Raises:
            ValueError: always; the message names the table.
        """
        raise ValueError(f"declare the whole schema of the view on {data_source.path!r}: it is not inferred from data")


class AsOfRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A result that is computed already; Feast adds the on-demand views."""

    def __init__(
        self,
        frame: pl.DataFrame,
        on_demand: Sequence[OnDemandFeatureView],
        *,
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
    ) -> None:
        super().__init__()
        self._frame = frame
        self._on_demand = list(on_demand)
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        # One chunk: Feast's conversion for the online store takes the first batch of a table and drops the rest.
        table: pa.Table = self._frame.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        return table.combine_chunks()

    @property
    def full_feature_names(self) -> bool:
        """Whether features are named ``view__feature``."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """The on-demand views to compute on the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata


def _join_view(
    lake: Lake,
    config: RepoConfig,
    frame: pl.DataFrame,
    view: FeatureView,
    feature_refs: Sequence[str],
    at: str,
    full_feature_names: bool,
    created_bounds: bool,
) -> pl.DataFrame:
    source, prefix = view.batch_source, view.projection.name_to_use()
    wanted = [ref.split(":", 1)[1] for ref in feature_refs if ref.split(":", 1)[0] == prefix]
    join_keys = [column.name for column in view.entity_columns]
    keys = {view.projection.join_key_map.get(key, key): key for key in join_keys}
    if missing := sorted(set(keys) - set(frame.columns)):
        raise ValueError(
            f"the entity frame lacks {missing}, the join keys of view {view.name!r}; it has {frame.columns}"
        )
    event, created = source.timestamp_field, source.created_timestamp_column or None
    columns = [*join_keys, *wanted, event, *([created] if created else [])]
    first, last = cast(datetime | None, frame[at].min()), cast(datetime | None, frame[at].max())
    earliest = first - view.ttl if view.ttl and first is not None else None
    rows = _read(lake, config.offline_store.versions, source, columns, event, earliest, last)
    names = {name: f"{prefix}__{name}" if full_feature_names else name for name in wanted}
    return join_as_of(
        frame,
        rows.rename(names),
        keys=keys,
        at=at,
        event=event,
        values=list(names.values()),
        ttl=view.ttl,
        created=created,
        created_bounds=created_bounds and created is not None,
    )


def _rows(
    config: RepoConfig,
    source: DataSource,
    columns: Sequence[str],
    timestamp: str,
    start: datetime | None,
    end: datetime | None,
) -> pl.DataFrame:
    return _read(_lake(config), config.offline_store.versions, source, columns, timestamp, start, end)


def _read(
    lake: Lake,
    versions: Mapping[str, int],
    source: DataSource,
    columns: Sequence[str],
    timestamp: str,
    start: datetime | None,
    end: datetime | None,
) -> pl.DataFrame:
    """The source's columns (after its field mapping) of rows with ``start <= timestamp <= end``."""
    theirs = {ours: name for name, ours in source.field_mapping.items()}
    rows = lake.scan(source.path, version=versions.get(source.path))
    stored = set(rows.collect_schema().names())
    if absent := sorted(theirs.get(name, name) for name in columns if theirs.get(name, name) not in stored):
        raise ValueError(
            f"table {source.path!r} lacks the columns {absent} that its view declares; it has {sorted(stored)}"
        )
    if "day" in stored:
        # Partitions are days of the event: whole files are skipped.
        if start is not None:
            rows = rows.filter(pl.col("day") >= start.astimezone(UTC).date())
        if end is not None:
            rows = rows.filter(pl.col("day") <= end.astimezone(UTC).date())
    rows = rows.select(pl.col(theirs.get(name, name)).alias(name) for name in dict.fromkeys(columns))
    if start is not None:
        rows = rows.filter(pl.col(timestamp) >= start.astimezone(UTC))
    if end is not None:
        rows = rows.filter(pl.col(timestamp) <= end.astimezone(UTC))
    frame: pl.DataFrame = rows.collect()
    return frame


def _lake(config: RepoConfig) -> Lake:
    uri = config.offline_store.lake
    if "://" not in uri and not Path(uri).is_absolute():
        uri = str((Path(config.repo_path) / uri).resolve())
    return Lake(uri, config.offline_store.storage_options)


def _as_utc(frame: pl.DataFrame, column: str) -> pl.Expr:
    dtype = frame.schema[column]
    if dtype == pl.String:
        return pl.col(column).str.to_datetime(time_unit="us", time_zone="UTC")
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
        return pl.col(column).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.col(column).cast(_UTC)
