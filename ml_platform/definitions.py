"""The code location: everything declared under ``defs/``, its jobs and sensors, and the platform's resources."""

import atexit
import gc
from pathlib import Path

import dagster as dg

from ml_platform import settings
from ml_platform.assets.alerts import alert_specs
from ml_platform.assets.backups import backup_spec
from ml_platform.assets.ledger import ledger_spec
from ml_platform.automation.alerts_sensor import alerts_sensor
from ml_platform.automation.jobs import dataset_jobs
from ml_platform.automation.landing import landing_sensor
from ml_platform.automation.maintenance import maintenance_job, maintenance_schedule
from ml_platform.automation.schedules import nightly_scoring, weekly_review
from ml_platform.automation.sensor import automation_sensor
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.settings import Settings, prepare_environment
from ml_platform.stores.declarations import load_dataset

prepare_environment()
# What the imports made lives as long as the process: without this the collector walks through all of it again and again
# while the definitions are made, a sixth of the time that loading takes.
gc.freeze()
# Frozen to the end, extensions would report what they own as leaked.
atexit.register(gc.unfreeze)


def platform_definitions(package: Path) -> dg.Definitions:
    """Everything a project declares.

    Args:
        package: folder of the project's package; its ``defs/`` holds one folder a data set.
    """
    datasets = [load_dataset(calendar.parent) for calendar in sorted((package / "defs").glob("*/dataset.yaml"))]
    maintenance = maintenance_job()
    return dg.Definitions.merge(
        dg.load_from_defs_folder(path_within_project=package),
        dg.Definitions(
            assets=[
                ledger_spec([model for dataset in datasets for model in dataset.models]),
                *alert_specs(datasets),
                backup_spec(datasets),
            ],
            jobs=[*(job for dataset in datasets for job in dataset_jobs(dataset)), maintenance],
            sensors=[
                *(landing_sensor(dataset) for dataset in datasets),
                automation_sensor(),
                alerts_sensor(datasets),
            ],
            schedules=[
                maintenance_schedule(maintenance),
                *(nightly_scoring(dataset) for dataset in datasets),
                *(weekly_review(dataset, model) for dataset in datasets for model in dataset.models),
            ],
            resources={"platform": Platform(), "mlflow": MlflowResource()},
            executor=executor(settings.load()),
        ),
    )


def executor(here: Settings) -> dg.ExecutorDefinition:
    """What makes a run's steps: the run's own process one after the other, or on Kubernetes each a Job of its own.

    Image, namespace, account and environment of the Jobs are those of the run's, which the launcher gave it.
    """
    if not here.on_kubernetes:
        return dg.in_process_executor
    # It brings the client of Kubernetes with it: only who needs that waits for it.
    from dagster_k8s import k8s_job_executor

    return k8s_job_executor.configured({"max_concurrent": here.kubernetes.pods} if here.kubernetes.pods else {})


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of this project."""
    return platform_definitions(Path(__file__).parent)
