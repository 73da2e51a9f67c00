"""Where the launcher's configuration comes from: the platform's own settings, or the chart as Helm renders it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ml_platform.settings import PROJECT_ROOT, load
from ml_platform.stores.instance import instance_files
from ml_platform_tests.kubernetes.cluster import Cluster

START_TIMEOUT_SECONDS = 60
"""Of a run; a loaded machine of two cores needs a third of it."""

CHART = PROJECT_ROOT / "deploy" / "helm" / "ml-platform"


@dataclass
class Launching:
    """What a release has: ``dagster.yaml``, ConfigMaps, what its Secrets hold, and the rights of who launches."""

    dagster_yaml: str
    image: str
    config_maps: dict[str, dict[str, str]]
    secrets: dict[str, dict[str, str]]
    rules: list[dict[str, Any]] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """The launcher's, as configured."""
        found: dict[str, Any] = yaml.safe_load(self.dagster_yaml)["run_launcher"]["config"]
        return found

    def prepare(self, cluster: Cluster, home: Path, password: str) -> str:
        """Give the cluster what the release has; the instance's configuration for a daemon outside of it.

        The launcher finds the API by a kubeconfig instead of as a pod does, and looks after runs more often: a test
        does not wait.
        """
        own = yaml.safe_load(self.dagster_yaml)
        own["storage"] = {"postgres": {"postgres_url": {"env": "ML_PLATFORM_DAGSTER_STORAGE_URL"}}}
        own["run_launcher"]["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(cluster.kubeconfig)}
        own["run_monitoring"] |= {"poll_interval_seconds": 2, "start_timeout_seconds": START_TIMEOUT_SECONDS}
        text = yaml.safe_dump(own)
        for name, content in self.config_maps.items():
            cluster.config_maps[name] = {**content, "dagster.yaml": text} if "dagster.yaml" in content else content
        for name, content in self.secrets.items():
            cluster.secrets[name] = {
                key: value.format(password=password) if value else password for key, value in content.items()
            }
        cluster.rules = self.rules
        return text


def from_settings(settings: Mapping[str, str]) -> Launching:
    """As the platform composes it where no file is brought."""
    home = "/var/lib/ml-platform"
    chosen = {
        **settings,
        "ML_PLATFORM_HOME": home,
        "ML_PLATFORM_K8S_IMAGE": "ml-platform:test",
        "ML_PLATFORM_K8S_NAMESPACE": "ml",
        "ML_PLATFORM_K8S_SERVICE_ACCOUNT": "ml-platform-run",
        "ML_PLATFORM_K8S_INSTANCE_CONFIG_MAP": "ml-dagster-instance",
        "ML_PLATFORM_K8S_ENV_CONFIG_MAPS": "ml-settings",
        "ML_PLATFORM_K8S_ENV_SECRETS": "ml-database",
    }
    text = instance_files(load(chosen))["dagster.yaml"].decode()
    return Launching(
        text,
        "ml-platform:test",
        {"ml-dagster-instance": {"dagster.yaml": text}, "ml-settings": {**settings, "ML_PLATFORM_HOME": home}},
        {"ml-database": {"PGPASSWORD": ""}},
    )


def from_chart(settings: Mapping[str, str]) -> Launching:
    """As the chart's own ConfigMap has it, with the addresses of this test's stores in that of the settings."""
    from ml_platform_tests.deploy import chart

    objects = chart.rendered(chart.values("dev"))
    config_maps = {name: dict(found["data"]) for name, found in chart.of_kind(objects, "ConfigMap").items()}
    text = config_maps[f"{chart.RELEASE}-dagster-instance"]["dagster.yaml"]
    config = yaml.safe_load(text)["run_launcher"]["config"]
    # There is no Redis here, and Feast's registry is each pod's own.
    config_maps[f"{chart.RELEASE}-settings"] |= {
        "ML_PLATFORM_REDIS_URL": "",
        "ML_PLATFORM_FEAST_REGISTRY_URL": "",
        **settings,
    }
    mounted = [volume["secret"] for volume in config["volumes"] if "secret" in volume]
    variables = dict(each.partition("=")[::2] for each in config["env_vars"])
    service = variables["PGSERVICE"]
    password = f"[{service}]\npassword={{password}}\n"
    contents = {
        secret["secretName"]: {
            item["key"]: password if "pg_service" in item["path"] else "" for item in secret["items"]
        }
        for secret in mounted
    }
    for name in config.get("env_secrets", ()):
        contents[name] = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": ""}
    return Launching(text, config["job_image"], config_maps, contents, _rules(objects, chart.RELEASE))


def _rules(objects: list[dict[str, Any]], release: str) -> list[dict[str, Any]]:
    """What the daemon, which launches runs, and the runs, which launch steps, may do."""
    roles = {found["metadata"]["name"]: found["rules"] for found in objects if found["kind"] == "Role"}
    return [*roles[f"{release}-daemon"], *roles[f"{release}-run"]]
