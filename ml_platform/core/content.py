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
    ordered = sort_rows(frame, sort_by)
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    hasher.update(f"{ordered.height}".encode())
    for name in sorted(ordered.columns):
        column = ordered[name]
        hasher.update(f"|{name}:{column.dtype}|".encode())
        hasher.update(column.is_null().cast(pl.UInt8).to_numpy().tobytes())
        hasher.update(_value_bytes(column))
    return hasher.hexdigest()


def _value_bytes(column: pl.Series) -> bytes:
    dtype = column.dtype
    if dtype.is_nested():
        raise TypeError(f"column {column.name!r} has type {dtype}: only flat columns have a content hash")
    if dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum):
        texts = column.cast(pl.String).fill_null("")
        lengths = texts.str.len_bytes().to_numpy().tobytes()
        return lengths + "".join(texts.to_list()).encode()
    if dtype == pl.Boolean:
        return column.fill_null(value=False).cast(pl.UInt8).to_numpy().tobytes()
    if dtype.is_float():
        # Adding zero turns -0.0 into 0.0, which compare equal and must hash equal.
        return (column.fill_null(0.0) + 0.0).to_numpy().tobytes()
    if dtype == pl.Null:
        return b""
    return column.to_physical().fill_null(0).to_numpy().tobytes()
