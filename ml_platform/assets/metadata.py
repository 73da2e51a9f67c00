"""What people see of an asset: its columns, sample rows, SQL line and pictures, as Dagster metadata."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from ml_platform.core.table_spec import TableSpec
from ml_platform.stores.table_names import LANDED_THROUGH, sql_name

if TYPE_CHECKING:
    import polars as pl

    from ml_platform.stores.incremental import Outcome

_TYPE_NAMES = {
    "String": "text",
    "Int32": "integer",
    "Int64": "integer",
    "Float32": "number",
    "Float64": "number",
    "Bool": "boolean",
    "UnixTimestamp": "timestamp",
}
"""Feast's names of types as contracts call them: people see one vocabulary."""


@dataclass(frozen=True)
class Column:
    """One documented column of a table."""

    name: str
    type: str
    description: str
    unit: str = ""
    nullable: bool = True


def table_definition(table: str, columns: Sequence[Column]) -> dict[str, Any]:
    """Definition metadata of an asset that is a lake table: schema, name and a copyable query."""
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=column.name,
                    type=_TYPE_NAMES.get(column.type, column.type),
                    description=column.description,
                    constraints=dg.TableColumnConstraints(nullable=column.nullable),
                    # A name has no unit, whatever its view says.
                    tags={"unit": column.unit} if column.unit and column.type not in ("text", "String") else {},
                )
                for column in columns
            ]
        ),
        "dagster/table_name": sql_name(table),
        "query": dg.MetadataValue.md(f'`ml-platform sql "from {sql_name(table)} limit 10"`'),
    }


def contract_columns(spec: TableSpec) -> list[Column]:
    """The columns of a raw table, as its contract describes them."""
    return [
        Column(name, column.type.value, column.description, column.unit or "", column.nullable)
        for name, column in spec.columns.items()
    ]


def day_metadata(outcome: "Outcome") -> dict[str, Any]:
    """Row count, figures, sample rows and input versions of one day."""
    state = outcome.state
    if state is None:
        return {}
    metadata: dict[str, Any] = {"dagster/partition_row_count": state.rows, "delta_version": state.delta_version}
    metadata |= facts_metadata(state.facts)
    if outcome.sample is not None:
        metadata["sample"] = sample_rows(outcome.sample)
    if state.inputs:
        metadata["inputs"] = dg.MetadataValue.json(dict(state.inputs))
    return metadata


def facts_metadata(facts: Mapping[str, float]) -> dict[str, Any]:
    """What is on record of a partition, by name; a moment as such."""
    return {
        name: dg.MetadataValue.timestamp(value) if name == LANDED_THROUGH else value
        for name, value in facts.items()
        if value is not None
    }


def sample_rows(frame: "pl.DataFrame") -> dg.MarkdownMetadataValue:
    """The first ten rows as a markdown table."""
    head = frame.head(10)
    lines = ["| " + " | ".join(head.columns) + " |", "|" + "---|" * head.width]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in head.iter_rows()]
    return dg.MetadataValue.md("\n".join(lines))


def picture(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """A PNG shown in place by the Dagster UI."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def markdown_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with the same keys, as a markdown table."""
    if not rows:
        return ""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(_cell(row[name]) for name in header) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M"))
    return str(value).replace("|", "\\|")
