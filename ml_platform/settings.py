"""Every path, URL and switch of the platform, read from ``ML_PLATFORM_*`` with embedded defaults.

This is the only module that reads the environment. Nothing here writes to the disk: a :class:`Settings`
is a value, and the stores make their folders when they first write. Beside the environment, one file of the
home is read: the ports on which its links were made (:mod:`ml_platform.stores.instance` writes it).
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Self, cast
from urllib.parse import urlsplit, urlunsplit

PROJECT_ROOT = Path(__file__).resolve().parent.parent

TELEMETRY_OFF: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FEAST_USAGE": "False",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "EVIDENTLY_DISABLE_TELEMETRY": "1",
}
"""By which every library is told to send nothing home."""

PROCESS_ENVIRONMENT: Mapping[str, str] = {
    **TELEMETRY_OFF,
    # Where steps are pods, a run learns of a step's end from the event log, by rising ids. Two steps that write at once
    # may commit in the other order: a run that never looks back misses the end of one, and waits for it for ever.
    "DAGSTER_EXECUTOR_POP_EVENTS_OFFSET": "500",
    # Spinning OpenMP threads of two processes on the same cores slow LightGBM down a hundredfold.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""What libraries must find in the environment when they are imported; see :func:`prepare_environment`."""


DEFAULT_PORTS: Mapping[str, int] = {"dagster": 3000, "mlflow": 5000, "reports": 3001}
"""The port of each server where nothing else is set and the home was never served."""


EXECUTIONS = ("local", "kubernetes")
"""Where runs are made: by processes on this machine, or by Jobs of a cluster."""

KUBERNETES_REQUIRED: Mapping[str, str] = {
    "ML_PLATFORM_K8S_IMAGE": "image",
    "ML_PLATFORM_K8S_SERVICE_ACCOUNT": "service_account",
    "ML_PLATFORM_K8S_INSTANCE_CONFIG_MAP": "instance_config_map",
}
"""Without what no Job can be made, with the fields of :class:`Kubernetes`."""

_PREFIX = re.compile(r"s3://[a-z0-9][-a-z0-9.]+(/[^/\s?#]+)+/?")
_PULL_POLICIES = ("IfNotPresent", "Always", "Never")


@dataclass(frozen=True)
class Kubernetes:
    """What Jobs are made of, where runs are made by Kubernetes.

    ``instance_config_map`` has the key ``dagster.yaml``; the environment of every pod is that of ``env_config_maps``
    and ``env_secrets``. ``kubeconfig`` is for a launcher outside of the cluster. At most ``runs`` runs are made at
    once, each with at most ``pods`` steps at once (0: as many as there are to do); a backfill is cut into runs of
    ``days_per_run`` days.
    """

    image: str
    namespace: str
    service_account: str
    instance_config_map: str
    env_config_maps: tuple[str, ...]
    env_secrets: tuple[str, ...]
    image_pull_policy: str
    image_pull_secrets: tuple[str, ...]
    kubeconfig: Path | None
    runs: int
    pods: int
    days_per_run: int


