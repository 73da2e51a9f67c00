"""What every asset of a model has in common: its key, owner, group and tags."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import dagster as dg

from ml_platform.assets.metadata import Column
from ml_platform.automation.calendar import daily
from ml_platform.core.feature_manifest import FeatureManifest, ServiceSpec
from ml_platform.core.model_spec import ModelSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.declarations import Dataset


@dataclass(frozen=True)
class ModelIdentity:
    """A declared model within its data set, as its assets need it."""

    spec: ModelSpec
    dataset: Dataset
    manifest: FeatureManifest

    @property
    def service(self) -> ServiceSpec:
        """The feature service the model reads."""
        return self.manifest.service(self.spec.service)

    @property
    def days(self) -> dg.DailyPartitionsDefinition:
        """The data set's days."""
        return daily(self.dataset.spec)

    def key(self, name: str) -> dg.AssetKey:
        """``<model>/<name>``."""
        return dg.AssetKey([self.spec.name, name])

    def asset(
        self,
        name: str,
        description: str,
        kinds: set[str],
        deps: Iterable[dg.AssetDep | dg.AssetKey],
        metadata: Mapping[str, Any] | None = None,
        code_version: str | None = None,
    ) -> dg.AssetSpec:
        """The specification of one of the model's assets."""
        return dg.AssetSpec(
            self.key(name),
            deps=list(deps),
            description=description,
            group_name=self.spec.group,
            owners=self.spec.owners,
            kinds=kinds,
            tags={"dataset": self.dataset.name, "model": self.spec.name, "stage": name, **self.spec.tags},
            metadata=metadata,
            code_version=code_version,
        )

    def watermark(self, platform: Platform) -> datetime:
        """The platform's watermark.

        Raises:
            dagster.Failure: a table has landed nothing yet.
        """
        found = self.dataset.watermark(platform.landing)
        if found is None:
            raise dg.Failure("nothing has landed yet: run `ml-platform replay`", allow_retries=False)
        return found

    def key_columns(self) -> list[Column]:
        """Columns that name a row of any of the model's tables."""
        keys = [Column(name, "text", "Identifies what is predicted.", nullable=False) for name in self.spec.keys]
        return [*keys, Column("prediction_time", "timestamp", "When the prediction is due.", "UTC", nullable=False)]

    def label_columns(self) -> list[Column]:
        """The outcome and when it became known."""
        return [
            Column("label", "number", self.spec.label_unit, nullable=False),
            Column("label_time", "timestamp", "When the label became known.", "UTC", nullable=False),
        ]

    def feature_columns(self) -> list[Column]:
        """The service's features, as Feast describes them."""
        found = [self.manifest.column(self.spec.service, name) for name in self.service.features]
        return [Column(column.name, column.dtype, column.description, column.unit) for column in found]


def all_days(key: dg.AssetKey) -> dg.AssetDep:
    """A dependency of an asset without partitions on a partitioned one; which days it reads, it decides itself."""
    return dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping())
