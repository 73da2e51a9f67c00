"""``FeaturesComponent``: how the Feast views of a data set are computed."""

from typing import Self, cast

import dagster as dg
from pydantic import BaseModel

from ml_platform import settings
from ml_platform.assets.features import online_asset, view_asset
from ml_platform.core.dataset import FeaturesSpec
from ml_platform.stores.declarations import dataset_folder, load_dataset
from ml_platform.stores.feature_repository import FeatureRepository


class FeaturesComponent(dg.Component):
    """Feature views: which transform of which raw tables fills each (:class:`FeaturesSpec`).

    Names, owners, descriptions, TTLs and schemas are those of the Feast repository.
    """

    def __init__(self, spec: FeaturesSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """What the document's ``attributes`` must be."""
        return FeaturesSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component of a validated document."""
        return cls(cast(FeaturesSpec, attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """One asset a view, and the online store's.

        Raises:
            LookupError: a view is not in the Feast repository; the message names those that are.
        """
        dataset = load_dataset(dataset_folder(context.path))
        manifest = FeatureRepository(settings.load()).manifest()
        views = {name: manifest.view(name) for name in self.spec.views}
        assets = [view_asset(view, self.spec.views[name], dataset) for name, view in views.items()]
        return dg.Definitions(assets=[*assets, online_asset(list(views.values()), dataset)])
