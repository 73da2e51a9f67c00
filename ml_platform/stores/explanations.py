"""Where a registered version came from: every fact read from the store that holds it.

Belongs here: walking from a version to its decisions, its rows, the tables they were joined from and the landed tables
those follow from. How it is shown does not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ml_platform.core.digests import digest
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.recipe import changed_since
from ml_platform.settings import Settings
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.model_tables import training_start
from ml_platform.stores.models import ModelStore, ModelVersion
from ml_platform.stores.rebuilding import declared_then
from ml_platform.stores.table_names import training_table

LANDED = "raw/"
"""What the names of landed tables begin with."""

_SERVICE = ("version", "served_from", "served_until", "rule")
_ENTRY = (
    "sequence",
    "promoted",
    "rule",
    "reason",
    "decided_at_watermark",
    "decided_at",
    "decided_by",
    "run_id",
    "previous_version",
)


@dataclass(frozen=True)
class Why:
    """Why a version was trained; ``recorded`` is false if it was made before that was kept, or the run did not say.

    ``evidence`` is the verdict's, as it was judged.
    """

    recorded: bool
    reason: str
    trigger: tuple[str, ...]
    evidence: Any


@dataclass(frozen=True)
class Service:
    """How long a version served, in event time; ``served_until`` is None if it still does."""

    version: int
    served_from: datetime
    served_until: datetime | None
    rule: str


@dataclass(frozen=True)
class TrainingData:
    """The training set: ``rows`` in all, of which ``training_rows`` trained and the rest was held out or set aside."""

    table: str
    delta_version: int
    content_hash: str
    rows: int
    training_rows: int
    start: datetime
    cutoff: datetime
    as_of: datetime


@dataclass(frozen=True)
class SourceTable:
    """A table that a version descends from, as it was then.

    ``delta_versions`` are those that were read of it (by partitions computed at different times, several), ``read_by``
    the tables that did; the figures are those of the newest of them. ``content_hash`` covers every partition.
    """

    table: str
    delta_versions: tuple[int, ...]
    read_by: tuple[str, ...]
    partitions: int
    first: str | None
    last: str | None
    rows: int
    content_hash: str


@dataclass(frozen=True)
class Explanation:
    """Everything that is known of how a version came to be and what became of it."""

    model: str
    version: int
    task: str
    description: str
    champion_version: int | None
    made_at: datetime
    trained_through: datetime
    why: Why
    decisions: tuple[Mapping[str, Any], ...]
    served: tuple[Service, ...]
    training_set: TrainingData
    inputs: tuple[SourceTable, ...]
    parents: tuple[SourceTable, ...]
    service: str
    service_hash: str
    features: tuple[str, ...]
    code_version: str
    commit: str
    libraries: Mapping[str, str]
    declaration_stored: bool
    declared_otherwise_today: tuple[str, ...]
    seed: int
    parameters: Mapping[str, str]
    study: Mapping[str, float]
    model_hash: str
    lineage: tuple[Service, ...]
    links: Mapping[str, str]


def explain(settings: Settings, spec: ModelSpec, version: int | None = None) -> Explanation:
    """How a version came to be: the champion if none is named, the newest if there is no champion.

    Raises:
        UnknownModelError: there is no such version.
        LookupError: there is no version at all, or the catalog does not know its training set.
    """
    lake, models = Lake.of(settings), ModelStore(settings)
    ledger = Ledger(lake)
    champion = ledger.champion(spec.name)
    if version is None:
        newest = models.versions(spec.name)[-1:]
        if champion is None and not newest:
            raise LookupError(f"{spec.name} has no version yet: nothing was trained")
        version = newest[0] if champion is None else champion.version
    made = models.describe(spec.name, version)
    came_from = made.provenance
    served = [Service(**row) for row in ledger.served(spec.name).select(_SERVICE).to_dicts()]
    own = [number for number, each in enumerate(served) if each.version == version]
    kept = _kept(models, made)
    inputs = _sources(lake, {table: {at: {training_table(spec)}} for table, at in came_from.inputs.items()})
    return Explanation(
        model=spec.name,
        version=version,
        task=spec.task.value,
        description=spec.description,
        champion_version=None if champion is None else champion.version,
        made_at=made.made_at,
        trained_through=made.trained_through,
        why=_why(made),
        decisions=_decisions(ledger, spec.name, version),
        served=tuple(served[number] for number in own),
        training_set=_training_data(lake, declared_then(models, made, spec), made),
        inputs=tuple(inputs),
        parents=_ancestors(lake, inputs),
        service=came_from.service,
        service_hash=came_from.service_hash,
        features=models.load(spec.name, version).features,
        code_version=came_from.code_version,
        commit=came_from.commit,
        libraries=came_from.libraries,
        declaration_stored=kept is not None,
        declared_otherwise_today=() if kept is None else changed_since(spec, kept),
        seed=made.seed,
        parameters=made.parameters,
        study={name: value for name, value in made.metrics.items() if name.startswith(("study_", "trials"))},
        model_hash=made.model_hash,
        # Of a version that never served: those before it was decided on, which are all there are.
        lineage=tuple(served[: own[0]] if own else _before(served, came_from.as_of)),
        links=_links(settings, models, made),
    )


def _before(served: Sequence[Service], as_of: datetime) -> list[Service]:
    return [each for each in served if each.served_from < as_of]


def _kept(models: ModelStore, made: ModelVersion) -> str | None:
    try:
        return models.declared(made)
    except LookupError:
        return None


def _why(made: ModelVersion) -> Why:
    came_from = made.provenance
    return Why(
        recorded=bool(came_from.reason or came_from.trigger or came_from.evidence),
        reason=came_from.reason,
        trigger=tuple(name.strip() for name in came_from.trigger.split(",") if name.strip()),
        evidence=json.loads(came_from.evidence) if came_from.evidence else None,
    )


def _decisions(ledger: Ledger, model: str, version: int) -> tuple[Mapping[str, Any], ...]:
    return tuple(
        {**{name: row[name] for name in _ENTRY}, "gates": json.loads(row["gates"])}
        for row in ledger.history(model).to_dicts()
        if row["version"] == version
    )


def _training_data(lake: Lake, declared: ModelSpec, made: ModelVersion) -> TrainingData:
    came_from, table = made.provenance, training_table(declared)
    version, content = came_from.training_set_version, came_from.training_set_hash
    states = [state for state in lake.history(table) if (state.delta_version, state.content_hash) == (version, content)]
    if not states:
        raise LookupError(f"the catalog knows of no version {version} of {table} with the content {content}")
    return TrainingData(
        table=table,
        delta_version=version,
        content_hash=content,
        rows=states[-1].rows,
        training_rows=came_from.training_rows,
        start=training_start(declared, came_from.as_of),
        cutoff=came_from.as_of - declared.windows.holdout,
        as_of=came_from.as_of,
    )


_Reads = Mapping[str, Mapping[int, set[str]]]
"""By table and Delta version, the tables that read it."""


def _sources(lake: Lake, reads: _Reads) -> list[SourceTable]:
    found = []
    for table, versions in sorted(reads.items()):
        states = lake.partitions(table, max(versions))
        names = sorted(states)
        found.append(
            SourceTable(
                table=table,
                delta_versions=tuple(sorted(versions)),
                read_by=tuple(sorted({reader for readers in versions.values() for reader in readers})),
                partitions=len(states),
                first=names[0] if names else None,
                last=names[-1] if names else None,
                rows=sum(state.rows for state in states.values()),
                content_hash=digest(*(f"{name}={states[name].content_hash}" for name in names)),
            )
        )
    return found


def _ancestors(lake: Lake, inputs: Sequence[SourceTable]) -> tuple[SourceTable, ...]:
    """What the inputs follow from, and so on to what landed, by the catalog's records of what each partition read."""
    reads: dict[str, dict[int, set[str]]] = {}
    open_ends = [(source.table, version) for source in inputs for version in source.delta_versions]
    seen = set(open_ends)
    while open_ends:
        table, version = open_ends.pop()
        states = lake.partitions(table, version).values()
        for parent, at in {pair for state in states for pair in state.inputs.items()}:
            reads.setdefault(parent, {}).setdefault(at, set()).add(table)
            # A landed table follows from no other, and has been read at each of hundreds of versions.
            if (parent, at) not in seen and not parent.startswith(LANDED):
                seen.add((parent, at))
                open_ends.append((parent, at))
    return tuple(_sources(lake, reads))


def _links(settings: Settings, models: ModelStore, made: ModelVersion) -> dict[str, str]:
    links = {"mlflow_version": made.url, "mlflow_run": made.run_url}
    if made.provenance.dagster_run_id:
        links["dagster_run"] = models.dagster_run_url(made.provenance.dagster_run_id)
    return links
