"""On Kubernetes the platform's own dagster.yaml has the launcher of Kubernetes, as the settings say."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster_k8s import K8sRunLauncher

from ml_platform.settings import PROJECT_ROOT, load
from ml_platform.stores.instance import instance_files

SHOWN = PROJECT_ROOT / "deploy" / "dagster" / "kubernetes.yaml"
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: here, user: me}}]
clusters: [{name: here, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: me, user: {token: t}}]
"""
SET = {
    "ML_PLATFORM_EXECUTION": "kubernetes",
    "ML_PLATFORM_DAGSTER_STORAGE_URL": "postgresql://ml_platform@db:5432/dagster",
    "ML_PLATFORM_K8S_IMAGE": "ml-platform@sha256:0",
    "ML_PLATFORM_K8S_NAMESPACE": "ml",
    "ML_PLATFORM_K8S_SERVICE_ACCOUNT": "runs",
    "ML_PLATFORM_K8S_INSTANCE_CONFIG_MAP": "lab-dagster-instance",
    "ML_PLATFORM_K8S_ENV_CONFIG_MAPS": "lab-settings, lab-more",
    "ML_PLATFORM_K8S_ENV_SECRETS": "lab-database",
    "ML_PLATFORM_K8S_IMAGE_PULL_SECRETS": "registry",
    "ML_PLATFORM_K8S_RUNS": "25",
}


def composed(tmp_path: Path, **changes: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        instance_files(load({"ML_PLATFORM_HOME": str(tmp_path), **SET, **changes}))["dagster.yaml"]
    )
    return found


def test_the_launcher_reads_what_is_set(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    config = composed(tmp_path, ML_PLATFORM_K8S_KUBECONFIG=str(tmp_path / "kubeconfig"))
    config["storage"] = {"sqlite": {"base_dir": str(tmp_path)}}
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "dagster.yaml").write_text(yaml.safe_dump(config))
    with dg.DagsterInstance.from_config(str(tmp_path / "instance")) as instance:
        launcher = instance.run_launcher
        assert type(launcher) is K8sRunLauncher
        assert launcher.job_image == "ml-platform@sha256:0"
        assert launcher.job_namespace == "ml"
        assert launcher.service_account_name == "runs"
        assert launcher.instance_config_map == "lab-dagster-instance"
        assert launcher.env_config_maps == ["lab-settings", "lab-more"]
        assert launcher.env_secrets == ["lab-database"]
        assert launcher.image_pull_secrets == [{"name": "registry"}]
        assert launcher.dagster_home == str(tmp_path / "dagster")
        assert instance.run_monitoring_enabled
        assert instance.run_monitoring_max_resume_run_attempts == 0
        assert instance.run_retries_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 25


def test_the_file_that_is_shown_to_people_is_what_the_settings_in_its_head_give() -> None:
    head = [line.removeprefix("#   ") for line in SHOWN.read_text().splitlines() if line.startswith("#   ML_PLATFORM_")]
    settings = dict(line.partition("=")[::2] for line in head)
    assert settings["ML_PLATFORM_EXECUTION"] == "kubernetes"
    assert yaml.safe_load(SHOWN.read_text()) == yaml.safe_load(instance_files(load(settings))["dagster.yaml"])


def test_in_a_pod_the_launcher_asks_the_cluster_it_is_in(tmp_path: Path) -> None:
    config = composed(tmp_path)["run_launcher"]["config"]
    assert config["load_incluster_config"] is True
    assert "kubeconfig_file" not in config


def test_all_else_is_as_on_one_machine(tmp_path: Path) -> None:
    alone = yaml.safe_load(instance_files(load({"ML_PLATFORM_HOME": str(tmp_path)}))["dagster.yaml"])
    cluster = composed(tmp_path)
    assert set(alone) == set(cluster)
    changed = {name for name in alone if alone[name] != cluster[name]}
    assert changed == {"run_launcher", "concurrency", "run_monitoring", "storage"}
    assert alone["concurrency"]["pools"] == cluster["concurrency"]["pools"]


@pytest.mark.parametrize("missing", ["IMAGE", "SERVICE_ACCOUNT", "INSTANCE_CONFIG_MAP"])
def test_what_no_job_can_be_without_is_asked_for_by_name(tmp_path: Path, missing: str) -> None:
    with pytest.raises(ValueError, match=f"ML_PLATFORM_K8S_{missing} not set.*ML_PLATFORM_DAGSTER_YAML"):
        composed(tmp_path, **{f"ML_PLATFORM_K8S_{missing}": ""})


def test_pods_have_no_disk_in_common_so_that_storage_must_be_a_server(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ML_PLATFORM_DAGSTER_STORAGE_URL not set"):
        composed(tmp_path, ML_PLATFORM_DAGSTER_STORAGE_URL="")


def test_a_file_of_one_s_own_needs_none_of_it(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("telemetry: {enabled: false}\n")
    settings = load(
        {"ML_PLATFORM_HOME": str(tmp_path), "ML_PLATFORM_EXECUTION": "kubernetes", "ML_PLATFORM_DAGSTER_YAML": str(own)}
    )
    assert instance_files(settings)["dagster.yaml"] == own.read_bytes()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ML_PLATFORM_EXECUTION", "k8s", "ML_PLATFORM_EXECUTION must be local or kubernetes, not 'k8s'"),
        ("ML_PLATFORM_K8S_RUNS", "0", "ML_PLATFORM_K8S_RUNS must be a whole number, 1 or more, not '0'"),
        ("ML_PLATFORM_K8S_PODS", "-1", "ML_PLATFORM_K8S_PODS must be a whole number, 0 or more, not '-1'"),
        ("ML_PLATFORM_K8S_DAYS_PER_RUN", "x", "1 or more, not 'x'"),
        ("ML_PLATFORM_K8S_IMAGE_PULL_POLICY", "often", "must be IfNotPresent or Always or Never, not 'often'"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load({name: value})
