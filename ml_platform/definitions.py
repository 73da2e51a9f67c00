"""The code location: everything under ``defs/``, the platform's resources, jobs and sensors."""

from pathlib import Path

import dagster as dg

from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.settings import disable_telemetry

disable_telemetry()


@dg.definitions
def defs() -> dg.Definitions:
    """All declared data sets and models."""
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
        dg.Definitions(resources={"platform": Platform(), "mlflow": MlflowResource()}),
    )
