"""Landed files into raw tables: accepted rows to ``raw/<table>``, the others to ``quarantine/<table>``.

A refused file blocks its own partition: what the raw table had for that day stays, and everything that may
read the day waits until the file is right. Files whose bytes and contract are what they were are not read again.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import polars as pl

from ml_platform.core.contracts import Delivery, FileRefused, Validated, accept
from ml_platform.core.digests import digest
from ml_platform.core.feature_manifest import FeatureManifest
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.quality import consistent_share
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.stores.catalog import WHOLE, PartitionState
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import day_bounds
from ml_platform.stores.incremental import SAMPLE_ROWS, Outcome, Status
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import LandedFile, Landing, fingerprint_of
from ml_platform.stores.table_names import LANDED_THROUGH, quarantine_table, raw_table


def known_through(
    lake: Lake, landing: Landing, dataset: Dataset, spec: ModelSpec, manifest: FeatureManifest
) -> datetime | None:
    """The watermark that a model goes by: as far as has landed, and not beyond what was taken in of what it reads.

    What lands while a run is at work is in nothing that the run reads. What it predicts it predicts for good.

    Args:
        lake: the home's tables.
        landing: what has landed.
        dataset: the data set's declarations.
        spec: the model's.
        manifest: what the feature repository declares.

    Returns:
        The moment (UTC); None before every partitioned table has landed something.
    """
    landed = dataset.watermark(landing)
    taken = [taken_through(lake, table) for table in dataset.read_by(spec, manifest.service(spec.service).views)]
    return None if landed is None else min([landed, *(end for end in taken if end is not None)])


def taken_through(lake: Lake, spec: TableSpec) -> datetime | None:
    """The end of the newest period that a raw table has taken in or refused; None if there is none."""
    ends = [
        # What was taken in before this fact was kept counts as a whole day.
        state.facts.get(LANDED_THROUGH, day_bounds(name)[1].timestamp())
        for name, state in lake.partitions(raw_table(spec)).items()
        if spec.kind is TableKind.PARTITIONED
    ]
    return datetime.fromtimestamp(max(ends), UTC) if ends else None


def identities(landing: Landing, spec: TableSpec, partitions: Collection[str] | None = None) -> dict[str, str]:
    """What each landed raw partition (of these, if given) is made from: its files' bytes and the contract."""
    return {name: _identity(spec, known) for name, known in landing.fingerprints(spec, partitions).items()}


def _identity(spec: TableSpec, fingerprint: str) -> str:
    # By the one an alert is raised, by the other a pod is sized; no row is judged by either.
    return digest(fingerprint, spec.model_dump_json(exclude={"quarantine_limit", "resources"}))


def stale_partitions(lake: Lake, table: str, landed: Mapping[str, str]) -> list[str]:
    """Landed partitions (by :func:`identities`) that the raw table has not taken in as they are now."""
    states = lake.partitions(table)
    return [name for name, known in landed.items() if name not in states or states[name].inputs_hash != known]


def ingest(lake: Lake, landing: Landing, spec: TableSpec, partitions: Sequence[str]) -> Iterator[Outcome]:
    """Bring these partitions of a raw table up to date with what has landed; one outcome each.

    Files are given the time to settle; a partition of which one changes still keeps what it has, or waits.
    """
    table = raw_table(spec)
    time.sleep(landing.settles_in([spec]).total_seconds())
    before = lake.partitions(table)
    # What is read is what its identity says: a file that lands from here on is for the next time.
    files, changing = landing.look(spec)
    landed = {name: _identity(spec, fingerprint_of(files[name])) for name in partitions if name in files}
    stale = [
        name
        for name in partitions
        if name in landed and (name not in before or before[name].inputs_hash != landed[name])
    ]
    accepted = accept(spec, {name: _delivery(name, files[name]) for name in stale})
    through = {name: _through(files[name]) for name in stale}
    states, samples = _write(lake, spec, accepted, landed, through)
    for name in partitions:
        if name not in files and name not in changing:
            yield Outcome(name, Status.WAITING, before.get(name), f"no file of {spec.name} has landed for {name}")
        elif name not in landed and name not in before:
            yield Outcome(name, Status.WAITING, None, f"a file of {spec.name} for {name} is still being written")
        elif name in states:
            state = states[name]
            if state.blocked:
                yield Outcome(name, Status.BLOCKED, state, state.blocked)
            else:
                yield Outcome(name, Status.WRITTEN if state.changed else Status.EQUAL, state, sample=samples[name])
        elif before[name].blocked:
            yield Outcome(name, Status.BLOCKED, before[name], before[name].blocked)
        else:
            yield Outcome(name, Status.UNCHANGED, before[name])


def _through(files: Sequence[LandedFile]) -> dict[str, float]:
    ends = [file.end.timestamp() for file in files if file.end is not None]
    return {LANDED_THROUGH: max(ends)} if ends else {}


def _delivery(name: str, files: Sequence[LandedFile]) -> Delivery:
    contents = [(file.name, file.path.read_bytes()) for file in files]
    return Delivery(contents) if name == WHOLE else Delivery(contents, *day_bounds(name))


def _write(
    lake: Lake,
    spec: TableSpec,
    accepted: dict[str, Validated | FileRefused],
    landed: dict[str, str],
    through: dict[str, dict[str, float]],
) -> tuple[dict[str, PartitionState], dict[str, pl.DataFrame]]:
    table = raw_table(spec)
    refused = {name: f"{table} {name}: {given}" for name, given in accepted.items() if isinstance(given, FileRefused)}
    good = {name: given for name, given in accepted.items() if isinstance(given, Validated)}
    identity = {name: landed[name] for name in refused}
    states = lake.block(table, refused, inputs_hash=identity, facts=through) if refused else {}
    if not good:
        return states, {}
    facts = {
        name: {**given.quality.as_metadata(), **_consistency(lake, spec, name, given.valid), **through[name]}
        for name, given in good.items()
    }
    _quarantine(lake, spec, good)
    if WHOLE in good:
        states[WHOLE] = lake.write(
            table, good[WHOLE].valid, sort_by=spec.sort_key, inputs_hash=landed[WHOLE], facts=facts[WHOLE]
        )
    else:
        states |= lake.write_partitions(
            table,
            {name: given.valid for name, given in good.items()},
            sort_by=spec.sort_key,
            inputs_hash={name: landed[name] for name in good},
            inputs={},
            facts=facts,
        )
    return states, {name: given.valid.head(SAMPLE_ROWS) for name, given in good.items()}


def _quarantine(lake: Lake, spec: TableSpec, good: dict[str, Validated]) -> None:
    table = quarantine_table(spec)
    had = lake.partitions(table)
    rows = {name: given.quarantined for name, given in good.items() if given.quarantined.height or name in had}
    if not rows:
        return
    order = ("source_file", "source_line")
    if WHOLE in rows:
        lake.write(table, rows[WHOLE], sort_by=order)
    else:
        lake.write_partitions(table, rows, sort_by=order, inputs_hash=dict.fromkeys(rows, ""), inputs={})


def _consistency(lake: Lake, spec: TableSpec, day: str, valid: pl.DataFrame) -> dict[str, float]:
    declared = spec.consistent_with
    other = f"raw/{declared.table}" if declared else ""
    if declared is None or not lake.exists(other):
        return {}
    start, end = day_bounds(day)
    first, last = (start - declared.look_back).date(), date.fromisoformat(day) + timedelta(days=1)
    known = lake.read(other, start=first, end=last, columns=[*declared.key, "known_at"])
    return {"consistency": consistent_share(declared, valid, known.filter(pl.col("known_at") < end))}
