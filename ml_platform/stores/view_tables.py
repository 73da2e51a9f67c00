"""The table of a feature view: rows of its transform that conform to its Feast schema."""

from datetime import datetime
from typing import TYPE_CHECKING

from ml_platform.core.digests import digest, digest_mapping
from ml_platform.core.feature_manifest import EVENT_TIME, ViewSpec
from ml_platform.stores.derivation import Derivation, Frames, Input
from ml_platform.stores.transforms import BoundTransform

if TYPE_CHECKING:
    import polars as pl


def view_derivation(view: ViewSpec, transform: BoundTransform) -> Derivation:
    """How a view's table follows from its raw tables.

    Raises:
        ValueError: the view is an on-demand one.
    """
    if view.table is None:
        raise ValueError(f"view {view.name!r} follows from the request: it has no table")
    keys = [column.name for column in view.join_keys]

    def compute(frames: Frames, start: datetime, end: datetime) -> "pl.DataFrame":
        rows = transform({table.removeprefix("raw/"): frame for table, frame in frames.items()}, start, end)
        from ml_platform.core.view_frames import conform

        return conform(view, rows)

    return Derivation(
        table=view.table,
        inputs=[Input(f"raw/{name}", transform.spec.look_back) for name in transform.spec.inputs],
        compute=compute,
        code_version=digest(transform.code_version, digest_mapping({c.name: c.dtype for c in view.columns})),
        time_column=EVENT_TIME,
        sort_by=[*keys, EVENT_TIME],
    )
