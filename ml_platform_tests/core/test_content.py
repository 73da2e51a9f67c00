"""A frame's hash is the identity of its content: every catalog ever written holds it."""

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from ml_platform.core.content import content_hash, ordered_hash, sort_rows

FRAME = pl.DataFrame(
    {
        "key": [3, 1, 2, 4],
        "text": ["b", None, "", "é"],
        "number": [1.5, None, -0.0, float("nan")],
        "small": pl.Series([None, 1, -1, 0], dtype=pl.Int8),
        "flag": [True, False, None, True],
        "day": [date(2013, 1, 1), None, date(2013, 1, 2), date(2013, 1, 3)],
        "moment": [datetime(2013, 1, 1, 6, tzinfo=UTC), None, datetime(2013, 1, 2, tzinfo=UTC), None],
        "took": [timedelta(minutes=3), None, timedelta(0), timedelta(microseconds=1)],
        "kind": pl.Series(["x", "y", None, "x"], dtype=pl.Categorical),
        "nothing": [None, None, None, None],
    }
)


def test_a_hash_never_changes_between_versions_of_the_platform():
    assert content_hash(FRAME, ["key"]) == "74e039a858685804e9656fe2069b4282"
    assert content_hash(FRAME.clear(), ["key"]) == "cd68e842bd8456fbd9dac8736c1f1bd9"


def test_neither_the_order_of_rows_nor_that_of_columns_matters():
    assert content_hash(FRAME.reverse().select(reversed(FRAME.columns)), ["key"]) == content_hash(FRAME, ["key"])
    assert ordered_hash(sort_rows(FRAME, ["key"])) == content_hash(FRAME, ["key"])
    assert ordered_hash(sort_rows(FRAME, ["key"]).reverse()) != content_hash(FRAME, ["key"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pl.Series([0]), pl.Series([None], dtype=pl.Int64)),
        (pl.Series([0.0]), pl.Series([None], dtype=pl.Float64)),
        (pl.Series([False]), pl.Series([None], dtype=pl.Boolean)),
        (pl.Series([""]), pl.Series([None], dtype=pl.String)),
        (pl.Series([1]), pl.Series([1], dtype=pl.Int32)),
        (pl.Series(["ab", "c"]), pl.Series(["a", "bc"])),
        (pl.Series([1.0]), pl.Series([1.0 + 1e-15])),
    ],
)
def test_what_differs_in_value_type_or_absence_has_another_hash(one, other):
    assert content_hash(one.to_frame("value"), []) != content_hash(other.to_frame("value"), [])


def test_zeros_of_either_sign_are_the_same_zero():
    assert content_hash(pl.DataFrame({"value": [-0.0]}), []) == content_hash(pl.DataFrame({"value": [0.0]}), [])


def test_a_nested_column_is_refused_by_name():
    with pytest.raises(TypeError, match=r"column 'tags' has type List\(String\): only flat columns"):
        content_hash(pl.DataFrame({"key": [1], "tags": [["a"]]}), ["key"])
