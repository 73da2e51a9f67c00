"""The chart's dagster.yaml as Dagster takes it, on a real Postgres, and the pods that dagster-k8s makes of it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import kubernetes
import kubernetes_validate
import psycopg2
import pytest
import yaml
from dagster._core.storage.noop_compute_log_manager import NoOpComputeLogManager
from dagster._core.storage.tags import DOCKER_IMAGE_TAG
from dagster_aws.s3 import S3ComputeLogManager
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import construct_dagster_k8s_job
from dagster_k8s.launcher import K8sRunLauncher

from ml_platform.settings import load
from ml_platform.stores.instance import instance_files
from ml_platform_tests.deploy.chart import CASES, IMAGE, NAMESPACE, RELEASE, Pod, dagster_yaml, rendered, values
from ml_platform_tests.deploy.test_chart_renders import NEWEST
from ml_platform_tests.deploy.test_chart_security import labels_of_runs, require_restricted

pytestmark = pytest.mark.deploy

OWN = Path(__file__).resolve().parents[2] / "ml_platform" / "stores" / "dagster_home" / "dagster.yaml"

OF_THE_CLUSTER = {
    ("storage",),
    ("run_launcher",),
    ("compute_logs",),
    ("concurrency", "runs", "max_concurrent_runs"),
    ("run_monitoring", "start_timeout_seconds"),
    ("run_monitoring", "max_resume_run_attempts"),
}
"""What a cluster decides otherwise than a laptop; all else is the platform's one behaviour."""


@pytest.fixture
def in_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a pod finds of Kubernetes: an address, a token and an authority. Nothing listens there."""
    (tmp_path / "token").write_text("of-a-test")
    (tmp_path / "ca.crt").write_text("of a test")
    monkeypatch.setattr(kubernetes.config.incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(kubernetes.config.incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "9")


@pytest.fixture(params=CASES)
def instance(
    request: pytest.FixtureRequest, tmp_path: Path, postgres: Path, in_a_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance out of the chart's own ConfigMap."""
    environment, changes = CASES[request.param]
    (tmp_path / "dagster.yaml").write_text(dagster_yaml(rendered(values(environment, changes))))
    monkeypatch.setenv("ML_PLATFORM_DAGSTER_STORAGE_URL", f"postgresql+psycopg2://postgres@/postgres?host={postgres}")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with dg.DagsterInstance.from_config(str(tmp_path)) as found:
        yield found


def pod_of_a_run(instance: dg.DagsterInstance, tags: dict[str, str] | None = None) -> Pod:
    """The pod that the launcher would ask Kubernetes for, made by dagster-k8s itself and valid for its API."""
    launcher = instance.run_launcher
    assert isinstance(launcher, K8sRunLauncher)
    run = dg.DagsterRun(job_name="flight_delay_training", tags=tags or {})
    context = K8sContainerContext.create_for_run(run, launcher, include_run_tags=True)
    job = construct_dagster_k8s_job(
        context.get_k8s_job_config(None, launcher),
        args=["dagster", "api", "execute_run"],
        job_name=f"dagster-run-{run.run_id}",
        component="run_worker",
        labels={"dagster/run-id": run.run_id},
        user_defined_k8s_config=context.run_k8s_config,
    )
    wire = kubernetes.client.ApiClient().sanitize_for_serialization(job)
    kubernetes_validate.validate(wire, NEWEST, strict=True)
    assert context.namespace == NAMESPACE
    return Pod("run", wire["spec"]["template"]["metadata"]["labels"], wire["spec"]["template"]["spec"])


def test_a_run_is_restricted_bounded_and_knows_its_stores(instance: dg.DagsterInstance) -> None:
    pod = pod_of_a_run(instance)
    require_restricted(pod)
    (container,) = pod.containers
    assert pod.spec["serviceAccountName"] == f"{RELEASE}-run"
    assert container["image"] in (IMAGE, "ml-platform:1.0")
    assert {"configMapRef": {"name": f"{RELEASE}-settings"}} in container["envFrom"]
    logs = instance.compute_log_manager
    if isinstance(logs, S3ComputeLogManager):
        local = logs.local_manager.get_captured_local_path(["run", "step"], "out")
        assert local.startswith(os.environ["TMPDIR"])
    else:
        assert isinstance(logs, NoOpComputeLogManager)
    assert any(labels.items() <= pod.labels.items() for labels in labels_of_runs()), pod.labels
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    mounted = tuple(mount["mountPath"] for mount in container["volumeMounts"])
    assert environment["PGSERVICEFILE"].startswith(mounted)
    assert environment["DAGSTER_HOME"] in mounted
    secret = {volume["name"] for volume in pod.spec["volumes"] if "secret" in volume}
    assert not [mount for mount in container["volumeMounts"] if mount["name"] in secret and "subPath" in mount]


