"""Deliveries, good and awkward, held against the contract of a small table of river levels."""

import random
from datetime import UTC, datetime

import polars as pl
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ml_platform.core.contracts import Delivery, FileRefused, Validated, accept, parse_file, validate
from ml_platform.core.table_frames import polars_schema, quarantine_schema
from ml_platform.core.table_spec import TableSpec

SPEC = TableSpec.model_validate(
    yaml.safe_load("""
name: levels
description: Water levels as the gauges report them.
owners: [team:rivers]
key: [gauge, measured_at]
event_time: measured_at
known_at: received_at
contract:
  columns:
    - {name: gauge, type: text, one_of: [north, south], description: Where.}
    - {name: measured_at, type: timestamp, description: When it was measured.}
    - {name: level_cm, type: number, unit: cm, minimum: 0, maximum: 900, description: The level.}
    - {name: readings, type: integer, nullable: true, minimum: 1, description: How many readings it is the mean of.}
    - {name: flooded, type: boolean, nullable: true, description: Whether the gauge is under water.}
    - {name: observer, type: text, nullable: true, pattern: "[a-z]+", description: Who looked; since version 2.}
    - {name: received_at, type: timestamp, description: When we heard of it.}
  versions:
    - {version: 1}
    - {version: 2, renamed: {water_level_cm: level_cm}, added: [observer]}
""")
)
START, END = datetime(2020, 5, 1, tzinfo=UTC), datetime(2020, 5, 2, tzinfo=UTC)
FILE = "levels/2020-05-01.csv"
V1 = "gauge,measured_at,level_cm,readings,flooded,received_at"
V2 = "observer,gauge,measured_at,water_level_cm,readings,flooded,received_at"


