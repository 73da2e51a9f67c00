"""Feast's file sources as polars reads and writes them: Parquet, Delta, and tables of the lake.

Only the offline store imports this module, and only Feast imports that: Feast may be imported at the top here.
"""

import fcntl
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import DeltaFormat, ParquetFormat
from feast.data_source import DataSource
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.feature_view import FeatureView
from feast.infra.offline_stores.file_source import FileSource
from feast.repo_config import RepoConfig

from ml_platform.core.feature_manifest import EVENT_TIME
from ml_platform.core.table_spec import KNOWN_AT
from ml_platform.stores.lake import Lake

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyarrow.fs import FileSystem

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_NANOSECOND = 1 - (1 << 63)
"""In the year 1677: as far back as nanoseconds are counted."""

_DAYS_OF = {"features": EVENT_TIME, "raw": KNOWN_AT}
"""Which timestamp's UTC days the lake's tables are partitioned by; of other tables each model has its own."""

_FIXED = re.compile(r"[+-]\d\d:?\d\d")

_STORAGES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl")
"""What polars and deltalake both reach, by the same options."""

_READ_ALONE = ("http", "https")

_WIDER = pl.ScanCastOptions(
    integer_cast="upcast", float_cast="upcast", datetime_cast=["downcast", "upcast", "convert-timezone"]
)
"""The files of one source may have been written by different programs."""


