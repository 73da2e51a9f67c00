"""Feast, as the platform uses it: historical and online retrieval.

Belongs here: every call to Feast. Feast is imported inside functions (it takes seconds); what the repository declares,
known without it, is :mod:`ml_platform.stores.feature_repository`.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from ml_platform.core.feature_manifest import EVENT_TIME, ViewSpec
from ml_platform.core.view_frames import polars_dtype
from ml_platform.settings import Settings, prepare_environment
from ml_platform.stores.feature_repository import FeatureRepository
from ml_platform.stores.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from feast import FeatureStore

_READ_BACK_ROWS = 500
_UTC = pl.Datetime("us", "UTC")


class Pushed(NamedTuple):
    """What went to the online store: keys alive in the source, how many of them it answers for, and keys it lost."""

    source_keys: int
    online_keys: int
    removed_keys: int = 0


class FeatureClient(FeatureRepository):
    """The feature repository of these settings, and the features that it serves."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._opened: tuple[str, FeatureStore] | None = None

    def historical(
        self, service: str, entity_frame: pl.DataFrame, *, versions: Mapping[str, int] | None = None
    ) -> pl.DataFrame:
        """Each row with the service's features as they were known at its ``event_timestamp``.

        Args:
            service: name of a feature service.
            entity_frame: its join keys and request columns, ``event_timestamp`` (UTC) and whatever else.
            versions: Delta version by table (``features/weather_at_origin``); the newest where none is named.

        Returns:
            ``entity_frame``, its rows and columns in their order, then the features in the service's order.

        Raises:
            LookupError: no such service.
            ValueError: a column the service needs is missing, or one has a feature's name.
        """
        manifest = self.manifest()
        spec = manifest.service(service)
        if missing := sorted({*spec.entity_columns, EVENT_TIME} - set(entity_frame.columns)):
            raise ValueError(f"service {service!r} needs the columns {missing}; given are {entity_frame.columns}")
        if clash := sorted(set(spec.features) & set(entity_frame.columns)):
            raise ValueError(f"columns {clash} have the names of features of {service!r}: drop or rename them")
        needed = entity_frame.select(*spec.entity_columns, EVENT_TIME)
        dtypes = {name: polars_dtype(manifest.column(service, name)) for name in spec.features}
        if entity_frame.is_empty():
            return entity_frame.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in dtypes.items())
        store = self._store(versions or {})
        with _quiet():
            job = store.get_historical_features(needed.to_pandas(), store.get_feature_service(service))
            result = pl.DataFrame(job.to_arrow())
        features = result.select(pl.col(name).cast(dtype) for name, dtype in dtypes.items())
        return pl.concat([entity_frame, features], how="horizontal")

    def push_online(self, view: str, *, as_of: datetime | None = None) -> Pushed:
        """Have the online store hold the newest row of each key: what differs is written, and all of it read back.

        Any other key of the view is removed: its rows have expired, or a correction took them back. An online store
        that is neither the platform's own nor its Redis store keeps those.

        Args:
            view: name of a batch view.
            as_of: rows later than this are not there yet, and keys whose newest row has outlived the view's
                TTL by then are left out; the newest row's moment if absent.

        Returns:
            Keys in the source, keys that the online store answers with that very row, and keys that were removed.

        Raises:
            LookupError: no such batch view, or its table was never written.
        """
        spec = self._batch_view(view)
        newest, store = self._newest(spec, str(spec.table), as_of), self._newest_store()
        held = 0 if newest.is_empty() else _pushed(store, spec, newest)
        keep_only = getattr(store.provider.online_store, "keep_only", None)
        removed = 0 if keep_only is None else keep_only(store.config, store.get_feature_view(view), newest)
        return Pushed(newest.height, held, removed)

    def refill_online(self) -> dict[str, int]:
        """Have the online store forget all it holds of this project and hold the lake's newest rows.

        Returns:
            By view, the keys that it answers for.
        """
        store, lake = self._newest_store(), Lake.of(self._settings)
        held = {}
        for view in self.manifest().views:
            if view.table is not None:
                declared = store.get_feature_view(view.name)
                store.provider.online_store.update(store.config, [declared], [declared], [], [], partial=True)
                held[view.name] = self.push_online(view.name).online_keys if lake.exists(view.table) else 0
        return held

    def online(
        self, service: str, rows: pl.DataFrame | Sequence[Mapping[str, Any]], *, as_of: datetime
    ) -> pl.DataFrame:
        """The service's features of each row from the online store, as known at ``as_of``.

        A value older than its view's TTL at ``as_of`` is null, which Feast's online read does not see to.

        Args:
            service: name of a feature service.
            rows: its join keys and request columns.
            as_of: the moment of asking, in event time (UTC).

        Returns:
            The rows' columns, then the features in the service's order.

        Raises:
            LookupError: no such service.
            ValueError: a column the service needs is missing.
        """
        manifest = self.manifest()
        spec = manifest.service(service)
        frame = rows if isinstance(rows, pl.DataFrame) else pl.DataFrame(list(rows))
        if missing := sorted(set(spec.entity_columns) - set(frame.columns)):
            raise ValueError(f"service {service!r} needs the columns {missing}; given are {frame.columns}")
        store = self._newest_store()
        # Feast fails on a null key. Any stand-in will do: what it finds is nulled below.
        asked = frame.select(
            *(pl.col(key).fill_null("" if frame.schema[key] in (pl.String, pl.Null) else 0) for key in spec.join_keys),
            *spec.request_columns,
        )
        with _quiet():
            answer = store.get_online_features(
                features=store.get_feature_service(service), entity_rows=asked.to_dicts()
            ).to_dict(include_event_timestamps=True)
        features = []
        for name in spec.views:
            view = manifest.view(name)
            keyless = frame.select(
                pl.any_horizontal(pl.lit(value=False), *(pl.col(k.name).is_null() for k in view.join_keys))
            )
            for column in view.features:
                if column.name in spec.features:
                    values = pl.Series(column.name, answer[column.name], dtype=polars_dtype(column), strict=False)
                    seconds = pl.Series(answer[f"{column.name}__ts"], dtype=pl.Int64)
                    features.append(_alive(values, seconds, view, as_of).set(keyless.to_series(), None))
        ordered = {series.name: series for series in features}
        return frame.with_columns(ordered[name] for name in spec.features)

    def stored(self, view: str, *, as_of: datetime | None = None) -> pl.DataFrame:
        """The row of each key that counts at ``as_of``, read from the lake without Feast.

        Args:
            view: name of a batch view.
            as_of: moment in event time (UTC); the newest row's if absent.

        Returns:
            Join keys, features and ``event_timestamp``; keys whose newest row has outlived the TTL are left out.

        Raises:
            LookupError: no such batch view, or its table was never written.
        """
        spec = self._batch_view(view)
        return self._newest(spec, str(spec.table), as_of)

    def online_view(self, view: str, rows: pl.DataFrame, *, as_of: datetime) -> pl.DataFrame:
        """What the online store answers for these join keys: as :meth:`online`, for one batch view.

        Returns:
            The rows' columns, then the view's features and ``event_timestamp``, null where no row counts at ``as_of``.

        Raises:
            LookupError: no such batch view.
            ValueError: a join key is missing.
        """
        spec = self._batch_view(view)
        keys = [key.name for key in spec.join_keys]
        if missing := sorted(set(keys) - set(rows.columns)):
            raise ValueError(f"view {view!r} needs the columns {missing}; given are {rows.columns}")
        values, seconds = _ask_online(self._newest_store(), spec, rows)
        columns = [_alive(each, seconds, spec, as_of) for each in values]
        moment = pl.from_epoch(seconds.alias(EVENT_TIME), time_unit="s").cast(_UTC)
        return rows.with_columns(*columns, _alive(moment, seconds, spec, as_of))

    # Inside ----------------------------------------------------------------------------------------

    def _batch_view(self, name: str) -> ViewSpec:
        spec = self.manifest().view(name)
        if spec.table is None:
            raise LookupError(f"view {name!r} follows from the request: nothing is stored of it")
        return spec

    def _newest_store(self) -> "FeatureStore":
        """Feast on the definitions as they stand and the newest tables; opening it takes longer than most questions."""
        current = self._fingerprint()
        if self._opened is None or self._opened[0] != current:
            self._opened = current, self._store({})
        return self._opened[1]

    def _store(self, versions: Mapping[str, int]) -> "FeatureStore":
        """Feast on the definitions as they stand, applied first if they changed since."""
        if not self._settings.feast_registry_url:
            self.apply()
        prepare_environment()
        with _quiet():
            with _as_written():
                from feast import FeatureStore
            from feast.repo_config import load_repo_config

            from ml_platform.stores.repo_reader import alone, applied_state

            config = load_repo_config(self._settings.feature_repo, self._config_file)
            # Whatever the file says, features are read where the platform writes them.
            config.offline_store.lake = self._settings.lake_uri
            config.offline_store.storage_options = dict(self._settings.storage_options)
            config.offline_store.versions = dict(versions)
            store = FeatureStore(config=config)
        # What this home remembers of a shared registry may not be so any more: it says itself.
        if self._settings.feast_registry_url:
            with alone(store):  # the first to look makes its tables
                applied = applied_state(store)
            if applied != self._state():
                self._read_repo("apply", self._manifest_file(self._fingerprint()))
                store.refresh_registry()
        return store

    def _newest(self, view: ViewSpec, table: str, as_of: datetime | None) -> pl.DataFrame:
        keys = [key.name for key in view.join_keys]
        rows = Lake.of(self._settings).scan(table)
        if as_of is None:
            as_of = rows.select(pl.col(EVENT_TIME).max()).collect().item()
        if as_of is None:
            schema = {column.name: polars_dtype(column) for column in view.columns}
            return pl.DataFrame(schema={**schema, EVENT_TIME: _UTC})
        rows = rows.filter(pl.col(EVENT_TIME) <= as_of).drop_nulls(keys)
        if view.ttl:
            oldest = as_of - view.ttl
            rows = rows.filter(pl.col(EVENT_TIME) >= oldest)
            if "day" in rows.collect_schema().names():
                rows = rows.filter(pl.col("day") >= oldest.astimezone(UTC).date())
        columns = [pl.col(column.name).cast(polars_dtype(column)) for column in view.columns]
        newest = rows.select(*columns, EVENT_TIME).collect().sort(EVENT_TIME)
        return newest.unique(keys, keep="last", maintain_order=True)


