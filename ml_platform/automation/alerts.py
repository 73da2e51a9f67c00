"""The sensor that tells people: it gathers facts, has alerts raised on them, and delivers what is owed.

Belongs here: reading facts from Dagster's instance and from the stores, each kind apart, so that one that cannot be
read silences no other. What is worth an alert is decided in :mod:`ml_platform.core.alerts`; what was told, who received
it and what is still owed is kept by :mod:`ml_platform.stores.alerts`, not by the sensor's cursor, which only spares
work.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.scheduler.instigation import InstigatorState, InstigatorType, TickStatus
from dagster._core.storage.tags import WILL_RETRY_TAG

from ml_platform import settings
from ml_platform.automation.alerts_sensor import INTERVAL_SECONDS, SENSOR
from ml_platform.core.alerts import (
    Alert,
    AssetFreshness,
    Cause,
    FailedRun,
    Kind,
    Pulse,
    blocked_partitions,
    dead_sensors,
    decisions,
    failed_runs,
    late_assets,
    model_causes,
    overdue_backup,
    quarantines,
)
from ml_platform.core.digests import digest
from ml_platform.core.retraining import judge
from ml_platform.settings import Settings
from ml_platform.stores import ledger
from ml_platform.stores.alert_sinks import sinks
from ml_platform.stores.alerts import TABLE, Alerts
from ml_platform.stores.catalog import CATALOG, WHOLE
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.feature_repository import FeatureRepository
from ml_platform.stores.ingest import known_through
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.manual_decisions import NotAllowedError
from ml_platform.stores.retraining import gather
from ml_platform.stores.table_names import BACKUPS, BEGUN_AT, REPORTED_DAY, drift_table, raw_table

FIRST_LOOK_BACK = timedelta(days=1)
"""Of what happened before the first tick, what is worth telling; what stands is told however old."""

_OVERLAP = timedelta(minutes=10)
"""What is written now may carry an earlier time; nothing is told twice by looking at it twice."""

_RETRY_IS_DECIDED = timedelta(seconds=30)
_ASLEEP = timedelta(minutes=3)
_SENSOR_PATIENCE, _SENSOR_INTERVALS = timedelta(minutes=5), 10
_DAEMON_PATIENCE = timedelta(minutes=10)
_SOURCE_PATIENCE = timedelta(minutes=3)
_CATALOG_COLUMNS = ("table_name", "partition", "inputs_hash", "facts", "blocked", "recorded_at")


@dataclass
class Memory:
    """What a tick leaves to the next: times in ISO 8601, and what it need not look at again.

    ``tokens`` are the versions that a source read, or when it was read; ``told`` what it found; ``failing`` is since
    when a source or sink has not worked; ``settled`` what the outbox was when nothing was owed.
    """

    begun_at: str = ""
    ticked_at: str = ""
    awake_since: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    settled: str = ""

    @classmethod
    def read(cls, cursor: str | None, now: datetime) -> "Memory":
        """The memory that a cursor holds, as of a new tick; that of a first tick without one."""
        known = {each.name for each in fields(cls)}
        kept = {name: value for name, value in json.loads(cursor or "{}").items() if name in known}
        memory = cls(**{"begun_at": now.isoformat(), **kept})
        if not memory.ticked_at or now - datetime.fromisoformat(memory.ticked_at) > _ASLEEP:
            memory.awake_since = now.isoformat()
        return memory


@dataclass(frozen=True)
class Look:
    """What a tick looks at: the home, its lake and declarations, the instance, the code location as loaded."""

    settings: Settings
    lake: Lake
    datasets: Sequence[Dataset]
    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition
    memory: Memory
    errors: Mapping[str, str]
    now: datetime


@dataclass(frozen=True)
class Source:
    """Facts of one origin: the kinds of causes they may hold, and what they must have changed in to be read again."""

    kinds: tuple[Kind, ...]
    causes: Callable[[Look], list[Cause]]
    tables: tuple[str, ...] = ()

    def token(self, look: Look) -> str:
        """The versions of the tables it is read from; empty if it is read at every tick."""
        return ",".join(str(look.lake.version(t)) if look.lake.exists(t) else "-" for t in self.tables)


def tick(context: dg.SensorEvaluationContext, datasets: Sequence[Dataset]) -> dg.SensorResult:
    """Gather, raise, deliver."""
    here, now = settings.load(), datetime.now(UTC)
    memory = Memory.read(context.cursor, now)
    lake = Lake.of(here)
    outbox, found = Alerts(lake), sinks(here, lambda: context.log)
    errors = {f"sink {name}": error for name, error in found.broken.items()}
    repository = context.repository_def
    if repository is None:
        raise ValueError("the alerts sensor watches the other sensors and assets of its code location, and has none")
    look = Look(here, lake, datasets, context.instance, repository, memory, errors, now)
    raised: list[Alert] = []
    for name, source in SOURCES.items():
        try:
            token = source.token(look)
            if token and token == memory.tokens.get(name):
                continue
            causes = source.causes(look)
        except Exception as error:  # what one origin of facts does must not keep the others from being heard
            errors[name] = f"{type(error).__name__}: {error}"
            context.log.error(f"{name} cannot be read: {errors[name]}", exc_info=True)
            continue
        told = digest(*sorted(cause.identity for cause in causes))
        if told != memory.told.get(name):
            raised += outbox.update(causes, source.kinds, sinks=found.configured, now=now, dagster_url=here.dagster_url)
        memory.tokens[name], memory.told[name] = token or now.isoformat(), told
    memory.failing = {name: memory.failing.get(name, now.isoformat()) for name in errors}
    memory.settled = _delivered(outbox, found.ready, memory.settled)
    memory.ticked_at = now.isoformat()
    news = [*(alert.title for alert in raised), *(f"{name}: {error}" for name, error in errors.items())]
    return dg.SensorResult(
        cursor=json.dumps(vars(memory)),
        asset_events=[_event(alert) for alert in raised],
        skip_reason="; ".join(news) or "no news",
    )


def _delivered(outbox: Alerts, ready: Sequence[Any], settled: str) -> str:
    """Deliver unless nothing has happened since nothing was owed; what to remember of it."""
    names = ",".join(sink.name for sink in ready)
    if settled == f"{outbox.versions} {names}":
        return settled
    return "" if outbox.deliver(ready) else f"{outbox.versions} {names}"


def _event(alert: Alert) -> dg.AssetMaterialization:
    """An alert as an event of the asset ``ledger/alerts``."""
    return dg.AssetMaterialization(
        TABLE.split("/"),
        description=alert.title,
        metadata={
            "alert_id": alert.alert_id,
            "kind": alert.kind.value,
            "severity": alert.severity.value,
            "text": alert.text,
            "what_to_do": alert.kind.advice,
            "runbook": alert.kind.runbook,
            "look_at": dg.MetadataValue.url(alert.link),
        },
    )


# Sources -------------------------------------------------------------------------------------------


def _runs(look: Look) -> list[Cause]:
    """Runs that failed since the tick before, or lately at the first."""
    after = _looked_through(look)
    failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=after)
    facts = []
    for record in look.instance.get_run_records(failed):
        run, ended = record.dagster_run, _time(record.end_time) or record.update_timestamp.replace(tzinfo=UTC)
        undecided = look.instance.run_retries_enabled and WILL_RETRY_TAG not in run.tags
        if ended < after or (undecided and look.now - ended < _RETRY_IS_DECIDED):
            continue
        step, error, error_type = _failure(look.instance, run.run_id)
        facts.append(
            FailedRun(
                run_id=run.run_id,
                job=run.job_name,
                ended_at=ended,
                retried=run.tags.get(WILL_RETRY_TAG) == "true",
                step=step,
                error=error,
                reason=run.tags.get("ml_platform/reason", ""),
                refused=error_type == NotAllowedError.__name__,
            )
        )
    return failed_runs(facts)


def _failure(instance: dg.DagsterInstance, run_id: str) -> tuple[str, str, str]:
    """The step that failed first, its error and that one's type; without a step, what Dagster said of the run."""
    for log in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = log.get_dagster_event()
        error = event.step_failure_data.error
        while error is not None and error.cause is not None:
            error = error.cause
        return event.step_key or "", *(("", "") if error is None else (error.message, error.cls_name or ""))
    for log in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE):
        return "", log.get_dagster_event().message or "", ""
    return "", "", ""


