"""A data set's folder of declarations, read into specs.

The folder holds ``dataset.yaml`` (the calendar) and ``defs.yaml``: documents of
``ml_platform.components`` types, which Dagster turns into assets. Whatever needs the same declarations
without Dagster (the terminal, checks) reads them here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ml_platform.core.dataset import DatasetSpec, FeaturesSpec
from ml_platform.core.model_spec import ModelSpec, Transform
from ml_platform.core.table_spec import TableSpec
from ml_platform.stores.landing import Landing, watermark

COMPONENTS = "ml_platform.components"

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where it is installed: a tenth of the time, and every process that loads the code location pays it."""


@dataclass(frozen=True)
class Dataset:
    """Everything declared in one folder."""

    folder: Path
    spec: DatasetSpec
    tables: Sequence[TableSpec]
    views: dict[str, Transform]
    models: Sequence[ModelSpec]

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.spec.name

    def table(self, name: str) -> TableSpec:
        """The declaration of one raw table.

        Raises:
            LookupError: no such table is declared; the message names those that are.
        """
        for table in self.tables:
            if table.name == name:
                return table
        raise LookupError(f"no raw table {name!r} is declared; there are {', '.join(t.name for t in self.tables)}")

    def model(self, name: str) -> ModelSpec:
        """The declaration of one model.

        Raises:
            LookupError: no such model is declared; the message names those that are.
        """
        for model in self.models:
            if model.name == name:
                return model
        raise LookupError(f"no model {name!r} is declared; there are {', '.join(m.name for m in self.models)}")

    def read_by(self, model: ModelSpec, views: Iterable[str]) -> list[TableSpec]:
        """The raw tables that a model is made from, by what it declares and by these views of its feature service."""
        transforms = [model.entities, model.labels, *(self.views[name] for name in views if name in self.views)]
        names = {name for transform in transforms for name in transform.inputs}
        return [table for table in self.tables if table.name in names]

    def landed(self, landing: Landing) -> Landing:
        """What has landed of the days of the calendar, of which today (UTC) is the last that has begun."""
        tomorrow = datetime.now(UTC).date() + timedelta(days=1)
        return replace(landing, start=self.spec.start, end=min(self.spec.end or tomorrow, tomorrow))

    def watermark(self, landing: Landing) -> datetime | None:
        """The instant up to which every partitioned table has landed; ``None`` before that."""
        return watermark(self.landed(landing), [table for table in self.tables if table.kind == "partitioned"])


@lru_cache(maxsize=8)
def load_dataset(folder: Path) -> Dataset:
    """Read a folder's declarations.

    Raises:
        FileNotFoundError: there is no ``dataset.yaml`` in it.
        pydantic.ValidationError: a declaration is not valid.
        LookupError: ``dataset.yaml`` gives resources to a view that is not declared.
    """
    calendar = folder / "dataset.yaml"
    if not calendar.is_file():
        raise FileNotFoundError(f"{folder} has no dataset.yaml, which names the data set and its days")
    documents: dict[str, list[dict[str, Any]]] = {"TableComponent": [], "FeaturesComponent": [], "ModelComponent": []}
    for path in sorted(folder.glob("**/defs.yaml")):
        for document in yaml.load_all(path.read_text(), Loader=_LOADER):
            module, _, name = str(document["type"]).rpartition(".")
            if module == COMPONENTS and name in documents:
                documents[name].append(document["attributes"])
    spec = DatasetSpec.model_validate(yaml.safe_load(calendar.read_text()))
    views = {
        view: transform
        for attributes in documents["FeaturesComponent"]
        for view, transform in FeaturesSpec.model_validate(attributes).views.items()
    }
    if unknown := sorted(set(spec.resources.views) - set(views)):
        raise LookupError(
            f"{calendar}: `resources.views` speaks of {unknown}; declared are {', '.join(views) or 'none'}"
        )
    return Dataset(
        folder=folder,
        spec=spec,
        tables=[TableSpec.model_validate(attributes) for attributes in documents["TableComponent"]],
        views=views,
        models=[ModelSpec.model_validate(attributes) for attributes in documents["ModelComponent"]],
    )


def dataset_folder(path: Path) -> Path:
    """The data set folder that holds a declaration: the nearest with a ``dataset.yaml``.

    Raises:
        FileNotFoundError: no folder up to the root has one.
    """
    for folder in (path, *path.parents):
        if (folder / "dataset.yaml").is_file():
            return folder
    raise FileNotFoundError(f"neither {path} nor a folder above it has a dataset.yaml")
