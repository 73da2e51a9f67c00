"""The point-in-time join: what was known of each key at each row's moment.

Belongs here: the join alone, on frames. Which tables are joined, and how they are named, does not.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

History = Callable[[datetime | None, datetime], pl.LazyFrame]
"""Feature rows by event time: those after the first moment (None: from the beginning) up to the second, included."""

STEP_ROWS = 2_000_000
HISTORY_ROWS = 8_000_000

_MICROSECOND = timedelta(microseconds=1)
_NEVER = datetime(1, 1, 1, tzinfo=UTC)
_TIME = pl.Datetime("us", "UTC")
_AT, _USABLE, _RANK, _ROW = "__at", "__usable", "__rank", "__row"
_BINS = 4096
"""Spans of equal length in which history is counted before it is cut."""

_MOMENTS = 1 << 64
"""So many timestamps there are: of two ranks by event and then by creation, no creation outweighs a microsecond."""


def join_as_of(
    entities: pl.DataFrame,
    history: History,
    *,
    keys: Mapping[str, str],
    at: str,
    event: str,
    values: Sequence[str],
    ttl: timedelta | None = None,
    created: str | None = None,
    created_bounds: bool = False,
    step_rows: int = STEP_ROWS,
    history_rows: int = HISTORY_ROWS,
) -> pl.DataFrame:
    """``entities`` with the values of each key's newest feature row at or before the entity's moment.

    Newest is by ``event``, then by ``created``, where null is older than any. A null key or moment matches nothing.
    Rows, their order and duplicates among them are kept as they are.

    Entities are taken in the order of their moments, ``step_rows`` at a time, or fewer where more than ``history_rows``
    feature rows are between their moments. History is read as far as each step needs it, and of what is older the
    newest row of each key is held: memory grows with these two numbers and the number of keys, not with history.

    Args:
        entities: rows to enrich: the keys of ``keys`` and ``at`` (microseconds, UTC).
        history: gives the columns ``keys.values()``, ``event`` (microseconds, UTC), ``values``, ``created`` if given;
            keys have the entities' types.
        keys: feature column by entity column.
        at: the entities' moment.
        event: when a feature row's values became true.
        values: feature columns wanted; none may be a column of ``entities``.
        ttl: a feature row older than this at ``at`` counts as absent; None or zero: rows never expire.
        created: when a feature row was written (microseconds, UTC).
        created_bounds: a feature row counts only where ``created`` too is at or before ``at``; null never is.
        step_rows: entities at a time, at least one.
        history_rows: feature rows at a time, at least one; beside them one of each key is held, and with
            ``created_bounds`` those that were not written yet.

    Returns:
        ``entities`` with the columns ``values``, null where nothing was known.

    Raises:
        ValueError: ``values`` and ``entities`` share a column, or ``created_bounds`` without ``created``.
    """
    if clash := sorted(set(values) & set(entities.columns)):
        raise ValueError(f"feature columns {clash} are already columns of the entity frame")
    if created_bounds and created is None:
        raise ValueError("created_bounds needs the name of the created column")
    join = _Join(dict(keys), event, list(values), ttl or None, created, created_bounds, history_rows)
    asking = entities.select(*keys, pl.col(at).cast(_TIME).fill_null(_NEVER).alias(_AT))
    order = None if asking[_AT].is_sorted() else asking[_AT].arg_sort()
    ordered = asking if order is None else asking[order]
    steps = [ordered.slice(start, step_rows) for start in range(0, max(1, ordered.height), step_rows)]
    found = pl.concat(join.sweep(steps, history), rechunk=True)
    return entities.hstack(found if order is None else found[order.arg_sort()])


@dataclass(frozen=True)
class _Join:
    keys: Mapping[str, str]
    event: str
    values: Sequence[str]
    ttl: timedelta | None
    created: str | None
    created_bounds: bool
    history_rows: int

    def sweep(self, steps: Sequence[pl.DataFrame], history: History) -> Iterator[pl.DataFrame]:
        """The values of each row of steps whose moments ascend."""
        held: pl.DataFrame | None = None
        until = _NEVER
        for number, step in enumerate(steps, start=1):
            first, last = _span(step)
            if held is None:
                oldest, before = self._oldest(first), first - _MICROSECOND
                if oldest is None or last - first < first - oldest:
                    # Of a long history before every row, one row of each key is enough.
                    held, until = self._newest(history(oldest, before), before), before
                else:
                    until = oldest
            fresh = history(until, last).head(self.history_rows + 1).collect(engine="streaming")
            if fresh.height > self.history_rows:
                del fresh
                held = yield from self._by_parts(step, history, held, until, last)
            else:
                known = fresh if held is None else pl.concat([held, fresh.select(held.columns)])
                yield self._answer(step, known)
                held = self._newest(known.lazy(), last) if number < len(steps) else None
            until = last

    def _by_parts(
        self, step: pl.DataFrame, history: History, held: pl.DataFrame | None, after: datetime, last: datetime
    ) -> Generator[pl.DataFrame, None, pl.DataFrame | None]:
        """The values of a step's rows, where too much history is between them; then what can be an answer after it."""
        start, until = 0, after
        for end in (after, *self._ends(history, after, last)):
            stop = int(step[_AT].search_sorted(end, side="right"))
            if start == stop and until == end:
                continue
            part, fresh = step[start:stop], history(until, end)
            if held is not None:
                fresh = pl.concat([held.lazy(), fresh.select(held.columns)])
            if part.height and part[_AT][0] < end:
                known = fresh.collect(engine="streaming")
                yield self._answer(part, known)
                held = self._newest(known.lazy(), end)
            else:
                # What is asked at the end alone needs one row of each key.
                held = self._newest(fresh, end)
                yield self._answer(part, held)
            start, until = stop, end
        return held

    def _ends(self, history: History, after: datetime, last: datetime) -> Iterator[datetime]:
        """The ends of parts of a span, each with few enough rows of history, or with those of one moment alone."""
        begin, width = after + _MICROSECOND, max(_MICROSECOND, (last - after) / _BINS)
        number = (pl.col(self.event) - begin).dt.total_microseconds() // (width // _MICROSECOND)
        counts = history(after, last).group_by(number.alias(_RANK)).len().collect(engine="streaming").sort(_RANK)
        rows, until = 0, after
        for bin_, many in counts.iter_rows():
            start = after + bin_ * width
            end = last if last - start < width else start + width
            if rows and rows + many > self.history_rows:
                yield until
                rows = 0
            if many > self.history_rows:
                yield start
                yield from [end] if width == _MICROSECOND else self._ends(history, start, end)
            else:
                rows += many
            until = end
        yield last

    def _oldest(self, first: datetime) -> datetime | None:
        """Before which a feature row has expired at every moment from the first on."""
        return None if self.ttl is None or first - _NEVER <= self.ttl else first - self.ttl - _MICROSECOND

    def _answer(self, step: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
        """The values of each row of a step: keys and moments tell which row is its answer, and its values are taken."""
        keys = {ours: f"__key_{ours}" for ours in self.keys}
        # What is usable from its event on is too old exactly where that is too far away.
        near = None if self.created_bounds else self.ttl
        answer = step.join_asof(
            self._usable(known).rename({theirs: keys[ours] for ours, theirs in self.keys.items()}),
            left_on=_AT,
            right_on=_USABLE,
            by_left=list(keys) or None,
            by_right=list(keys.values()) or None,
            tolerance=near,
            check_sortedness=False,
        )[_ROW]
        if self.ttl is not None and near is None:
            answer = answer.set(step[_AT] - known[self.event].gather(answer) > self.ttl, None)
        return known.select(pl.col(self.values).gather(answer))

    def _usable(self, known: pl.DataFrame) -> pl.DataFrame:
        """Keys and numbers of the rows that can be an answer, in the order in which they become one."""
        rows = known.select(*self.keys.values(), self.event, *([self.created] if self.created else [])).with_row_index(
            _ROW
        )
        order = [self.event] if self.created is None else [self.event, self.created]
        if not self.created_bounds or self.created is None:
            if self.created is not None or not rows[self.event].is_sorted():
                rows = rows.sort(order, maintain_order=True)
            return rows.select(*self.keys.values(), _ROW, pl.col(self.event).alias(_USABLE))
        # A row is usable from max(event, created). Of the rows usable by then, the greatest (event, created) wins, so
        # only rows that raise its running maximum can ever be the answer.
        return (
            rows.drop_nulls(self.created)
            .with_columns(
                pl.max_horizontal(self.event, self.created).alias(_USABLE), pl.struct(order).rank("dense").alias(_RANK)
            )
            .sort(_USABLE, _RANK)
            .filter(pl.col(_RANK) == self._so_far(pl.col(_RANK).cum_max()))
            .select(*self.keys.values(), _ROW, _USABLE)
        )

    def _so_far(self, running: pl.Expr) -> pl.Expr:
        return running.over(list(self.keys.values())) if self.keys else running

    def _newest(self, rows: pl.LazyFrame, until: datetime) -> pl.DataFrame:
        """What of these rows, which are those up to a moment, can be an answer after it."""
        keys = list(self.keys.values())
        carried = [*([self.created] if self.created else []), *self.values]
        rows = rows.drop_nulls([*keys, self.event])
        if self.ttl is not None and until - _NEVER > self.ttl:
            rows = rows.filter(pl.col(self.event) >= until - self.ttl)
        waiting = None
        if self.created_bounds and self.created is not None:
            # Without a moment of writing a row is never known to be there.
            rows = rows.drop_nulls(self.created)
            waiting = rows.filter(pl.col(self.created) > until)
            rows = rows.filter(pl.col(self.created) <= until)
        newest = newest_of_each(rows.select(*keys, self.event, *carried), keys, self.event, self.created)
        return (
            newest if waiting is None else pl.concat([newest, waiting.select(newest.collect_schema().names())])
        ).collect(engine="streaming")


def newest_of_each(rows: pl.LazyFrame, keys: Sequence[str], event: str, created: str | None = None) -> pl.LazyFrame:
    """The row of each key with the greatest ``event``, then ``created``, found without sorting or holding the others.

    Args:
        rows: any columns beside these; ``event`` and ``created`` are timestamps in microseconds.
        keys: columns that tell one thing from another; none: all rows are of one thing.
        event: when a row became true.
        created: when it was written; a row of which nobody knows is older than any.
    """
    rank = pl.col(event).to_physical()
    if created is not None:
        written = pl.col(created).to_physical().fill_null(-(_MOMENTS // 2))
        rank = rank.cast(pl.Int128) * pl.lit(_MOMENTS, pl.Int128) + written
    others = [name for name in rows.collect_schema().names() if name not in keys]
    ranked = rows.with_columns(rank.alias(_RANK))
    newest = pl.col(others).max_by(_RANK)
    return ranked.group_by(keys).agg(newest) if keys else ranked.select(newest).drop_nulls(event)


def _span(step: pl.DataFrame) -> tuple[datetime, datetime]:
    """The first and the last moment; if there is none, one before all history."""
    moments = step[_AT].filter(step[_AT] != _NEVER)
    if moments.is_empty():
        return _NEVER + _MICROSECOND, _NEVER + _MICROSECOND
    return moments[0], moments[-1]
