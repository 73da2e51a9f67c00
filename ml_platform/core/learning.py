"""From training rows to a model: search and fit, and the part of a declaration that decides what comes out.

Belongs here: what a training and its repetition must have in common. Where rows come from and where models go does not.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from ml_platform.core import tuning
from ml_platform.core.digests import digest
from ml_platform.core.feature_manifest import ServiceSpec
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.training import FittedModel, fit
from ml_platform.core.tuning import TrialSummary, TuningResult, tune


@dataclass(frozen=True)
class Learned:
    """What a training gives: the finished study, and the model fitted on every training row."""

    tuning: TuningResult
    model: FittedModel


def learn(
    spec: ModelSpec,
    train: pl.DataFrame,
    service: ServiceSpec,
    *,
    storage_url: str | None = None,
    study_name: str = "study",
    on_trial: Callable[[TrialSummary], None] = lambda _: None,
) -> Learned:
    """Search the parameters and fit with the best; the same rows in any order give the same bytes.

    Args:
        spec: the declaration.
        train: the training rows of the split.
        service: the feature service; its features, in its order, are learned from.
        storage_url: see :func:`~ml_platform.core.tuning.tune`; None searches anew and keeps nothing.
        study_name: name of the study in the storage, see :func:`study_name`.
        on_trial: called after every trial run now.

    Raises:
        LeakageError: a feature is an outcome.
        ValueError: a fold is empty, or labels, features or parameters are not valid.
    """
    found = tune(spec, train, service.features, storage_url=storage_url, study_name=study_name, on_trial=on_trial)
    return Learned(found, fit(spec, train, service.features, found.params, found.rounds))


def study_name(spec: ModelSpec, training_set_hash: str, as_of: datetime) -> str:
    """The study of the rows that a training set, split as of a watermark, trains on."""
    return tuning.study_name(spec, digest(training_set_hash, as_of.isoformat()))
