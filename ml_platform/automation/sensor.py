"""The sensor that evaluates every automation condition."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.storage.tags import PARTITION_NAME_TAG
from dagster_shared.record import replace

from ml_platform.automation.runs import REASON_TAG, range_tags

NAME, INTERVAL_SECONDS = "automation", 10


class RangeSensor(dg.AutomationConditionSensorDefinition):
    """Requests days as the landing sensor does: one run over their range, whose steps report for themselves.

    Dagster's own request for several days is a backfill. That wants each of its days made, and one that waits for its
    data is not; and until its first run is queued, no condition sees that it is under way.
    """

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        """What Dagster's sensor finds, with its requests for days over their range."""
        found = super().evaluate_tick(context)
        graph = context.repository_def.asset_graph  # type: ignore[union-attr]  # without one nothing is evaluated
        requests = [each for request in found.run_requests or () for each in _over_ranges(request, graph)]
        return replace(found, run_requests=self.resolve_run_requests(requests, context, self.asset_selection, []))

    def with_attributes(self, **_: Any) -> "RangeSensor":
        """This sensor: it has no jobs to bind, and Dagster's copy would be one of its own class."""
        return self


def _over_ranges(request: dg.RunRequest, graph: AssetGraph) -> Iterator[dg.RunRequest]:
    """A request over the range of its days for each calendar; what has no days goes with the first."""
    if request.asset_graph_subset is not None:
        asked = list(request.asset_graph_subset.iterate_asset_partitions())
        whole = request.asset_graph_subset.non_partitioned_asset_keys
    elif request.partition_key:
        asked = [AssetKeyPartitionKey(key, request.partition_key) for key in request.asset_selection or ()]
        whole = frozenset()
    else:
        yield request
        return
    # A partition of the run's own would contradict the range.
    tags = {name: value for name, value in request.tags.items() if name != PARTITION_NAME_TAG}
    by_calendar = defaultdict[dg.PartitionsDefinition[Any] | None, list[AssetKeyPartitionKey]](list)
    for each in asked:
        if each.partition_key:
            by_calendar[graph.get(each.asset_key).partitions_def].append(each)
    for parts in by_calendar.values():
        days = sorted(each.partition_key or "" for each in parts)
        keys = sorted({each.asset_key for each in parts} | whole)
        yield dg.RunRequest(asset_selection=keys, tags={**tags, **range_tags(days[0], days[-1])})
        whole = frozenset()


def automation_sensor() -> RangeSensor:
    """Evaluates the conditions where their code is, and requests what they call for; on by default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return RangeSensor(
            NAME,
            target=dg.AssetSelection.all(),
            # Our conditions are classes of ours: the daemon does not know them.
            use_user_code_server=True,
            default_status=dg.DefaultSensorStatus.RUNNING,
            minimum_interval_seconds=INTERVAL_SECONDS,
            run_tags={REASON_TAG: "its automation condition holds; the evaluation says which part"},
            description="Evaluates why models are retrained, and what the daily chain left behind.",
        )