def _tables(look: Look) -> list[Cause]:
    """Blocked partitions, and those of which too much is in quarantine."""
    if not look.lake.exists(CATALOG):
        return []
    records = look.lake.scan(CATALOG).select(_CATALOG_COLUMNS).collect()
    limits = {raw_table(table): table.quarantine_limit for data in look.datasets for table in data.tables}
    return [_with_run(look, cause) for cause in (*blocked_partitions(records), *quarantines(records, limits))]


def _with_run(look: Look, cause: Cause) -> Cause:
    """A cause about a partition that leads to the run which checked it last, if Dagster knows of one."""
    table, _, partition = cause.subject.rpartition(" ")
    wanted = PartitionKeyFilter(key=partition if partition != WHOLE else None)
    checks = look.repository.asset_graph.get_check_keys_for_assets({dg.AssetKey(table.split("/"))})
    events = look.instance.event_log_storage
    for check in sorted(checks):
        for record in events.get_asset_check_execution_history(check, limit=1, partition_filter=wanted):
            return replace(cause, page=f"runs/{record.run_id}")
    return cause


def _models(look: Look) -> list[Cause]:
    """What every model's evidence says."""
    here = look.settings
    landing, manifest = Landing(here.landing), FeatureRepository(here).manifest()
    causes = []
    for dataset in look.datasets:
        for spec in dataset.models:
            watermark = known_through(look.lake, landing, dataset, spec, manifest)
            if watermark is None:
                continue
            evidence = gather(look.lake, spec, watermark)
            newest = None
            if look.lake.exists(drift_table(spec)):
                newest = look.lake.scan(drift_table(spec)).select(pl.col(REPORTED_DAY).max()).collect().item()
            conditions = judge(spec, evidence).conditions
            causes += model_causes(spec.name, evidence.champion, conditions, newest, watermark)
    return causes