@contextmanager
def _as_written() -> "Iterator[None]":
    """Have Feast define its classes as they are written, without checks of types at run time.

    Feast has typeguard add them, which parses a class's whole module anew for each method: two thirds of what importing
    Feast takes. They are there for declarations, and the process that reads the repository has them.
    """
    import typeguard

    def unchanged(target: Any = None, **_: Any) -> Any:
        return (lambda decorated: decorated) if target is None else target

    checking = typeguard.typechecked
    typeguard.typechecked = unchanged
    try:
        yield
    finally:
        typeguard.typechecked = checking


def _pushed(store: "FeatureStore", view: ViewSpec, newest: pl.DataFrame) -> int:
    """Have the online store hold these rows; how many keys it then answers with theirs."""
    from ml_platform.stores.online_store import SqliteRowOnlineStore

    online = store.provider.online_store
    if isinstance(online, SqliteRowOnlineStore):
        declared = store.get_feature_view(view.name)
        return online.push(store.config, declared, newest, moment=EVENT_TIME)
    held = _held_online(store, view, newest)
    missing = newest.filter(~held)
    if missing.is_empty():
        return newest.height
    with _quiet(), getattr(online, "restating", nullcontext)():
        store.write_to_online_store(view.name, missing.to_pandas(), transform_on_write=False)
    return int(held.sum()) + int(_held_online(store, view, missing).sum())


