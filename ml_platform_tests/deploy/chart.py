"""The chart as Helm renders it, offline, and the pods that come of it."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

HELM = Path(__file__).resolve().parents[2] / "deploy" / "helm"
CHART = HELM / "ml-platform"
RELEASE, NAMESPACE = "lab", "ml"
DIGEST = "sha256:" + "a" * 64
IMAGE = f"ml-platform@{DIGEST}"
PROXY_IMAGE = "oauth2-proxy@sha256:" + "b" * 64
RUN_COMPONENTS = ("run_worker", "step_worker")

_WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "Pod"}
_BUILT = {"image": {"repository": "ml-platform", "digest": DIGEST}}
_PROXY = {"proxy": {"image": PROXY_IMAGE}}

_LOCATION: dict[str, Any] = {
    "module": "pricing.definitions",
    "image": "pricing:1.4",
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1Gi"}},
}
_SOMEWHERE = {
    "nodeSelector": {"pool": "ml"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dev": ("dev", {}),
    "staging": ("staging", {}),
    "production": ("production", {}),
    "several code locations": (
        "staging",
        {"codeLocations": [_LOCATION | {"name": "pricing"}, _LOCATION | {"name": "fraud", "image": ""} | _SOMEWHERE]},
    ),
    "no ingress": ("production", {"ingress": {"enabled": False}}),
    "TLS to everything": (
        "dev",
        {
            "postgres": {"sslmode": "verify-full", "caConfigMap": {"name": "own-ca", "key": "root.pem"}},
            "redis": {"url": "rediss://redis:6379/0", "caConfigMap": {"name": "own-ca", "key": "root.pem"}},
            "objectStore": {
                "endpointUrl": "https://objects:8333",
                "allowHttp": False,
                "caConfigMap": {"name": "own-ca", "key": "root.pem"},
            },
        },
    ),
    "external MLflow": (
        "staging",
        {"mlflow": {"enabled": False, "trackingUri": "https://mlflow.example.org"}, "backup": {"enabled": False}},
    ),
    "MLflow by its database": ("dev", {"mlflow": {"trackingUri": "postgresql+psycopg2://ml@postgres:5432/mlflow"}}),
    "keys of the object store": ("production", {"objectStore": {"credentialsSecret": "keys"}}),
    "output of steps in their pods' logs": ("production", {"objectStore": {"computeLogsUri": ""}}),
    "no password to Redis": ("dev", {"redis": {"passwordSecret": {"name": ""}}}),
    "everything that is optional": (
        "production",
        {
            "image": {"tag": "1.0", "digest": "", "pullSecrets": ["mirror", "other"], "pullPolicy": "Always"},
            "postgres": {"user": "ml", "port": 6432},
            "settings": {"ML_PLATFORM_KEEP_RUNS_DAYS": "90", "OMP_NUM_THREADS": "2"},
            "alerts": {"smtpSecret": {"name": "mail"}, "emailTo": "ml@example.org", "emailFrom": "no@example.org"},
            "ingress": {"annotations": {"example.org/issuer": "ours"}},
            "mlflow": {"publicUrl": "https://experiments.example.org"},
            "networkPolicy": {"dns": {"podLabels": {"k8s-app": "kube-dns"}}},
            **dict.fromkeys(("web", "daemon", "reports", "runs", "backup"), _SOMEWHERE),
        },
    ),
}
"""What the tests render, by what is special about it: an environment's values, and what is changed in them."""


@dataclass(frozen=True)
class Pod:
    """A pod as a workload's template, or a run, would make it."""

    owner: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def component(self) -> str:
        """Which part of the platform it is."""
        return self.labels["app.kubernetes.io/component"]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """All its containers, those that come first too."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def volume_sources(self, kind: str) -> set[str]:
        """The names of the Secrets (``secret``) or ConfigMaps (``configMap``) it mounts."""
        name = {"secret": "secretName", "configMap": "name"}[kind]
        return {volume[kind][name] for volume in self.spec.get("volumes", ()) if kind in volume}


def values(environment: str, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """An environment's values, with what the build and the mirror give, and changes."""
    found = yaml.safe_load((HELM / f"values-{environment}.yaml").read_text())
    for more in (_BUILT, _PROXY, changes or {}):
        found = merged(found, more)
    return found


def merged(onto: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Maps merged, all else replaced, as Helm does with its values."""
    result = deepcopy(dict(onto))
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else deepcopy(value)
    return result


def rendered(given: Mapping[str, Any], *, release: str = RELEASE) -> list[dict[str, Any]]:
    """The objects of the release."""
    with helm.Chart.load(CHART) as chart:
        files = chart.render(dict(given), name=release, namespace=NAMESPACE)
    texts = [text for path, text in sorted(files.items()) if path.endswith(".yaml")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] == kind}


def pods(objects: list[dict[str, Any]]) -> Iterator[Pod]:
    """A pod of each workload."""
    for found in objects:
        if found["kind"] in _WORKLOADS:
            spec = found["spec"]
            if found["kind"] == "CronJob":
                spec = spec["jobTemplate"]["spec"]
            template = found if found["kind"] == "Pod" else spec["template"]
            owner = f"{found['kind']}/{found['metadata']['name']}"
            yield Pod(owner, template["metadata"]["labels"], template["spec"])


def dagster_yaml(objects: list[dict[str, Any]], *, release: str = RELEASE) -> str:
    """The instance's configuration, as text."""
    return of_kind(objects, "ConfigMap")[f"{release}-dagster-instance"]["data"]["dagster.yaml"]
