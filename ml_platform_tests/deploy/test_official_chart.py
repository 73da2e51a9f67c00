"""The values for Dagster's own chart. That chart is not to be had offline: what is tested is what can be without it.

Keys are spelt as its documentation has them; what both charts decide is decided alike; pods are as restricted as it
lets them be.
"""

import re
from typing import Any

import pytest
import yaml

from ml_platform_tests.deploy.chart import HELM, dagster_yaml, of_kind, rendered, values
from ml_platform_tests.deploy.test_chart_runs import OWN

pytestmark = pytest.mark.deploy

FILE = HELM / "dagster-official-values.yaml"

SECTIONS = {
    "computeLogManager",
    "concurrency",
    "dagster-user-deployments",
    "dagsterDaemon",
    "dagsterWebserver",
    "flower",
    "generatePostgresqlPasswordSecret",
    "global",
    "ingress",
    "postgresql",
    "rabbitmq",
    "redis",
    "retention",
    "runLauncher",
    "telemetry",
}
"""Of the chart's own values, those used here."""


@pytest.fixture
def official() -> dict[str, Any]:
    """The file, its anchors resolved."""
    return yaml.safe_load(FILE.read_text())


def test_it_has_the_charts_sections_alone(official: dict[str, Any]) -> None:
    assert set(official) == SECTIONS
    assert FILE.read_text().startswith("# ")
    assert "Not tested\n# with that chart" in FILE.read_text()


def test_it_decides_as_our_chart_and_the_laptop_do(official: dict[str, Any]) -> None:
    own = yaml.safe_load(OWN.read_text())
    assert _snake(official["retention"]) == {"enabled": True, **own["retention"]}
    daemon = official["dagsterDaemon"]
    assert _snake(daemon["runRetries"]) == own["run_retries"]
    assert _snake(daemon["sensors"]) == own["sensors"]
    monitoring = _snake(daemon["runMonitoring"])
    of_the_cluster = {"start_timeout_seconds": 900}
    assert monitoring == own["run_monitoring"] | of_the_cluster
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    assert queue["dequeueIntervalSeconds"] == own["run_queue"]["dequeue_interval_seconds"]
    assert official["telemetry"] == {"enabled": False}
    chart = yaml.safe_load(dagster_yaml(rendered(values("production"))))
    assert _snake(official["concurrency"]["pools"]) == chart["concurrency"]["pools"]
    ours = chart["compute_logs"]
    logs = official["computeLogManager"]
    assert logs["type"] == ours["class"]
    assert _snake(logs["config"]["s3ComputeLogManager"]) == ours["config"] | {"local_dir": "/tmp"}


def test_what_it_takes_over_of_our_settings_leaves_dagsters_own_to_that_chart(official: dict[str, Any]) -> None:
    (settings,) = (
        each["data"]
        for name, each in of_kind(rendered(values("production")), "ConfigMap").items()
        if "settings" in name
    )
    left = set(
        re.findall(r"\b(?:DAGSTER_HOME|HOME|TMPDIR|ML_PLATFORM_\w+)\b", FILE.read_text().partition("global:")[0])
    )
    paths = {name for name, value in settings.items() if value.startswith("/")}
    assert paths <= left, "what names a folder of our own pods"
    (deployment,) = official["dagster-user-deployments"]["deployments"]
    given = {each["name"]: each.get("value") for each in deployment["env"]}
    database = official["postgresql"]
    assert given["PGUSER"] == database["postgresqlUsername"]
    assert {"sslmode": given["PGSSLMODE"], "sslrootcert": given["PGSSLROOTCERT"]} == database["postgresqlParams"]


def test_it_brings_no_store_and_no_secret_of_its_own(official: dict[str, Any]) -> None:
    for store in ("postgresql", "rabbitmq", "redis", "flower"):
        assert official[store]["enabled"] is False
    assert official["generatePostgresqlPasswordSecret"] is False
    assert official["ingress"] == {"enabled": False}
    assert "postgresqlPassword" not in official["postgresql"]
    assert official["postgresql"]["postgresqlScheme"] == "postgresql+psycopg2"
    (deployment,) = official["dagster-user-deployments"]["deployments"]
    web = official["dagsterWebserver"]
    assert web["envSecrets"] == deployment["envSecrets"], "it could not read the output of steps"
    assert web["envConfigMaps"] == deployment["envConfigMaps"]
    for variable in deployment["env"]:
        if re.search("PASSWORD|SECRET", variable["name"]):
            assert set(variable) == {"name", "valueFrom"}


def test_its_pods_are_restricted_and_bounded(official: dict[str, Any]) -> None:
    (deployment,) = official["dagster-user-deployments"]["deployments"]
    runs = official["runLauncher"]["config"]["k8sRunLauncher"]
    pods = [
        (part["podSecurityContext"], part["securityContext"], part["resources"])
        for part in (official["dagsterWebserver"], official["dagsterDaemon"], deployment)
    ]
    config = runs["runK8sConfig"]
    pods.append(
        (config["podSpecConfig"]["securityContext"], config["containerConfig"]["securityContext"], runs["resources"])
    )
    for pod, container, resources in pods:
        assert pod["runAsNonRoot"] is True
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["allowPrivilegeEscalation"] is False
        assert container["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(resources["limits"]) & set(resources["requests"])


def _snake(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): _snake(value) for key, value in tree.items()}