def text(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def judged(*files: tuple[str, bytes]) -> Validated | FileRefused:
    return accept(SPEC, {"2020-05-01": Delivery(files, START, END)})["2020-05-01"]


def accepted(*lines: str, header: str = V1) -> Validated:
    outcome = judged((FILE, text(header, *lines)))
    assert isinstance(outcome, Validated), outcome
    return outcome


def refusal(content: bytes) -> FileRefused:
    outcome = judged((FILE, content))
    assert isinstance(outcome, FileRefused), outcome
    assert FILE in str(outcome)
    assert outcome.allowed in str(outcome)
    return outcome


def reasons(outcome: Validated) -> list[str]:
    return outcome.quarantined["reasons"].to_list()


def good(hour: int, level: str = "120.5", gauge: str = "north") -> str:
    return f"{gauge},2020-05-01T{hour:02}:00:00Z,{level},3,false,2020-05-01T{hour:02}:30:00Z"


def test_good_rows_become_typed_rows_sorted_by_key_with_known_at() -> None:
    outcome = accepted(good(3, gauge="south"), good(2), "north,2020-05-01T01:00:00Z,7,,,2020-05-01T01:10:00.25Z")

    expected = pl.DataFrame(
        {
            "gauge": ["north", "north", "south"],
            "measured_at": [datetime(2020, 5, 1, hour, tzinfo=UTC) for hour in (1, 2, 3)],
            "level_cm": [7.0, 120.5, 120.5],
            "readings": [None, 3, 3],
            "flooded": [None, False, False],
            "observer": [None, None, None],
            "known_at": [
                datetime(2020, 5, 1, 1, 10, 0, 250_000, tzinfo=UTC),
                datetime(2020, 5, 1, 2, 30, tzinfo=UTC),
                datetime(2020, 5, 1, 3, 30, tzinfo=UTC),
            ],
        },
        schema=polars_schema(SPEC),
    )
    assert_frame_equal(outcome.valid, expected)
    assert outcome.quarantined.is_empty()
    assert outcome.quality.median_lag_minutes == 30.0
    assert outcome.quality.completeness == pytest.approx(16 / 18)
    assert (outcome.quality.validity, outcome.quality.uniqueness, outcome.quality.timeliness) == (1.0, 1.0, 1.0)


def test_a_header_alone_is_an_empty_period_of_perfect_quality() -> None:
    outcome = accepted()

    assert outcome.valid.schema == polars_schema(SPEC)
    assert outcome.quarantined.schema == quarantine_schema(SPEC)
    assert outcome.quality.as_metadata() == {
        "delivered_rows": 0,
        "valid_rows": 0,
        "quarantined_rows": 0,
        "duplicate_rows": 0,
        "completeness": 1.0,
        "validity": 1.0,
        "uniqueness": 1.0,
        "timeliness": 1.0,
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("north,2020-05-01T01:00:00Z,901,3,,2020-05-01T01:10:00Z", "level_cm = '901' is above the maximum 900"),
        ("north,2020-05-01T01:00:00Z,-0.1,3,,2020-05-01T01:10:00Z", "level_cm = '-0.1' is below the minimum 0"),
        ("north,2020-05-01T01:00:00Z,1,0,,2020-05-01T01:10:00Z", "readings = '0' is below the minimum 1"),
        ("west,2020-05-01T01:00:00Z,1,3,,2020-05-01T01:10:00Z", "gauge = 'west' is none of north, south"),
        (",2020-05-01T01:00:00Z,1,3,,2020-05-01T01:10:00Z", "gauge is missing"),
        ("north,,1,3,,2020-05-01T01:10:00Z", "measured_at is missing"),
        ("north,2020-05-01T01:00:00Z,,3,,2020-05-01T01:10:00Z", "level_cm is missing"),
        ("north,2020-05-01T01:00:00Z,1,3,,", "known_at is missing"),
        ("north,2020-05-01T01:00:00Z,1,3.0,,2020-05-01T01:10:00Z", "readings = '3.0' is not a whole number, as -7"),
        ("north,2020-05-01T01:00:00Z,1,9223372036854775808,,2020-05-01T01:10:00Z", "is not a whole number"),
        ("north,2020-05-01T01:00:00Z,nan,3,,2020-05-01T01:10:00Z", "level_cm = 'nan' is not a finite decimal number"),
        ("north,2020-05-01T01:00:00Z,1e999,3,,2020-05-01T01:10:00Z", "'1e999' is not a finite decimal number"),
        ("north,2020-05-01T01:00:00Z,1,3,True,2020-05-01T01:10:00Z", "flooded = 'True' is not true or false"),
        ("north,2020-5-1T01:00:00Z,1,3,,2020-05-01T01:10:00Z", "measured_at = '2020-5-1T01:00:00Z' is not a UTC time"),
        ("north,2020-05-01T01:00:60Z,1,3,,2020-05-01T01:10:00Z", "'2020-05-01T01:00:60Z' is not a UTC time"),
        ("north,2020-02-30T01:00:00Z,1,3,,2020-05-01T01:10:00Z", "'2020-02-30T01:00:00Z' is not a UTC time"),
        ("north,2020-05-01T01:00:00+02:00,1,3,,2020-05-01T01:10:00Z", "is not a UTC time"),
        (
            "north,2020-05-01T01:00:00Z,1,3,,2020-05-02T00:00:00Z",
            "known_at = '2020-05-02T00:00:00Z' is outside its period from 2020-05-01T00:00:00Z to before "
            "2020-05-02T00:00:00Z",
        ),
        ("north,2020-05-01T01:00:00Z,1,3,,2020-04-30T23:59:59Z", "known_at = '2020-04-30T23:59:59Z' is outside"),
    ],
)
def test_a_bad_row_is_quarantined_with_its_one_reason_and_the_others_go_on(line: str, reason: str) -> None:
    outcome = accepted(good(2), line, good(3), good(4))

    assert outcome.valid["measured_at"].dt.hour().to_list() == [2, 3, 4]
    (found,) = reasons(outcome)
    assert reason in found
    assert "; " not in found
    assert outcome.quarantined.select("source_file", "source_line").row(0) == (FILE, 3)
    assert outcome.quality.validity == 0.75