def _held_online(store: "FeatureStore", view: ViewSpec, newest: pl.DataFrame) -> pl.Series:
    """Of each row, whether the online store answers its key with its moment and its values."""
    held = []
    for chunk in newest.iter_slices(_READ_BACK_ROWS):
        answer, seconds = _ask_online(store, view, chunk)
        same = seconds.eq_missing(chunk[EVENT_TIME].dt.epoch("s"))
        for values in answer:
            same &= _as_online(values).eq_missing(_as_online(chunk[values.name]))
        held.append(same)
    return pl.concat(held)


def _ask_online(store: "FeatureStore", view: ViewSpec, rows: pl.DataFrame) -> tuple[list[pl.Series], pl.Series]:
    """Each feature's values in the online store for the rows' join keys, and their rows' moments (epoch seconds)."""
    keys = [key.name for key in view.join_keys]
    with _quiet():
        answer = store.get_online_features(
            features=[f"{view.name}:{column.name}" for column in view.features],
            entity_rows=rows.select(keys).to_dicts(),
        ).to_dict(include_event_timestamps=True)
    values = [pl.Series(each.name, answer[each.name], polars_dtype(each), strict=False) for each in view.features]
    # Every value of a view has its row's moment; of a key that it does not know Feast says the epoch.
    seconds = pl.Series(answer[f"{view.features[0].name}__ts"], dtype=pl.Int64)
    return values, seconds.set(seconds == 0, None)


def _as_online(values: pl.Series) -> pl.Series:
    """Values as Feast's online stores can hold them: no number is null, and moments are whole seconds."""
    if values.dtype.is_float():
        return values.fill_nan(None)
    return values.dt.epoch("s") if values.dtype == pl.Datetime else values


def _alive(values: pl.Series, seconds: pl.Series, view: ViewSpec, as_of: datetime) -> pl.Series:
    """The values whose row was there at ``as_of`` and had not expired."""
    if view.kind == "on_demand":
        return values
    moment = pl.from_epoch(seconds, time_unit="s").cast(_UTC)
    alive = moment <= as_of
    if view.ttl:
        alive &= moment >= as_of - view.ttl
    return values.set(~alive.fill_null(value=False), None)


@contextmanager
def _quiet() -> "Iterator[None]":
    """Hide Feast's standing notices; what a caller must know is an error, not a warning."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
        warnings.filterwarnings("ignore", category=UserWarning, module="feast")
        yield
