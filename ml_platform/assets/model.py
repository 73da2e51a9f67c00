"""All assets of one declared model, and the jobs by which people decide on it."""

import dagster as dg

from ml_platform.assets.champion import champion_asset, decision_jobs
from ml_platform.assets.model_data import labels_asset, predictions_asset, training_set_asset
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.monitoring import drift_calibration_asset, drift_report_asset, performance_report_asset
from ml_platform.assets.training import evaluation_report_asset, model_card_asset, tuned_model_asset
from ml_platform.core.declared_features import assert_judged, assert_no_outcomes
from ml_platform.core.feature_manifest import FeatureManifest
from ml_platform.core.model_spec import ModelSpec
from ml_platform.stores.declarations import Dataset


def model_assets(spec: ModelSpec, dataset: Dataset, manifest: FeatureManifest) -> list[dg.AssetsDefinition]:
    """From labels to drift, in the order of the loop.

    Raises:
        LookupError: the feature service is not in the Feast repository.
        LeakageError: the service has a column that the declaration denies.
        ValueError: the drift policy ignores a column that the service does not have, or all that it has.
    """
    model = ModelIdentity(spec, dataset, manifest)
    assert_no_outcomes(model.service.features, spec.denied)
    assert_judged(model.service.features, spec.drift)
    return [
        labels_asset(model),
        training_set_asset(model),
        tuned_model_asset(model),
        evaluation_report_asset(model),
        champion_asset(model),
        model_card_asset(model),
        predictions_asset(model),
        performance_report_asset(model),
        drift_calibration_asset(model),
        drift_report_asset(model),
    ]


def model_jobs(spec: ModelSpec, dataset: Dataset, manifest: FeatureManifest) -> list[dg.JobDefinition]:
    """The jobs by which people decide on the model."""
    return decision_jobs(ModelIdentity(spec, dataset, manifest))
