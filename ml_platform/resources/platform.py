"""The stores as one Dagster resource, imported and opened from the settings when first used."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.settings import Settings, load, prepare_environment
from ml_platform.stores.landing import Landing

if TYPE_CHECKING:
    from ml_platform.stores.features import FeatureClient
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.models import ModelStore
    from ml_platform.stores.reports import Reports


class Platform(dg.ConfigurableResource):
    """Everything an asset reads and writes. It has no configuration of its own: :mod:`ml_platform.settings` has."""

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Turn library telemetry off before any of them is imported."""
        prepare_environment()

    @cached_property
    def settings(self) -> Settings:
        """The settings of this process."""
        return load()

    @cached_property
    def lake(self) -> "Lake":
        """The Delta tables."""
        from ml_platform.stores.lake import Lake

        return Lake.of(self.settings)

    @cached_property
    def landing(self) -> Landing:
        """The folder in which upstream delivers."""
        return Landing(self.settings.landing, self.settings.landing_settle)

    @cached_property
    def features(self) -> "FeatureClient":
        """The feature store."""
        from ml_platform.stores.features import FeatureClient

        return FeatureClient(self.settings)

    @cached_property
    def models(self) -> "ModelStore":
        """MLflow's runs and registry."""
        from ml_platform.stores.models import ModelStore

        return ModelStore(self.settings)

    @cached_property
    def reports(self) -> "Reports":
        """HTML pages and their addresses."""
        from ml_platform.stores.reports import Reports

        return Reports(self.settings)

    def study_storage(self) -> str:
        """Where Optuna keeps its studies; an embedded file's folder is made first."""
        url = self.settings.optuna_storage_url
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return url