@dataclass(frozen=True)
class Settings:
    """Where everything lives. All paths are absolute; all URLs are complete.

    ``landing`` and ``reports`` may be in object storage (``s3://bucket/prefix``): they are then UPaths, which have a
    path's methods. A landed file is taken for complete once it has not changed for ``landing_settle``.
    ``dagster_storage_url``, ``feast_registry_url`` and ``redis_url`` are empty where the embedded stores are used, and
    ``compute_logs_uri`` where the output of steps stays in the home. No URL holds a password: libpq finds Postgres'
    (``PGSERVICEFILE``, ``PGPASSFILE``), Redis' is ``redis_password``. ``storage_options`` are handed to deltalake as
    they are (object storage credentials). ``configured_ports`` names the servers whose port the environment gives.
    ``dagster_yaml`` replaces the instance's own configuration.
    ``alert_*`` say where alerts go beside the log (empty: nowhere else). Secrets are shown by no repr.
    ``backup_within`` is how old the newest backup may be before an alert; zero where nobody expects any.
    ``commit`` is that of the source, where no clone says it. ``keep_versions`` and ``keep_runs`` are how long, in wall
    time, tables' old versions and Dagster's and MLflow's old runs are kept that no registered version names.
    """

    home: Path
    landing: Path
    landing_settle: timedelta
    lake_uri: str
    feature_repo: Path
    feast_home: Path
    feature_store_yaml: Path | None
    mlflow_tracking_uri: str
    mlflow_artifacts_uri: str
    optuna_storage_url: str
    dagster_storage_url: str
    feast_registry_url: str
    redis_url: str
    redis_password: str = field(repr=False)
    redis_ca_file: Path | None
    reports: Path
    compute_logs_uri: str
    dagster_home: Path
    dagster_yaml: Path | None
    host: str
    dagster_port: int
    mlflow_port: int
    reports_port: int
    dagster_url: str
    mlflow_url: str
    reports_url: str
    configured_ports: frozenset[str]
    storage_options: Mapping[str, str] = field(repr=False)
    alert_webhook_url: str = field(repr=False)
    alert_smtp_url: str = field(repr=False)
    alert_email_to: str
    alert_email_from: str
    backup_within: timedelta
    commit: str
    keep_versions: timedelta
    keep_runs: timedelta
    execution: str
    kubernetes: Kubernetes

    @property
    def on_kubernetes(self) -> bool:
        """Whether runs and their steps are Jobs of a cluster."""
        return self.execution == "kubernetes"

    @property
    def ports(self) -> dict[str, int]:
        """The port of each server, by the names of :data:`DEFAULT_PORTS`."""
        return {"dagster": self.dagster_port, "mlflow": self.mlflow_port, "reports": self.reports_port}

    @property
    def ports_file(self) -> Path:
        """Where the home keeps the ports on which its links were made."""
        return self.home / "ports.json"

    @property
    def logs(self) -> Path:
        """Folder of the servers' logs."""
        return self.home / "logs"

    def with_ports(self, ports: Mapping[str, int]) -> Self:
        """The same on other ports; a URL that was configured stays as it is."""
        moved: dict[str, object] = {f"{name}_port": port for name, port in ports.items()}
        for name, port in ports.items():
            if getattr(self, f"{name}_url") == f"http://{self.host}:{self.ports[name]}":
                moved[f"{name}_url"] = f"http://{self.host}:{port}"
        return replace(self, **moved)  # type: ignore[arg-type]

    @property
    def ledger_table(self) -> str:
        """Name of the lake table that holds every promotion decision."""
        return "ledger/promotions"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process.

    Args:
        environ: variables to read instead of the process environment.

    Raises:
        ValueError: a port, or a number of days or seconds, is none; a URL is not one the platform knows or holds a
            password; a secret is given twice or its file cannot be read. The message names the variable or file and
            the value, unless that is a secret.
    """
    env = os.environ if environ is None else environ
    home = Path(env.get("ML_PLATFORM_HOME", PROJECT_ROOT / ".ml_platform")).expanduser().resolve()
    host = env.get("ML_PLATFORM_HOST", "127.0.0.1")
    kept = _kept_ports(home / "ports.json")
    ports = {
        name: _port(port_variable(name), env.get(port_variable(name), kept.get(name, default)))
        for name, default in DEFAULT_PORTS.items()
    }
    feature_store_yaml, dagster_yaml = (env.get(f"ML_PLATFORM_{name}_YAML") for name in ("FEATURE_STORE", "DAGSTER"))
    redis_ca_file = env.get("ML_PLATFORM_REDIS_CA_FILE")
    return Settings(
        home=home,
        landing=place(_stored_at("ML_PLATFORM_LANDING", env, home / "landing")),
        landing_settle=_seconds("ML_PLATFORM_LANDING_SETTLE_SECONDS", env, default="2"),
        lake_uri=_stored_at("ML_PLATFORM_LAKE_URI", env, home / "lake"),
        feature_repo=Path(env.get("ML_PLATFORM_FEATURE_REPO", PROJECT_ROOT / "feature_repo")).resolve(),
        feast_home=home / "feast",
        feature_store_yaml=Path(feature_store_yaml).resolve() if feature_store_yaml else None,
        mlflow_tracking_uri=_database(
            "ML_PLATFORM_MLFLOW_TRACKING_URI", env, f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
        ),
        mlflow_artifacts_uri=_stored_at("ML_PLATFORM_MLFLOW_ARTIFACTS_URI", env, home / "mlflow" / "artifacts"),
        optuna_storage_url=_database("ML_PLATFORM_OPTUNA_URL", env, f"sqlite:///{home / 'mlflow' / 'optuna.db'}"),
        dagster_storage_url=_postgres("ML_PLATFORM_DAGSTER_STORAGE_URL", env),
        feast_registry_url=_postgres("ML_PLATFORM_FEAST_REGISTRY_URL", env),
        redis_url=_redis("ML_PLATFORM_REDIS_URL", env),
        redis_password=_secret("ML_PLATFORM_REDIS_PASSWORD", env),
        redis_ca_file=Path(redis_ca_file).resolve() if redis_ca_file else None,
        reports=place(_stored_at("ML_PLATFORM_REPORTS", env, home / "reports")),
        compute_logs_uri=_prefix("ML_PLATFORM_COMPUTE_LOGS_URI", env),
        dagster_home=home / "dagster",
        dagster_yaml=Path(dagster_yaml).resolve() if dagster_yaml else None,
        host=host,
        dagster_port=ports["dagster"],
        mlflow_port=ports["mlflow"],
        reports_port=ports["reports"],
        dagster_url=_link("ML_PLATFORM_DAGSTER_URL", env, f"http://{host}:{ports['dagster']}"),
        mlflow_url=_link("ML_PLATFORM_MLFLOW_URL", env, f"http://{host}:{ports['mlflow']}"),
        reports_url=_link("ML_PLATFORM_REPORTS_URL", env, f"http://{host}:{ports['reports']}"),
        configured_ports=frozenset(name for name in DEFAULT_PORTS if port_variable(name) in env),
        commit=env.get("ML_PLATFORM_COMMIT", ""),
        keep_versions=_days("ML_PLATFORM_KEEP_VERSIONS_DAYS", env.get("ML_PLATFORM_KEEP_VERSIONS_DAYS", "30")),
        keep_runs=_days("ML_PLATFORM_KEEP_RUNS_DAYS", env.get("ML_PLATFORM_KEEP_RUNS_DAYS", "180")),
        storage_options=_storage_options(env),
        alert_webhook_url=_secret("ML_PLATFORM_ALERT_WEBHOOK_URL", env),
        alert_smtp_url=_secret("ML_PLATFORM_ALERT_SMTP_URL", env),
        alert_email_to=env.get("ML_PLATFORM_ALERT_EMAIL_TO", ""),
        alert_email_from=env.get("ML_PLATFORM_ALERT_EMAIL_FROM", ""),
        backup_within=timedelta(hours=_count("ML_PLATFORM_BACKUP_WITHIN_HOURS", env, default="0", least=0)),
        execution=_one_of("ML_PLATFORM_EXECUTION", env, EXECUTIONS),
        kubernetes=_kubernetes(env),
    )


def place(named: str) -> Path:
    """A folder, or a prefix in object storage, which has a path's methods; nothing of a listing is remembered."""
    if "://" not in named:
        return Path(named).resolve()
    from upath import UPath

    return cast(Path, UPath(named, use_listings_cache=False))