def _decisions(look: Look) -> list[Cause]:
    """Promotions and rollbacks since a day before the first tick."""
    begun = datetime.fromisoformat(look.memory.begun_at)
    return decisions(ledger.Ledger(look.lake).history(), after=begun - FIRST_LOOK_BACK)


@cache
def _fresh_assets(repository: dg.RepositoryDefinition) -> dict[dg.AssetKey, tuple[str, str, tuple[str, ...]]]:
    """Of every asset with a freshness policy: its data set, its stage, and those it is made from."""
    graph = repository.asset_graph
    watched = {node.key: node for node in graph.asset_nodes if node.freshness_policy}
    found = {}
    for key, node in watched.items():
        above: set[dg.AssetKey] = set()
        news = set(node.parent_keys)
        while news:
            above |= news
            news = {parent for each in news for parent in graph.get(each).parent_keys} - above
        stage = node.tags.get("stage", "")
        stage = stage if stage in ("raw", "features", "predictions") else "models"
        upstream = tuple(sorted(each.to_user_string() for each in above & watched.keys()))
        found[key] = (node.tags.get("dataset", ""), stage, upstream)
    return found


def _freshness(look: Look) -> list[Cause]:
    """What Dagster's freshness daemon has recorded."""
    watched = _fresh_assets(look.repository)
    states = look.instance.get_freshness_state_records(list(watched))
    known = [
        AssetFreshness(
            asset=key.to_user_string(),
            dataset=watched[key][0],
            stage=watched[key][1],
            late=state.freshness_state is FreshnessState.FAIL,
            changed_at=state.updated_at,
            upstream=watched[key][2],
        )
        for key, state in states.items()
    ]
    return late_assets(known, as_of=look.now)


def _sensors(look: Look) -> list[Cause]:
    """The other sensors, schedules and daemons, and what of this one does not work."""
    awake = datetime.fromisoformat(look.memory.awake_since)
    pulses = [*_sensor_pulses(look), *_schedule_pulses(look), *_daemon_pulses(look), *_own_pulses(look)]
    return dead_sensors(pulses, watched_since=awake, as_of=look.now)


def _backups(look: Look) -> list[Cause]:
    """What Dagster was told of finished backups."""
    if not look.settings.backup_within:
        return []
    told = look.instance.get_latest_materialization_event(dg.AssetKey(BACKUPS.split("/")))
    made = None if told is None else told.asset_materialization
    newest = None if made is None else _time(float(str(made.metadata[BEGUN_AT].value)))
    watched_since = datetime.fromisoformat(look.memory.begun_at)
    return overdue_backup(newest, look.settings.backup_within, watched_since=watched_since, as_of=look.now)


