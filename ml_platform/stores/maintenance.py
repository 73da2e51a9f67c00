"""What is kept of tables, and what is let go: compaction of small files, removal of versions that nobody needs.

Belongs here: which Delta versions the registered model versions pin, and one table's upkeep after another. Dagster's
runs are :mod:`ml_platform.automation.maintenance`'s. Each step may be killed: a rerun completes it and nothing is lost.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ml_platform.stores.catalog import CATALOG, WHOLE
from ml_platform.stores.lake import Lake, Usage
from ml_platform.stores.models import ModelStore

_TRAINING_SET = "/training_set"


@dataclass(frozen=True)
class Upkeep:
    """What was done to a table, or would be.

    ``renewed`` are partitions whose record had been lost by a maintenance that was killed, ``compacted`` small files
    that became larger ones, ``removed`` the files that were deleted. ``kept`` are the versions that registered models
    pin. ``skipped`` is why it was left alone: somebody wrote to it meanwhile, or a pinned version is not in its log.
    """

    table: str
    kept: tuple[int, ...]
    before: Usage
    after: Usage
    renewed: int = 0
    compacted: int = 0
    removed: int = 0
    skipped: str = ""


def pinned_versions(lake: Lake, models: ModelStore) -> dict[str, set[int]]:
    """The Delta versions, by table, from which every registered version can be rebuilt and evaluated again.

    Those of a training set that stands and was not trained on yet are among them.
    """
    pins: dict[str, set[int]] = {}
    for model in models.registered():
        for version in models.versions(model):
            came_from = models.describe(model, version).provenance
            pins.setdefault(f"{model}{_TRAINING_SET}", set()).add(came_from.training_set_version)
            _pin(pins, came_from.inputs)
    for table in lake.tables():
        standing = lake.partitions(table).get(WHOLE) if table.endswith(_TRAINING_SET) else None
        if standing is not None:
            pins.setdefault(table, set()).add(standing.delta_version)
            _pin(pins, standing.inputs)
    return pins


def _pin(pins: dict[str, set[int]], inputs: Mapping[str, int]) -> None:
    for table, version in inputs.items():
        pins.setdefault(table, set()).add(version)


def maintain_tables(
    lake: Lake, models: ModelStore, *, older_than: timedelta, dry_run: bool = False
) -> Iterator[Upkeep]:
    """Care for every table of the lake, the catalog included.

    Args:
        lake: which lake.
        models: whose registered versions pin what.
        older_than: how long a version stays readable that was replaced and that nobody pins (wall time).
        dry_run: change nothing and say what would be removed.
    """
    pins = pinned_versions(lake, models)
    for table in [*lake.tables(), CATALOG]:
        if lake.exists(table):
            yield maintain_table(lake, table, pins.get(table, set()), older_than=older_than, dry_run=dry_run)


def maintain_table(
    lake: Lake, table: str, pinned: Collection[int], *, older_than: timedelta, dry_run: bool = False
) -> Upkeep:
    """Renew what a killed maintenance left, compact, and delete what nobody needs."""
    from deltalake.exceptions import DeltaError

    kept, before = tuple(sorted(pinned)), lake.usage(table)
    renewed = compacted = removed = 0
    skipped = ""
    try:
        if not dry_run:
            renewed = len(lake.renew(table))
            compacted = lake.compact(table)
        removed = len(lake.vacuum(table, keep=kept, older_than=older_than, dry_run=dry_run))
    except DeltaError as error:
        skipped = " ".join(str(error).split())
    return Upkeep(table, kept, before, lake.usage(table), renewed, compacted, removed, skipped)


def forget_failed_runs(models: ModelStore, before: datetime, *, dry_run: bool = False) -> list[str]:
    """Put MLflow's failed and killed runs of before a moment (wall time) into its bin; their ids.

    A run that made a registered version is never among them.
    """
    made = {
        models.describe(model, version).run_id for model in models.registered() for version in models.versions(model)
    }
    failed = [run_id for run_id in models.failed_runs(before) if run_id not in made]
    if not dry_run:
        for run_id in failed:
            models.delete_run(run_id)
    return failed
