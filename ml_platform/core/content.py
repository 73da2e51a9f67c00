"""The identity of values: hashes that are equal exactly when what was hashed is equal.

A frame's hash does not depend on row order (rows are sorted by key first), on how the frame was
assembled, or on the versions of the libraries that hold it.
"""

import hashlib
from collections.abc import Sequence

import polars as pl

from ml_platform.core.digests import DIGEST_BYTES


def sort_rows(frame: pl.DataFrame, sort_by: Sequence[str]) -> pl.DataFrame:
    """The frame in its one order: by ``sort_by``, ties by every other column."""
    rest = [name for name in sorted(frame.columns) if name not in sort_by]
    return frame.sort([*sort_by, *rest], nulls_last=True, maintain_order=False)


def content_hash(frame: pl.DataFrame, sort_by: Sequence[str]) -> str:
    """Hex digest of the frame's columns, types and values; see the module for what it ignores.

    Raises:
        TypeError: a column is of a nested type, which has no canonical bytes here.
    """
    return ordered_hash(sort_rows(frame, sort_by))


def ordered_hash(ordered: pl.DataFrame) -> str:
    """:func:`content_hash` of a frame that :func:`sort_rows` put in order."""
    schema = ordered.schema
    for name, dtype in schema.items():
        if dtype.is_nested():
            raise TypeError(f"column {name!r} has type {dtype}: only flat columns have a content hash")
    # All columns at once: of a day's few rows, a column's bytes take less time than an engine takes to start.
    absent = ordered.select(pl.all().is_null())
    values = ordered.select(_plain(pl.col(name), dtype).alias(name) for name, dtype in schema.items())
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    hasher.update(f"{ordered.height}".encode())
    for name in sorted(schema):
        hasher.update(f"|{name}:{schema[name]}|".encode())
        hasher.update(absent[name].to_numpy().tobytes())
        hasher.update(_value_bytes(values[name]))
    return hasher.hexdigest()


def _plain(column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A column's values as texts or numbers, nulls as the empty text or zero."""
    if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String).fill_null("")
    if dtype.is_float():
        # Adding zero turns -0.0 into 0.0, which compare equal and must hash equal.
        return column.fill_null(0.0) + 0.0
    if dtype == pl.Boolean:
        return column.fill_null(value=False)
    return column if dtype == pl.Null else column.to_physical().fill_null(0)


def _value_bytes(plain: pl.Series) -> bytes:
    if plain.dtype == pl.Null:
        return b""
    if plain.dtype == pl.String:
        return plain.str.len_bytes().to_numpy().tobytes() + "".join(plain.to_list()).encode()
    return plain.to_numpy().tobytes()
