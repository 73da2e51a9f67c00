"""A figure is read from where it says, or it is an error."""

import pytest

from ml_platform.core.page import Cited, Sources, shown

SOURCES = Sources(
    {
        "a": {
            "raw/x": 7,
            "list": [{"value": 0.5, "low": None, "high": None}, {"value": 1.0, "low": 0.5, "high": 2.0}, None],
        }
    }
)


def test_a_value_is_cited_with_its_json_pointer() -> None:
    assert SOURCES.cite("a", "raw/x") == Cited(7, "a/raw~1x")
    assert SOURCES.cite("a", "list", 0, "value") == Cited(0.5, "a/list/0/value")


def test_a_figure_has_its_interval_if_it_has_one_and_none_at_all_is_a_dash() -> None:
    assert SOURCES.cite_figure("a", "list", 0) == (Cited(0.5, "a/list/0/value"),)
    assert [cited.value for cited in SOURCES.cite_figure("a", "list", 1)] == [1.0, 0.5, 2.0]
    assert SOURCES.cite_figure("a", "list", 2) == "-"


def test_what_is_not_there_or_not_single_cannot_be_cited() -> None:
    with pytest.raises(KeyError, match="a/rows has no 'rows': there is \\['list', 'raw/x'\\]"):
        SOURCES.cite("a", "rows")
    with pytest.raises(KeyError, match="not a single value but a list"):
        SOURCES.cite("a", "list")


@pytest.mark.parametrize(
    ("value", "words"), [(1234567, "1,234,567"), (0.123456, "0.1235"), (True, "yes"), (None, "undefined"), ("a", "a")]
)
def test_values_are_shown_as_people_read_them(value: int | float | bool | str | None, words: str) -> None:
    assert shown(value) == words
