"""What code a training runs: the commit of its source, and the libraries that decide the bytes of a model."""

import platform
import subprocess
from importlib.metadata import version

from ml_platform.settings import PROJECT_ROOT, Settings

_COMPUTING = ("feast", "lightgbm", "numpy", "optuna", "polars")


def libraries() -> dict[str, str]:
    """The versions, here and now, of what decides a model's bytes."""
    return {"python": platform.python_version(), **{name: version(name) for name in _COMPUTING}}


def commit(settings: Settings) -> str:
    """The commit that runs, with ``-dirty`` if files differ from it; empty where nothing says.

    ``ML_PLATFORM_COMMIT`` says it where there is no clone, as in an image.
    """
    if settings.commit:
        return settings.commit
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        said = subprocess.run(asked, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return said.stdout.strip()
