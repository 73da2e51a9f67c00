"""The point-in-time join against its definition, row by row."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_platform.core.asof import _Join, join_as_of, newest_of_each

T0 = datetime(2013, 1, 1, tzinfo=UTC)
UTC_US = pl.Datetime("us", "UTC")

keys = st.sampled_from(["a", "a", "a", "b", None])
"""Mostly the same: rows that never meet say nothing of a join."""

minutes = st.integers(0, 12)
written = st.one_of(st.none(), minutes)
feature_rows = st.lists(st.tuples(keys, keys, minutes, written), max_size=20, unique_by=lambda row: row)
entity_rows = st.lists(st.tuples(keys, keys, minutes), max_size=12)


def at(minute: int) -> datetime:
    return T0 + timedelta(minutes=minute)


def feature_frame(rows: list[tuple[Any, Any, int, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(k, j, at(e), None if c is None else at(c), f"{k}{j}{e}:{c}") for k, j, e, c in rows],
        schema={"k": pl.String, "j": pl.String, "event": UTC_US, "created": UTC_US, "value": pl.String},
        orient="row",
    )


def entity_frame(rows: list[tuple[Any, Any, int]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(n, k, j, at(t)) for n, (k, j, t) in enumerate(rows)],
        schema={"n": pl.Int64, "k": pl.String, "other": pl.String, "moment": UTC_US},
        orient="row",
    )


def history(rows: pl.DataFrame) -> Callable[[datetime | None, datetime], pl.LazyFrame]:
    """As a store would read it: rows of a span of event time."""

    def between(after: datetime | None, until: datetime) -> pl.LazyFrame:
        inside = pl.col("event") <= until
        return rows.lazy().filter(inside if after is None else inside & (pl.col("event") > after))

    return between


def brute_force(
    entity: dict[str, Any], features: pl.DataFrame, ttl: timedelta | None, created: bool, bounds: bool
) -> str | None:
    best = None
    for row in features.iter_rows(named=True):
        if entity["k"] is None or entity["other"] is None or (row["k"], row["j"]) != (entity["k"], entity["other"]):
            continue
        if row["event"] > entity["moment"]:
            continue
        if bounds and (row["created"] is None or row["created"] > entity["moment"]):
            continue
        if ttl and row["event"] + ttl < entity["moment"]:
            continue
        rank = (row["event"], row["created"] or T0 - timedelta(days=1)) if created else (row["event"],)
        if best is None or rank > best[0]:
            best = (rank, row["value"])
    return best[1] if best else None


@settings(max_examples=400, deadline=None)
@given(
    features=feature_rows,
    entities=entity_rows,
    ttl=st.one_of(st.none(), st.integers(0, 8)),
    bounds=st.booleans(),
    step_rows=st.sampled_from([1, 2, 3, 5, 100]),
    history_rows=st.sampled_from([1, 2, 3, 5, 100]),
)
def test_each_row_gets_the_newest_row_known_by_then_and_not_expired(
    features: list[tuple[Any, Any, int, int | None]],
    entities: list[tuple[Any, Any, int]],
    ttl: int | None,
    bounds: bool,
    step_rows: int,
    history_rows: int,
) -> None:
    known, rows = feature_frame(features), entity_frame(entities)
    lifetime = None if ttl is None else timedelta(minutes=ttl)
    joined = join_as_of(
        rows,
        history(known),
        keys={"k": "k", "other": "j"},
        at="moment",
        event="event",
        values=["value"],
        ttl=lifetime,
        created="created",
        created_bounds=bounds,
        step_rows=step_rows,
        history_rows=history_rows,
    )
    assert joined.drop("value").equals(rows)
    expected = [brute_force(row, known, lifetime, True, bounds) for row in rows.iter_rows(named=True)]
    assert joined["value"].to_list() == expected


@pytest.mark.parametrize("moments", ["spread", "in one minute", "all at once"])
@pytest.mark.parametrize("bounds", [True, False])
def test_little_history_is_held_however_much_is_between_few_rows(
    monkeypatch: pytest.MonkeyPatch, moments: str, bounds: bool
) -> None:
    events = pl.int_range(5_000, eager=True)
    microseconds = {"spread": events * 777_777, "in one minute": events // 50 * 3, "all at once": events * 0}[moments]
    later = events if moments == "all at once" else events % 50
    times = pl.lit(T0) + pl.duration(microseconds=microseconds)
    known = pl.DataFrame({"k": [str(n % 7) for n in events], "value": events}).with_columns(
        event=times.cast(UTC_US), created=(times + pl.duration(microseconds=later)).cast(UTC_US)
    )
    at = [T0, T0 + timedelta(microseconds=101), T0 + timedelta(minutes=30), T0 + timedelta(days=9)]
    rows = pl.DataFrame({"k": list("3306"), "moment": at}, schema_overrides={"moment": UTC_US})
    held, answer = [], _Join._answer

    def watched(join: _Join, step: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
        held.append(found.height)
        return answer(join, step, found)

    monkeypatch.setattr(_Join, "_answer", watched)
    joined = [
        join_as_of(
            rows,
            history(known),
            keys={"k": "k"},
            at="moment",
            event="event",
            values=["value"],
            created="created",
            created_bounds=bounds,
            history_rows=limit,
        )
        for limit in (100, 10_000)
    ]
    assert joined[0].equals(joined[1])
    assert joined[0]["value"].null_count() < rows.height
    not_written_yet = {"spread": 1, "in one minute": 50 * 50 // 3, "all at once": 5_000}[moments] if bounds else 0
    assert max(held[:-1]) <= 100 + 7 + not_written_yet
    assert held[-1] == 5_000


def test_without_created_the_event_alone_decides() -> None:
    known = feature_frame([("a", "b", 5, 9), ("a", "b", 3, 1)])
    rows = entity_frame([("a", "b", 4), ("a", "b", 5), ("a", "b", 2)])
    joined = join_as_of(
        rows, history(known), keys={"k": "k", "other": "j"}, at="moment", event="event", values=["value"]
    )
    assert joined["value"].to_list() == ["ab3:1", "ab5:9", None]


def test_a_correction_counts_from_when_it_was_written() -> None:
    known = feature_frame([("a", "b", 1, 1), ("a", "b", 1, 6), ("a", "b", 3, 8)])
    rows = entity_frame([("a", "b", minute) for minute in (1, 5, 6, 7, 8)])
    joined = join_as_of(
        rows,
        history(known),
        keys={"k": "k", "other": "j"},
        at="moment",
        event="event",
        values=["value"],
        created="created",
        created_bounds=True,
    )
    assert joined["value"].to_list() == ["ab1:1", "ab1:1", "ab1:6", "ab1:6", "ab3:8"]


def test_a_row_of_which_nobody_knows_when_it_was_written_never_counts_where_that_counts() -> None:
    known = feature_frame([("a", "b", 1, 2), ("a", "b", 3, None)])
    rows = entity_frame([("a", "b", minute) for minute in (2, 3, 12)])
    for bounds, values in ((True, ["ab1:2"] * 3), (False, ["ab1:2", "ab3:None", "ab3:None"])):
        joined = join_as_of(
            rows,
            history(known),
            keys={"k": "k", "other": "j"},
            at="moment",
            event="event",
            values=["value"],
            created="created",
            created_bounds=bounds,
        )
        assert joined["value"].to_list() == values


def test_no_moment_of_writing_outweighs_a_microsecond_of_the_event() -> None:
    long_ago, far_ahead = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    events = [moment + timedelta(microseconds=number) for moment in (long_ago, T0, far_ahead) for number in (0, 1)]
    written = [None, long_ago, T0, far_ahead]
    ascending = pl.DataFrame(
        [("a", event, created) for event in events for created in written],
        schema={"k": pl.String, "event": UTC_US, "created": UTC_US},
        orient="row",
    ).with_row_index("place")
    for number in range(1, ascending.height):
        pair = ascending[[number, number - 1]].lazy()
        assert newest_of_each(pair, ["k"], "event", "created").collect()["place"].to_list() == [number]


def test_a_value_named_like_an_entity_column_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\['n'\] are already columns"):
        join_as_of(
            entity_frame([]),
            history(feature_frame([]).rename({"value": "n"})),
            keys={"k": "k"},
            at="moment",
            event="event",
            values=["n"],
        )
