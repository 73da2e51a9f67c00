"""Every path, URL and switch of the platform, read from ``ML_PLATFORM_*`` with embedded defaults.

This is the only module that reads the environment. Nothing here writes to the disk: a :class:`Settings`
is a value, and the stores make their folders when they first write. Beside the environment, one file of the
home is read: the ports on which its links were made (:mod:`ml_platform.stores.instance` writes it).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Self

PROJECT_ROOT = Path(__file__).resolve().parent.parent

PROCESS_ENVIRONMENT: Mapping[str, str] = {
    # The telemetry of every library is off.
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FEAST_USAGE": "False",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "EVIDENTLY_DISABLE_TELEMETRY": "1",
    # Spinning OpenMP threads of two processes on the same cores slow LightGBM down a hundredfold.
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""What libraries must find in the environment when they are imported; see :func:`prepare_environment`."""


DEFAULT_PORTS: Mapping[str, int] = {"dagster": 3000, "mlflow": 5000, "reports": 3001}
"""The port of each server where nothing else is set and the home was never served."""


@dataclass(frozen=True)
class Settings:
    """Where everything lives. All paths are absolute; all URLs are complete.

    The landing sensor takes a file for complete once it has not changed for ``landing_settle``.
    ``storage_options`` are handed to deltalake as they are (object storage credentials). ``configured_ports`` names
    the servers whose port the environment gives. ``dagster_yaml`` replaces the instance's own configuration.
    ``alert_*`` say where alerts go beside the log (empty: nowhere else); two hold secrets, which no repr shows.
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
    reports: Path
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
    storage_options: Mapping[str, str]
    alert_webhook_url: str = field(repr=False)
    alert_smtp_url: str = field(repr=False)
    alert_email_to: str
    alert_email_from: str
    commit: str
    keep_versions: timedelta
    keep_runs: timedelta

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
        ValueError: a port, or a number of days or seconds, is none; the message names the variable or file and the
            value.
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
    prefix = "ML_PLATFORM_STORAGE_"
    return Settings(
        home=home,
        landing=Path(env.get("ML_PLATFORM_LANDING", home / "landing")).resolve(),
        landing_settle=_seconds("ML_PLATFORM_LANDING_SETTLE_SECONDS", env, default="2"),
        lake_uri=env.get("ML_PLATFORM_LAKE_URI", str(home / "lake")),
        feature_repo=Path(env.get("ML_PLATFORM_FEATURE_REPO", PROJECT_ROOT / "feature_repo")).resolve(),
        feast_home=home / "feast",
        feature_store_yaml=Path(feature_store_yaml).resolve() if feature_store_yaml else None,
        mlflow_tracking_uri=env.get("ML_PLATFORM_MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"),
        mlflow_artifacts_uri=env.get("ML_PLATFORM_MLFLOW_ARTIFACTS_URI", str(home / "mlflow" / "artifacts")),
        optuna_storage_url=env.get("ML_PLATFORM_OPTUNA_URL", f"sqlite:///{home / 'mlflow' / 'optuna.db'}"),
        reports=home / "reports",
        dagster_home=home / "dagster",
        dagster_yaml=Path(dagster_yaml).resolve() if dagster_yaml else None,
        host=host,
        dagster_port=ports["dagster"],
        mlflow_port=ports["mlflow"],
        reports_port=ports["reports"],
        dagster_url=env.get("ML_PLATFORM_DAGSTER_URL", f"http://{host}:{ports['dagster']}"),
        mlflow_url=env.get("ML_PLATFORM_MLFLOW_URL", f"http://{host}:{ports['mlflow']}"),
        reports_url=env.get("ML_PLATFORM_REPORTS_URL", f"http://{host}:{ports['reports']}"),
        configured_ports=frozenset(name for name in DEFAULT_PORTS if port_variable(name) in env),
        commit=env.get("ML_PLATFORM_COMMIT", ""),
        keep_versions=_days("ML_PLATFORM_KEEP_VERSIONS_DAYS", env.get("ML_PLATFORM_KEEP_VERSIONS_DAYS", "30")),
        keep_runs=_days("ML_PLATFORM_KEEP_RUNS_DAYS", env.get("ML_PLATFORM_KEEP_RUNS_DAYS", "180")),
        storage_options={k[len(prefix) :].lower(): v for k, v in env.items() if k.startswith(prefix)},
        alert_webhook_url=env.get("ML_PLATFORM_ALERT_WEBHOOK_URL", ""),
        alert_smtp_url=env.get("ML_PLATFORM_ALERT_SMTP_URL", ""),
        alert_email_to=env.get("ML_PLATFORM_ALERT_EMAIL_TO", ""),
        alert_email_from=env.get("ML_PLATFORM_ALERT_EMAIL_FROM", ""),
    )


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


def port_variable(server: str) -> str:
    """The environment variable that sets the port of a server of :data:`DEFAULT_PORTS`."""
    return f"ML_PLATFORM_{server.upper()}_PORT"


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


def _port(name: str, value: object) -> int:
    if not str(value).isdigit() or not 0 < int(str(value)) < 65536:
        raise ValueError(f"{name} must be a port between 1 and 65535, not {value!r}")
    return int(str(value))
