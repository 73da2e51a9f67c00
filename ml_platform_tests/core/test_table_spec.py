"""What a table's declaration may say, and how it says what is wrong with it."""

from typing import Any

import pytest
from pydantic import ValidationError

from ml_platform.core.table_frames import polars_schema
from ml_platform.core.table_spec import TableSpec


def declared(**changes: Any) -> dict[str, Any]:
    columns = [
        {"name": "gauge", "type": "text", "description": "Where."},
        {"name": "at", "type": "timestamp", "description": "When."},
        {"name": "level_cm", "type": "number", "nullable": True, "description": "The level."},
        {"name": "note", "type": "text", "nullable": True, "description": "A note."},
        {"name": "received_at", "type": "timestamp", "description": "When we heard of it."},
    ]
    table = {"name": "levels", "description": "Levels.", "owners": ["team:rivers"], "key": ["gauge", "at"]}
    return table | {"event_time": "at", "known_at": "received_at", "contract": {"columns": columns}} | changes


def with_column(**changes: Any) -> dict[str, Any]:
    table = declared()
    table["contract"]["columns"].append({"name": "extra", "type": "integer", "description": "More."} | changes)
    return table


def with_versions(*versions: dict[str, Any]) -> dict[str, Any]:
    table = declared()
    table["contract"]["versions"] = versions
    return table


def test_each_version_says_which_file_column_is_which_canonical_one() -> None:
    spec = TableSpec.model_validate(
        with_versions(
            {"version": 1},
            {"version": 2, "renamed": {"water_level": "level_cm"}},
            {"version": 4, "added": ["note"]},
        )
    )
    v1 = {"gauge": "gauge", "at": "at", "level_cm": "level_cm", "received_at": "received_at"}
    v2 = {"gauge": "gauge", "at": "at", "water_level": "level_cm", "received_at": "received_at"}

    assert spec.contract.layouts == {1: v1, 2: v2, 4: v2 | {"note": "note"}}
    assert list(polars_schema(spec)) == ["gauge", "at", "level_cm", "note", "known_at"]


def test_the_source_is_named_for_the_table_unless_declared() -> None:
    assert TableSpec.model_validate(declared()).source_pattern == "levels/{period}.csv"
    assert TableSpec.model_validate(declared(source="x/y_{period}.txt")).source_pattern == "x/y_{period}.txt"
    reference = declared(kind="reference", known_at=None, event_time=None)
    assert TableSpec.model_validate(reference).source_pattern == "levels/levels.csv"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (declared(known_at=None), "partitioned tables, and they need it"),
        (declared(kind="reference"), "partitioned tables, and they need it"),
        (declared(key=["gage"]), "key 'gage' is none of its columns"),
        (declared(key=["level_cm"]), "key 'level_cm' must not be nullable"),
        (declared(known_at="gauge"), "known_at 'gauge' is text, not timestamp"),
        (declared(event_time="level_cm"), "event_time 'level_cm' is number, not timestamp"),
        (declared(source="levels/all.csv"), "must name `{period}`"),
        (declared(consistent_with={"table": "x", "key": ["y"], "look_back": "2d"}), "a key of its columns"),
        (declared(shape="round"), "shape"),
        (with_column(name="gauge"), "['gauge'] are declared more than once"),
        (with_column(name="reasons"), "names the platform uses itself"),
        (with_column(name="_row"), "lower case"),
        (with_column(name="known_at", type="timestamp"), "must be its `known_at`"),
        (with_column(minimum=3, maximum=2), "minimum 3 is above maximum 2"),
        (with_column(type="text", minimum=3), "are for integer and number"),
        (with_column(one_of=["a"]), "are no such values"),
        (with_column(pattern="a"), "`pattern` is for text"),
        (with_column(type="text", pattern="("), "'(' is no regular expression"),
        (with_column(type="date"), "'integer', 'number', 'boolean', 'text' or 'timestamp'"),
        (with_versions({"version": 2}, {"version": 1}), "numbered upwards"),
        (with_versions({"version": 1, "added": ["note"]}), "by a version after the first"),
        (with_versions({"version": 1}, {"version": 2, "added": ["gauge"]}), "must be declared and nullable"),
        (with_versions({"version": 1}, {"version": 2, "renamed": {"a": "b"}}), "`renamed` speaks of ['b']"),
        (with_versions({"version": 1, "renamed": {"gauge": "note"}}), "two columns the same name"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        TableSpec.model_validate(table)
    assert said in str(error.value)