@dataclass(frozen=True)
class Rows:
    """What a source holds, unread.

    ``name`` is what messages call it, ``days_of`` the timestamp whose UTC day is its partition ``day``, if one is.
    """

    name: str
    lazy: pl.LazyFrame
    schema: Mapping[str, pl.DataType]
    days_of: str | None = None

    def require(self, columns: Sequence[str]) -> None:
        """See that columns are there.

        Raises:
            ValueError: some are not; the message names them and those that are.
        """
        if absent := sorted(set(columns) - set(self.schema)):
            raise ValueError(f"{self.name} lacks the columns {absent}; it has {sorted(self.schema)}")

    def between(
        self, timestamp: str, first: datetime | None, last: datetime | None, *, first_counts: bool = True
    ) -> pl.LazyFrame:
        """The rows whose timestamp is in ``[first, last]``, to the microsecond, as they are stored.

        Unless ``first_counts``, those at ``first`` itself are left out. The condition is on the column as it is stored,
        so that files that cannot hold such rows are not read.

        Raises:
            ValueError: the column is no timestamp.
        """
        rows, stored = self.lazy, moment(self, timestamp)
        if timestamp == self.days_of:
            # Whole files are skipped.
            if first is not None:
                rows = rows.filter(pl.col("day") >= first.astimezone(UTC).date())
            if last is not None:
                rows = rows.filter(pl.col("day") <= last.astimezone(UTC).date())
        dtype = self.schema[timestamp]
        if isinstance(dtype, pl.Datetime):
            stored = pl.col(timestamp)
        else:
            dtype = pl.Datetime("us", "UTC")
        # As numbers: there is no moment after the last of the year 9999.
        if first is not None:
            rows = rows.filter(stored >= _first_from(_microseconds(first) + (not first_counts), dtype))
        if last is not None:
            rows = rows.filter(stored < _first_from(_microseconds(last) + 1, dtype))
        return rows


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _first_from(microseconds: int, dtype: pl.Datetime) -> pl.Expr:
    """The first moment that a column of this type can hold from a moment on; without a zone it holds UTC."""
    ticks = -(-microseconds // 1000) if dtype.time_unit == "ms" else microseconds
    if dtype.time_unit == "ns":
        ticks = max(_FIRST_NANOSECOND, min(ticks * 1000, -_FIRST_NANOSECOND))
    return pl.lit(ticks, pl.Int64).cast(dtype)


def moment(rows: Rows, column: str) -> pl.Expr:
    """A stored timestamp in microseconds and UTC; one without a zone is in UTC, a date is its midnight.

    Raises:
        ValueError: the column is no timestamp.
    """
    dtype, stored = rows.schema[column], pl.col(column)
    if isinstance(dtype, pl.Datetime):
        stored = stored.dt.cast_time_unit("us")
        return stored.dt.replace_time_zone("UTC") if dtype.time_zone is None else stored.dt.convert_time_zone("UTC")
    if dtype == pl.Date:
        return stored.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if dtype == pl.String:
        return stored.str.to_datetime(time_unit="us", time_zone="UTC")
    raise ValueError(f"{rows.name}: column {column!r} is {dtype}; a timestamp, a date or a text in ISO 8601 is needed")


def read(config: RepoConfig, source: DataSource) -> Rows:
    """A source's rows, unread.

    Raises:
        NotImplementedError: a source of another kind; the message says which kinds can be read.
        ValueError: a version is asked for of files that have none.
        FileNotFoundError: nothing is stored there.
        UnknownTableError: the lake has no such table.
    """
    place = locate(config, source)
    options = options_of(config, source)
    if lake_table(config, source):
        version = config.offline_store.versions.get(source.path)
        lake = Lake(lake_uri(config), config.offline_store.storage_options)
        rows = lake.scan(source.path, version=version)
        days_of = _DAYS_OF.get(source.path.partition("/")[0]) if lake.has_days(source.path, version=version) else None
        return Rows(f"table {source.path!r}", rows, rows.collect_schema(), days_of)
    if isinstance(source.file_format, DeltaFormat):
        rows = pl.scan_delta(_delta_table(place, config.offline_store.versions.get(source.path), options))
    else:
        if source.path in config.offline_store.versions:
            raise ValueError(
                f"source {source.path!r} has no versions: `versions` is for Delta tables, and it is Parquet"
            )
        rows = _scan_parquet(place, options)
    return Rows(f"source {source.path!r}", rows, rows.collect_schema())


def append(config: RepoConfig, source: DataSource, table: pa.Table) -> None:
    """Add rows to a source, in the types that it has.

    A folder of Parquet files gets one more, in each of its partitions (``driver=1``) if it has such; a single file is
    replaced by one with the rows added. On a disk, those who add to one file wait for each other; in object storage the
    rows of one of two at the same moment are lost, and whoever reads a file while it is replaced may fail: what several
    write is better a folder or Delta.

    Raises:
        FileNotFoundError: a folder without a Parquet file, whose columns nobody knows.
        NotImplementedError: a table of the lake, or a source of a kind that cannot be written.
    """
    place, options = locate(config, source), options_of(config, source)
    if lake_table(config, source):
        raise NotImplementedError(
            f"table {source.path!r} is the platform's: its assets write it from what lands, and record what they wrote"
        )
    if isinstance(source.file_format, DeltaFormat):
        from deltalake import DeltaTable, write_deltalake

        delta = DeltaTable(place, storage_options=options)
        write_deltalake(delta, table.cast(pa.schema(delta.schema().to_arrow())), mode="append")
        return
    files, path = _filesystem(place, options)
    if not _one_file(files, path):
        first = next(iter(pq.ParquetDataset(path, filesystem=files).files), None)
        if first is None:
            raise FileNotFoundError(
                f"the folder {place} holds no Parquet file, whose columns new rows must have: write a first one"
            )
        parts = [part.partition("=")[0] for part in first.removeprefix(path).split("/")[:-1] if "=" in part]
        kept = [field for field in pq.read_schema(first, filesystem=files) if field.name not in parts]
        kept += [table.schema.field(name) for name in parts]
        _add(files, path, table.select([field.name for field in kept]).cast(pa.schema(kept)), parts)
        return
    with alone(place):
        stood = pq.read_table(path, filesystem=files)
        put(files, path, [stood, table.cast(stood.schema)])


def replace(config: RepoConfig, source: DataSource, tables: Iterable[pa.Table], *, allow_overwrite: bool) -> None:
    """Write rows, at least one table of them, to where nothing is, or in place of what is there.

    Of a folder only Parquet files are removed, and those once the new one stands.

    Raises:
        SavedDatasetLocationAlreadyExists: something is there, and it is not to be overwritten.
        NotImplementedError: a table of the lake, or a source of a kind that cannot be written.
    """
    place, options = locate(config, source), options_of(config, source)
    if lake_table(config, source):
        raise NotImplementedError(f"{source.path!r} would be a table of the lake: give a path outside it")
    from pyarrow.fs import FileSelector

    files, path = _filesystem(place, options)
    if not allow_overwrite and files.get_file_info(path).type.name != "NotFound":
        raise SavedDatasetLocationAlreadyExists(location=place)
    if isinstance(source.file_format, DeltaFormat):
        from deltalake import write_deltalake

        mode = "overwrite" if allow_overwrite else "error"
        schema_mode = "overwrite" if allow_overwrite else None
        schema, tables = _of_one_schema(tables)
        rows = pa.RecordBatchReader.from_batches(schema, (batch for table in tables for batch in table.to_batches()))
        write_deltalake(place, rows, mode=mode, schema_mode=schema_mode, storage_options=options)
    elif _one_file(files, path):
        put(files, path, tables)
    else:
        stood = files.get_file_info(FileSelector(path, allow_not_found=True, recursive=True))
        files.create_dir(path)
        put(files, f"{path}/{uuid.uuid4().hex}.parquet", tables)
        # One by one: deltalake's file system of object storage cannot empty a folder.
        for file in stood:
            if file.is_file and file.path.endswith(".parquet"):
                files.delete_file(file.path)


def write_log(config: RepoConfig, destination: DataSource, table: pa.Table, partition_by: Sequence[str] | None) -> None:
    """Add a log's rows as files of their own, in folders by the values of ``partition_by``."""
    files, path = _filesystem(locate(config, destination), options_of(config, destination))
    _add(files, path, table, partition_by)


def lake_table(config: RepoConfig, source: DataSource) -> bool:
    """Whether a source is a table of the lake: Delta, at a path relative to it."""
    if config.offline_store.lake is None or not isinstance(source, FileSource):
        return False
    return isinstance(source.file_format, DeltaFormat) and not ("://" in source.path or Path(source.path).is_absolute())


def lake_uri(config: RepoConfig) -> str:
    """Where the lake is."""
    return str(FileSource.get_uri_for_file_path(config.repo_path, config.offline_store.lake))


def of_view(view: FeatureView) -> DataSource:
    """Where a view's rows are stored.

    Raises:
        ValueError: it says no source.
    """
    if view.batch_source is None:
        raise ValueError(
            f"view {view.name!r} has no batch source, so nothing of it is stored: declare it with "
            "`source=FileSource(...)`, or with a PushSource that has a `batch_source`"
        )
    return view.batch_source


def locate(config: RepoConfig, source: DataSource) -> str:
    """Where a source's files are.

    Raises:
        NotImplementedError: a source that is no file, or one in a storage that cannot be read.
    """
    if not isinstance(source, FileSource) or not isinstance(source.file_format, DeltaFormat | ParquetFormat | None):
        raise NotImplementedError(
            f"{type(source).__name__} {source.name!r} is not read here: declare a FileSource in Parquet or Delta, "
            "or use the offline store of its kind"
        )
    delta = isinstance(source.file_format, DeltaFormat)
    scheme, _, _ = source.path.rpartition("://")
    if scheme and scheme.lower() not in (_STORAGES if delta else (*_STORAGES, *_READ_ALONE)):
        raise NotImplementedError(
            f"source {source.path!r} is not read here: paths on a disk are, and in object storage those with "
            f"{', '.join(f'{name}://' for name in _STORAGES)} (and Parquet files at http:// and https://)"
        )
    return str(FileSource.get_uri_for_file_path(config.repo_path, source.path))


def options_of(config: RepoConfig, source: DataSource) -> dict[str, str]:
    """How object storage is reached: the store's options, and what the source says itself."""
    own = dict(source.resolve_credentials() or {})
    if source.s3_endpoint_override:
        own["AWS_ENDPOINT_URL"] = source.s3_endpoint_override
        if source.s3_endpoint_override.startswith("http://"):
            own["AWS_ALLOW_HTTP"] = "true"
    return {**config.offline_store.storage_options, **own}


def _delta_table(place: str, version: int | None, options: dict[str, str]) -> "DeltaTable":
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(place, version=version, storage_options=options)
    except TableNotFoundError:
        raise FileNotFoundError(f"there is no Delta table at {place}") from None


def _scan_parquet(place: str, options: Mapping[str, str]) -> pl.LazyFrame:
    files, many = _parquet_files(place)
    rows = pl.scan_parquet(
        files,
        storage_options=dict(options) or None,
        hive_partitioning=many,
        missing_columns="insert" if many else "raise",
        extra_columns="ignore" if many else "raise",
        cast_options=_WIDER,
    )
    try:
        rows.collect_schema()
    except pl.exceptions.PanicException:
        # So polars says that a time zone has no name.
        from pyarrow import dataset

        filesystem, path = _filesystem(place, options)
        how: dict[str, Any] = {"filesystem": filesystem, "format": "parquet", "partitioning": "hive" if many else None}
        stored = dataset.dataset(path, **how).schema
        schema = with_named_zones(stored)
        if schema == stored:
            raise
        return pl.scan_pyarrow_dataset(dataset.dataset(path, **how, schema=schema))
    return rows


def with_named_zones(schema: pa.Schema) -> pa.Schema:
    """A schema in which moments at a fixed distance from UTC are in UTC: polars knows zones by their names alone."""
    for number, field in enumerate(schema):
        if pa.types.is_timestamp(field.type) and _FIXED.fullmatch(field.type.tz or ""):
            schema = schema.set(number, field.with_type(pa.timestamp(field.type.unit, "UTC")))
    return schema


def _parquet_files(place: str) -> tuple[str, bool]:
    """What polars is to read, and whether that may be many files."""
    if "*" in place:
        return place, True
    if "://" in place:
        return (place, False) if place.endswith(".parquet") else (f"{place.rstrip('/')}/**/*.parquet", True)
    path = Path(place)
    if not path.exists():
        raise FileNotFoundError(f"there is no Parquet file or folder {place}")
    if path.is_file():
        return place, False
    if not any(path.rglob("*.parquet")):
        raise FileNotFoundError(f"the folder {place} holds no Parquet file")
    return f"{place.rstrip('/')}/**/*.parquet", True


def _filesystem(place: str, options: Mapping[str, str]) -> "tuple[FileSystem, str]":
    """The file system of a place, and the place's path in it."""
    from pyarrow.fs import LocalFileSystem, PyFileSystem

    if "://" not in place:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        return LocalFileSystem(), place
    from deltalake.fs import DeltaStorageHandler

    root, _, name = place.rstrip("/").rpartition("/")
    return PyFileSystem(DeltaStorageHandler(root, dict(options))), name


def _one_file(files: "FileSystem", path: str) -> bool:
    """Whether a place is one Parquet file or a folder of them; where nothing is, the name says what it is to be."""
    found = files.get_file_info(path)
    return path.endswith(".parquet") if found.type.name == "NotFound" else bool(found.is_file)


@contextmanager
def alone(place: str) -> Iterator[None]:
    """Let no other process of this kind change a file on a disk meanwhile."""
    if "://" in place:
        yield
        return
    path = Path(place)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def put(files: "FileSystem", path: str, tables: Iterable[pa.Table]) -> None:
    """Write tables, in the types of the first, beside a place, and move them there: nobody reads half of a file."""
    draft = f"{path}.{uuid.uuid4().hex}.tmp"
    schema, tables = _of_one_schema(tables)
    try:
        with pq.ParquetWriter(draft, schema, filesystem=files) as file:
            for table in tables:
                file.write_table(table)
    except BaseException:
        if files.get_file_info(draft).is_file:
            files.delete_file(draft)
        raise
    files.move(draft, path)


def _of_one_schema(tables: Iterable[pa.Table]) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The types of the first table, and all tables in them: a part without a value has another type for it."""
    rest = iter(tables)
    first = next(rest)
    return first.schema, (
        table if table.schema == first.schema else table.cast(first.schema) for table in chain([first], rest)
    )


def _add(files: "FileSystem", path: str, table: pa.Table, partition_by: Sequence[str] | None) -> None:
    """Write rows as new files of a folder, in folders by the values of ``partition_by``."""
    from pyarrow import dataset

    dataset.write_dataset(
        table,
        base_dir=path,
        basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
        partitioning=list(partition_by) if partition_by else None,
        partitioning_flavor="hive" if partition_by else None,
        filesystem=files,
        format="parquet",
        existing_data_behavior="overwrite_or_ignore",
    )