def test_a_quarantined_row_stays_as_it_was_landed_and_has_all_its_reasons() -> None:
    outcome = accepted(good(2), good(3), good(4), "west,2020-05-01T01:00:00Z,many,07,,2020-05-03T01:10:00Z")

    assert outcome.quarantined.drop("reasons", "source_file", "source_line").row(0) == (
        *("west", "2020-05-01T01:00:00Z", "many", "07", None, None, "2020-05-03T01:10:00Z"),
    )
    assert [reason.partition(" ")[0] for reason in reasons(outcome)[0].split("; ")] == ["level_cm", "gauge", "known_at"]


def test_a_pattern_matches_the_whole_cell() -> None:
    line = "{},north,2020-05-01T01:00:00Z,5,3,,2020-05-01T01:10:00Z"

    assert reasons(accepted(line.format("eve"), header=V2)) == []
    assert reasons(accepted(line.format("eve2"), header=V2)) == ["observer = 'eve2' does not match [a-z]+"]


def test_exact_copies_collapse_also_across_pieces_and_ways_of_writing_a_number() -> None:
    pieces = ((FILE, text(V1, good(1, "5"), good(1, "5.0"))), ("levels/2020-05-01.2.csv", text(V1, good(1, "5"))))
    outcome = judged(*pieces)

    assert isinstance(outcome, Validated)
    assert outcome.valid.height == 1
    assert (outcome.quality.delivered_rows, outcome.quality.duplicate_rows) == (3, 2)
    assert outcome.quality.uniqueness == pytest.approx(1 / 3)
    assert outcome.quality.validity == 1.0


def test_rows_that_contradict_each_other_are_all_quarantined() -> None:
    outcome = accepted(good(1, "5"), good(1, "6"), good(2), good(1, "7"))

    assert outcome.valid["measured_at"].dt.hour().to_list() == [2]
    assert reasons(outcome) == ["key gauge, measured_at has 3 different rows"] * 3


def test_what_was_known_first_stands_against_what_contradicts_it_later() -> None:
    later = "north,2020-05-01T01:00:00Z,6,3,false,2020-05-01T20:00:00Z"
    outcome = accepted(later, good(1, "5"), good(2))

    assert outcome.valid["level_cm"].to_list() == [5.0, 120.5]
    assert outcome.quarantined["source_line"].to_list() == [2]
    assert reasons(outcome) == ["key gauge, measured_at has 2 different rows"]


