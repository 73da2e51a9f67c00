"""Tables derived from tables, day by day, computing only what changed.

Belongs here: which days of a derived table are out of date, which must wait or are blocked, and how they are
computed and written. It knows nothing of what the tables mean.

A day is identified by the content of everything it may read: its code, the input partitions within the
look-back, and, while the watermark stands inside the day, the watermark. Days with the identity they were
last computed from are left alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

import polars as pl

from ml_platform.core.digests import digest
from ml_platform.stores.catalog import WHOLE, PartitionState
from ml_platform.stores.derivation import FOREVER, Derivation, Input, day_bounds, days_between
from ml_platform.stores.lake import Lake

_CHUNK_DAYS = 120
"""Days computed at a time: bounds memory on long backfills."""

SAMPLE_ROWS = 10
"""Rows of a freshly computed day kept with its outcome, for people."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Status(StrEnum):
    """What became of one requested day."""

    WRITTEN = "written"
    EQUAL = "recomputed, equal"
    UNCHANGED = "inputs unchanged"
    BLOCKED = "blocked"
    WAITING = "waiting"


@dataclass(frozen=True)
class Outcome:
    """What became of one day, and why.

    ``state`` is what stands in the lake, if anything does; ``sample`` the first rows of what was just computed.
    """

    day: str
    status: Status
    state: PartitionState | None
    reason: str = ""
    sample: pl.DataFrame | None = None

    @property
    def good(self) -> bool:
        """Whether the day stands in the lake, up to date."""
        return self.status in (Status.WRITTEN, Status.EQUAL, Status.UNCHANGED)


def stale_days(lake: Lake, derivation: Derivation, days: Sequence[str], watermark: datetime) -> list[str]:
    """The days that :func:`derive` would compute, or newly find blocked."""
    outcomes, identities = _assess(lake, derivation, days, watermark)
    news = [
        day
        for day, outcome in outcomes.items()
        if outcome.status is Status.BLOCKED and (outcome.state is None or outcome.state.blocked != outcome.reason)
    ]
    return sorted([*identities, *news])


def derive(lake: Lake, derivation: Derivation, days: Sequence[str], watermark: datetime) -> Iterator[Outcome]:
    """Bring these days up to date; one outcome a day, in order of the days.

    Days not yet reached by the watermark wait; days that may read a blocked partition are blocked and keep
    what they had. All others are written if their identity changed.
    """
    outcomes, identities = _assess(lake, derivation, days, watermark)
    lake.block(derivation.table, {d: o.reason for d, o in outcomes.items() if o.status is Status.BLOCKED})
    for chunk in _runs(sorted(identities)):
        for outcome in _compute(lake, derivation, chunk, identities, watermark):
            outcomes[outcome.day] = outcome
    yield from (outcomes[day] for day in sorted(outcomes))


def _assess(
    lake: Lake, derivation: Derivation, days: Sequence[str], watermark: datetime
) -> tuple[dict[str, Outcome], dict[str, str]]:
    """What is settled without computing anything, and the identity of every day that is not."""
    before = lake.partitions(derivation.table)
    inputs = {source.table: lake.partitions(source.table) for source in derivation.inputs}
    identities: dict[str, str] = {}
    outcomes: dict[str, Outcome] = {}
    for day in sorted(days):
        start, end = day_bounds(day)
        reached = [state for source in derivation.inputs for state in _reach(source, inputs[source.table], day)]
        blocked = sorted({state.blocked for state in reached if state.blocked})
        identity = _identity(derivation, reached, watermark if watermark < end else None)
        if start >= watermark:
            outcomes[day] = Outcome(
                day, Status.WAITING, before.get(day), f"the watermark is {watermark:%Y-%m-%d %H:%M}"
            )
        elif blocked:
            outcomes[day] = Outcome(day, Status.BLOCKED, before.get(day), "; ".join(blocked))
        elif day in before and before[day].inputs_hash == identity:
            outcomes[day] = Outcome(day, Status.UNCHANGED, before[day])
        else:
            identities[day] = identity
    return outcomes, identities


def stale_whole(lake: Lake, derivation: Derivation) -> list[str]:
    """As :func:`stale_days`, of what :func:`derive_whole` would compute: all or nothing."""
    return [WHOLE] if _assess_whole(lake, derivation)[0] is None else []


