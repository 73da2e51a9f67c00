"""A backfill of many days is several runs side by side, which write one table together."""

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus
from dagster_graphql.client.query import LAUNCH_PARTITION_BACKFILL_MUTATION
from dagster_graphql.test.utils import execute_dagster_graphql

from ml_platform.automation.jobs import UNFINISHED
from ml_platform.settings import load
from ml_platform.stores.lake import Lake
from ml_platform_tests.kubernetes.conftest import DAYS_PER_RUN, Platform

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

KEY = dg.AssetKey(["raw", "schedule"])
DAYS = [f"2013-01-{day:02}" for day in range(1, 15)]


def test_a_backfill_fans_out(platform: Platform) -> None:
    # What other tests left to be tried again takes its turn in the queue first.
    unfinished = dg.RunsFilter(statuses=[*UNFINISHED])
    platform.until("the end of other runs", lambda: not platform.instance.get_runs(unfinished, limit=1), 600, "")
    params = {"assetSelection": [{"path": KEY.path}], "partitionNames": DAYS}
    answer = execute_dagster_graphql(
        platform.workspace.create_request_context(),
        LAUNCH_PARTITION_BACKFILL_MUTATION,
        variables={"backfillParams": params},
    ).data["launchPartitionBackfill"]
    assert answer["__typename"] == "LaunchBackfillSuccess", answer
    backfill = answer["backfillId"]

    def ended() -> bool:
        found = platform.instance.get_backfill(backfill)
        return found is not None and found.status not in (BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING)

    platform.until("the backfill's end", ended, 900, "")
    found = platform.instance.get_backfill(backfill)
    assert found is not None
    assert found.status is BulkActionStatus.COMPLETED_SUCCESS
    records = platform.instance.get_run_records(dg.RunsFilter(tags={"dagster/backfill": backfill}))
    assert {record.dagster_run.status for record in records} == {dg.DagsterRunStatus.SUCCESS}
    ranges = sorted(
        (run.tags["dagster/asset_partition_range_start"], run.tags["dagster/asset_partition_range_end"])
        for run in (record.dagster_run for record in records)
    )
    assert ranges == [(DAYS[i], DAYS[i + DAYS_PER_RUN - 1]) for i in range(0, len(DAYS), DAYS_PER_RUN)]
    first, second = sorted((record.start_time or 0, record.end_time or 0) for record in records)
    assert second[0] < first[1], "one run came after the other"
    states = Lake.of(load()).partitions("raw/schedule")
    assert set(DAYS) <= set(states)
    assert set(DAYS) <= platform.instance.get_materialized_partitions(KEY)
