"""What every asset of a model has in common: its key, owner, group and tags."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

import dagster as dg

from ml_platform import settings
from ml_platform.assets.metadata import Column
from ml_platform.assets.pods import op_tags
from ml_platform.automation.calendar import daily, fresh
from ml_platform.automation.conditions import on_leftovers, on_new_input
from ml_platform.core.feature_manifest import FeatureManifest, ServiceSpec
from ml_platform.core.model_spec import ModelSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.entity_columns import entity_columns

_PREDICTION_TIME = Column("prediction_time", "timestamp", "When the prediction is due.", "UTC", nullable=False)


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
        automation_condition: "dg.AutomationCondition[Any] | None" = None,
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
            automation_condition=automation_condition,
            freshness_policy=self._freshness(name),
        )

    def _freshness(self, name: str) -> dg.FreshnessPolicy | None:
        declared = self.dataset.spec.freshness
        stages = {"predictions": declared.predictions, "tuned_model": declared.models, "champion": declared.models}
        return fresh(stages.get(name))

    def op_tags(self, stage: str) -> dict[str, Any]:
        """The tags by which the pod of a stage's step gets what the model declares."""
        return op_tags(self.spec.resources.of(stage))

    def follows(self) -> "dg.AutomationCondition[Any]":
        """When an asset is made that follows from a new training set."""
        return on_new_input(self.dataset)

    def catches_up(self, name: str) -> "dg.AutomationCondition[Any]":
        """When a table of the daily chain is requested apart from it."""
        return on_leftovers(self.dataset, f"{self.spec.name}/{name}")

    def watermark(self, platform: Platform) -> datetime:
        """The platform's watermark.

        Raises:
            dagster.Failure: a table has landed nothing yet.
        """
        return _landed(self.dataset.watermark(platform.landing))

    def known_through(self, platform: Platform) -> datetime:
        """The watermark of what was taken in: see :func:`ml_platform.stores.ingest.known_through`.

        Raises:
            dagster.Failure: a table has landed nothing yet.
        """
        from ml_platform.stores.ingest import known_through

        return _landed(known_through(platform.lake, platform.landing, self.dataset, self.spec, self.manifest))

    def key_columns(self) -> list[Column]:
        """Columns that name a row of any of the model's tables."""
        keys = [column for column in self.entity_columns if column.name in self.spec.keys]
        return [*(replace(column, nullable=False) for column in keys), _PREDICTION_TIME]

    def label_table_columns(self) -> list[Column]:
        """Columns of the labels: the entity frame, the outcome and when it became known."""
        others = [column for column in self.entity_columns if column.name not in self.spec.keys]
        return [*self.key_columns(), *others, *self.label_columns()]

    @cached_property
    def entity_columns(self) -> list[Column]:
        """Everything the entity transform gives beside ``prediction_time``."""
        tables = [self.dataset.table(name) for name in self.spec.entities.inputs]
        known = {name: (c.description, c.unit or "") for table in tables for name, c in table.columns.items()}
        views = [self.manifest.view(name) for name in self.service.views]
        known |= {c.name: (c.description, c.unit) for view in views for c in (*view.join_keys, *view.request)}
        return [
            Column(name, kind, *known.get(name, ("Identifies what is predicted.", "")))
            for name, kind in entity_columns(settings.load(), self.spec, self.dataset).items()
            if name != _PREDICTION_TIME.name
        ]

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


def _landed(watermark: datetime | None) -> datetime:
    if watermark is None:
        raise dg.Failure("nothing has landed yet: run `ml-platform replay`", allow_retries=False)
    return watermark


def all_days(key: dg.AssetKey) -> dg.AssetDep:
    """A dependency of an asset without partitions on a partitioned one; which days it reads, it decides itself."""
    return dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping())
