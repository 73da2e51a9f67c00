"""Declared transforms made callable: Python functions found by name, SQL files run by DuckDB.

Belongs here: finding a transform, giving it its inputs, checking the frame it returns. What it computes
is the data set's business.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ml_platform.core.digests import digest, digest_mapping
from ml_platform.core.model_spec import Transform
from ml_platform.core.source_code import source_digest, top_level_names

if TYPE_CHECKING:
    import polars as pl


class TransformError(ValueError):
    """A transform cannot be found, or returned something that is not the declared frame."""


class _Function(Protocol):
    __name__: str

    def __call__(self, *frames: "pl.DataFrame", start: datetime, end: datetime, **params: object) -> "pl.DataFrame": ...


@dataclass(frozen=True)
class BoundTransform:
    """A transform ready to run.

    ``code_version`` changes when its source, that of what it imports of its own package and of the platform, or its
    parameters do.
    """

    spec: Transform
    label: str
    code_version: str
    _sql: str | None

    def __call__(self, frames: "Mapping[str, pl.DataFrame]", start: datetime, end: datetime) -> "pl.DataFrame":
        """Run over the inputs, by table name; rows may lie outside ``[start, end)``.

        Raises:
            TransformError: it raised or returned no frame; the cause is chained.
        """
        import polars as pl

        function = None if self.spec.python is None else _function(self.spec.python)
        try:
            if function is not None:
                given = [frames[name] for name in self.spec.inputs]
                result = function(*given, start=start, end=end, **self.spec.params)
            else:
                result = _run_sql(self._sql or "", frames, start, end)
        except Exception as error:
            raise TransformError(f"transform {self.label} failed: {type(error).__name__}: {error}") from error
        if not isinstance(result, pl.DataFrame):
            raise TransformError(f"transform {self.label} must return a polars DataFrame, not {type(result).__name__}")
        return result


def bind(spec: Transform, folder: Path) -> BoundTransform:
    """Find what a declaration names; SQL paths are relative to ``folder``.

    A function that its module's source names is imported when it is called: what is declared is known without it.

    Raises:
        TransformError: no such module, function or file; the message names it.
    """
    if spec.sql is not None:
        path = folder / spec.sql
        if not path.is_file():
            raise TransformError(f"there is no SQL file {spec.sql!r} in {folder}")
        sql = path.read_text()
        return BoundTransform(spec, spec.sql, digest(sql, digest_mapping(spec.params)), sql)
    python = spec.python or ""
    module, _, name = python.partition(":")
    if name not in top_level_names(module):
        _function(python)  # made when it is imported, or not there
    return BoundTransform(spec, python, digest(source_digest(module), name, digest_mapping(spec.params)), None)


def _function(python: str) -> _Function:
    """The function that ``package.module:function`` names.

    Raises:
        TransformError: no such module or function; the message names it.
    """
    module_name, _, function_name = python.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise TransformError(f"transform {python!r}: {error}") from error
    function: _Function | None = getattr(module, function_name, None)
    if function is None:
        known = ", ".join(sorted(name for name, value in vars(module).items() if callable(value) and name[0] != "_"))
        raise TransformError(f"module {module_name} has no function {function_name!r}; it has: {known}")
    return function


def _run_sql(sql: str, frames: "Mapping[str, pl.DataFrame]", start: datetime, end: datetime) -> "pl.DataFrame":
    import duckdb
    import polars as pl

    with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
        for name, frame in frames.items():
            connection.register(name, frame.to_arrow())
        connection.execute("SET VARIABLE start = ?", [start])
        connection.execute('SET VARIABLE "end" = ?', [end])
        result = pl.DataFrame(connection.sql(sql).pl())
    timestamps = {name: dtype for name, dtype in result.schema.items() if isinstance(dtype, pl.Datetime)}
    return result.with_columns(
        pl.col(name).dt.replace_time_zone("UTC")
        if dtype.time_zone is None
        else pl.col(name).dt.convert_time_zone("UTC")
        for name, dtype in timestamps.items()
    )
