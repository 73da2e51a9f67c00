"""What the offline store is asked: an entity frame, and the views joined to it as they were known at its moments.

Belongs here: the frames, names and types of a question. How a join is made is :mod:`ml_platform.core.asof`, how a
source is read :mod:`ml_platform.stores.asof_sources`.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

import pandas as pd
import polars as pl
import pyarrow as pa
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.repo_config import RepoConfig
from feast.types import Bool, Float32, Float64, Int32, Int64, UnixTimestamp

from ml_platform.core.asof import join_as_of
from ml_platform.stores import asof_sources as sources
from ml_platform.stores.asof_sources import Rows
from ml_platform.stores.lake import Lake
from ml_platform.stores.sql import query_files

_AT = "event_timestamp"
_KEY, _MOMENT, _EVENT, _CREATED = "__key_", "__moment", "__event", "__created"
_FEWEST_ROWS = 10_000
_NUMBER_BYTES, _TEXT_BYTES = 8, 64
"""Of texts and nested values a guess, until a part of the answer is there."""

_TEXTS = (pl.String, pl.Categorical, pl.Enum)


def entity_frame(config: RepoConfig, given: pd.DataFrame | pa.Table | pl.DataFrame | str) -> pl.DataFrame:
    """What is asked about, as polars has it; SQL is run over the lake's tables, or over files where there is no lake.

    Raises:
        ValueError: it is no table.
        RefusedQueryError: the SQL is not one statement that reads.
    """
    if isinstance(given, str):
        if config.offline_store.lake is None:
            return query_files(given)
        return Lake(sources.lake_uri(config), config.offline_store.storage_options).query(given)
    if isinstance(given, pl.DataFrame):
        return given
    if isinstance(given, pd.DataFrame):
        return pl.from_pandas(_with_named_zones(given))
    found = pl.from_arrow(given.cast(sources.with_named_zones(given.schema)) if isinstance(given, pa.Table) else given)
    if isinstance(found, pl.Series):
        raise ValueError("the entity frame is one Arrow array: give a table")
    return found


def _with_named_zones(frame: pd.DataFrame) -> pd.DataFrame:
    """As :func:`ml_platform.stores.asof_sources.with_named_zones`."""
    moments = {name: dtype for name, dtype in frame.dtypes.items() if isinstance(dtype, pd.DatetimeTZDtype)}
    schema = pa.schema([(name, pa.timestamp("ns", dtype.tz)) for name, dtype in moments.items()])
    named = sources.with_named_zones(schema)
    changed = [name for name in moments if named.field(name) != schema.field(name)]
    frame = frame.copy(deep=False)
    for name in changed:
        frame[name] = frame[name].dt.tz_convert("UTC")
    return frame


def moment_column(frame: pl.DataFrame) -> str:
    """The column of the moments: ``event_timestamp``, or the one that Feast takes for it."""
    if _AT in frame.columns:
        return _AT
    return str(offline_utils.infer_event_timestamp_from_entity_df(frame.head(0).to_pandas().dtypes.to_dict()))


def as_utc(frame: pl.DataFrame, column: str) -> pl.Expr:
    """A column of moments in microseconds and UTC, under its name.

    Raises:
        ValueError: it has no moments.
    """
    return sources.moment(Rows("the entity frame", frame.lazy(), frame.schema), column)


def known_between(config: RepoConfig, views: Sequence[FeatureView], first: datetime, last: datetime) -> pl.DataFrame:
    """Keys and moments of every row of the views between two moments, each once.

    Views without keys are one row for all: they say who is asked about only where no view has keys.

    Raises:
        ValueError: the views have different join keys.
    """
    views = [view for view in views if _join_keys(view)] or views
    keys = {tuple(sorted(_join_keys(view))) for view in views}
    if len(keys) != 1:
        raise ValueError(f"views of the same join keys are needed without an entity frame; theirs are {sorted(keys)}")
    found = []
    for view in views:
        source = sources.of_view(view)
        rows, event = sources.read(config, source), _stored(view, source.timestamp_field)
        names = {ours: _stored(view, theirs) for ours, theirs in _join_keys(view).items()}
        rows.require([event, *names.values()])
        known = rows.between(event, first, last).select(
            *(pl.col(theirs).alias(ours) for ours, theirs in sorted(names.items())),
            sources.moment(rows, event).alias(_AT),
        )
        found.append(known.drop_nulls().unique())
    frame: pl.DataFrame = pl.concat(found, how="vertical_relaxed").unique().collect(engine="streaming")
    return frame.sort(_AT, *sorted(_join_keys(views[0])))


def shown_name(view: FeatureView) -> str:
    """How a view is called in the names of features: its alias or its name, without a version."""
    return str(view.projection.name_alias or view.name)


def features_asked(view: FeatureView, feature_refs: Sequence[str]) -> list[str]:
    """The view's features among those asked for as ``view:feature``."""
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


