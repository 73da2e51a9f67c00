"""The jobs of a data set: the daily chain, and each model's training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.automation.calendar import daily
from ml_platform.automation.runs import OWN_EVENTS
from ml_platform.core.dataset import DatasetSpec
from ml_platform.stores.declarations import Dataset

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

MAINTENANCE_JOB = "maintenance"
"""The job that tidies tables: what it compacts is out of date until it has said so."""

UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""Of a run that may still make something."""

TRAINING_STAGES = ("training_set", "tuned_model", "evaluation_report", "champion", "model_card")
"""Assets that are materialised when evidence calls for a new model, not every day."""

CALIBRATION = "drift_calibration"
"""Follows a new champion at once; the daily chain has it too, for a champion that came by a person's word or another
policy of drift, and finds it standing on all other days."""


def daily_job_name(dataset: DatasetSpec) -> str:
    """Name of the job that runs a data set's daily chain."""
    return f"{dataset.name}_daily"


def loop_job_name(dataset: DatasetSpec) -> str:
    """Name of the job that runs everything, training included."""
    return f"{dataset.name}_loop"


def training_job_name(model: str) -> str:
    """Name of the job that trains a model and decides on it."""
    return f"{model}_training"


def dataset_jobs(dataset: Dataset) -> "list[UnresolvedAssetJobDefinition]":
    """The daily chain, the whole loop, and one training job a model."""
    everything = dg.AssetSelection.tag("dataset", dataset.name)
    training = [dg.AssetSelection.assets(key) for key in training_keys([model.name for model in dataset.models])]
    chain = everything
    for asset in training:
        chain = chain - asset
    days = daily(dataset.spec)
    return [
        dg.define_asset_job(
            daily_job_name(dataset.spec),
            chain,
            partitions_def=days,
            tags=OWN_EVENTS,
            description="Landed files to raw tables, features, labels, predictions, performance and drift.",
        ),
        dg.define_asset_job(
            loop_job_name(dataset.spec),
            everything,
            partitions_def=days,
            tags=OWN_EVENTS,
            description="The daily chain, with every model trained and decided on in between.",
        ),
        *(
            dg.define_asset_job(
                training_job_name(model.name),
                dg.AssetSelection.assets(*training_keys([model.name]), dg.AssetKey([model.name, CALIBRATION])),
                description=f"A new training set for {model.name}, tuned, evaluated and decided on.",
            )
            for model in dataset.models
        ),
    ]


def under_way(instance: dg.DagsterInstance, dataset: Dataset, *, training_counts: bool = True) -> dg.DagsterRun | None:
    """A run that is queued, starting or running and makes assets of the data set, or tidies tables; None if none is.

    Args:
        instance: where runs are recorded.
        dataset: whose assets.
        training_counts: whether runs that only train, evaluate and decide, and calibrate drift on a new champion, count
            too.
    """
    models = [model.name for model in dataset.models]
    training = {*training_keys(models), *(dg.AssetKey([model, CALIBRATION]) for model in models)}
    whole = {daily_job_name(dataset.spec), loop_job_name(dataset.spec), MAINTENANCE_JOB}
    trainings = {training_job_name(model.name) for model in dataset.models}
    for run in instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED])):
        selected = {key for key in run.asset_selection or () if _made_of(dataset, key)}
        if run.job_name in whole or (run.job_name in trainings and training_counts):
            return run
        if run.job_name not in trainings and (selected if training_counts else selected - training):
            return run
    return None


def trains(run: dg.DagsterRun, model: str) -> bool:
    """Whether a run makes a model's training set."""
    if run.asset_selection is None:
        return run.job_name == training_job_name(model)
    return dg.AssetKey([model, TRAINING_STAGES[0]]) in run.asset_selection


def _made_of(dataset: Dataset, key: dg.AssetKey) -> bool:
    """Whether an asset is one of the data set's; the online store is everybody's."""
    first, last = key.path[0], key.path[-1]
    if first == "raw":
        return last in {table.name for table in dataset.tables}
    if first == "features":
        return last in dataset.views
    return first in {"online_features", *(model.name for model in dataset.models)}


def training_keys(models: Sequence[str]) -> list[dg.AssetKey]:
    """The keys of the training assets of these models."""
    return [dg.AssetKey([model, stage]) for model in models for stage in TRAINING_STAGES]
