"""The backups as an asset: Dagster hears of every finished one, whoever made it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform.stores.declarations import Dataset
from ml_platform.stores.table_names import BACKUPS, BEGUN_AT

if TYPE_CHECKING:
    from ml_platform.stores.backup import Backup

_KEY = dg.AssetKey(BACKUPS.split("/"))


def backup_spec(datasets: Sequence[Dataset]) -> dg.AssetSpec:
    """``ledger/backups``: reported by ``ml-platform backup``, never made by a step."""
    declared = [owners for d in datasets for owners in (*(t.owners for t in d.tables), *(m.owners for m in d.models))]
    return dg.AssetSpec(
        _KEY,
        description="Every finished backup of all stores: where it is, of when, and how large. Each is an event here; "
        "one that fails is none.",
        group_name="ledger",
        owners=sorted({owner for owners in declared for owner in owners}),
        kinds={"backup"},
        tags={"stage": "ledger"},
    )


def backup_event(made: "Backup") -> dg.AssetMaterialization:
    """A finished backup as an event of the asset."""
    return dg.AssetMaterialization(
        _KEY,
        metadata={
            "place": str(made.root),
            BEGUN_AT: dg.MetadataValue.timestamp(made.begun_at),
            "files": len(made.files),
            "megabytes": round(made.size / 1e6, 1),
            "platform": made.platform,
        },
    )