def require_askable(columns: Sequence[str], view: FeatureView, names: dict[str, str], at: str) -> None:
    """See that a view can be joined to a frame of these columns, as :func:`join_view` does.

    Raises:
        FeastEntityDFMissingColumnsError: a join key is missing.
        ValueError: a feature would be named as a column of the frame, or the view is stored nowhere.
    """
    sources.of_view(view)
    keys = set(_join_keys(view))
    if missing := keys - set(columns):
        raise FeastEntityDFMissingColumnsError(keys | {at}, missing)
    if clash := sorted(set(names.values()) & set(columns)):
        raise ValueError(f"features {clash} of view {view.name!r} are already columns of the entity frame")


def join_in_parts(
    config: RepoConfig,
    frame: pl.DataFrame,
    views: Sequence[tuple[FeatureView, dict[str, str]]],
    at: str,
    *,
    created_bounds: bool,
) -> Iterator[pl.DataFrame]:
    """As :func:`join_views`, in one frame or, where that would be larger than an answer may be, in several.

    Each reads the history of its own rows: of a frame in the order of its moments little is read twice.
    """
    most = config.offline_store.answer_bytes
    guess = frame.estimated_size() / max(1, frame.height) + sum(_width(view, names) for view, names in views)
    start, rows = 0, frame.height if frame.height * guess <= most else int(most / 2 / guess)
    while start == 0 or start < frame.height:
        rows = max(_FEWEST_ROWS, rows)
        found = join_views(config, frame.slice(start, rows), views, at, created_bounds=created_bounds)
        start += rows
        rows = int(most / 2 / max(1, found.estimated_size() / max(1, found.height)))
        yield found
        del found


def _width(view: FeatureView, names: Collection[str]) -> int:
    """About how many bytes a row of these features takes."""
    numbers = {Bool, Int32, Int64, Float32, Float64, UnixTimestamp}
    return sum(
        _NUMBER_BYTES if field.dtype in numbers else _TEXT_BYTES for field in view.features if field.name in names
    )


def join_views(
    config: RepoConfig,
    frame: pl.DataFrame,
    views: Sequence[tuple[FeatureView, dict[str, str]]],
    at: str,
    *,
    created_bounds: bool,
) -> pl.DataFrame:
    """The frame, its moments in UTC, with the features of each view, named as is said beside it."""
    asking = frame.with_columns(as_utc(frame, at))
    # Every view is joined in the order of the moments: they are brought into it, and back, once for all.
    order = None if asking[at].is_sorted() else asking[at].arg_sort()
    if order is not None:
        asking = asking[order]
    for view, names in views:
        entities = asking.select(frame.columns)
        asking = asking.hstack(join_view(config, entities, view, names, at, created_bounds=created_bounds))
    return asking if order is None else asking[order.arg_sort()]


def join_view(
    config: RepoConfig,
    frame: pl.DataFrame,
    view: FeatureView,
    names: dict[str, str],
    at: str,
    *,
    created_bounds: bool,
) -> pl.DataFrame:
    """A view's features, named as ``names`` says, of each row of the frame."""
    keys, source = _join_keys(view), sources.of_view(view)
    event, created = source.timestamp_field, source.created_timestamp_column or None
    times = [event, *([created] if created else [])]
    rows = sources.read(config, source)
    stored = {name: _stored(view, name) for name in (*keys.values(), *names, *times)}
    rows.require(list(stored.values()))
    types = {
        ours: _common(frame.schema[ours], rows.schema[stored[name]], f"join key {ours!r} of view {view.name!r}")
        for ours, name in keys.items()
    }
    asking = frame.select(*(_cast(frame, ours, dtype) for ours, dtype in types.items()), pl.col(at).alias(_MOMENT))

    def history(after: datetime | None, until: datetime) -> pl.LazyFrame:
        return rows.between(stored[event], after, until, first_counts=False).select(
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
        history_rows=config.offline_store.history_rows,
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
