"""Statistics over trailing windows of event time, at declared moments.

Belongs here: which moments get a row and what each window's sums are there. What is summed, and what
the sums mean, belongs to the transform that calls this.

The value of window ``w`` at ``t`` covers events in ``(t - w, t]``, to the microsecond: an event counts at the moment
it became known, and no longer one length after it. Sums are taken of integers, so the result at ``t`` is the same
whatever other events were in the same batch.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import polars as pl

MOMENT = "event_timestamp"
"""Name of the column that says when a row's values became true."""

Key = str | Sequence[str]
"""The column, or columns, that name a thing."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event_moments(
    events: pl.DataFrame, *, key: Key, at: str, windows: Sequence[timedelta], start: datetime, end: datetime
) -> pl.DataFrame:
    """Every moment in ``[start, end)`` at which a window's value can change: each event and each expiry.

    The last expiry is among them, so that a key's values return to nothing when its events have passed.

    Args:
        events: one row per event; it must reach back from ``start`` by more than the longest window.
        key: column, or columns, of the thing the events belong to.
        at: column of the moment an event became known (UTC).
        windows: lengths, all positive.
        start: first moment (UTC).
        end: the moment after the last one (UTC).

    Returns:
        Columns of ``key`` and ``event_timestamp``, without duplicates, sorted.
    """
    keys = _columns(key)
    known = events.select(*keys, pl.col(at).alias(MOMENT)).drop_nulls().unique()
    shifted = [known.with_columns(pl.col(MOMENT) + shift) for shift in (timedelta(0), *windows)]
    return pl.concat(shifted).filter(pl.col(MOMENT).is_between(start, end, closed="left")).unique().sort(*keys, MOMENT)


def grid_moments(
    events: pl.DataFrame,
    *,
    key: Key,
    at: str,
    windows: Sequence[timedelta],
    grid: timedelta,
    start: datetime,
    end: datetime,
) -> pl.DataFrame:
    """The multiples of ``grid`` since 1970 in ``[start, end)``, for every key with an event in reach.

    In reach is ``(t - longest window - grid, t]``: the grid point after the last expiry is included, so
    that a key's values return to nothing when its events have passed. Arguments and result are otherwise
    those of :func:`event_moments`.
    """
    keys = _columns(key)
    first = _EPOCH + -((_EPOCH - start) // grid) * grid
    points = pl.DataFrame({MOMENT: pl.datetime_range(first, end, grid, closed="left", eager=True, time_unit="us")})
    last_event = events.select(*keys, pl.col(at).alias("last_event")).drop_nulls().unique().sort("last_event")
    return (
        last_event.select(keys)
        .unique()
        .join(points, how="cross")
        .sort(MOMENT)
        .join_asof(last_event, left_on=MOMENT, right_on="last_event", by=keys, check_sortedness=False)
        .filter(pl.col(MOMENT) - pl.col("last_event") < max(windows) + grid)
        .select(*keys, MOMENT)
        .sort(*keys, MOMENT)
    )


def window_sums(
    events: pl.DataFrame,
    moments: pl.DataFrame,
    *,
    key: Key,
    at: str,
    sums: Sequence[str],
    windows: Mapping[str, timedelta],
) -> pl.DataFrame:
    """The sum of each column over each window at each moment.

    A window's sum is the running total at ``t`` less the running total at ``t - w``: two as-of joins,
    however many events lie between.

    Args:
        events: one row per event with the columns of ``key``, ``at`` and ``sums``.
        moments: columns of ``key`` and ``event_timestamp``, as :func:`event_moments` gives them.
        key: column, or columns, of the thing the events belong to.
        at: column of the moment an event became known (UTC).
        sums: columns to sum, integers or booleans; a null adds nothing.
        windows: length by name.

    Returns:
        ``moments`` sorted, with an Int64 column ``<sum>_<window>`` for each pair.

    Raises:
        TypeError: a summed column holds neither integers nor booleans; the message names it.
    """
    for name in sums:
        if not (events.schema[name].is_integer() or events.schema[name] == pl.Boolean):
            raise TypeError(f"column {name!r} is {events.schema[name]}: only integers sum alike in every order")
    keys = _columns(key)
    totals = (
        events.drop_nulls([*keys, at])
        .group_by(*keys, at)
        .agg(pl.col(*sums).cast(pl.Int64).sum())
        .sort(*keys, at)
        .with_columns(pl.col(*sums).cum_sum().over(keys))
    )
    # As-of joins need order within each key alone; a look is far cheaper than to sort again by what may be text.
    in_order = moments.select(pl.struct(*keys, MOMENT)).to_series().is_sorted()
    result = moments if in_order else moments.sort(*keys, MOMENT)
    at_moment = _totals_at(totals, result, keys, at, timedelta(0)).select(sums)
    columns: list[pl.Series] = []
    for window, length in windows.items():
        before = _totals_at(totals, result, keys, at, length).select(sums)
        columns += [(at_moment[name] - before[name]).alias(f"{name}_{window}") for name in sums]
    return result.with_columns(columns)


def mean_of(total: str, count: str) -> pl.Expr:
    """``total / count`` as Float64; null, never NaN, where nothing was counted."""
    return pl.when(pl.col(count) > 0).then(pl.col(total) / pl.col(count))


def _totals_at(
    totals: pl.DataFrame, moments: pl.DataFrame, keys: Sequence[str], at: str, shift: timedelta
) -> pl.DataFrame:
    probes = moments.select(*keys, (pl.col(MOMENT) - shift).alias(MOMENT))
    joined = probes.join_asof(totals, left_on=MOMENT, right_on=at, by=keys, check_sortedness=False)
    return joined.with_columns(pl.exclude(*keys, MOMENT, at).fill_null(0))


def _columns(key: Key) -> list[str]:
    return [key] if isinstance(key, str) else list(key)
