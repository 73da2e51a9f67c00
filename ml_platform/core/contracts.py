"""Landed files held against a table's contract: valid rows, quarantined rows with reasons, and their quality.

Two things can be wrong. A *file* that cannot be read, whose header keeps no version of the contract, or of
which a column changed its type is refused as a whole (:class:`FileRefused`): nothing in it can be trusted.
A *row* that breaks a rule is quarantined with its reasons, and the others go on.

The result depends on the set of delivered rows alone, not on their order or on how they were cut into files.
Finding and reading files belongs to :mod:`ml_platform.stores.landing`.
"""

import csv
import difflib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

import polars as pl

from ml_platform.core.quality import Quality, share
from ml_platform.core.table_frames import DTYPES, polars_schema, quarantine_schema
from ml_platform.core.table_spec import KNOWN_AT, ColumnSpec, ColumnType, TableSpec

if TYPE_CHECKING:
    from pandera.polars import DataFrameSchema

CHANGED_TYPE_SHARE = 0.5
"""A column of which more than this share of a file's filled cells cannot be read has changed its type."""


class FileRefused(ValueError):
    """A landed file that cannot be trusted as a whole; the message names file, column, value and what is allowed.

    Attributes:
        file: its name under the landing folder.
        problem: what is wrong.
        allowed: what would be right.
        column: the column, where one is to blame.
        value: the first offending value, as landed.
        line: its line, the header being line 1.
    """

    def __init__(
        self,
        file: str,
        problem: str,
        allowed: str,
        column: str | None = None,
        value: str | None = None,
        line: int | None = None,
    ) -> None:
        """Compose the message from its parts."""
        super().__init__(f"{file}{f', line {line}' if line else ''}: {problem}; allowed: {allowed}")
        self.file = file
        self.problem = problem
        self.allowed = allowed
        self.column = column
        self.value = value
        self.line = line


@dataclass(frozen=True)
class Delivery:
    """What was landed for one partition.

    Attributes:
        files: names and contents; several are pieces of one delivery.
        start: beginning of the period in which its rows became known; None for a reference table.
        end: end of that period, exclusive; None for a reference table.
    """

    files: Sequence[tuple[str, bytes]]
    start: datetime | None = None
    end: datetime | None = None


@dataclass(frozen=True)
class Validated:
    """One partition held against its contract.

    Attributes:
        valid: rows that keep it, each once, sorted by key; schema as :func:`polars_schema`.
        quarantined: the other rows, each once, as landed; schema as :func:`quarantine_schema`.
        quality: figures over both.
    """

    valid: pl.DataFrame
    quarantined: pl.DataFrame
    quality: Quality


def accept(spec: TableSpec, deliveries: Mapping[str, Delivery]) -> dict[str, Validated | FileRefused]:
    """Hold many partitions against their contract at once; a refused file costs its own partition alone.

    Judging ninety days together costs little more than judging one.

    Args:
        spec: the table.
        deliveries: by partition, what was landed for it.

    Returns:
        For each partition, in the given order, its rows or why it was refused.
    """
    refused: dict[str, FileRefused] = {}
    landed: dict[str, pl.DataFrame] = {}
    for partition, delivery in deliveries.items():
        try:
            pieces = [parse_file(spec, name, content) for name, content in delivery.files]
        except FileRefused as error:
            refused[partition] = error
        else:
            landed[partition] = pl.concat([pl.DataFrame(schema=_text_schema(spec)), *pieces])
    outcomes = refused | _judge(spec, landed, deliveries)
    return {partition: outcomes[partition] for partition in deliveries}


def validate(
    spec: TableSpec, frame: pl.DataFrame, start: datetime | None = None, end: datetime | None = None
) -> Validated:
    """Hold the rows of one partition, as :func:`parse_file` gives them, against their contract.

    Args:
        spec: the table.
        frame: rows of all files of the partition.
        start: beginning of its period; None for a reference table.
        end: end of its period, exclusive; None for a reference table.

    Raises:
        FileRefused: a column of a file changed its type.
    """
    outcome = _judge(spec, {"": frame}, {"": Delivery((), start, end)})[""]
    if isinstance(outcome, FileRefused):
        raise outcome
    return outcome


