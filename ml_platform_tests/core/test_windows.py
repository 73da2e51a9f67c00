"""Windows against their definition, literally computed; and their independence of batches."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from ml_platform.core.windows import MOMENT, event_moments, grid_moments, mean_of, window_sums

T0 = datetime(2013, 1, 10, tzinfo=UTC)
WINDOWS = {"1h": timedelta(hours=1), "1d": timedelta(days=1)}
LENGTHS = list(WINDOWS.values())
GRID = timedelta(minutes=15)

events_strategy = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(-4000, 2999), st.one_of(st.none(), st.integers(-50, 500))), max_size=25
)


def frame(events: list[tuple[str, int, int | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "key": [key for key, _, _ in events],
            "known_at": [T0 + timedelta(minutes=minute) for _, minute, _ in events],
            "delay": [delay for _, _, delay in events],
        },
        schema={"key": pl.String, "known_at": pl.Datetime("us", "UTC"), "delay": pl.Int64},
    )


def statistics(events: pl.DataFrame, start: datetime, end: datetime, grid: timedelta | None) -> pl.DataFrame:
    """As a transform computes them: from the events a batch is given."""
    given_events = events.filter(
        pl.col("known_at") > start - max(LENGTHS) - timedelta(hours=1), pl.col("known_at") < end
    )
    where = {"key": "key", "at": "known_at", "windows": LENGTHS, "start": start, "end": end}
    moments = event_moments(given_events, **where) if grid is None else grid_moments(given_events, grid=grid, **where)
    return window_sums(given_events, moments, key="key", at="known_at", sums=["delay"], windows=WINDOWS)


def brute_force(events: pl.DataFrame, key: str, t: datetime, window: timedelta) -> int:
    return sum(
        row["delay"] or 0
        for row in events.iter_rows(named=True)
        if row["key"] == key and t - window < row["known_at"] <= t
    )


@settings(max_examples=60, deadline=None)
@given(events=events_strategy, on_grid=st.booleans())
def test_every_value_is_the_sum_over_its_half_open_window(
    events: list[tuple[str, int, int | None]], on_grid: bool
) -> None:
    history = frame(events)
    start, end = T0, T0 + timedelta(days=2)
    result = statistics(history, start, end, GRID if on_grid else None)
    for row in result.iter_rows(named=True):
        for name, window in WINDOWS.items():
            assert row[f"delay_{name}"] == brute_force(history, row["key"], row[MOMENT], window)


def test_an_event_counts_from_its_own_microsecond_to_the_last_one_before_it_is_a_window_old() -> None:
    tick, hour = timedelta(microseconds=1), WINDOWS["1h"]
    events = frame([("a", 0, 7)])
    moments = pl.DataFrame(
        {"key": "a", MOMENT: [T0 - tick, T0, T0 + tick, T0 + hour - tick, T0 + hour, T0 + hour + tick]},
        schema_overrides={MOMENT: pl.Datetime("us", "UTC")},
    )
    result = window_sums(events, moments, key="key", at="known_at", sums=["delay"], windows={"1h": hour})
    assert result["delay_1h"].to_list() == [0, 7, 7, 7, 0, 0]


def test_moments_may_come_in_any_order_and_keys_may_be_several_columns() -> None:
    events = frame([("a", 0, 7), ("a", 90, 5), ("b", 30, 3)]).with_columns(pl.lit("x").alias("site"))
    where = {"key": ["site", "key"], "at": "known_at"}
    moments = event_moments(events, **where, windows=LENGTHS, start=T0, end=T0 + timedelta(days=2))
    asked = {**where, "sums": ["delay"], "windows": WINDOWS}
    result = window_sums(events, moments.reverse(), **asked)
    assert_frame_equal(result, window_sums(events, moments, **asked))
    assert result.filter(pl.col(MOMENT) == T0 + timedelta(minutes=90))["delay_1d"].to_list() == [12, 3]


@settings(max_examples=60, deadline=None)
@given(events=events_strategy)
def test_there_is_a_row_at_each_event_and_each_expiry_and_nowhere_else(
    events: list[tuple[str, int, int | None]],
) -> None:
    start, end = T0, T0 + timedelta(days=2)
    expected = {
        (key, moment)
        for key, minute, _ in events
        for moment in (T0 + timedelta(minutes=minute) + shift for shift in (timedelta(0), *LENGTHS))
        if start <= moment < end
    }
    result = statistics(frame(events), start, end, None)
    assert set(result.select("key", MOMENT).iter_rows()) == expected
    assert result.height == len(expected)


@settings(max_examples=60, deadline=None)
@given(events=events_strategy, cut=st.integers(1, 47), on_grid=st.booleans())
def test_two_batches_give_what_one_gives(events: list[tuple[str, int, int | None]], cut: int, on_grid: bool) -> None:
    history, grid = frame(events), GRID if on_grid else None
    start, middle, end = T0, T0 + timedelta(hours=cut), T0 + timedelta(days=2)
    whole = statistics(history, start, end, grid)
    parts = pl.concat([statistics(history, start, middle, grid), statistics(history, middle, end, grid)])
    assert_frame_equal(whole, parts.sort("key", MOMENT))


def test_a_key_returns_to_nothing_once_after_its_last_event_has_passed() -> None:
    history = frame([("a", 0, 7)])
    for grid in (None, GRID):
        result = statistics(history, T0, T0 + timedelta(days=5), grid)
        last = result.row(-1, named=True)
        assert last[MOMENT] == T0 + timedelta(days=1)
        assert last["delay_1d"] == 0
        assert result.filter(pl.col("delay_1d") == 0).height == 1


def test_grid_points_are_multiples_of_the_grid_whatever_the_batch_begins_with() -> None:
    history = frame([("a", -1, 7)])
    result = statistics(history, T0 + timedelta(minutes=4), T0 + timedelta(hours=1), GRID)
    assert result[MOMENT].to_list() == [T0 + timedelta(minutes=m) for m in (15, 30, 45)]


def test_floats_are_refused_because_their_sum_depends_on_the_order() -> None:
    history = frame([("a", 0, 7)]).with_columns(pl.col("delay").cast(pl.Float64))
    with pytest.raises(TypeError, match="'delay' is Float64"):
        statistics(history, T0, T0 + timedelta(days=1), None)


def test_a_mean_of_nothing_is_null_and_not_nan() -> None:
    totals = pl.DataFrame({"total": [6, 0], "count": [4, 0]})
    assert totals.select(mean_of("total", "count").alias("mean"))["mean"].to_list() == [1.5, None]
