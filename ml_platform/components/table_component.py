"""``TableComponent``: one YAML document is one raw table."""

from typing import Self, cast

import dagster as dg
from pydantic import BaseModel

from ml_platform.assets.tables import table_asset
from ml_platform.core.table_spec import TableSpec
from ml_platform.stores.declarations import dataset_folder, load_dataset


class TableComponent(dg.Component):
    """A raw table: where its files land and the contract they keep (:class:`TableSpec`)."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """What the document's ``attributes`` must be."""
        return TableSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component of a validated document."""
        return cls(cast(TableSpec, attributes))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The table's asset."""
        dataset = load_dataset(dataset_folder(context.path))
        return dg.Definitions(assets=[table_asset(self.spec, dataset)])
