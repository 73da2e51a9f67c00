"""On a cluster steps get pods of the declared size, take turns, and backfills fan out; on one machine none of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_k8s.job import get_user_defined_k8s_config

import ml_platform
from ml_platform.assets.pods import POD_TAG, op_tags
from ml_platform.core.compute import Compute
from ml_platform.definitions import executor, platform_definitions
from ml_platform.settings import load

PACKAGE = Path(ml_platform.__file__).parent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pods")


@contextmanager
def definitions(home: Path, **environment: str) -> Iterator[dg.Definitions]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ML_PLATFORM_HOME", str(home))
        for name, value in environment.items():
            patch.setenv(name, value)
        yield platform_definitions(PACKAGE)


def steps(found: dg.Definitions) -> dict[str, Any]:
    return {
        node.name: node
        for asset in found.resolve_asset_graph().assets_defs
        if asset.is_executable
        for node in asset.node_def.iterate_op_defs()
    }


def test_what_is_declared_is_what_the_executor_reads() -> None:
    needs = Compute(
        cpu="2",
        memory="4Gi",
        memory_limit="6Gi",
        gpu=1,
        gpu_kind="amd.com/gpu",
        node_selector={"pool": "training"},
        tolerations=[{"key": "training", "value": "yes", "effect": "NoSchedule"}, {"key": "spot"}],
    )

    @dg.op(tags=op_tags(needs))
    def trains() -> None: ...

    read = get_user_defined_k8s_config(trains.tags)
    assert read.container_config["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi", "amd.com/gpu": "1"},
        "limits": {"cpu": "2", "memory": "6Gi", "amd.com/gpu": "1"},
    }
    assert read.pod_spec_config["node_selector"] == {"pool": "training"}
    assert read.pod_spec_config["tolerations"] == [
        {"key": "training", "operator": "Equal", "value": "yes", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Exists"},
    ]


def test_a_limit_alone_is_the_request_too_whatever_the_cluster_asks_for_every_pod() -> None:
    tag = op_tags(Compute(cpu_limit="500m", memory_limit="512Mi"))["dagster-k8s/config"]
    both = {"cpu": "500m", "memory": "512Mi"}
    assert tag["container_config"]["resources"] == {"requests": both, "limits": both}


def test_nothing_declared_is_no_tag() -> None:
    assert op_tags(Compute()) == {}


def test_on_one_machine_steps_are_of_one_process_and_wait_for_no_pool(home: Path) -> None:
    with definitions(home) as found:
        made = steps(found)
        assert found.executor is dg.in_process_executor
        assert {node.pool for node in made.values()} == {None}
        assert not [name for name, node in made.items() if POD_TAG in node.tags]
        policies = {asset.backfill_policy for asset in found.resolve_asset_graph().assets_defs if asset.partitions_def}
    assert policies == {dg.BackfillPolicy.single_run()}


def test_on_a_cluster_steps_are_jobs_trainings_and_the_online_store_take_turns_and_backfills_fan_out(
    home: Path,
) -> None:
    with definitions(home, ML_PLATFORM_EXECUTION="kubernetes", ML_PLATFORM_K8S_DAYS_PER_RUN="10") as found:
        made = steps(found)
        assert found.executor.name == "k8s"
        pools = {name: node.pool for name, node in made.items() if node.pool}
        policies = {asset.backfill_policy for asset in found.resolve_asset_graph().assets_defs if asset.partitions_def}
    assert pools == {
        "flight_delay__tuned_model": "training",
        "delay_minutes__tuned_model": "training",
        "online_features": "online_store",
    }
    assert policies == {dg.BackfillPolicy.multi_run(max_partitions_per_run=10)}


def test_the_shipped_instance_has_one_slot_a_pool(tmp_path: Path) -> None:
    from ml_platform.stores.instance import instance_files

    assert b"default_limit: 1" in instance_files(load({"ML_PLATFORM_HOME": str(tmp_path)}))["dagster.yaml"]


def test_a_run_s_steps_are_limited_by_setting() -> None:
    made = executor(load({"ML_PLATFORM_EXECUTION": "kubernetes", "ML_PLATFORM_K8S_PODS": "12"}))
    assert made.name == "k8s"