def parse_file(spec: TableSpec, name: str, content: bytes) -> pl.DataFrame:
    """The cells of a landed CSV file as text under canonical names, with the file, line and version they came from.

    Raises:
        FileRefused: the file is no complete CSV file in UTF-8, or its header keeps no version of the contract.
    """
    if not content:
        raise FileRefused(name, "the file is empty", "a header, and below it no, one or many rows")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        value = repr(content[error.start : error.start + 8])
        raise FileRefused(name, f"{value} is not UTF-8", "CSV text in UTF-8", value=value, line=line) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FileRefused(name, "a zero byte in the text", "CSV text in UTF-8", value="\0", line=line)
    if not text.endswith("\n"):
        rest = text.rpartition("\n")[2]
        raise FileRefused(
            name,
            f"the file is cut off after {rest[-40:]!r}",
            "a line break at the end of every line, the last one too",
            value=rest,
            line=text.count("\n") + 1,
        )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        header = next(reader)
        for row in reader:
            if len(row) != len(header):
                raise FileRefused(
                    name,
                    f"{len(row)} cells in the row {','.join(row)[:80]!r}",
                    f"{len(header)} cells as in the header",
                    value=",".join(row),
                    line=reader.line_num,
                )
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise FileRefused(name, f"the file is no CSV ({error})", "CSV text in UTF-8", line=reader.line_num) from error
    version, layout = _version(spec, name, header)
    cells = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    in_table = {spec.column_in_table(canonical): cells[column] for column, canonical in layout.items()}
    frame = pl.DataFrame(
        {column: pl.Series(in_table.get(column, [None] * len(rows)), dtype=pl.String) for column in spec.columns}
    )
    return frame.select(pl.when(pl.all() != "").then(pl.all())).with_columns(
        source_file=pl.lit(name),
        source_line=pl.Series(lines, dtype=pl.Int64),
        _version=pl.lit(version, dtype=pl.Int64),
    )


def _version(spec: TableSpec, name: str, header: list[str]) -> tuple[int, dict[str, str]]:
    """The version of the contract that the header keeps, and its columns in the file -> canonical columns."""
    if repeated := [column for column in header if header.count(column) > 1]:
        problem = f"column {repeated[0]!r} occurs {header.count(repeated[0])} times in the header"
        raise FileRefused(name, problem, "every column once", repeated[0], repeated[0], 1)
    layouts = spec.contract.layouts
    for version, layout in reversed(layouts.items()):
        if set(layout) == set(header):
            return version, layout
    version, layout = min(layouts.items(), key=lambda item: (len(set(item[1]) ^ set(header)), -item[0]))
    missing = [column for column in layout if column not in header]
    undeclared = [column for column in header if column not in layout]
    problems = [f"column {column!r} is missing" for column in missing]
    for column in undeclared:
        near = difflib.get_close_matches(column, missing or layout, n=1)
        problems.append(f"column {column!r} is not declared" + (f" (did you mean {near[0]!r}?)" if near else ""))
    allowed = f"the columns of version {version}: {', '.join(layout)}"
    if len(layouts) > 1:
        allowed += f" (the nearest of versions {', '.join(map(str, layouts))})"
    column = (missing + undeclared)[0]
    raise FileRefused(name, ", ".join(problems), allowed, column, undeclared[0] if undeclared else None, 1)


def _judge(
    spec: TableSpec, landed: Mapping[str, pl.DataFrame], deliveries: Mapping[str, Delivery]
) -> dict[str, Validated | FileRefused]:
    """Split the rows of each partition into valid and quarantined ones; partitions never see each other."""
    if not landed:
        return {}
    instant = pl.Datetime("us", "UTC")
    rows = pl.concat(
        frame.sort("source_file", "source_line").with_columns(
            _partition=pl.lit(partition),
            _start=pl.lit(deliveries[partition].start, dtype=instant),
            _end=pl.lit(deliveries[partition].end, dtype=instant),
        )
        for partition, frame in landed.items()
    ).with_row_index("_row")
    text = rows.select(*spec.columns)
    typed = legible(spec, text)
    unreadable = pl.DataFrame([(text[name].is_not_null() & typed[name].is_null()).alias(name) for name in spec.columns])
    if changed := _changed_types(spec, rows, unreadable):
        kept = {partition: frame for partition, frame in landed.items() if partition not in changed}
        return changed | _judge(spec, kept, deliveries)

    unread = [name for name in spec.columns if unreadable[name].any()]
    identity = typed.with_columns(
        rows["_row"],
        rows["_partition"],
        *(pl.when(unreadable[name]).then(text[name]).alias(f"landed {name}") for name in unread),
    )
    distinct = identity.unique(pl.exclude("_row"), keep="first", maintain_order=True)
    reasons = pl.concat(
        [
            *(
                _broken(rows.filter(unreadable[name]), name, f"is not {spec.columns[name].type.allowed}")
                for name in unread
            ),
            *_rule_breaks(spec, rows, typed, unreadable),
            *_strays(spec, rows, typed),
            *_conflicts(spec, distinct),
        ]
    )
    reasons = reasons.group_by("_row").agg(pl.col("reason").unique(maintain_order=True).str.join("; ").alias("reasons"))
    rows = rows.join(reasons, on="_row", how="left", maintain_order="left").with_columns(
        _distinct=pl.col("_row").is_in(distinct["_row"].implode())
    )
    valid = typed.with_columns(rows["_partition"]).filter(rows["_distinct"] & rows["reasons"].is_null())
    quarantined = rows.filter("_distinct", pl.col("reasons").is_not_null())
    by_partition = valid.sort(*spec.sort_key).partition_by("_partition", as_dict=True, include_key=False)
    broken = quarantined.select("_partition", *quarantine_schema(spec)).partition_by(
        "_partition", as_dict=True, include_key=False
    )
    figures = _quality(spec, rows, typed)
    no_rows, none_broken = pl.DataFrame(schema=polars_schema(spec)), pl.DataFrame(schema=quarantine_schema(spec))
    return {
        partition: Validated(
            by_partition.get((partition,), no_rows),
            broken.get((partition,), none_broken),
            figures.get(partition, Quality()),
        )
        for partition in landed
    }


