"""The point-in-time join: what was known of each key at each row's moment.

Belongs here: the join alone, on frames. Which tables are joined, and how they are named, does not.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import polars as pl

_ROW, _EVENT, _AVAILABLE = "__row", "__event", "__available"


def join_as_of(
    entities: pl.DataFrame,
    features: pl.DataFrame,
    *,
    keys: Mapping[str, str],
    at: str,
    event: str,
    values: Sequence[str],
    ttl: timedelta | None = None,
    created: str | None = None,
    created_bounds: bool = False,
) -> pl.DataFrame:
    """``entities`` with the values of each key's newest feature row at or before the entity's moment.

    Newest is by ``event``, then by ``created``. A null key matches nothing. Rows, their order and
    duplicates among them are kept as they are.

    Args:
        entities: rows to enrich: the keys of ``keys`` and ``at``.
        features: the columns ``keys.values()``, ``event``, ``values`` and ``created`` if given.
        keys: entity column by feature column, as ``{"origin": "origin"}``: entity name first.
        at: the entities' moment.
        event: when a feature row's values became true.
        values: feature columns wanted; none may be a column of ``entities``.
        ttl: a feature row older than this at ``at`` counts as absent; None or zero: rows never expire.
        created: when a feature row was written.
        created_bounds: a feature row counts only where ``created`` too is at or before ``at``.

    Returns:
        ``entities`` with the columns ``values``, null where nothing was known.

    Raises:
        ValueError: ``values`` and ``entities`` share a column, or ``created_bounds`` without ``created``.
    """
    if clash := sorted(set(values) & set(entities.columns)):
        raise ValueError(f"feature columns {clash} are already columns of the entity frame")
    if created_bounds and created is None:
        raise ValueError("created_bounds needs the name of the created column")
    right_keys = list(keys.values())
    left_keys = list(keys)
    known = features.drop_nulls([*right_keys, event])
    order = [event] if created is None else [event, created]
    if created_bounds and created is not None:
        # A row is usable from max(event, created). Of the rows usable by then, the greatest
        # (event, created) wins, so only rows that raise its running maximum can ever be the answer.
        known = (
            known.with_columns(pl.max_horizontal(event, created).alias(_AVAILABLE))
            .with_columns(pl.struct(order).rank("dense").alias(_ROW))
            .sort(_AVAILABLE, _ROW)
            .filter(pl.col(_ROW) == pl.col(_ROW).cum_max().over(right_keys))
            .drop(_ROW)
        )
    else:
        known = known.sort(order, maintain_order=True).with_columns(pl.col(event).alias(_AVAILABLE))
    right = known.select(
        *(pl.col(theirs).alias(f"__key_{ours}") for ours, theirs in keys.items()),
        pl.col(event).alias(_EVENT),
        _AVAILABLE,
        *values,
    )
    rows = entities.with_row_index(_ROW)
    joined = (
        rows.select(_ROW, pl.col(at).cast(right.schema[_AVAILABLE]).alias(at), *(k for k in left_keys if k != at))
        .sort(at)
        .drop_nulls(left_keys)
        .join_asof(
            right,
            left_on=at,
            right_on=_AVAILABLE,
            by_left=left_keys,
            by_right=[f"__key_{ours}" for ours in left_keys],
            check_sortedness=False,
        )
    )
    if ttl:
        joined = joined.filter(pl.col(_EVENT) >= pl.col(at) - ttl)
    return rows.join(joined.select(_ROW, *values), on=_ROW, how="left", maintain_order="left").drop(_ROW)
