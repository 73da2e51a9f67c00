"""Answers of the offline store as Arrow tables: in memory up to a number of bytes, beyond it in a file of their own.

Belongs here: how an answer is kept and typed. What is asked, and where a result is written, does not.
"""

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

_SLICE_BYTES = 64 << 20
"""What is turned into Arrow and written at a time."""


class Answer:
    """Frames one after another, of the same columns.

    Beyond ``most_bytes`` they are written to a file in the folder for temporary files (``TMPDIR``), which goes when the
    answer goes; what was mapped of it stays readable.
    """

    def __init__(self, frames: Iterable[pl.DataFrame], most_bytes: int) -> None:
        self._file: Path | None = None
        writer: pa.ipc.RecordBatchStreamWriter | None = None
        held: list[pl.DataFrame] = []
        for frame in frames:
            held.append(frame)
            del frame
            if writer is None and sum(one.estimated_size() for one in held) > most_bytes:
                self._file = _temporary_file(self)
                writer = pa.ipc.new_stream(self._file, _arrow(held[0].head(0)).schema)
            if writer is not None:
                for one in held:
                    _write(writer, one)
                del one
                held.clear()
        if writer is None:
            # One chunk: Feast's conversion for the online store takes the first batch of a table and drops the rest.
            self._table = _arrow(pl.concat(held, rechunk=True)).combine_chunks()
        else:
            writer.close()

    @property
    def spilled(self) -> bool:
        """Whether it is in a file."""
        return self._file is not None

    def table(self) -> pa.Table:
        """All of it: one chunk in memory, or as many as are mapped from the file."""
        if self._file is None:
            return self._table
        return pa.ipc.open_stream(pa.memory_map(str(self._file))).read_all()

    def tables(self) -> Iterator[pa.Table]:
        """All of it, part by part, as it is read."""
        if self._file is None:
            yield self._table
            return
        with self._file.open("rb") as file:
            for batch in pa.ipc.open_stream(file):
                yield pa.Table.from_batches([batch])


def _temporary_file(owner: Answer) -> Path:
    """A file that goes when its owner goes."""
    handle, name = tempfile.mkstemp(suffix=".arrows")
    os.close(handle)
    weakref.finalize(owner, Path(name).unlink, missing_ok=True)
    return Path(name)


def _write(writer: pa.ipc.RecordBatchStreamWriter, frame: pl.DataFrame) -> None:
    rows = max(1, int(frame.height * _SLICE_BYTES / max(1, frame.estimated_size())))
    for part in frame.iter_slices(rows):
        writer.write_table(_arrow(part).combine_chunks())


def _arrow(frame: pl.DataFrame) -> pa.Table:
    """Texts and lists in the types that other stores answer in, where they fit; polars has only the large ones."""
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    schema = pa.schema([field.with_type(_usual(field.type)) for field in table.schema])
    if schema == table.schema:
        return table
    try:
        return table.cast(schema)
    except pa.ArrowInvalid:
        # More than 2 GB in one column.
        return table


def _usual(dtype: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(dtype):
        return pa.string()
    if pa.types.is_large_binary(dtype):
        return pa.binary()
    if pa.types.is_large_list(dtype):
        return pa.list_(pa.field("item", _usual(dtype.value_type)))
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(pa.field("item", _usual(dtype.value_type)), dtype.list_size)
    if pa.types.is_map(dtype):
        return pa.map_(_usual(dtype.key_type), _usual(dtype.item_type))
    if pa.types.is_dictionary(dtype):
        return pa.dictionary(dtype.index_type, _usual(dtype.value_type), dtype.ordered)
    if pa.types.is_struct(dtype):
        return pa.struct([dtype[place].with_type(_usual(dtype[place].type)) for place in range(dtype.num_fields)])
    return dtype