def legible(spec: TableSpec, landed: pl.DataFrame) -> pl.DataFrame:
    """Cells as they were landed, read as the contract's types: null where one is empty or cannot be read."""
    return landed.select(_typed(name, column).alias(name) for name, column in spec.columns.items())


def _typed(name: str, column: ColumnSpec) -> pl.Expr:
    """The cell read as the column's type, null where it is empty or cannot be read."""
    text = pl.col(name)
    match column.type:
        case ColumnType.INTEGER:
            return pl.when(text.str.contains(r"^-?[0-9]+$")).then(text).cast(pl.Int64, strict=False)
        case ColumnType.NUMBER:
            decimal = text.str.contains(r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$")
            number = pl.when(decimal).then(text).cast(pl.Float64, strict=False)
            # -0.0 equals 0.0 but has other bytes, and which of two equal rows stays must not matter
            return pl.when(number == 0).then(0.0).when(number.is_finite()).then(number)
        case ColumnType.BOOLEAN:
            return pl.when(text == "true").then(True).when(text == "false").then(False)
        case ColumnType.TIMESTAMP:
            # polars alone would read `2013-1-1T…` and the 60th second
            iso = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9](\.[0-9]{1,6})?Z$"
            moment = pl.when(text.str.contains(iso)).then(text)
            parsed = moment.str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", strict=False)
            return parsed.dt.replace_time_zone("UTC")
        case ColumnType.TEXT:
            return text


def _changed_types(spec: TableSpec, rows: pl.DataFrame, unreadable: pl.DataFrame) -> dict[str, FileRefused]:
    """For each partition with a file of which most cells of a column cannot be read, the first such file."""
    refused: dict[str, FileRefused] = {}
    for name, column in spec.columns.items():
        if not unreadable[name].any():
            continue
        bad = pl.col("unreadable")
        files = (
            rows.with_columns(unreadable=unreadable[name], value=pl.col(name))
            .filter(pl.col("value").is_not_null())
            .group_by("_partition", "source_file", maintain_order=True)
            .agg(
                bad.sum().alias("count"),
                pl.len().alias("filled"),
                pl.col("value", "source_line").filter(bad).first(),
            )
            .filter(pl.col("count") > CHANGED_TYPE_SHARE * pl.col("filled"))
        )
        for partition, file, count, filled, value, line in files.iter_rows():
            problem = (
                f"column {name!r} changed its type: {value!r} is not {column.type.allowed.partition(',')[0]}, "
                f"like {count} of its {filled} values in the file"
            )
            refused.setdefault(partition, FileRefused(file, problem, column.type.allowed, name, value, line))
    return refused


def _broken(rows: pl.DataFrame, name: str, phrase: str) -> pl.DataFrame:
    """Each row with the reason that its cell of a column gives."""
    return rows.select("_row", reason=pl.format("{} = '{}' {}", pl.lit(name), pl.col(name), pl.lit(phrase)))


def _rule_breaks(
    spec: TableSpec, rows: pl.DataFrame, typed: pl.DataFrame, unreadable: pl.DataFrame
) -> Iterable[pl.DataFrame]:
    """Cells that are missing, out of bounds, none of the listed values or not of the pattern."""
    from pandera.errors import SchemaErrors

    try:
        _rules(tuple(spec.columns.items())).validate(typed, lazy=True)
    except SchemaErrors as error:
        failures = error.failure_cases
    else:
        return
    for (name, rule), group in failures.group_by("column", "check", maintain_order=True):
        if group["index"].null_count():
            raise RuntimeError(f"table {spec.name!r}: rule {rule!r} of {name!r} failed without naming rows")
        at = group["index"]
        if rule == "not_nullable":
            at = at.filter(~unreadable[name].gather(at))
            yield rows[at].select("_row", reason=pl.lit(f"{name} is missing"))
        else:
            yield _broken(rows[at], name, rule)


