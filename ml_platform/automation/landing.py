"""The sensor that watches the landing folder and requests the daily chain for what is out of date."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform import settings
from ml_platform.automation.jobs import daily_job_name, under_way
from ml_platform.automation.runs import range_tags
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.landing import Landing

if TYPE_CHECKING:
    from ml_platform.stores.planning import Plan

INTERVAL_SECONDS = 2

_WORTH_WAITING = timedelta(seconds=3)
"""A tick waits so long for files to settle: Dagster's daemon asks again in five seconds."""

_WATCH_SECONDS = 3.5
"""So long after its beginning a tick waits for a run to end, then for something to land: the next is near by then."""

_LOOK_SECONDS = 0.25


def landing_sensor(dataset: Dataset) -> dg.SensorDefinition:
    """One range run for every ready period that landed, was corrected, or is read by what was.

    A tick asks what is out of date, and names the answer by its content: however often it asks, before or after a
    crash, one run is launched for one state of things.
    """

    @dg.sensor(
        name=landing_sensor_name(dataset),
        job_name=daily_job_name(dataset.spec),
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches landed files: new, corrected and late ones are taken in, with every day they reach.",
    )
    def landing(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        from ml_platform.stores.planning import plan_now

        here = settings.load()
        landed = Landing(here.landing, here.landing_settle)
        seen = landed.entries_changed_at(dataset.tables)
        # Only where files take time to settle: elsewhere (object storage, a drive that lands them itself) nobody writes
        # while one looks, or each look costs a request.
        until = time.monotonic() + (_WATCH_SECONDS if seen and landed.settle else 0.0)
        while running := under_way(context.instance, dataset, training_counts=False):
            if time.monotonic() >= until:
                return dg.SkipReason(f"run {running.run_id} is under way")
            time.sleep(_LOOK_SECONDS)
        _settled(landed, dataset)
        found = plan_now(here, dataset)
        if found.days is None and _is_added_to(landed, dataset, seen, until):
            _settled(landed, dataset)
            found = plan_now(here, dataset)
        if found.days is None:
            return dg.SkipReason(_nothing_to_do(found))
        first, last = found.days
        reason = ", ".join(f"{table}: {len(days)}" for table, days in found.stale.items())
        tags = {**range_tags(first, last), "ml_platform/reason": f"out of date: {reason}"}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=found.run_key, tags=tags)], cursor=found.run_key)

    return landing


def _settled(landed: Landing, dataset: Dataset) -> None:
    """Wait for what is written just now, unless that takes long: then a later tick takes it in."""
    settles_in = landed.settles_in(dataset.tables)
    if settles_in <= _WORTH_WAITING:
        time.sleep(settles_in.total_seconds())


def _is_added_to(landed: Landing, dataset: Dataset, seen: Sequence[int], until: float) -> bool:
    """Whether the folders get other entries than those seen, before a moment of the monotonic clock."""
    while time.monotonic() < until:
        if landed.entries_changed_at(dataset.tables) != seen:
            return True
        time.sleep(_LOOK_SECONDS)
    return False


def landing_sensor_name(dataset: Dataset) -> str:
    """Name of the sensor that watches a data set's landing folder."""
    return f"{dataset.name}_landing"


def _nothing_to_do(found: "Plan") -> str:
    if found.waiting:
        days = sorted({day for days in found.waiting.values() for day in days})
        return f"not every table has delivered {days[0]} to {days[-1]} yet: {', '.join(found.waiting)} wait"
    if found.stale:
        return f"{', '.join(found.stale)} landed, and wait until every table with days has one"
    if found.watermark is None:
        return "nothing has landed"
    return f"everything is up to date; the watermark is {found.watermark:%Y-%m-%d %H:%M}"
