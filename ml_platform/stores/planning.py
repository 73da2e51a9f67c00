"""What would run now, and why: the days of the daily chain that are out of date, the models without a decision.

Belongs here: comparing declarations, landing folder, lake and ledger. Nothing is run, and MLflow is not asked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NoReturn

from ml_platform.core.digests import digest_mapping
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.settings import Settings
from ml_platform.stores.catalog import WHOLE
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import Derivation, day_bounds, days_between
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import stale_days, stale_whole
from ml_platform.stores.ingest import identities, stale_partitions, taken_through
from ml_platform.stores.labels import labels_derivation
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import LandedFile, Landing
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.model_tables import predictions_derivation
from ml_platform.stores.monitoring import (
    drift_derivation,
    kept_drift_reports,
    performance_derivation,
    reportable_days,
)
from ml_platform.stores.table_names import raw_table
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation


@dataclass(frozen=True)
class Plan:
    """What is out of date.

    ``stale`` names, by table, the partitions the daily chain would compute; ``undecided`` the models that have no
    decision yet; ``watermark`` is None before everything has landed something. ``waiting`` are landed partitions of
    raw tables whose period is not ready, because another table has not delivered it yet. ``newest`` is the newest day
    that the watermark has reached. ``run_key`` names this state of files and tables: what is asked for twice under one
    key needs to be done once.
    """

    watermark: datetime | None
    stale: dict[str, list[str]]
    undecided: list[str]
    waiting: dict[str, list[str]] = field(default_factory=dict)
    run_key: str = ""
    newest: str | None = None

    @property
    def days(self) -> tuple[str, str] | None:
        """First and last day of the one range run that brings all of it up to date.

        The chain makes tables without days too, whatever its days are; where nothing else is out of date, the newest
        day will do. None if nothing is, or if no day has landed in every table.
        """
        named = sorted({day for days in self.stale.values() for day in days if day != WHOLE})
        if not named and self.newest and any(self.stale.values()):
            named = [self.newest]
        return (named[0], named[-1]) if named else None

    @property
    def nothing(self) -> bool:
        """Whether everything is up to date."""
        return not any(self.stale.values()) and not self.undecided


def plan(
    settings: Settings, dataset: Dataset, *, landing: Landing | None = None, ready_at: datetime | None = None
) -> Plan:
    """Compare what has landed and what is declared with what stands.

    Args:
        settings: the home.
        dataset: its declarations.
        landing: what has landed; by default all there is.
        ready_at: wall time (UTC) at which a period must be ready, else it waits: every partitioned table has its file
            for it or for a later one, or the grace time has passed. By default all that has landed is taken.
    """
    lake, landing = Lake.of(settings), dataset.landed(landing or Landing(settings.landing))
    ledger = Ledger(lake)
    watermark = dataset.watermark(landing)
    landed = {raw_table(spec): identities(landing, spec) for spec in dataset.tables}
    stale = {table: stale_partitions(lake, table, names) for table, names in landed.items()}
    waiting: dict[str, list[str]] = {}
    if ready_at is not None:
        for spec in dataset.tables:
            table, unripe = raw_table(spec), _unripe(landing, spec, watermark, ready_at - dataset.spec.grace)
            waiting[table] = [day for day in stale[table] if day in unripe]
            stale[table] = [day for day in stale[table] if day not in unripe]
    partitioned = [raw_table(spec) for spec in dataset.tables if spec.kind is TableKind.PARTITIONED]
    delivered = sorted({day for table in partitioned for day in landed[table]})
    newest = None
    if watermark is not None and delivered:
        days = [day for day in days_between_names(delivered[0], delivered[-1]) if day_bounds(day)[0] < watermark]
        newest = days[-1]
        features = FeatureClient(settings)
        through = {raw_table(spec): _through_when_done(lake, landing, spec, stale) for spec in dataset.tables}
        for derivation, candidates, model in _derivations(features, dataset, lake, ledger, days):
            whole = candidates == [WHOLE]
            reached = watermark
            if model is not None:
                read = dataset.read_by(model, features.manifest().service(model.service).views)
                ends = [through[raw_table(spec)] for spec in read]
                reached = min([watermark, *(end for end in ends if end is not None)])
            found = stale_whole(lake, derivation) if whole else stale_days(lake, derivation, candidates, reached)
            stale[derivation.table] = sorted({*found, *_reached(derivation, stale, candidates)})
    undecided = [model.name for model in dataset.models if ledger.latest(model.name) is None]
    known = {"watermark": watermark, "landed": landed, "written": lake.generation(), "stale": _named(stale)}
    return Plan(watermark, _named(stale), undecided, _named(waiting), digest_mapping(known), newest)


def plan_now(settings: Settings, dataset: Dataset) -> Plan:
    """As :func:`plan`, of what is to be taken in at this moment: files that settle and periods that are not ready wait.

    Whoever decides whether something runs asks this, and so all of them speak of the same state.
    """
    landing = Landing(settings.landing, settings.landing_settle)
    return plan(settings, dataset, landing=landing, ready_at=datetime.now(UTC))


def _named(partitions: dict[str, list[str]]) -> dict[str, list[str]]:
    return {table: days for table, days in partitions.items() if days}


def _through_when_done(lake: Lake, landing: Landing, spec: TableSpec, stale: dict[str, list[str]]) -> datetime | None:
    """Through when a raw table goes once its stale partitions are taken in; what waits is not counted."""
    coming = set(stale[raw_table(spec)])
    periods = landing.periods(spec) if coming else {}
    ends = [taken_through(lake, spec), *(file.end for day in coming for file in periods.get(day, ()))]
    return max((end for end in ends if end is not None), default=None)


def _unripe(landing: Landing, spec: TableSpec, watermark: datetime | None, landed_before: datetime) -> set[str]:
    """The partitions with a file of a period that others have not delivered, and that came within the grace time."""
    return {
        day
        for day, files in landing.periods(spec).items()
        for file in files
        if file.end is not None and (watermark is None or file.end > watermark) and _landed_at(file) > landed_before
    }


def _landed_at(file: LandedFile) -> datetime:
    """When a file was last changed; of one that went since it was listed, now: another look will tell."""
    try:
        return datetime.fromtimestamp(file.path.stat().st_mtime, UTC)
    except FileNotFoundError:
        return datetime.now(UTC)


def days_between_names(first: str, last: str) -> list[str]:
    """All days from one to another, both included."""
    return days_between(datetime.fromisoformat(first).date(), datetime.fromisoformat(last).date())


def _derivations(
    features: FeatureClient, dataset: Dataset, lake: Lake, ledger: Ledger, days: list[str]
) -> Iterator[tuple[Derivation, list[str], ModelSpec | None]]:
    """Every derived table with the days it may have, and the model whose watermark it goes by, if it is a model's."""
    manifest = features.manifest()
    for name, transform in dataset.views.items():
        partitioned = any(dataset.table(table).known_at for table in transform.inputs)
        yield (
            view_derivation(manifest.view(name), bind(transform, dataset.folder)),
            days if partitioned else [WHOLE],
            None,
        )
    for spec in dataset.models:
        yield labels_derivation(spec, dataset), days, None
        champion = ledger.champion(spec.name)
        if champion is None:
            continue
        predicted = predictions_derivation(lake, features, spec, dataset, champion.version, _unused)
        judged = ledger.judgement_on(spec.name, champion.version) or champion
        # A version scores what is due after its newest label, which became known before its holdout began.
        first = (judged.decided_at_watermark - spec.windows.holdout).date().isoformat()
        yield predicted, [day for day in days if day >= first], spec
        performance = performance_derivation(lake, spec)
        yield performance, reportable_days(lake, spec, performance, days), spec
        drift, kept = drift_derivation(lake, spec, champion.version, _unused), kept_drift_reports(lake, spec)
        yield drift, reportable_days(lake, spec, drift, [day for day in days if day not in kept]), spec


def _reached(derivation: Derivation, stale: dict[str, list[str]], candidates: list[str]) -> Iterator[str]:
    """The days that read a partition which is about to change."""
    for source in derivation.inputs:
        for changing in stale.get(source.table, ()):
            if changing == WHOLE:
                yield from candidates
            else:
                # A day reads from its start less the look-back on, whole partitions.
                after = day_bounds(changing)[1] + source.look_back
                yield from (day for day in candidates if changing <= day and day_bounds(day)[0] < after)


def _unused() -> NoReturn:
    raise AssertionError("a plan computes nothing")