@lru_cache(maxsize=64)
def _rules(columns: tuple[tuple[str, ColumnSpec], ...]) -> "DataFrameSchema":
    """The pandera schema of a table; a check's error is the phrase that ends its reason."""
    import pandera.polars as pa

    def checks(column: ColumnSpec) -> list[pa.Check]:
        found = []
        if column.minimum is not None:
            found.append(pa.Check.ge(column.minimum, error=f"is below the minimum {column.minimum:g}"))
        if column.maximum is not None:
            found.append(pa.Check.le(column.maximum, error=f"is above the maximum {column.maximum:g}"))
        if column.one_of:
            found.append(pa.Check.isin(column.one_of, error=f"is none of {', '.join(map(str, column.one_of))}"))
        if column.pattern is not None:
            whole = f"^(?:{column.pattern})$"
            found.append(pa.Check.str_matches(whole, error=f"does not match {column.pattern}"))
        return found

    # pandera's cost is per column: those without a rule are left out
    return pa.DataFrameSchema(
        {
            name: pa.Column(DTYPES[column.type], found, nullable=column.nullable)
            for name, column in columns
            if (found := checks(column)) or not column.nullable
        }
    )


def _strays(spec: TableSpec, rows: pl.DataFrame, typed: pl.DataFrame) -> Iterable[pl.DataFrame]:
    """Rows which became known outside the period they were delivered for."""
    if spec.known_at is not None:
        strays = rows.filter(~typed[KNOWN_AT].is_between(rows["_start"], rows["_end"], closed="left"))
        instant = "%Y-%m-%dT%H:%M:%SZ"
        start, end = pl.col("_start").dt.to_string(instant), pl.col("_end").dt.to_string(instant)
        reason = pl.format(f"{KNOWN_AT} = '{{}}' is outside its period from {{}} to before {{}}", KNOWN_AT, start, end)
        yield strays.select("_row", reason=reason)


def _conflicts(spec: TableSpec, distinct: pl.DataFrame) -> Iterable[pl.DataFrame]:
    """Rows whose key other, different rows of the partition have too.

    The one known first stands: what becomes known later cannot undo what was known by then. Of rows known at the same
    moment nobody can tell which is true.
    """
    key = spec.sort_key
    versions = pl.len().over("_partition", *key).alias("_versions")
    rivals = distinct.drop_nulls(key).with_columns(versions).filter(pl.col("_versions") > 1)
    if spec.known_at is not None:
        first = (pl.col(KNOWN_AT) == pl.col(KNOWN_AT).min().over("_partition", *key)).fill_null(value=False)
        rivals = rivals.filter(~(first & (first.sum().over("_partition", *key) == 1)))
    yield rivals.select("_row", reason=pl.format("key {} has {} different rows", pl.lit(", ".join(key)), "_versions"))


def _quality(spec: TableSpec, rows: pl.DataFrame, typed: pl.DataFrame) -> dict[str, Quality]:
    """The figures of every partition that has rows."""
    cells = {version: len(layout) for version, layout in spec.contract.layouts.items()}
    kept = pl.col("_distinct") & pl.col("reasons").is_null()
    timely, lag = pl.lit(True), pl.lit(None, dtype=pl.Float64)
    if spec.known_at is not None:
        rows = rows.with_columns(_known_at=typed[KNOWN_AT])
        timely = pl.col("_known_at").is_between("_start", "_end", closed="left").fill_null(False)
        if spec.event_time is not None:
            rows = rows.with_columns(_happened=typed[spec.column_in_table(spec.event_time)])
            lag = (pl.col("_known_at") - pl.col("_happened")).dt.total_seconds() / 60
    figures = rows.group_by("_partition").agg(
        delivered=pl.len(),
        valid=kept.sum(),
        duplicates=(~pl.col("_distinct")).sum(),
        filled=pl.sum_horizontal(pl.col(*spec.columns).is_not_null()).sum(),
        cells=pl.col("_version").replace_strict(cells, return_dtype=pl.Int64).sum(),
        timely=timely.sum() if spec.known_at is not None else pl.len(),
        lag=lag.filter(kept).median() if spec.known_at is not None else lag.first(),
    )
    return {
        partition: Quality(
            delivered_rows=delivered,
            valid_rows=valid,
            quarantined_rows=delivered - valid - duplicates,
            duplicate_rows=duplicates,
            completeness=share(filled, cells_),
            validity=share(valid, delivered - duplicates),
            uniqueness=share(delivered - duplicates, delivered),
            timeliness=share(timely_, delivered),
            median_lag_minutes=lag_,
        )
        for partition, delivered, valid, duplicates, filled, cells_, timely_, lag_ in figures.iter_rows()
    }


def _text_schema(spec: TableSpec) -> dict[str, pl.DataType]:
    """The schema of :func:`parse_file`."""
    cells: dict[str, pl.DataType] = dict.fromkeys(spec.columns, pl.String())
    return cells | {"source_file": pl.String(), "source_line": pl.Int64(), "_version": pl.Int64()}
