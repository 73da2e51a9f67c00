"""Every path, URL and switch of the platform, read from ``ML_PLATFORM_*`` with embedded defaults.

This is the only module that reads the environment. Nothing here touches the disk: a :class:`Settings`
is a value, and the stores make their folders when they first write.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parent.parent

TELEMETRY_OFF: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "FEAST_USAGE": "False",
    "DAGSTER_DISABLE_TELEMETRY": "1",
    "EVIDENTLY_DISABLE_TELEMETRY": "1",
}
"""Switches that turn the telemetry of every library off; exported by :func:`disable_telemetry`."""


@dataclass(frozen=True)
class Settings:
    """Where everything lives. All paths are absolute; all URLs are complete.

    ``storage_options`` are handed to deltalake as they are (object storage credentials).
    """

    home: Path
    landing: Path
    lake_uri: str
    feature_repo: Path
    feast_home: Path
    feature_store_yaml: Path | None
    mlflow_tracking_uri: str
    mlflow_artifacts_uri: str
    optuna_storage_url: str
    reports: Path
    dagster_home: Path
    host: str
    dagster_port: int
    mlflow_port: int
    reports_port: int
    dagster_url: str
    mlflow_url: str
    reports_url: str
    storage_options: Mapping[str, str]

    @property
    def ledger_table(self) -> str:
        """Name of the lake table that holds every promotion decision."""
        return "ledger/promotions"


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process.

    Args:
        environ: variables to read instead of the process environment.

    Raises:
        ValueError: a port is not an integer; the message names the variable and its value.
    """
    env = os.environ if environ is None else environ
    home = Path(env.get("ML_PLATFORM_HOME", PROJECT_ROOT / ".ml_platform")).expanduser().resolve()
    host = env.get("ML_PLATFORM_HOST", "127.0.0.1")
    dagster_port = _port(env, "ML_PLATFORM_DAGSTER_PORT", 3000)
    mlflow_port = _port(env, "ML_PLATFORM_MLFLOW_PORT", 5000)
    reports_port = _port(env, "ML_PLATFORM_REPORTS_PORT", 3001)
    feature_store_yaml = env.get("ML_PLATFORM_FEATURE_STORE_YAML")
    prefix = "ML_PLATFORM_STORAGE_"
    return Settings(
        home=home,
        landing=Path(env.get("ML_PLATFORM_LANDING", home / "landing")).resolve(),
        lake_uri=env.get("ML_PLATFORM_LAKE_URI", str(home / "lake")),
        feature_repo=Path(env.get("ML_PLATFORM_FEATURE_REPO", PROJECT_ROOT / "feature_repo")).resolve(),
        feast_home=home / "feast",
        feature_store_yaml=Path(feature_store_yaml).resolve() if feature_store_yaml else None,
        mlflow_tracking_uri=env.get("ML_PLATFORM_MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"),
        mlflow_artifacts_uri=env.get("ML_PLATFORM_MLFLOW_ARTIFACTS_URI", str(home / "mlflow" / "artifacts")),
        optuna_storage_url=env.get("ML_PLATFORM_OPTUNA_URL", f"sqlite:///{home / 'mlflow' / 'optuna.db'}"),
        reports=home / "reports",
        dagster_home=home / "dagster",
        host=host,
        dagster_port=dagster_port,
        mlflow_port=mlflow_port,
        reports_port=reports_port,
        dagster_url=env.get("ML_PLATFORM_DAGSTER_URL", f"http://{host}:{dagster_port}"),
        mlflow_url=env.get("ML_PLATFORM_MLFLOW_URL", f"http://{host}:{mlflow_port}"),
        reports_url=env.get("ML_PLATFORM_REPORTS_URL", f"http://{host}:{reports_port}"),
        storage_options={k[len(prefix) :].lower(): v for k, v in env.items() if k.startswith(prefix)},
    )


def disable_telemetry() -> None:
    """Export the switches of :data:`TELEMETRY_OFF`, leaving what the operator already set."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)


def export_dagster_home(settings: Settings) -> None:
    """Point this process and its children at the platform's Dagster instance."""
    os.environ["DAGSTER_HOME"] = str(settings.dagster_home)


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name, str(default))
    if not value.isdigit() or not 0 < int(value) < 65536:
        raise ValueError(f"{name} must be a port between 1 and 65535, not {value!r}")
    return int(value)
