"""The release of a chart: what Helm renders of it for stores on this machine, and its Secrets."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ml_platform_tests.deploy import chart
from ml_platform_tests.kubernetes.cluster import Cluster
from ml_platform_tests.servers.shared import SharedStores

PLACES: Mapping[str, str] = {
    "lake": "lake",
    "landing": "landing",
    "reports": "reports",
    "artifacts": "mlflow",
    "computeLogs": "compute-logs",
}
"""What the platform keeps in the bucket, by the chart's name for it."""

BACKUPS = str(chart.values("production")["backup"]["target"])
"""Where the runbooks find backups: a bucket of their own."""

_SECRETS = "ml-platform-"
"""How their names begin in the values for development."""


@dataclass(frozen=True)
class Credentials:
    """What the platform shows to the stores, of which it may have two for a time."""

    role: str
    postgres: str
    redis: str
    key_id: str
    key: str

    @property
    def service(self) -> str:
        """libpq's service file."""
        return f"[ml_platform]\nuser={self.role}\npassword={self.postgres}\n"

    @property
    def secrets(self) -> dict[str, dict[str, str]]:
        """The Secrets, as the runbooks make them."""
        return {
            f"{_SECRETS}postgres": {"pg_service.conf": self.service},
            f"{_SECRETS}redis": {"password": self.redis},
            f"{_SECRETS}objects": {"AWS_ACCESS_KEY_ID": self.key_id, "AWS_SECRET_ACCESS_KEY": self.key},
        }

    @property
    def words(self) -> tuple[str, ...]:
        """What nobody may read anywhere."""
        return self.postgres, self.redis, self.key


@dataclass(frozen=True)
class Release:
    """What Helm renders of values."""

    values: Mapping[str, Any]
    objects: list[dict[str, Any]]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Release":
        return cls(values, chart.rendered(values))

    def with_image(self, digest: str) -> "Release":
        """As ``helm upgrade --set image.digest=`` makes it."""
        return self.of(chart.merged(self.values, {"image": {"digest": digest}}))

    @property
    def dagster_yaml(self) -> str:
        return chart.dagster_yaml(self.objects)

    @property
    def config_maps(self) -> Mapping[str, Mapping[str, str]]:
        return {name: dict(found["data"]) for name, found in chart.of_kind(self.objects, "ConfigMap").items()}

    @property
    def cron_jobs(self) -> dict[str, dict[str, Any]]:
        return deepcopy(chart.of_kind(self.objects, "CronJob"))

    @property
    def rules(self) -> list[dict[str, Any]]:
        """What the daemon, which launches runs, and the runs, which launch steps, may do."""
        roles = chart.of_kind(self.objects, "Role")
        return [*roles[f"{chart.RELEASE}-daemon"]["rules"], *roles[f"{chart.RELEASE}-run"]["rules"]]

    @property
    def image(self) -> str:
        """Of every run."""
        return str(yaml.safe_load(self.dagster_yaml)["run_launcher"]["config"]["job_image"])

    @property
    def settings(self) -> Mapping[str, str]:
        """What every process of the release finds in its environment."""
        return self.config_maps[f"{chart.RELEASE}-settings"]

    def install(self, cluster: Cluster, credentials: Credentials) -> str:
        """Give the cluster what the release has; the instance's configuration for a daemon outside of it.

        The launcher finds the API by a kubeconfig instead of as a pod does, and looks after runs more often: a test
        does not wait.
        """
        own = yaml.safe_load(self.dagster_yaml)
        own["run_launcher"]["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(cluster.kubeconfig)}
        own["run_monitoring"]["poll_interval_seconds"] = 2
        text = yaml.safe_dump(own)
        for name, content in self.config_maps.items():
            cluster.config_maps[name] = {**content, "dagster.yaml": text} if "dagster.yaml" in content else content
        for name, content in credentials.secrets.items():
            cluster.set_secret(name, content)
        cluster.cron_jobs = self.cron_jobs
        cluster.rules = self.rules
        return text


def release(stores: SharedStores, settings: Mapping[str, str], *, days_per_run: int) -> Release:
    """The chart with the values for development, told where the stores are."""
    told = {
        "postgres": {"host": "127.0.0.1", "port": stores.postgres.port},
        "redis": {"url": stores.redis.url},
        "objectStore": {
            **{f"{name}Uri": f"{stores.bucket.url}/{place}" for name, place in PLACES.items()},
            "endpointUrl": stores.bucket.endpoint,
        },
        "mlflow": {"trackingUri": f"postgresql+psycopg2://127.0.0.1:{stores.postgres.port}/mlflow"},
        # A machine of two cores is no cluster: more pods at once would only wait for one another.
        "runs": {"daysPerRun": days_per_run, "maxPodsPerRun": 4},
        "backup": {"enabled": True, "target": BACKUPS},
        "settings": dict(settings),
    }
    return Release.of(chart.values("dev", told))


def outside(release: Release, credentials: Credentials, folder: Path) -> dict[str, str]:
    """The environment of a process of the release that is no pod: its Secrets are files of the folder."""
    files = {
        "PGSERVICEFILE": folder / "pg_service.conf",
        "ML_PLATFORM_REDIS_PASSWORD_FILE": folder / "redis-password",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in zip(files.values(), (credentials.service, credentials.redis), strict=True):
        draft = file.with_suffix(".new")
        draft.write_text(content)
        draft.replace(file)
    own = {name: value for name, value in release.settings.items() if not value.startswith(("/etc/", "/var/"))}
    return {
        **own,
        **{name: str(file) for name, file in files.items()},
        "PGSERVICE": "ml_platform",
        "PGSSLMODE": "disable",
        **credentials.secrets[f"{_SECRETS}objects"],
    }