def _sensor_pulses(look: Look) -> list[Pulse]:
    states = _instigators(look, InstigatorType.SENSOR)
    pulses = []
    for sensor in look.repository.sensor_defs:
        state = states.get(sensor.name)
        on = sensor.default_status is dg.DefaultSensorStatus.RUNNING if state is None else state.is_running
        if sensor.name == SENSOR or not on:
            continue
        interval = timedelta(seconds=sensor.minimum_interval_seconds or INTERVAL_SECONDS)
        good, error = (None, "") if state is None else _last_ticks(look.instance, state)
        patience = max(_SENSOR_PATIENCE, _SENSOR_INTERVALS * interval)
        page = f"locations/{_location(state)}/sensors/{sensor.name}" if state else "overview/activity/sensors"
        pulses.append(Pulse(f"sensor {sensor.name}", good, patience, error, page))
    return pulses


def _schedule_pulses(look: Look) -> list[Pulse]:
    """Schedules whose newest tick failed: the next one may be a week away."""
    states = _instigators(look, InstigatorType.SCHEDULE)
    pulses = []
    for schedule in look.repository.schedule_defs:
        state = states.get(schedule.name)
        if state is None or not state.is_running:
            continue
        good, error = _last_ticks(look.instance, state)
        if error:
            page = f"locations/{_location(state)}/schedules/{schedule.name}"
            pulses.append(Pulse(f"schedule {schedule.name}", good, timedelta(0), error, page))
    return pulses


def _daemon_pulses(look: Look) -> list[Pulse]:
    pulses = []
    for kind, status in look.instance.get_daemon_statuses().items():
        heartbeat = status.last_heartbeat
        good = None if heartbeat is None else _time(heartbeat.timestamp)
        # The threads of one process: without any heartbeat there is no daemon, and nobody who ticks.
        if status.required and good is not None:
            pulses.append(Pulse(f"daemon {kind.lower()}", good, _DAEMON_PATIENCE, page="deployment/daemons"))
    return pulses


def _own_pulses(look: Look) -> list[Pulse]:
    """Facts that cannot be read, and sinks that are configured wrongly, for some ticks already."""
    return [
        Pulse(f"alerts: {name}", datetime.fromisoformat(look.memory.failing[name]), _SOURCE_PATIENCE, error)
        for name, error in look.errors.items()
        if name in look.memory.failing
    ]


def _instigators(look: Look, kind: InstigatorType) -> dict[str, InstigatorState]:
    return {state.instigator_name: state for state in look.instance.all_instigator_state(instigator_type=kind)}


def _last_ticks(instance: dg.DagsterInstance, state: InstigatorState) -> tuple[datetime | None, str]:
    """When a tick last went well, and the error of a later one."""

    def newest(*statuses: TickStatus) -> Any:
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1, statuses=[*statuses])
        return ticks[0] if ticks else None

    good, bad = newest(TickStatus.SUCCESS, TickStatus.SKIPPED), newest(TickStatus.FAILURE)
    failing = bad is not None and (good is None or bad.timestamp > good.timestamp)
    error = "" if not failing else (bad.error.message if bad.error else "it gave no error")
    return None if good is None else _time(good.timestamp), error


def _location(state: InstigatorState) -> str:
    origin = state.origin.repository_origin
    return f"{origin.repository_name}@{origin.code_location_origin.location_name}"


def _looked_through(look: Look) -> datetime:
    """Since when there may be something that no tick has seen."""
    last = look.memory.tokens.get("runs")
    return look.now - FIRST_LOOK_BACK if last is None else datetime.fromisoformat(last) - _OVERLAP


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


SOURCES: Mapping[str, Source] = {
    "runs": Source((Kind.FAILED_RUN,), _runs),
    "tables": Source((Kind.BLOCKED_PARTITION, Kind.QUARANTINE), _tables, (CATALOG,)),
    "models": Source((Kind.PERFORMANCE_FELL, Kind.DRIFT), _models, (CATALOG, ledger.TABLE)),
    "ledger": Source((Kind.PROMOTION, Kind.ROLLBACK), _decisions, (ledger.TABLE,)),
    "freshness": Source((Kind.FRESHNESS_FAILED,), _freshness),
    "sensors": Source((Kind.DEAD_SENSOR,), _sensors),
    "backups": Source((Kind.BACKUP_OVERDUE,), _backups),
}
"""Where facts come from, in the order in which they are looked at."""
