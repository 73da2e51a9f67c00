"""``ModelComponent``: one YAML document is one model, and its whole asset graph."""

from typing import Self, cast

import dagster as dg
from pydantic import BaseModel

from ml_platform import settings
from ml_platform.assets.model import model_assets, model_jobs
from ml_platform.core.model_spec import ModelSpec
from ml_platform.stores.declarations import dataset_folder, load_dataset
from ml_platform.stores.feature_repository import FeatureRepository


class ModelComponent(dg.Component):
    """A model: its question, data, gates and policies (:class:`ModelSpec`)."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """What the document's ``attributes`` must be."""
        return ModelSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component of a validated document."""
        return cls(cast(ModelSpec, attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The model's assets, from labels to drift, and the jobs by which people decide on it.

        Raises:
            LookupError: its feature service is not in the Feast repository; the message names those that are.
            LeakageError, ValueError: it declares of a feature what cannot be, as :func:`model_assets` says.
        """
        dataset = load_dataset(dataset_folder(context.path))
        manifest = FeatureRepository(settings.load()).manifest()
        return dg.Definitions(
            assets=model_assets(self.spec, dataset, manifest), jobs=model_jobs(self.spec, dataset, manifest)
        )
