"""What steps ask of the cluster they run on: pods of a size, turns in a pool, runs of so many days.

On one machine nothing of it applies: needs are tags that no one reads, and a range is one run.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from ml_platform import settings
from ml_platform.core.compute import Compute

POD_TAG = "dagster-k8s/config"
"""What ``k8s_job_executor`` reads of a step, and merges over what the cluster gives every pod."""

TRAINING_POOL, ONLINE_POOL = "training", "online_store"
"""Steps that take turns, across runs: fits, each of which may take a node, and writes to the online store."""


def op_tags(needs: Compute) -> dict[str, Any]:
    """The tags by which a step's pod gets what is declared; none if nothing is."""
    container, pod = _resources(needs), _placement(needs)
    config = {
        **({"container_config": {"resources": container}} if container else {}),
        **({"pod_spec_config": pod} if pod else {}),
    }
    return {POD_TAG: config} if config else {}


def pool(name: str) -> str | None:
    """The pool, where runs and steps are spread over a cluster; elsewhere none.

    On one machine runs are few, and a pool's slot that a killed process held is given back by a daemon alone, which a
    command in a terminal does not have.
    """
    return name if settings.load().on_kubernetes else None


def backfill_policy() -> dg.BackfillPolicy:
    """Of partitioned assets: one run for all days, or on a cluster one for so many, side by side."""
    here = settings.load()
    if here.on_kubernetes:
        return dg.BackfillPolicy.multi_run(max_partitions_per_run=here.kubernetes.days_per_run)
    return dg.BackfillPolicy.single_run()


def _resources(needs: Compute) -> dict[str, dict[str, str]]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for name, asked, limit in (("cpu", needs.cpu, needs.cpu_limit), ("memory", needs.memory, needs.memory_limit)):
        if limit is not None or asked is not None:
            # Of a limit alone Kubernetes makes the request, too; what the cluster asks for every pod may be above it.
            requests[name], limits[name] = str(asked or limit), str(limit or asked)
    if needs.gpu:
        # A device is never shared: Kubernetes wants both to be the same.
        requests[needs.gpu_kind] = limits[needs.gpu_kind] = str(needs.gpu)
    return {name: found for name, found in (("requests", requests), ("limits", limits)) if found}


def _placement(needs: Compute) -> Mapping[str, Any]:
    placement: dict[str, Any] = {}
    if needs.node_selector:
        placement["node_selector"] = dict(needs.node_selector)
    if needs.tolerations:
        placement["tolerations"] = [
            {
                "key": each.key,
                "operator": "Exists" if each.value is None else "Equal",
                **({} if each.value is None else {"value": each.value}),
                **({} if each.effect is None else {"effect": each.effect.value}),
            }
            for each in needs.tolerations
        ]
    return placement
