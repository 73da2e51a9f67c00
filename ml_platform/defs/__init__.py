"""What this installation declares: one folder per data set.

``ml_platform.definitions`` makes assets of it; :func:`datasets` and :func:`model` read it without Dagster.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_platform.core.model_spec import ModelSpec
    from ml_platform.stores.declarations import Dataset

DEFS = Path(__file__).parent


def datasets() -> "list[Dataset]":
    """Every data set under ``defs/``, by folder name."""
    from ml_platform.stores.declarations import load_dataset

    return [load_dataset(calendar.parent) for calendar in sorted(DEFS.glob("*/dataset.yaml"))]


def model(name: str) -> "tuple[Dataset, ModelSpec]":
    """A model's declaration and its data set.

    Raises:
        LookupError: no data set declares it; the message names the models there are.
    """
    known = {spec.name: (dataset, spec) for dataset in datasets() for spec in dataset.models}
    if name not in known:
        raise LookupError(f"no model {name!r} is declared; there are {', '.join(known) or 'none'}")
    return known[name]
