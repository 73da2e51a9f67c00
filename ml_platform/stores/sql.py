"""SQL by people: one statement that reads, run by an in-memory DuckDB.

Belongs here: what may be asked, and of what. Which tables there are, the caller says.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import polars as pl

from ml_platform.stores.table_names import sql_name

if TYPE_CHECKING:
    # Imported where it is used: the code location loads without it.
    from duckdb import DuckDBPyConnection


_EXTENSION = re.compile(r"required extension '(\w+)")


class UnknownTableError(LookupError):
    """A table that the lake does not hold was asked for."""


class RefusedQueryError(ValueError):
    """A statement that is not a read, or not one statement."""


def query_frames(sql: str, frames: Mapping[str, Callable[[], pl.LazyFrame]]) -> pl.DataFrame:
    """One read over tables named ``schema.table``, by an engine that reaches neither files nor the network.

    Args:
        sql: the statement.
        frames: what opens each table, by name (``raw/arrivals``); called for those alone that the text may mean.

    Raises:
        RefusedQueryError: not exactly one statement, or one that is no read.
        UnknownTableError: there is no such table; the message names those there are.
        duckdb.Error: DuckDB refused the statement.
    """
    import duckdb

    _require_read(sql)
    sandbox: dict[str, str | bool | int | float | list[str]] = {"enable_external_access": "false"}
    with duckdb.connect(":memory:", config=sandbox) as connection:
        for table, frame in frames.items():
            if table.rsplit("/", maxsplit=1)[-1].lower() in sql.lower() or "information_schema" in sql.lower():
                _create_view(connection, table, frame())
        try:
            return pl.DataFrame(connection.sql(sql).pl())
        except duckdb.CatalogException as error:
            names = ", ".join(sql_name(table) for table in frames)
            raise UnknownTableError(f"{str(error).splitlines()[0]}\nThe tables are: {names}") from None


def query_files(sql: str) -> pl.DataFrame:
    """One read over files that the statement names; extensions are not downloaded.

    Raises:
        RefusedQueryError: not exactly one statement, or one that is no read, or one that needs an extension, as for
            Delta and object storage.
        duckdb.Error: DuckDB refused the statement.
    """
    import duckdb

    _require_read(sql)
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": "false"}) as connection:
        try:
            return pl.DataFrame(connection.sql(sql).pl())
        except duckdb.Error as error:
            needed = _EXTENSION.search(str(error))
            if needed is None:
                raise
            raise RefusedQueryError(
                f"this SQL needs DuckDB's extension {needed[1]!r}, and none is downloaded: it reads Parquet, CSV and "
                "JSON files on this machine. Of Delta or object storage give the rows themselves, as "
                "polars.scan_delta(...).collect() or polars.read_parquet(...) has them"
            ) from None


def _require_read(sql: str) -> None:
    import duckdb

    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise RefusedQueryError(f"give exactly one statement, not {len(statements)}")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise RefusedQueryError(f"{kind.name} is not a read: only SELECT, DESCRIBE, SUMMARIZE and EXPLAIN are allowed")


def _create_view(connection: "DuckDBPyConnection", table: str, frame: pl.LazyFrame) -> None:
    registered = table.replace("/", "__")
    # A polars scan, because DuckDB's filters on text have no kernel in pyarrow datasets.
    connection.register(registered, frame)
    schema, _, name = table.rpartition("/")
    connection.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
    connection.execute(f'CREATE VIEW "{schema}"."{name}" AS FROM "{registered}"')