@pytest.mark.parametrize("instance", ["TLS to everything"], indirect=True)
def test_a_run_trusts_the_object_stores_own_authority(instance: dg.DagsterInstance) -> None:
    pod = pod_of_a_run(instance)
    (container,) = pod.containers
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["AWS_CA_BUNDLE"] == environment["SSL_CERT_FILE"] == "/etc/ml-platform/objects-ca/ca.crt"
    (volume,) = (each for each in pod.spec["volumes"] if each["name"] == "objects-ca")
    assert volume["configMap"] == {"name": "own-ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}
    assert "/etc/ml-platform/objects-ca" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_what_is_declared_for_a_step_comes_on_top(instance: dg.DagsterInstance) -> None:
    wanted = {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        "pod_spec_config": {"node_selector": {"gpu": "yes"}},
    }
    pod = pod_of_a_run(instance, {"dagster-k8s/config": json.dumps(wanted)})
    require_restricted(pod)
    assert pod.containers[0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod.spec["nodeSelector"]["gpu"] == "yes"


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"pod_spec_config": {"service_account_name": "lab-daemon"}}, "pod_spec_config.service_account_name"),
        ({"pod_spec_config": {"host_network": True}}, "pod_spec_config.host_network"),
        ({"pod_spec_config": {"volumes": [{"name": "n", "host_path": {"path": "/"}}]}}, "pod_spec_config.volumes"),
        ({"container_config": {"env_from": [{"secret_ref": {"name": "other"}}]}}, "container_config.env_from"),
        ({"container_config": {"security_context": {"privileged": True}}}, "container_config.security_context"),
        ({"container_config": {"image": "anything"}}, "container_config.image"),
    ],
)
@pytest.mark.parametrize("instance", ["production"], indirect=True)
def test_tags_of_a_run_cannot_reach_further_than_its_resources(
    instance: dg.DagsterInstance, wanted: dict[str, Any], named: str
) -> None:
    with pytest.raises(Exception, match=named):
        pod_of_a_run(instance, {"dagster-k8s/config": json.dumps(wanted)})


@pytest.mark.parametrize("instance", ["production"], indirect=True)
def test_runs_are_kept_in_postgres_and_launched_by_the_queue(instance: dg.DagsterInstance, postgres: Path) -> None:
    run = instance.add_run(dg.DagsterRun(job_name="kept", tags={DOCKER_IMAGE_TAG: IMAGE}))
    superuser = psycopg2.connect(host=str(postgres), user="postgres", dbname="postgres")
    with superuser as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pipeline_name FROM runs WHERE run_id = %s", (run.run_id,))
        assert cursor.fetchone() == ("kept",)
    assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
    assert instance.run_monitoring_enabled
    assert not instance.telemetry_enabled


@pytest.mark.parametrize("case", CASES)
def test_it_agrees_with_the_platforms_own(case: str) -> None:
    environment, changes = CASES[case]
    chart = _leaves(yaml.safe_load(dagster_yaml(rendered(values(environment, changes)))))
    own = _leaves(yaml.safe_load(OWN.read_text()))
    assert chart == own


@pytest.mark.parametrize("uri", ["s3://example-ml/compute-logs", "s3://ml/of/steps/"])
def test_output_of_steps_goes_where_the_platforms_own_would_put_it(uri: str, tmp_path: Path) -> None:
    given = {"ML_PLATFORM_HOME": str(tmp_path), "ML_PLATFORM_COMPUTE_LOGS_URI": uri}
    own = yaml.safe_load(instance_files(load(given))["dagster.yaml"])["compute_logs"]
    chart = yaml.safe_load(dagster_yaml(rendered(values("dev", {"objectStore": {"computeLogsUri": uri}}))))
    # A pod's TMPDIR is as large as what a run may write; Dagster's home is not.
    own["config"]["local_dir"] = {"env": "TMPDIR"}
    assert chart["compute_logs"] == own


def test_without_a_place_output_of_steps_is_in_their_pods_logs() -> None:
    chart = yaml.safe_load(dagster_yaml(rendered(values("dev", {"objectStore": {"computeLogsUri": ""}}))))
    assert chart["compute_logs"]["class"] == "NoOpComputeLogManager"


def test_a_misspelt_section_would_be_found(
    tmp_path: Path, postgres: Path, in_a_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = dagster_yaml(rendered(values("dev"))).replace("max_concurrent_runs", "max_concurent_runs")
    (tmp_path / "dagster.yaml").write_text(text)
    monkeypatch.setenv("ML_PLATFORM_DAGSTER_STORAGE_URL", f"postgresql+psycopg2://postgres@/postgres?host={postgres}")
    with pytest.raises(dg.DagsterInvalidConfigError, match="max_concurent_runs"):
        dg.DagsterInstance.from_config(str(tmp_path))


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if path in OF_THE_CLUSTER:
        return {}
    if not isinstance(tree, dict):
        return {path: tree}
    return {name: leaf for key, below in tree.items() for name, leaf in _leaves(below, (*path, key)).items()}
