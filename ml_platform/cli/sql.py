"""``ml-platform sql``: analysts' queries."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from ml_platform import settings
from ml_platform.cli.console import as_json, console, table

if TYPE_CHECKING:
    import polars as pl

_ROWS_SHOWN = 200


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def sql(
    query: Annotated[str, typer.Argument(help='One statement that reads, as "select * from raw.arrivals limit 10".')],
    form: Annotated[Format, typer.Option("--format", "-f", help="How rows are written.")] = Format.TABLE,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File instead of standard output.")] = None,
) -> None:
    """Query every table by name, read-only: raw.arrivals, features.weather_at_origin, flight_delay.predictions.

    DuckDB runs it. `show tables`-like questions: "select * from information_schema.tables".
    """
    import duckdb

    from ml_platform.stores.lake import Lake

    if form is Format.PARQUET and output is None and sys.stdout.isatty():
        raise ValueError("parquet is binary: name a file with --output, or redirect standard output")
    if form is Format.TABLE and output is not None:
        raise ValueError("--output takes --format csv, json or parquet, not table")
    try:
        rows = Lake.of(settings.load()).query(query)
    except duckdb.Error as error:
        raise ValueError(str(error)) from None
    if form is Format.TABLE:
        _show(rows)
    elif output is None:
        _write(rows, form, sys.stdout.buffer)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        draft = output.with_name(f".{output.name}.tmp")
        with draft.open("wb") as file:
            _write(rows, form, file)
        draft.replace(output)
        console(stderr=True).print(f"{rows.height:,} rows written to {output}")


def _show(rows: "pl.DataFrame") -> None:
    console().print(table(rows.columns, rows.head(_ROWS_SHOWN).iter_rows()))
    more = f", the first {_ROWS_SHOWN} shown: --format csv writes all" if rows.height > _ROWS_SHOWN else ""
    console(stderr=True).print(f"{rows.height:,} rows{more}")


def _write(rows: "pl.DataFrame", form: Format, file: BinaryIO) -> None:
    if form is Format.JSON:
        file.write(as_json(rows.to_dicts()).encode())
    elif form is Format.CSV:
        rows.write_csv(file)
    else:
        rows.write_parquet(file)
