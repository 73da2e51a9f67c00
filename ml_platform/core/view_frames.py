"""The frames of a feature view: polars types of its columns, and rows that conform to them.

Belongs here: what the manifest (:mod:`ml_platform.core.feature_manifest`) means to polars. The manifest itself is read
without polars.
"""

from collections.abc import Mapping

import polars as pl

from ml_platform.core.feature_manifest import EVENT_TIME, ColumnSpec, ViewSpec

_DTYPES: Mapping[str, pl.DataType] = {
    "String": pl.String(),
    "Int32": pl.Int32(),
    "Int64": pl.Int64(),
    "Float32": pl.Float32(),
    "Float64": pl.Float64(),
    "Bool": pl.Boolean(),
    "UnixTimestamp": pl.Datetime("us", "UTC"),
}


def polars_dtype(column: ColumnSpec) -> pl.DataType:
    """The polars type of a view's column.

    Raises:
        ValueError: the platform does not support the Feast type; the message names those it does.
    """
    if column.dtype not in _DTYPES:
        raise ValueError(f"column {column.name!r} has Feast type {column.dtype}; supported are {', '.join(_DTYPES)}")
    return _DTYPES[column.dtype]


def conform(view: ViewSpec, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of a transform as the view's table stores them: the declared columns and types, no key null.

    Raises:
        ValueError: a declared column is missing, another is there, a value cannot be cast, or two rows share
            their key and time; the message names what.
    """
    schema = {EVENT_TIME: pl.Datetime("us", "UTC"), **{column.name: polars_dtype(column) for column in view.columns}}
    missing, extra = sorted(set(schema) - set(rows.columns)), sorted(set(rows.columns) - set(schema))
    if missing or extra:
        raise ValueError(
            f"view {view.name!r}: columns missing {missing}, not declared {extra}; declared: {list(schema)}"
        )
    keys = [column.name for column in view.join_keys]
    table = rows.select(pl.col(name).cast(dtype, strict=True) for name, dtype in schema.items()).drop_nulls(keys)
    if table.select(EVENT_TIME, *keys).is_duplicated().any():
        doubled = table.filter(table.select(EVENT_TIME, *keys).is_duplicated()).row(0, named=True)
        raise ValueError(
            f"view {view.name!r}: more than one row for {[doubled[key] for key in keys]} at {doubled[EVENT_TIME]}"
        )
    return table
