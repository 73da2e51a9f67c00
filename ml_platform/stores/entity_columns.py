"""The columns that a model's entity transform gives, known without running it each time.

Belongs here: learning them, and keeping what was learned in the home. What they mean to people is the assets' to say.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from ml_platform.core.digests import digest, digest_mapping
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.table_spec import TableSpec
from ml_platform.settings import Settings
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.files import write_whole
from ml_platform.stores.transforms import BoundTransform, bind


def entity_columns(settings: Settings, spec: ModelSpec, dataset: Dataset) -> Mapping[str, str]:
    """Name and type of every column that the entity transform gives.

    They are learned by running it on no rows, once for each version of its code, of polars and of the tables it reads:
    whoever loads the code location need not import what computes.

    Raises:
        TransformError: it cannot be found, or does not run.
    """
    transform, tables = bind(spec.entities, dataset.folder), [dataset.table(name) for name in spec.entities.inputs]
    declared = {table.name: {name: column.type for name, column in table.columns.items()} for table in tables}
    known_by = digest(transform.code_version, digest_mapping(declared), version("polars"))
    kept = settings.home / "entity_columns" / f"{known_by}.json"
    if not kept.is_file():
        start = datetime.combine(dataset.spec.start, datetime.min.time(), UTC)
        write_whole(kept, json.dumps(_learned(transform, tables, start), indent=1).encode())
    columns: dict[str, str] = json.loads(kept.read_text())
    return columns


def _learned(transform: BoundTransform, tables: Sequence[TableSpec], start: datetime) -> Mapping[str, str]:
    import polars as pl

    from ml_platform.core.table_frames import polars_schema, type_name

    nothing = {table.name: pl.DataFrame(schema=polars_schema(table)) for table in tables}
    return {name: type_name(dtype) for name, dtype in transform(nothing, start, start).schema.items()}