def prepare_environment() -> None:
    """Export :data:`PROCESS_ENVIRONMENT`, leaving what the operator already set."""
    for name, value in PROCESS_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with some variables set, for a process it starts."""
    return {**os.environ, **extra}


def export_dagster_home(settings: Settings) -> None:
    """Point this process and its children at the platform's Dagster instance."""
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


def take_files_at_once() -> None:
    """Have this process take every landed file for complete: it lands them itself, whole."""
    os.environ["ML_PLATFORM_LANDING_SETTLE_SECONDS"] = "0"


def work_on_small_frames() -> None:
    """Have polars work in one thread, unless the operator says otherwise; to be called before it is imported.

    Over a day's rows its threads wait for each other longer than they work.
    """
    os.environ.setdefault("POLARS_MAX_THREADS", "1")


def port_variable(server: str) -> str:
    """The environment variable that sets the port of a server of :data:`DEFAULT_PORTS`."""
    return f"ML_PLATFORM_{server.upper()}_PORT"


def _database(name: str, env: Mapping[str, str], default: str) -> str:
    """A database or server of MLflow or Optuna; ``postgresql://`` gets the driver that is installed."""
    return _without_password(name, env.get(name, default))


def _postgres(name: str, env: Mapping[str, str]) -> str:
    url = _without_password(name, env.get(name, ""))
    if url and not url.startswith("postgresql+psycopg2://"):
        raise ValueError(f"{name} must be postgresql://user@host:5432/database or empty, not {url!r}")
    return url


