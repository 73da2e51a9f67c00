"""What a team declares about a raw table: where its files land and the contract their rows must keep.

Belongs here: the shape of the declaration and the rules that make one valid by itself. Holding files
and rows against it belongs to :mod:`ml_platform.core.contracts`, finding the files to
:mod:`ml_platform.stores.landing`.
"""

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StringConstraints, TypeAdapter, model_validator
from pydantic_core import SchemaError

from ml_platform.core.compute import Compute
from ml_platform.core.durations import Duration
from ml_platform.core.model_spec import Spec

KNOWN_AT = "known_at"
"""Name, in every partitioned raw table, of the column that says when its row became known."""

RESERVED = frozenset({"day", "reasons", "source_file", "source_line"})
"""Columns which the platform itself adds to tables; a contract cannot declare them."""


class TableKind(StrEnum):
    """Whether a table grows by UTC day, or is delivered as a whole."""

    PARTITIONED = "partitioned"
    REFERENCE = "reference"


class ColumnType(StrEnum):
    """How the text of a cell is read."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"
    TIMESTAMP = "timestamp"

    @property
    def allowed(self) -> str:
        """What a cell of this type looks like, for error messages."""
        return {
            ColumnType.INTEGER: "a whole number, as -7",
            ColumnType.NUMBER: "a finite decimal number, as 10.5",
            ColumnType.BOOLEAN: "true or false",
            ColumnType.TEXT: "text",
            ColumnType.TIMESTAMP: "a UTC time, as 2013-01-01T10:15:00Z",
        }[self]


class ColumnSpec(Spec):
    """One column of a contract, under its canonical name. An empty cell is a null."""

    name: str
    type: ColumnType
    description: str
    unit: str | None = None
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    one_of: tuple[int | str, ...] = ()
    pattern: str | None = None

    @model_validator(mode="after")
    def _rules_fit_the_type(self) -> Self:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"column {self.name!r} must be named in lower case letters, digits and underscores")
        numeric = self.type in (ColumnType.INTEGER, ColumnType.NUMBER)
        if not numeric and (self.minimum is not None or self.maximum is not None):
            raise ValueError(f"column {self.name!r} is {self.type}: `minimum` and `maximum` are for integer and number")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"column {self.name!r}: minimum {self.minimum:g} is above maximum {self.maximum:g}")
        expected = {ColumnType.INTEGER: int, ColumnType.TEXT: str}.get(self.type, type(None))
        if not all(isinstance(value, expected) for value in self.one_of):
            raise ValueError(f"column {self.name!r} is {self.type}: `one_of` {list(self.one_of)} are no such values")
        if self.pattern is not None:
            if self.type is not ColumnType.TEXT:
                raise ValueError(f"column {self.name!r} is {self.type}: `pattern` is for text")
            try:
                # Its regular expressions are those of polars: both are of Rust's crate `regex`.
                TypeAdapter(Annotated[str, StringConstraints(pattern=self.pattern)])
            except SchemaError as error:
                raise ValueError(f"column {self.name!r}: pattern {self.pattern!r} is no regular expression") from error
        return self


class ContractVersion(Spec):
    """What a version of the upstream's export changed against the version before it."""

    version: int
    renamed: dict[str, str] = Field(default_factory=dict, description="Column in the file -> canonical column.")
    added: tuple[str, ...] = Field(default=(), description="Canonical columns no older version delivers.")


class Contract(Spec):
    """The columns of a table under canonical names, which stay the same whatever upstream calls them.

    A file keeps a version when its header has exactly that version's columns, in any order. Columns that
    a version adds are null in rows of older files.
    """

    columns: tuple[ColumnSpec, ...]
    versions: tuple[ContractVersion, ...] = (ContractVersion(version=1),)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [column.name for column in self.columns]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns {repeated} are declared more than once")
        if taken := sorted(RESERVED & set(names)):
            raise ValueError(f"columns {taken} have names the platform uses itself: {sorted(RESERVED)}")
        numbers = [version.version for version in self.versions]
        if not numbers or numbers != sorted(set(numbers)):
            raise ValueError(f"versions must be numbered upwards, oldest first, not {numbers}")
        added = [name for version in self.versions for name in version.added]
        if self.versions[0].added or len(added) != len(set(added)):
            raise ValueError(f"a column is added once, by a version after the first, not {added}")
        nullable = {column.name for column in self.columns if column.nullable}
        if wrong := [name for name in added if name not in nullable]:
            raise ValueError(f"added columns {wrong} must be declared and nullable: older files do not have them")
        for version, layout in self.layouts.items():
            if len(layout) != len(names) - len([n for n in added if n not in layout.values()]):
                raise ValueError(f"version {version} gives two columns the same name in the file")
        if unknown := sorted({name for v in self.versions for name in v.renamed.values()} - set(names)):
            raise ValueError(f"`renamed` speaks of {unknown}; declared columns are {names}")
        return self

    @property
    def layouts(self) -> dict[int, dict[str, str]]:
        """By version, oldest first: the header of its files as column in the file -> canonical column."""
        later = {name for version in self.versions for name in version.added}
        present = [column.name for column in self.columns if column.name not in later]
        in_file: dict[str, str] = {}
        layouts = {}
        for version in self.versions:
            present += version.added
            in_file |= {canonical: name for name, canonical in version.renamed.items()}
            layouts[version.version] = {in_file.get(name, name): name for name in present}
        return layouts


