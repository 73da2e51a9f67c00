"""Feast's offline store: point-in-time joins in polars, on Parquet, on Delta, and on the tables of the lake.

Only Feast imports this module, by the name in ``feature_store.yaml``; it therefore imports Feast at its
top, which nothing else under ``ml_platform`` may but what it is made of. Any Feast project may name it; with ``lake``
given, a Delta source at a relative path is a table of the lake. Why not a stock store: docs/adr/0006.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from feast.utils import compute_non_entity_date_range, make_tzaware
from pydantic import Field, PositiveInt

from ml_platform.core.asof import STEP_ROWS, join_as_of, newest_of_each
from ml_platform.stores import asof_sources as sources
from ml_platform.stores.asof_sources import Rows
from ml_platform.stores.lake import Lake

_AT = "event_timestamp"
_KEY, _MOMENT, _EVENT, _CREATED = "__key_", "__moment", "__event", "__created"
_MICROSECOND = timedelta(microseconds=1)
_TEXTS = (pl.String, pl.Categorical, pl.Enum)


class AsOfOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """How the store reads.

    ``lake``: where the platform's tables are, relative to the folder of ``feature_store.yaml`` unless absolute; None if
    every source says itself where it is. ``versions``: the version of a Delta table to read, by the path of its source
    (the newest where none is named). ``storage_options``: how object storage is reached, by the names of the variables
    that its own tools read. ``step_rows``: how many rows of an entity frame are joined at a time.
    """

    type: Literal["ml_platform.stores.asof_store.AsOfOfflineStore"] = "ml_platform.stores.asof_store.AsOfOfflineStore"
    lake: str | None = None
    storage_options: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, int] = Field(default_factory=dict)
    step_rows: PositiveInt = STEP_ROWS


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
            frame = _known_between(config, feature_views, first, last)
        else:
            frame = _frame(config, entity_df)
        at = _moment_column(frame)
        entity_columns = frame.columns
        asking = frame.with_columns(_as_utc(frame, at))
        # Every view is joined in the order of the moments: they are brought into it, and back, once for all.
        order = None if asking[at].is_sorted() else asking[at].arg_sort()
        if order is not None:
            asking = asking[order]
        for view in feature_views:
            wanted = _features(view, feature_refs)
            names = {name: f"{_shown(view)}__{name}" if full_feature_names else name for name in wanted}
            asking = asking.hstack(
                _join(
                    config, asking.select(entity_columns), view, names, at, created_bounds=filter_by_created_timestamp
                )
            )
        if order is not None:
            asking = asking[order.arg_sort()]
        metadata = RetrievalMetadata(
            features=feature_refs,
            keys=[name for name in entity_columns if name != at],
            min_event_timestamp=asking[at].min(),
            max_event_timestamp=asking[at].max(),
        )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return AsOfRetrievalJob(config, asking, on_demand, full_feature_names=full_feature_names, metadata=metadata)

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
        columns = [*join_key_columns, *feature_name_columns, *order]
        rows = _pulled(config, data_source, columns, order, start_date, end_date)
        newest = newest_of_each(rows, join_key_columns, timestamp_field, created_timestamp_column or None)
        found = newest.collect(engine="streaming").sort(timestamp_field, *join_key_columns)
        if not join_key_columns:
            found = found.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))
        return AsOfRetrievalJob(config, found, [], full_feature_names=False, metadata=None)

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
        columns = [*join_key_columns, *feature_name_columns, *order]
        rows = _pulled(config, data_source, columns, order, start_date, end_date)
        if not join_key_columns:
            rows = rows.with_columns(pl.lit(DUMMY_ENTITY_VAL).alias(DUMMY_ENTITY_ID))
        return AsOfRetrievalJob(config, rows.collect(), [], full_feature_names=False, metadata=None)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Add rows to the source of a view.

        Raises:
            ValueError: the columns are not those of the source, in its order.
            NotImplementedError: the source is a table of the lake, which only the platform writes.
        """
        source = feature_view.batch_source
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