def _redis(name: str, env: Mapping[str, str]) -> str:
    url = _without_password(name, env.get(name, ""))
    if url and not url.startswith(("redis://", "rediss://")):
        raise ValueError(f"{name} must be redis://host:6379/0, rediss://… for TLS, or empty, not {url!r}")
    return url


def _stored_at(name: str, env: Mapping[str, str], default: Path) -> str:
    """A folder or a prefix in object storage."""
    named = env.get(name, str(default))
    return _without_password(name, named) if "://" in named else named


def _link(name: str, env: Mapping[str, str], default: str) -> str:
    """Where people find a server: links to it are kept with what is made."""
    url = env.get(name, default)
    if urlsplit(url).password is not None:
        raise ValueError(f"{name} must not hold a password: links with it are stored and sent")
    return url


def _prefix(name: str, env: Mapping[str, str]) -> str:
    """A prefix in object storage, without a slash at its end."""
    uri = _without_password(name, env.get(name, ""))
    if uri and not _PREFIX.fullmatch(uri):
        raise ValueError(f"{name} must be s3://bucket/prefix or empty, not {uri!r}")
    return uri.rstrip("/")


_PASSWORDS: Mapping[str, str] = {
    "redis": "ML_PLATFORM_REDIS_PASSWORD or ML_PLATFORM_REDIS_PASSWORD_FILE",
    "postgresql": "a file that PGSERVICEFILE or PGPASSFILE names, or PGPASSWORD",
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    "s3": "AWS_SECRET_ACCESS_KEY",
}


def _without_password(name: str, url: str) -> str:
    """The URL; one for Postgres names psycopg2, since for SQLAlchemy the bare scheme now means another driver.

    URLs are written to configuration, logs and command lines, so that what is secret must not be in them.
    """
    parts = urlsplit(url)
    if parts.password is not None or "password=" in parts.query:
        kind = next((kind for kind in _PASSWORDS if parts.scheme.startswith(kind)), "postgresql")
        raise ValueError(f"{name} must not hold a password; put it into {_PASSWORDS[kind]}")
    if parts.scheme in ("postgres", "postgresql"):
        return urlunsplit(parts._replace(scheme="postgresql+psycopg2"))
    return url