class ConsistentWith(Spec):
    """Another table that should already know the things this table speaks of."""

    table: str
    key: tuple[str, ...]
    look_back: Duration = Field(description="How long before a row the other table may have known of it.")


class QuarantineLimit(Spec):
    """How much of a partition may be in quarantine before somebody is told; the rows are kept apart either way."""

    share: float = Field(default=0.05, ge=0, le=1, description="Of the partition's distinct rows.")
    rows: int | None = Field(default=None, ge=0, description="Rows, whatever their share.")


class TableSpec(Spec):
    """One raw table, declared.

    ``key`` identifies a row; ``event_time`` is when its event happened, ``known_at`` when it became known:
    that column is called ``known_at`` in the raw table, whose UTC days are its partitions. A reference
    table is delivered as a whole and has neither.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str
    owners: tuple[str, ...] = Field(min_length=1)
    group: str = "raw"
    tags: dict[str, str] = Field(default_factory=dict)
    source: str = Field(
        default="",
        description="Files under the landing folder: `folder/{period}.csv` (default `<name>/{period}.csv`), "
        "for a reference table `folder/file.csv` (default `<name>/<name>.csv`). Each table has its own folder.",
    )
    kind: TableKind = TableKind.PARTITIONED
    key: tuple[str, ...] = Field(min_length=1)
    event_time: str | None = None
    known_at: str | None = None
    contract: Contract
    consistent_with: ConsistentWith | None = None
    quarantine_limit: QuarantineLimit = QuarantineLimit()
    resources: Compute = Field(default=Compute(), description="Over the data set's `resources.tables`.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        columns = {column.name: column for column in self.contract.columns}
        partitioned = self.kind is TableKind.PARTITIONED
        if partitioned != (self.known_at is not None):
            raise ValueError(
                f"table {self.name!r} is {self.kind}: `known_at` is for partitioned tables, and they need it"
            )
        for role, names in (("key", self.key), ("event_time", (self.event_time,)), ("known_at", (self.known_at,))):
            for name in filter(None, names):
                if name not in columns:
                    raise ValueError(f"table {self.name!r}: {role} {name!r} is none of its columns {list(columns)}")
                if role != "key" and columns[name].type is not ColumnType.TIMESTAMP:
                    raise ValueError(f"table {self.name!r}: {role} {name!r} is {columns[name].type}, not timestamp")
                if role != "event_time" and columns[name].nullable:
                    raise ValueError(f"table {self.name!r}: {role} {name!r} must not be nullable")
        if KNOWN_AT in columns and self.known_at != KNOWN_AT:
            raise ValueError(f"table {self.name!r}: a column called {KNOWN_AT!r} must be its `known_at`")
        if partitioned != (self.source_pattern.rpartition("/")[2].count("{period}") == 1):
            raise ValueError(
                f"table {self.name!r} is {self.kind}: source {self.source!r} must name `{{period}}` in its file name "
                "if it is partitioned, and only then"
            )
        other = self.consistent_with
        if other is not None and (not partitioned or not set(other.key) <= set(columns)):
            raise ValueError(
                f"table {self.name!r}: `consistent_with` needs a partitioned table and a key of its columns, "
                f"not {list(other.key)}"
            )
        return self

    @property
    def source_pattern(self) -> str:
        """``source``, or its default."""
        if self.source:
            return self.source
        return f"{self.name}/{{period}}.csv" if self.kind is TableKind.PARTITIONED else f"{self.name}/{self.name}.csv"

    @property
    def columns(self) -> dict[str, ColumnSpec]:
        """The columns by their names in the raw table, in the order of the contract."""
        return {self.column_in_table(column.name): column for column in self.contract.columns}

    @property
    def sort_key(self) -> tuple[str, ...]:
        """``key`` under its names in the raw table."""
        return tuple(map(self.column_in_table, self.key))

    def column_in_table(self, name: str) -> str:
        """The name in the raw table of a column of the contract."""
        return KNOWN_AT if name == self.known_at else name