def test_version_2_arrives_under_the_same_names_beside_version_1() -> None:
    second = text(V2, "eve,south,2020-05-01T01:00:00Z,5,3,,2020-05-01T01:10:00Z")
    outcome = judged((FILE, text(V1, good(1))), ("levels/2020-05-01.2.csv", second))

    assert isinstance(outcome, Validated)
    assert outcome.valid.schema == polars_schema(SPEC)
    assert outcome.valid.select("gauge", "level_cm", "observer").rows() == [
        ("north", 120.5, None),
        ("south", 5.0, "eve"),
    ]
    assert outcome.quality.completeness == pytest.approx(12 / 13), "a column its version lacks is not incomplete"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (bytes(range(256)) * 4, "is not UTF-8"),
        (text(V1, good(1)).replace(b"north", b"n\xffrth"), "is not UTF-8"),
        (text(V1, good(1)).replace(b"north", b"n\x00rth"), "zero byte"),
        (text(V1, good(1), good(2))[:-9], "cut off after"),
        (V1.encode(), "cut off after"),
        (text(V1, good(1), "north,2020-05-01T02:00:00Z,5"), "3 cells in the row 'north,2020-05-01T02:00:00Z,5'"),
        (text(V1, good(1) + ",,"), "8 cells in the row"),
        (text(V1, good(1), ""), "0 cells in the row"),
        (text(V1, '"' + good(1)), "no CSV"),
        (text(V1 + ",gauge", good(1) + ",x"), "column 'gauge' occurs 2 times in the header"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(content: bytes, said: str) -> None:
    assert said in str(refusal(content))


def test_the_line_of_a_broken_row_is_named() -> None:
    assert refusal(text(V1, good(1), good(2), "x")).line == 4
    assert refusal(text(V1, good(1)).replace(b"north", b"n\xffrth")).line == 2


def test_a_missing_column_is_refused_and_named_with_what_is_allowed() -> None:
    error = refusal(text(V1.replace(",readings", ""), "north,2020-05-01T02:00:00Z,5,,2020-05-01T02:10:00Z"))

    assert error.column == "readings"
    assert "column 'readings' is missing" in str(error)
    assert "the columns of version 1: gauge, measured_at, level_cm, readings, flooded, received_at" in str(error)


def test_an_undeclared_column_is_refused_with_the_nearest_name() -> None:
    error = refusal(text(V1.replace("readings", "reading"), good(1)))

    assert "column 'reading' is not declared (did you mean 'readings'?)" in str(error)
    assert (error.column, error.value) == ("readings", "reading")


def test_half_a_version_is_no_version() -> None:
    error = refusal(text(V2.replace("observer,", ""), good(1)))

    assert "column 'observer' is missing" in str(error)
    assert "version 2" in str(error)
    assert "nearest of versions 1, 2" in str(error)


def test_a_column_that_changed_its_type_is_refused_with_its_first_value() -> None:
    error = refusal(text(V1, good(1), good(2, "5 cm"), good(3, "6 cm")))

    assert (error.column, error.value, error.line) == ("level_cm", "5 cm", 3)
    assert "column 'level_cm' changed its type: '5 cm' is not a finite decimal number, like 2 of its 3 values" in str(
        error
    )
    assert error.allowed == "a finite decimal number, as 10.5"


def test_a_changed_type_is_judged_per_file_and_empty_cells_say_nothing_of_type() -> None:
    bad = ("levels/2020-05-01.2.csv", text(V1, good(9, "5 cm")))
    assert isinstance(judged((FILE, text(V1, good(1), good(2), good(3))), bad), FileRefused)
    empties = text(V1, good(1, ""), good(2, ""), good(3))
    assert isinstance(judged((FILE, empties)), Validated)


def test_a_refused_file_costs_its_own_partition_alone_and_their_order_is_kept() -> None:
    days = {
        "2020-05-01": Delivery([(FILE, text(V1, good(1)))], START, END),
        "2020-05-02": Delivery([("levels/2020-05-02.csv", b"\xff\n")], END, datetime(2020, 5, 3, tzinfo=UTC)),
        "a type": Delivery([("levels/3.csv", text(V1, good(1, "x")))], START, END),
        "nothing": Delivery([], START, END),
        "again": Delivery([(FILE, text(V1, good(1, "99")))], START, END),
    }
    outcomes = accept(SPEC, days)

    assert list(outcomes) == list(days)
    assert [type(outcome) for outcome in outcomes.values()] == [
        Validated,
        FileRefused,
        FileRefused,
        Validated,
        Validated,
    ]
    assert [outcome.valid.height for outcome in outcomes.values() if isinstance(outcome, Validated)] == [1, 0, 1]


def test_a_byte_order_mark_and_quoted_cells_over_two_lines_are_read() -> None:
    content = b"\xef\xbb\xbf" + text(V2, '"a\nb",north,2020-05-01T01:00:00Z,5,3,,2020-05-01T01:10:00Z', "x" + ",x" * 6)
    frame = parse_file(SPEC, FILE, content)

    assert frame["observer"].to_list() == ["a\nb", "x"]
    assert frame["source_line"].to_list() == [3, 4]


def test_validate_raises_what_accept_returns() -> None:
    with pytest.raises(FileRefused, match="changed its type"):
        validate(SPEC, parse_file(SPEC, FILE, text(V1, good(1, "x"))), START, END)
    assert validate(SPEC, parse_file(SPEC, FILE, text(V1, good(1))), START, END).valid.height == 1


def test_a_reference_table_has_no_period() -> None:
    spec = TableSpec.model_validate(
        {
            "name": "gauges",
            "description": "Gauges.",
            "owners": ["team:rivers"],
            "kind": "reference",
            "key": ["gauge"],
            "contract": {"columns": [{"name": "gauge", "type": "text", "description": "Which."}]},
        }
    )
    outcome = accept(spec, {"all": Delivery([("gauges/gauges.csv", b"gauge\nsouth\nnorth\nnorth\n")])})["all"]

    assert isinstance(outcome, Validated)
    assert outcome.valid["gauge"].to_list() == ["north", "south"]
    assert outcome.quality.timeliness == 1.0
    assert outcome.quality.median_lag_minutes is None


cells = st.tuples(
    st.sampled_from(["north", "north", "south", "west", ""]),
    st.sampled_from(["2020-05-01T01:00:00Z", "2020-05-01T02:00:00Z", ""]),
    st.sampled_from(["1", "1.0", "-0.0", "0", "2", "9000", ""]),
    st.sampled_from(["3", "", "0"]),
    st.sampled_from(["true", ""]),
    st.sampled_from(["2020-05-01T01:30:00Z", "2020-05-01T01:30:00Z", "2020-05-02T00:00:00Z", ""]),
)
delivered = st.lists(cells.map(",".join), max_size=25)
unreadable = st.sampled_from(["west,noon,x,3.5,yes,later", "north,2020-05-01T01:00:00Z,x,3,,2020-05-01T01:30:00Z"])


@settings(max_examples=40, deadline=None)
@given(delivered, st.lists(unreadable, max_size=5))
def test_every_delivered_row_is_valid_quarantined_or_a_copy(lines: list[str], strange: list[str]) -> None:
    outcome = judged((FILE, text(V1, *lines, *strange)))
    assume(isinstance(outcome, Validated))
    assert isinstance(outcome, Validated)
    quality = outcome.quality

    assert quality.delivered_rows == len(lines) + len(strange)
    assert quality.valid_rows == outcome.valid.height
    assert quality.quarantined_rows == outcome.quarantined.height
    assert quality.valid_rows + quality.quarantined_rows + quality.duplicate_rows == quality.delivered_rows
    assert not outcome.valid.is_duplicated().any()
    assert not outcome.valid.select(SPEC.sort_key).is_duplicated().any()
    assert outcome.valid.null_count().select("gauge", "measured_at", "level_cm", "known_at").row(0) == (0, 0, 0, 0)
    assert outcome.valid["known_at"].is_between(START, END, closed="left").all()
    assert outcome.quarantined["reasons"].null_count() == 0


@settings(max_examples=40, deadline=None)
@given(delivered, st.integers(1, 4), st.randoms(use_true_random=False))
def test_neither_order_nor_pieces_change_what_is_valid(lines: list[str], pieces: int, chance: random.Random) -> None:
    whole = judged((FILE, text(V1, *lines)))
    shuffled = chance.sample(lines, len(lines))
    cut = judged(*((f"levels/2020-05-01.{n}.csv", text(V1, *shuffled[n::pieces])) for n in range(pieces)))

    assert isinstance(whole, Validated)
    assert isinstance(cut, Validated)
    assert_frame_equal(whole.valid, cut.valid)
    assert [str(value) for value in whole.valid["level_cm"]] == [str(value) for value in cut.valid["level_cm"]]
    assert whole.quality == cut.quality
    assert sorted(reasons(whole)) == sorted(reasons(cut))
