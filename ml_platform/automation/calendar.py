"""A data set's days as Dagster partitions, and how long each stage may be without news."""

from datetime import timedelta

import dagster as dg

from ml_platform.core.dataset import DatasetSpec


def daily(spec: DatasetSpec) -> dg.DailyPartitionsDefinition:
    """The UTC days of a data set; today is one, because hours of it land."""
    return dg.DailyPartitionsDefinition(
        start_date=spec.start.isoformat(), end_date=spec.end.isoformat() if spec.end else None, end_offset=1
    )


def looking_back(days: int) -> dg.PartitionMapping:
    """A day that depends on its own and the ``days`` before it."""
    return dg.TimeWindowPartitionMapping(start_offset=-days, allow_nonexistent_upstream_partitions=True)


def fresh(window: timedelta | None) -> dg.FreshnessPolicy | None:
    """Dagster's policy for news at least every ``window`` of wall time; None where nothing is declared."""
    return None if window is None else dg.FreshnessPolicy.time_window(fail_window=window)