class AsOfRetrievalJob(RetrievalJob):  # type: ignore[misc]
    """A result that is computed already; Feast adds the on-demand views."""

    def __init__(
        self,
        config: RepoConfig,
        frame: pl.DataFrame,
        on_demand: Sequence[OnDemandFeatureView],
        *,
        full_feature_names: bool,
        metadata: RetrievalMetadata | None,
    ) -> None:
        super().__init__()
        self._config = config
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

    def to_sql(self) -> str:
        """Refuse: nothing here is SQL.

        Raises:
            NotImplementedError: always; the message says what to use.
        """
        raise NotImplementedError("this store joins without SQL: use to_df, to_arrow or persist")

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result, on-demand features included, to a file in Parquet or Delta.

        Raises:
            SavedDatasetLocationAlreadyExists: something is there, and it is not to be overwritten.
        """
        sources.replace(self._config, storage.to_data_source(), self.to_arrow(), allow_overwrite=allow_overwrite)

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


# The entity frame ----------------------------------------------------------------------------------


def _frame(config: RepoConfig, given: pd.DataFrame | pa.Table | pl.DataFrame | str) -> pl.DataFrame:
    if isinstance(given, str):
        if config.offline_store.lake is None:
            return _query_files(given)
        return Lake(sources.lake_uri(config), config.offline_store.storage_options).query(given)
    if isinstance(given, pl.DataFrame):
        return given
    found = pl.from_pandas(given) if isinstance(given, pd.DataFrame) else pl.from_arrow(given)
    if isinstance(found, pl.Series):
        raise ValueError("the entity frame is one Arrow array: give a table")
    return found


def _query_files(sql: str) -> pl.DataFrame:
    import duckdb

    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"}) as connection:
        return pl.DataFrame(connection.sql(sql).pl())


def _moment_column(frame: pl.DataFrame) -> str:
    if _AT in frame.columns:
        return _AT
    return str(offline_utils.infer_event_timestamp_from_entity_df(frame.head(0).to_pandas().dtypes.to_dict()))


def _as_utc(frame: pl.DataFrame, column: str) -> pl.Expr:
    return sources.moment(Rows("the entity frame", frame.lazy(), frame.schema, by_day=False), column)


def _known_between(config: RepoConfig, views: Sequence[FeatureView], first: datetime, last: datetime) -> pl.DataFrame:
    """Keys and moments of every row of the views between two moments, each once.

    Raises:
        ValueError: the views have different join keys.
    """
    keys = {tuple(sorted(_join_keys(view))) for view in views}
    if len(keys) != 1:
        raise ValueError(f"views of the same join keys are needed without an entity frame; theirs are {sorted(keys)}")
    found = []
    for view in views:
        rows, event = sources.read(config, view.batch_source), _stored(view, view.batch_source.timestamp_field)
        names = {ours: _stored(view, theirs) for ours, theirs in _join_keys(view).items()}
        rows.require([event, *names.values()])
        known = rows.between(event, first, last).select(
            *(pl.col(theirs).alias(ours) for ours, theirs in sorted(names.items())),
            sources.moment(rows, event).alias(_AT),
        )
        found.append(known.drop_nulls().unique())
    frame: pl.DataFrame = pl.concat(found, how="vertical_relaxed").unique().collect(engine="streaming")
    return frame.sort(_AT, *sorted(_join_keys(views[0])))


# Views ---------------------------------------------------------------------------------------------


def _shown(view: FeatureView) -> str:
    """How a view is called in the names of features: its alias or its name, without a version."""
    return str(view.projection.name_alias or view.name)


def _features(view: FeatureView, feature_refs: Sequence[str]) -> list[str]:
    prefix = f"{view.projection.name_to_use()}:"
    return [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]


def _join_keys(view: FeatureView) -> dict[str, str]:
    """The view's key columns, by the name that the entity frame has for each."""
    return {
        view.projection.join_key_map.get(column.name, column.name): column.name
        for column in view.entity_columns
        if column.name != DUMMY_ENTITY_ID
    }


def _stored(view: FeatureView, name: str) -> str:
    """What the view's source calls a column."""
    mapped = (stored for stored, ours in view.batch_source.field_mapping.items() if ours == name)
    return str(next(mapped, name))


