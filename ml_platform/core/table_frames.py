"""The frames of a declared table: polars types and schemas of its columns.

Belongs here: what a declaration (:mod:`ml_platform.core.table_spec`) means to polars. The declaration itself is read
without polars.
"""

from collections.abc import Mapping

import polars as pl

from ml_platform.core.table_spec import ColumnType, TableSpec

DTYPES: Mapping[ColumnType, pl.DataType] = {
    ColumnType.INTEGER: pl.Int64(),
    ColumnType.NUMBER: pl.Float64(),
    ColumnType.BOOLEAN: pl.Boolean(),
    ColumnType.TEXT: pl.String(),
    ColumnType.TIMESTAMP: pl.Datetime("us", "UTC"),
}
"""The polars type of each type of column; of a timestamp, microseconds UTC."""


def polars_schema(spec: TableSpec) -> pl.Schema:
    """The schema of ``raw/<table>``: its columns in the order of the contract, ``known_at`` in its place."""
    return pl.Schema({name: DTYPES[column.type] for name, column in spec.columns.items()})


def quarantine_schema(spec: TableSpec) -> pl.Schema:
    """The schema of ``quarantine/<table>``: the cells as they were landed, why, and from which line of which file."""
    landed: dict[str, pl.DataType] = dict.fromkeys(spec.columns, pl.String())
    return pl.Schema(landed | {"reasons": pl.String(), "source_file": pl.String(), "source_line": pl.Int64()})


def type_name(dtype: pl.DataType) -> str:
    """The contract's name of a polars type, or polars' own where contracts have none."""
    return next((str(kind) for kind, known in DTYPES.items() if known == dtype), str(dtype))