def derive_whole(lake: Lake, derivation: Derivation) -> Outcome:
    """Bring a table without partitions up to date; its inputs have none either."""
    settled, identity = _assess_whole(lake, derivation)
    if settled is not None:
        return settled
    versions = {source.table: lake.version(source.table) for source in derivation.inputs}
    frames = {table: lake.read(table, version=version) for table, version in versions.items()}
    rows = derivation.compute(frames, _EPOCH, _EPOCH)
    state = lake.write(derivation.table, rows, sort_by=derivation.sort_by, inputs_hash=identity, inputs=versions)
    status = Status.WRITTEN if state.changed else Status.EQUAL
    return Outcome(WHOLE, status, state, sample=rows.head(SAMPLE_ROWS))


def _assess_whole(lake: Lake, derivation: Derivation) -> tuple[Outcome | None, str]:
    """What is settled without computing anything, if it is, and the identity of the table."""
    before = lake.partitions(derivation.table).get(WHOLE)
    reached = [state for source in derivation.inputs for state in lake.partitions(source.table).values()]
    blocked = sorted({state.blocked for state in reached if state.blocked})
    identity = _identity(derivation, reached, None)
    if blocked or not reached:
        return Outcome(WHOLE, Status.BLOCKED, before, "; ".join(blocked) or "its inputs have not landed"), identity
    unchanged = before is not None and before.inputs_hash == identity
    return Outcome(WHOLE, Status.UNCHANGED, before) if unchanged else None, identity


def _reach(source: Input, states: Mapping[str, PartitionState], day: str) -> Iterator[PartitionState]:
    """The partitions that a day's computation may read."""
    if WHOLE in states:
        yield states[WHOLE]
        return
    names = sorted(states) if source.look_back >= FOREVER else _days_reached(day, source.look_back)
    for name in names:
        if name in states and name <= day:
            yield states[name]


@lru_cache(maxsize=2**14)
def _days_reached(day: str, look_back: timedelta) -> Sequence[str]:
    return days_between((day_bounds(day)[0] - look_back).date(), date.fromisoformat(day))


def _identity(derivation: Derivation, reached: Sequence[PartitionState], cut: datetime | None) -> str:
    read = [f"{state.table}/{state.partition}={state.content_hash}" for state in reached]
    return digest(derivation.code_version, str(cut), *read)


def _compute(
    lake: Lake, derivation: Derivation, days: Sequence[str], identities: Mapping[str, str], watermark: datetime
) -> Iterator[Outcome]:
    start, end = day_bounds(days[0])[0], min(day_bounds(days[-1])[1], watermark)
    versions = {source.table: lake.version(source.table) for source in derivation.inputs if lake.exists(source.table)}
    frames = {source.table: _load(lake, source, start, end, versions) for source in derivation.inputs if source.loaded}
    result = derivation.compute(frames, start, end)
    column = pl.col(derivation.time_column)
    result = result.filter(column >= start, column < end)
    dated = result.with_columns(column.dt.date().cast(pl.String).alias("day"))
    by_day = dated.partition_by("day", as_dict=True, include_key=False)
    empty = result.clear()
    rows = {day: by_day.get((day,), empty) for day in days}
    states = lake.write_partitions(
        derivation.table,
        rows,
        sort_by=derivation.sort_by,
        inputs_hash={day: identities[day] for day in days},
        inputs=versions,
    )
    for day, state in states.items():
        status = Status.WRITTEN if state.changed else Status.EQUAL
        yield Outcome(day, status, state, sample=rows[day].head(SAMPLE_ROWS))


def _load(lake: Lake, source: Input, start: datetime, end: datetime, versions: Mapping[str, int]) -> pl.DataFrame:
    frame = lake.scan(source.table, version=versions[source.table])
    if "day" not in frame.collect_schema():
        return frame.collect()
    first = start - source.look_back
    known = pl.col("known_at")
    window = (pl.col("day") >= first.date()) & (pl.col("day") <= end.date()) & (known >= first) & (known < end)
    return frame.filter(window).drop("day").collect()


def _runs(days: Sequence[str]) -> Iterator[list[str]]:
    """Contiguous stretches of days, none longer than a chunk."""
    run: list[str] = []
    for day in days:
        follows = run and date.fromisoformat(day) - date.fromisoformat(run[-1]) == timedelta(days=1)
        if run and (not follows or len(run) == _CHUNK_DAYS):
            yield run
            run = []
        run.append(day)
    if run:
        yield run
