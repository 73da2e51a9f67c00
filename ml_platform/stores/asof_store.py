"""Feast's offline store: point-in-time joins in polars, on Parquet, on Delta, and on the tables of the lake.

Only Feast imports this module, by the name in ``feature_store.yaml``; it therefore imports Feast at its
top, which nothing else under ``ml_platform`` may but what it is made of. Any Feast project may name it; with ``lake``
given, a Delta source at a relative path is a table of the lake. Why not a stock store: docs/adr/0006.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import compute_non_entity_date_range, make_tzaware
from pydantic import Field, PositiveInt

from ml_platform.core.asof import HISTORY_ROWS, STEP_ROWS, newest_of_each
from ml_platform.stores import asof_monitoring as monitoring
from ml_platform.stores import asof_sources as sources
from ml_platform.stores.asof_answers import Answer
from ml_platform.stores.asof_questions import (
    as_utc,
    entity_frame,
    features_asked,
    join_in_parts,
    known_between,
    moment_column,
    require_askable,
    shown_name,
)


class AsOfOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """How the store reads.

    ``lake``: where the platform's tables are, relative to the folder of ``feature_store.yaml`` unless absolute; None if
    every source says itself where it is. ``versions``: the version of a Delta table to read, by the path of its source
    (the newest where none is named). ``storage_options``: how object storage is reached, by the names of the variables
    that its own tools read. ``step_rows``: how many rows of an entity frame are joined at a time.
    ``history_rows``: how many rows of a source between their moments are held at a time. ``answer_bytes``: how large an
    answer is in memory; a larger one is computed in parts of half as much and kept in a temporary file.
    """

    type: Literal["ml_platform.stores.asof_store.AsOfOfflineStore"] = "ml_platform.stores.asof_store.AsOfOfflineStore"
    lake: str | None = None
    storage_options: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, int] = Field(default_factory=dict)
    step_rows: PositiveInt = STEP_ROWS
    history_rows: PositiveInt = HISTORY_ROWS
    answer_bytes: PositiveInt = 4 << 30


class AsOfOfflineStore(OfflineStore):  # type: ignore[misc]
    """Every promise of Feast's interface, on files."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | pl.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """``entity_df`` with each view's values as known at each row's ``event_timestamp``.

        Args:
            config: Feast's configuration, with this store's.
            feature_views: the views that are asked for.
            feature_refs: ``view:feature``.
            entity_df: a pandas, Arrow or polars frame; SQL that gives one, over the lake's tables or else over files
                (``FROM 'orders.parquet'``); or None, for every row of the views between two moments.
            registry: Feast's.
            project: Feast's.
            full_feature_names: name features ``view__feature``.
            filter_by_created_timestamp: count what was written later than a row's moment as not known.
            start_date: without ``entity_df``: the first moment; before ``end_date`` by the longest TTL if absent.
            end_date: the last moment; now if absent.

        Raises:
            FeastEntityDFMissingColumnsError: a join key is missing.
            ValueError: a column cannot be what it has to be; the message names it.
        """
        if entity_df is None:
            first, last = compute_non_entity_date_range(feature_views, start_date=start_date, end_date=end_date)
            frame = known_between(config, feature_views, first, last)
        else:
            frame = entity_frame(config, entity_df)
        at = moment_column(frame)
        views = [(view, _shown(view, feature_refs, full=full_feature_names)) for view in feature_views]
        for view, names in views:
            require_askable(frame.columns, view, names, at)
        moments = frame.select(as_utc(frame, at))[at]
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in frame.columns if name != at],
            min_event_timestamp=moments.min(),
            max_event_timestamp=moments.max(),
        )

        def known() -> Iterator[pl.DataFrame]:
            return join_in_parts(config, frame, views, at, created_bounds=filter_by_created_timestamp)

        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return AsOfRetrievalJob(config, known, on_demand, full_feature_names=full_feature_names, metadata=metadata)

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
        """The newest row of each key in ``[start_date, end_date]``, with every column if no feature is named."""
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = (join_key_columns, feature_name_columns, order)

        def newest() -> Iterator[pl.DataFrame]:
            rows = _pulled(config, data_source, *columns, start_date, end_date)
            found = newest_of_each(rows, join_key_columns, timestamp_field, created_timestamp_column or None)
            found = found if join_key_columns else _with_the_key_of_all(found)
            yield found.collect(engine="streaming").sort(timestamp_field, *join_key_columns)

        return AsOfRetrievalJob(config, newest, [], full_feature_names=False, metadata=None, at_once=True)

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
        """Every row in ``[start_date, end_date]``, with every column if no feature is named; what is materialised.

        Rows of a view without keys have the one that Feast looks up for it; a log or a saved data set, whose source
        says no timestamp, has the columns that are asked for.
        """
        order = [timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        columns = (join_key_columns, feature_name_columns, order)

        def every() -> Iterator[pl.DataFrame]:
            rows = _pulled(config, data_source, *columns, start_date, end_date)
            if data_source.timestamp_field and not join_key_columns:
                rows = _with_the_key_of_all(rows)
            yield rows.head(0).collect()
            yield from rows.collect_batches(engine="streaming")

        return AsOfRetrievalJob(config, every, [], full_feature_names=False, metadata=None, at_once=True)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to the source of a view.

        Raises:
            ValueError: the columns are not those of the source, in its order; or the view has no source.
            NotImplementedError: the source is a table of the lake, which only the platform writes.
        """
        source = sources.of_view(feature_view)
        if not sources.lake_table(config, source):
            stored = list(sources.read(config, source).schema)
            if table.column_names != stored:
                raise ValueError(
                    f"source {source.path!r} has the columns {stored}, in this order; given are {table.column_names}"
                )
        sources.append(config, source, table)
        if progress is not None:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Add logged features to a folder of Parquet files.

        Raises:
            NotImplementedError: the destination is no ``FileLoggingDestination``.
        """
        destination = logging_config.destination
        table = pq.read_table(data) if isinstance(data, Path) else data
        partition_by = getattr(destination, "partition_by", None)
        sources.write_log(config, destination.to_data_source(), table, partition_by)

    def validate_data_source(self, config: RepoConfig, data_source: DataSource) -> None:
        """See that a file is there; any table of the lake is accepted: views are applied before their first rows."""
        if not sources.lake_table(config, data_source):
            sources.read(config, data_source)

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> list[tuple[str, str]]:
        """Names and Arrow types of a file's columns.

        Raises:
            ValueError: a table of the lake, which may not be written yet.
        """
        if sources.lake_table(config, data_source):
            raise ValueError(
                f"declare the whole schema of the view on {data_source.path!r}: the lake may not have the table yet"
            )
        nothing = sources.read(config, data_source).lazy.head(0).collect()
        schema = nothing.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        return [(field.name, str(field.type).replace("large_", "")) for field in schema]

    @staticmethod
    def get_monitoring_max_timestamp(
        config: RepoConfig, data_source: DataSource, timestamp_field: str
    ) -> datetime | None:
        """The newest moment of a source; None if it has no rows."""
        rows = sources.read(config, data_source)
        rows.require([timestamp_field])
        newest: datetime | None = rows.lazy.select(sources.moment(rows, timestamp_field).max()).collect().item()
        return newest

    @staticmethod
    def compute_monitoring_metrics(*_: object, **__: object) -> list[dict[str, Any]]:
        """Leave it to Feast, which then computes in Python what it reads by :meth:`pull_all_from_table_or_query`.

        Raises:
            NotImplementedError: always; it is what Feast waits for.
        """
        raise NotImplementedError("this store computes no monitoring metrics: Feast does, on what it reads from here")

    @staticmethod
    def ensure_monitoring_tables(config: RepoConfig) -> None:
        """Make the folder of what Feast's monitoring keeps, ``feast_monitoring`` beside ``feature_store.yaml``."""
        monitoring.prepare(config)

    @staticmethod
    def save_monitoring_metrics(config: RepoConfig, metric_type: str, metrics: list[dict[str, Any]]) -> None:
        """Keep metrics; each takes the place of the one with its key."""
        monitoring.save(config, metric_type, metrics)

    @staticmethod
    def query_monitoring_metrics(
        config: RepoConfig,
        project: str,
        metric_type: str,
        filters: dict[str, Any] | None = None,
        start_date: date | None = None,
        end_date: date | None = None,
    ) -> list[dict[str, Any]]:
        """Metrics that were kept, of these values and days."""
        return monitoring.query(config, project, metric_type, filters, start_date, end_date)

    @staticmethod
    def clear_monitoring_baseline(
        config: RepoConfig,
        project: str,
        feature_view_name: str | None = None,
        feature_name: str | None = None,
        data_source_type: str | None = None,
    ) -> None:
        """Have features no baseline, so that Feast computes one anew."""
        filters = {
            "project_id": project,
            "feature_view_name": feature_view_name,
            "feature_name": feature_name,
            "data_source_type": data_source_type,
        }
        monitoring.forget_baseline(config, filters)


class AsOfRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A result that is computed when it is first asked for, and once; Feast adds the on-demand views.

    What is asked about is read and checked before, the sources are not: Feast makes jobs that it may never run, as for
    the rows of a saved dataset whose profile it has kept.
    """

    def __init__(
        self,
        config: RepoConfig,
        compute: Callable[[], Iterable[pl.DataFrame]],
        on_demand: Sequence[OnDemandFeatureView],
        *,
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
        at_once: bool = False,
    ) -> None:
        super().__init__()
        self._config = config
        self._compute = compute
        self._on_demand = list(on_demand)
        self._full_feature_names = full_feature_names
        self._metadata = metadata
        self._at_once = at_once

    @cached_property
    def _answer(self) -> Answer:
        answer = Answer(self._compute(), self._config.offline_store.answer_bytes)
        # What was asked about is let go of.
        self._compute = list
        return answer

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        table = self._answer.table()
        # Of rows that go online Feast takes the first batch alone.
        return table.combine_chunks() if self._at_once else table

    def _parts(self) -> Iterator[pa.Table]:
        """The result, on-demand features included, no more of it in memory than is to be."""
        if not self._answer.spilled:
            yield self.to_arrow()
            return
        for table in self._answer.tables():
            part = copy(self)
            part._answer = Answer([pl.DataFrame(table)], sys.maxsize)
            yield part.to_arrow()

    def to_sql(self) -> str:
        """Refuse: nothing here is SQL.

        Raises:
            NotImplementedError: always; the message says what to use.
        """
        raise NotImplementedError("this store joins without SQL: use to_df, to_arrow or persist")

    def to_remote_storage(self) -> list[str]:
        """Refuse: nothing is exported.

        Raises:
            NotImplementedError: always; the message says what to use.
        """
        raise NotImplementedError("this store exports no result: use persist, whose path may be in object storage")

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result, on-demand features included, in Parquet or Delta; a large one a part at a time.

        Raises:
            SavedDatasetLocationAlreadyExists: something is there, and it is not to be overwritten.
        """
        sources.replace(self._config, storage.to_data_source(), self._parts(), allow_overwrite=allow_overwrite)

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


def _shown(view: FeatureView, feature_refs: Sequence[str], *, full: bool) -> dict[str, str]:
    """What each feature of a view that is asked for is called in the answer."""
    wanted = features_asked(view, feature_refs)
    return {name: f"{shown_name(view)}__{name}" if full else name for name in wanted}


def _pulled(
    config: RepoConfig,
    source: DataSource,
    keys: Sequence[str],
    features: Sequence[str],
    times: Sequence[str],
    start: datetime | None,
    end: datetime | None,
) -> pl.LazyFrame:
    """A source's columns by the names that it has itself, its timestamps in UTC.

    Without features all: so Feast asks for what a transformation of a view is to be given.
    """
    rows = sources.read(config, source)
    columns = [*keys, *(features or rows.schema), *times]
    rows.require(columns)
    first, last = (None if bound is None else make_tzaware(bound) for bound in (start, end))
    wanted = [name for name in dict.fromkeys(columns) if name not in times]
    return rows.between(times[0], first, last).select(
        *wanted, *(sources.moment(rows, name).alias(name) for name in times)
    )


def _with_the_key_of_all(found: pl.LazyFrame) -> pl.LazyFrame:
    """Rows with the key that Feast looks up where a view has none."""
    return found.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))
