"""The table of a model's labels: what was to be predicted and what became of it, by the day that became known."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ml_platform.core.digests import digest
from ml_platform.core.model_spec import ModelSpec
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import Derivation, Frames, Input
from ml_platform.stores.table_names import labels_table
from ml_platform.stores.transforms import bind

if TYPE_CHECKING:
    import polars as pl


def labels_derivation(spec: ModelSpec, dataset: Dataset) -> Derivation:
    """Labels by the day they became known, each with the entity row it answers."""
    entities, labels = bind(spec.entities, dataset.folder), bind(spec.labels, dataset.folder)

    def compute(frames: Frames, start: datetime, end: datetime) -> "pl.DataFrame":
        from ml_platform.stores.model_tables import label_rows

        return label_rows(spec, entities, labels, frames, start, end)

    reach: dict[str, timedelta] = {}
    for name in entities.spec.inputs:
        reach[name] = spec.entity_look_back + entities.spec.look_back
    for name in labels.spec.inputs:
        reach[name] = max(reach.get(name, timedelta(0)), labels.spec.look_back)
    return Derivation(
        table=labels_table(spec),
        inputs=[Input(f"raw/{name}", look_back) for name, look_back in reach.items()],
        compute=compute,
        code_version=digest(entities.code_version, labels.code_version, *spec.keys),
        time_column="label_time",
        sort_by=spec.keys,
    )