def _join(
    config: RepoConfig,
    frame: pl.DataFrame,
    view: FeatureView,
    names: dict[str, str],
    at: str,
    *,
    created_bounds: bool,
) -> pl.DataFrame:
    """A view's features, named as ``names`` says, of each row of the frame."""
    keys, source = _join_keys(view), view.batch_source
    if missing := set(keys) - set(frame.columns):
        raise FeastEntityDFMissingColumnsError(set(keys) | {at}, missing)
    if clash := sorted(set(names.values()) & set(frame.columns)):
        raise ValueError(f"features {clash} of view {view.name!r} are already columns of the entity frame")
    event, created = source.timestamp_field, source.created_timestamp_column or None
    times = [event, *([created] if created else [])]
    rows = sources.read(config, source)
    stored = {name: _stored(view, name) for name in (*keys.values(), *names, *times)}
    rows.require(list(stored.values()))
    rows.require(list(stored.values()))
    types = {
        ours: _common(frame.schema[ours], rows.schema[stored[name]], f"join key {ours!r} of view {view.name!r}")
        for ours, name in keys.items()
    }
    asking = frame.select(*(_cast(frame, ours, dtype) for ours, dtype in types.items()), pl.col(at).alias(_MOMENT))

    def history(after: datetime | None, until: datetime) -> pl.LazyFrame:
        return rows.between(stored[event], None if after is None else after + _MICROSECOND, until).select(
            *(pl.col(stored[name]).cast(types[ours]).alias(_KEY + ours) for ours, name in keys.items()),
            sources.moment(rows, stored[event]).alias(_EVENT),
            *([sources.moment(rows, stored[created]).alias(_CREATED)] if created else []),
            *(pl.col(stored[name]).alias(shown) for name, shown in names.items()),
        )

    return join_as_of(
        asking,
        history,
        keys={ours: _KEY + ours for ours in keys},
        at=_MOMENT,
        event=_EVENT,
        values=list(names.values()),
        ttl=view.ttl,
        created=_CREATED if created else None,
        created_bounds=created_bounds and created is not None,
        step_rows=config.offline_store.step_rows,
    ).select(list(names.values()))


def _common(asked: pl.DataType, stored: pl.DataType, what: str) -> pl.DataType:
    """The type in which a key of the entity frame and one of a source are compared.

    Raises:
        ValueError: they cannot be.
    """
    if asked == stored or asked == pl.Null:
        return stored
    if stored == pl.Null:
        return asked
    if isinstance(asked, _TEXTS) and isinstance(stored, _TEXTS):
        return pl.String()
    # pandas has integers with missing values as floats.
    if stored.is_integer() and (asked.is_integer() or asked.is_float()):
        return pl.Int128() if pl.UInt64 in (asked, stored) else pl.Int64()
    raise ValueError(f"{what} is {asked} in the entity frame and {stored} in the source: cast one of them")


def _cast(frame: pl.DataFrame, key: str, dtype: pl.DataType) -> pl.Series:
    """A key of the entity frame in the type in which it is compared.

    Raises:
        ValueError: a float that is to be an integer is none.
    """
    values = frame[key]
    if values.dtype.is_float() and dtype.is_integer():
        values = values.fill_nan(None)
        if not (values == values.floor()).all():
            raise ValueError(f"join key {key!r} is an integer in the source, and has fractions in the entity frame")
    return values.cast(dtype)


def _pulled(
    config: RepoConfig,
    source: DataSource,
    columns: Sequence[str],
    times: Sequence[str],
    start: datetime | None,
    end: datetime | None,
) -> pl.LazyFrame:
    """A source's columns by the names that it has itself, its timestamps in UTC."""
    rows = sources.read(config, source)
    rows.require(columns)
    first, last = (None if bound is None else make_tzaware(bound) for bound in (start, end))
    wanted = [name for name in dict.fromkeys(columns) if name not in times]
    return rows.between(times[0], first, last).select(
        *wanted, *(sources.moment(rows, name).alias(name) for name in times)
    )