def _secret(name: str, env: Mapping[str, str]) -> str:
    """A secret, or the content of the file that ``<name>_FILE`` names: a mounted one is followed when it is rotated."""
    value, file = env.get(name, ""), env.get(f"{name}_FILE", "")
    if value and file:
        raise ValueError(f"{name} and {name}_FILE are both set: keep one")
    if not file:
        return value
    try:
        return Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}_FILE: cannot read {file}: {type(error).__name__}") from None


_STORAGE = "ML_PLATFORM_STORAGE_"
_STORAGE_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def _storage_options(env: Mapping[str, str]) -> dict[str, str]:
    """Options by their names in lower case; a key may be in a file, as other secrets."""
    secrets = {f"{_STORAGE}{name}_FILE": f"{_STORAGE}{name}" for name in _STORAGE_SECRETS}
    names = {secrets.get(name, name) for name in env if name.startswith(_STORAGE)}
    return {
        name.removeprefix(_STORAGE).lower(): _secret(name, env) if name in secrets.values() else env[name]
        for name in sorted(names)
    }


def _kept_ports(file: Path) -> dict[str, int]:
    try:
        kept = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        kept = None
    if not isinstance(kept, dict):
        raise ValueError(f"{file} must hold ports by server, as {json.dumps(DEFAULT_PORTS)}; delete it to choose anew")
    return {name: _port(f"{name} in {file}", port) for name, port in kept.items() if name in DEFAULT_PORTS}


def _days(name: str, value: str) -> timedelta:
    # Less than a day might be shorter than a run that still reads what it would remove.
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{name} must be a whole number of days, 1 or more, not {value!r}")
    return timedelta(days=int(value))


def _seconds(name: str, env: Mapping[str, str], default: str) -> timedelta:
    value = env.get(name, default)
    if not value.isdigit():
        raise ValueError(f"{name} must be a whole number of seconds, not {value!r}")
    return timedelta(seconds=int(value))


def _kubernetes(env: Mapping[str, str]) -> Kubernetes:
    kubeconfig = env.get("ML_PLATFORM_K8S_KUBECONFIG")
    return Kubernetes(
        image=env.get("ML_PLATFORM_K8S_IMAGE", ""),
        namespace=env.get("ML_PLATFORM_K8S_NAMESPACE", "default"),
        service_account=env.get("ML_PLATFORM_K8S_SERVICE_ACCOUNT", ""),
        instance_config_map=env.get("ML_PLATFORM_K8S_INSTANCE_CONFIG_MAP", ""),
        env_config_maps=_names(env.get("ML_PLATFORM_K8S_ENV_CONFIG_MAPS", "")),
        env_secrets=_names(env.get("ML_PLATFORM_K8S_ENV_SECRETS", "")),
        image_pull_policy=_one_of("ML_PLATFORM_K8S_IMAGE_PULL_POLICY", env, _PULL_POLICIES),
        image_pull_secrets=_names(env.get("ML_PLATFORM_K8S_IMAGE_PULL_SECRETS", "")),
        kubeconfig=Path(kubeconfig).resolve() if kubeconfig else None,
        runs=_count("ML_PLATFORM_K8S_RUNS", env, default="10", least=1),
        pods=_count("ML_PLATFORM_K8S_PODS", env, default="0", least=0),
        days_per_run=_count("ML_PLATFORM_K8S_DAYS_PER_RUN", env, default="31", least=1),
    )


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _one_of(name: str, env: Mapping[str, str], known: tuple[str, ...]) -> str:
    """A choice; the first if none is made."""
    value = env.get(name) or known[0]
    if value not in known:
        raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")
    return value


def _count(name: str, env: Mapping[str, str], default: str, least: int) -> int:
    value = env.get(name, default)
    if not value.isdigit() or int(value) < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return int(value)


def _port(name: str, value: object) -> int:
    if not str(value).isdigit() or not 0 < int(str(value)) < 65536:
        raise ValueError(f"{name} must be a port between 1 and 65535, not {value!r}")
    return int(str(value))
