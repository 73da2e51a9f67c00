"""What deserves an alert: facts in, causes out, and causes that nobody was told of made into alerts.

Belongs here: what counts as a cause, its identity, and its words. Gathering facts is automation's work, keeping and
delivering alerts that of the stores.

A cause's identity comes from durable facts alone and holds its beginning wherever facts tell it: a cause that stays has
the same identity at every look, and one that went away and came back has another. So an alert is raised once for each.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import polars as pl

from ml_platform.core.digests import digest
from ml_platform.core.retraining import DRIFT_PERSISTS, PERFORMANCE_FELL, Condition
from ml_platform.core.table_spec import QuarantineLimit

SETTLE = timedelta(minutes=1)
"""How long an asset is late before it is told: what fails together is seen together and told as one."""

RECOVERY = timedelta(minutes=30)
"""How long what is downstream may stay late after what it reads has recovered."""

_TOGETHER = timedelta(minutes=5)
_LISTED = 20
_TEXT_LENGTH = 800


class Severity(StrEnum):
    """How much an alert asks for: nothing, a look today, somebody now."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class Kind(StrEnum):
    """What alerts are about; each has a runbook of its name."""

    FAILED_RUN = "failed_run"
    QUARANTINE = "quarantine"
    BLOCKED_PARTITION = "blocked_partition"
    FRESHNESS_FAILED = "freshness_failed"
    PERFORMANCE_FELL = "performance_fell"
    DRIFT = "drift"
    PROMOTION = "promotion"
    ROLLBACK = "rollback"
    DEAD_SENSOR = "dead_sensor"
    BACKUP_OVERDUE = "backup_overdue"

    @property
    def severity(self) -> Severity:
        """How urgent alerts of the kind are."""
        if self is Kind.PROMOTION:
            return Severity.INFO
        calm = (Kind.QUARANTINE, Kind.BLOCKED_PARTITION, Kind.DRIFT, Kind.ROLLBACK)
        return Severity.WARNING if self in calm else Severity.CRITICAL

    @property
    def runbook(self) -> str:
        """The runbook's path in the project."""
        return f"deploy/runbooks/{self.value}.md"

    @property
    def advice(self) -> str:
        """The runbook in one line."""
        return _ADVICE[self]


_ADVICE: Mapping[Kind, str] = {
    Kind.FAILED_RUN: "Open the run, read the failed step's error, mend its cause, then re-execute from failure.",
    Kind.QUARANTINE: "Read the reasons in the quarantine table, then have upstream deliver the file again.",
    Kind.BLOCKED_PARTITION: "Have upstream deliver the file again as the reason says; only what reads it waits.",
    Kind.FRESHNESS_FAILED: "See whether files still land and whether the landing sensor runs; nothing is retrained.",
    Kind.PERFORMANCE_FELL: "Look at the performance report; `ml-platform plan` says whether training is due.",
    Kind.DRIFT: "Look at which features moved: a broken source is mended, a changed world is learned from.",
    Kind.PROMOTION: "Nothing to do; if the new champion disappoints, roll it back.",
    Kind.ROLLBACK: "Read the reason in the ledger; only a better candidate replaces the restored champion.",
    Kind.DEAD_SENSOR: "Open its last ticks in the Dagster UI, mend the error, or start `ml-platform up` again.",
    Kind.BACKUP_OVERDUE: "Read why the last backup failed, mend it, and make one now.",
}

RECURRING = frozenset({Kind.PERFORMANCE_FELL})
"""Kinds whose facts do not tell when a cause began: it is new once the alert on it has ended."""

STANDING = frozenset(Kind) - {Kind.FAILED_RUN, Kind.PROMOTION, Kind.ROLLBACK}
"""Kinds whose causes stand until they are mended; the others are events."""


@dataclass(frozen=True)
class Cause:
    """One thing to be told of, once.

    ``identity`` tells it from every other, ``subject`` is the table, partition, model, job or sensor it is about.
    Causes of one kind and ``group`` that are found together are one alert. ``since`` is when it happened or began (UTC;
    event time for drift and performance, wall time otherwise). ``page`` is where to look, below Dagster's address.
    """

    kind: Kind
    identity: str
    subject: str
    group: str
    title: str
    text: str
    since: datetime
    page: str


@dataclass(frozen=True)
class Alert:
    """What people are told: one cause, or several found together.

    ``alert_id`` stays the same however often delivery is tried: receivers may recognise a repetition by it.
    """

    alert_id: str
    kind: Kind
    subject: str
    title: str
    text: str
    since: datetime
    raised_at: datetime
    link: str
    causes: tuple[str, ...]

    @property
    def severity(self) -> Severity:
        """How urgent it is."""
        return self.kind.severity


def compose(causes: Iterable[Cause], known: Collection[str], *, now: datetime, dagster_url: str) -> list[Alert]:
    """Alerts on the causes that are not known yet, those of a kind and group together.

    Args:
        causes: what stands or happened.
        known: identities that alerts were raised on.
        now: wall time (UTC).
        dagster_url: where links lead.
    """
    groups: dict[tuple[Kind, str], dict[str, Cause]] = {}
    for cause in causes:
        if cause.identity not in known:
            groups.setdefault((cause.kind, cause.group), {})[cause.identity] = cause
    return [_alert(list(group.values()), now, dagster_url) for group in groups.values()]


def _alert(causes: Sequence[Cause], now: datetime, dagster_url: str) -> Alert:
    ordered = sorted(causes, key=lambda cause: (cause.since, cause.identity))
    first, others = ordered[0], len(ordered) - 1
    text = first.text
    if others:
        more = [f"- and {len(ordered) - _LISTED} more"] if len(ordered) > _LISTED else []
        text = "\n".join([*(f"- {cause.subject}: {cause.text}" for cause in ordered[:_LISTED]), *more])
    return Alert(
        alert_id=digest(now.isoformat(), *(cause.identity for cause in ordered))[:16],
        kind=first.kind,
        subject=first.subject if not others else first.group,
        title=first.title if not others else f"{first.title}, and {others} more like it",
        text=text,
        since=first.since,
        raised_at=now,
        link=f"{dagster_url.rstrip('/')}/{first.page}",
        causes=tuple(cause.identity for cause in ordered),
    )


# Runs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FailedRun:
    """A run that failed: ``retried`` if automation will try it again, ``step`` and ``error`` as far as known.

    ``refused``: a person asked for what is not allowed, and has been answered.
    """

    run_id: str
    job: str
    ended_at: datetime
    retried: bool
    step: str = ""
    error: str = ""
    reason: str = ""
    refused: bool = False


def failed_runs(runs: Iterable[FailedRun]) -> list[Cause]:
    """A cause for each run that was given up."""
    return [
        Cause(
            kind=Kind.FAILED_RUN,
            identity=f"failed run {run.run_id}",
            subject=run.job,
            group=run.job,
            title=f"{run.job} failed" + (f" at {run.step}" if run.step else ""),
            text=_short(run.error or "The run's process died.")
            + (f"\nWhy it was started: {_short(run.reason)}" if run.reason else ""),
            since=run.ended_at,
            page=f"runs/{run.run_id}",
        )
        for run in runs
        if not run.retried and not run.refused
    ]


# Tables --------------------------------------------------------------------------------------------


def blocked_partitions(records: pl.DataFrame) -> list[Cause]:
    """A cause for each partition that is blocked by what was delivered for it, not by another that it reads.

    A derived partition's reason is that of what it reads, and begins with that table's name.

    Args:
        records: the catalog's: ``table_name``, ``partition``, ``inputs_hash``, ``blocked``, ``recorded_at``.
    """
    standing = _standing(records, pl.concat_str("blocked", "inputs_hash", separator="|"), pl.col("blocked") != "")
    tables = {row["table_name"] for row in standing} | set(records["table_name"].unique())
    causes = []
    for row in standing:
        table, partition, reason = row["table_name"], row["partition"], row["blocked"]
        if reason.split(" ", 1)[0] in tables - {table}:
            continue
        waiting = [other["table_name"] for other in standing if other is not row and reason in other["blocked"]]
        behind = f" {len(waiting)} partitions of {len(set(waiting))} tables wait for it." if waiting else ""
        causes.append(
            Cause(
                kind=Kind.BLOCKED_PARTITION,
                identity=f"blocked {table} {partition} {digest(reason, row['inputs_hash'])} {row['since'].isoformat()}",
                subject=f"{table} {partition}",
                group=table,
                title=f"{table} {partition} is blocked",
                text=f"{_short(reason)}{behind}",
                since=row["since"],
                page=_partition_page(table, partition),
            )
        )
    return causes


def quarantines(records: pl.DataFrame, limits: Mapping[str, QuarantineLimit]) -> list[Cause]:
    """A cause for each partition of which more rows are in quarantine than its table allows.

    Args:
        records: as of :func:`blocked_partitions`, with ``facts`` (JSON).
        limits: by raw table.
    """
    causes = []
    for table, limit in limits.items():
        own = records.filter(pl.col("table_name") == table).with_columns(
            quarantined=_fact("quarantined_rows"), valid=_fact("valid_rows")
        )
        allowed_rows = limit.share * (pl.col("quarantined") + pl.col("valid"))
        over = pl.col("quarantined") > pl.min_horizontal(allowed_rows, pl.lit(limit.rows))
        for row in _standing(own, pl.lit("over"), over.fill_null(value=False)):
            partition, rows, valid = row["partition"], int(row["quarantined"]), int(row["valid"])
            allowed = f"{limit.share:.1%}" + (f" or {limit.rows:,} rows" if limit.rows is not None else "")
            causes.append(
                Cause(
                    kind=Kind.QUARANTINE,
                    identity=f"quarantine {table} {partition} {row['since'].isoformat()}",
                    subject=f"{table} {partition}",
                    group=table,
                    title=f"{rows:,} rows of {table} {partition} are in quarantine",
                    text=f"{rows:,} of {rows + valid:,} rows broke the contract ({rows / (rows + valid):.1%}); "
                    f"more than {allowed} is an alert.",
                    since=row["since"],
                    page=_partition_page(table, partition),
                )
            )
    return causes


def _standing(records: pl.DataFrame, state: pl.Expr, bad: pl.Expr) -> list[dict[str, Any]]:
    """The newest record of each partition whose state is bad, with ``since``, when it last came into that state."""
    key = ["table_name", "partition"]
    ordered = records.with_columns(state=pl.when(bad).then(state)).sort("recorded_at")
    changed = pl.col("state").ne_missing(pl.col("state").shift(1)).over(key)
    began = pl.when(changed.fill_null(value=True)).then(pl.col("recorded_at")).forward_fill().over(key)
    newest = ordered.with_columns(since=began).unique(key, keep="last", maintain_order=True)
    return newest.filter(pl.col("state").is_not_null()).sort(key).to_dicts()


def _fact(name: str) -> pl.Expr:
    return pl.col("facts").str.json_path_match(f"$.{name}").cast(pl.Float64)


def _partition_page(table: str, partition: str) -> str:
    return f"assets/{table}" + (f"?view=partitions&partition={partition}" if partition[:1].isdigit() else "")


# Models --------------------------------------------------------------------------------------------


def model_causes(
    model: str,
    champion: int | None,
    conditions: Iterable[Condition],
    newest_drift: datetime | None,
    watermark: datetime,
) -> list[Cause]:
    """What of a model's evidence on retraining people should hear of: performance that fell, drift that persists.

    Args:
        model: its name.
        champion: the version that predicts; without one there is nothing to tell.
        conditions: the verdict's, by :func:`ml_platform.core.retraining.judge`.
        newest_drift: the newest day with a drift report.
        watermark: event time of the verdict.
    """
    if champion is None:
        return []
    holding = {condition.name: condition for condition in conditions if condition.holds}
    causes = []
    if fell := holding.get(PERFORMANCE_FELL):
        causes.append(
            Cause(
                kind=Kind.PERFORMANCE_FELL,
                identity=f"performance {model} {champion}",
                subject=f"{model} version {champion}",
                group=model,
                title=f"{model} version {champion} performs worse than when it was judged",
                text=fell.explanation,
                since=watermark,
                page=f"assets/{model}/performance_report",
            )
        )
    drifts = holding.get(DRIFT_PERSISTS)
    if drifts and newest_drift is not None:
        first = newest_drift - timedelta(days=int(drifts.value or 1) - 1)
        causes.append(
            Cause(
                kind=Kind.DRIFT,
                identity=f"drift {model} {champion} {first:%Y-%m-%d}",
                subject=f"{model} version {champion}",
                group=model,
                title=f"Drift persists for {model} version {champion} since {first:%Y-%m-%d}",
                text=drifts.explanation,
                since=first,
                page=f"assets/{model}/drift_report",
            )
        )
    return causes


def decisions(entries: pl.DataFrame, *, after: datetime) -> list[Cause]:
    """A cause for each promotion or rollback that the ledger holds since ``after`` (wall time, exclusive)."""
    causes = []
    for row in entries.filter(pl.col("promoted"), pl.col("decided_at") > after).iter_rows(named=True):
        model, version = row["model"], row["version"]
        back = row["rule"] == "restored_by_person"
        kind = Kind.ROLLBACK if back else Kind.PROMOTION
        before = "" if row["previous_version"] is None else f" in place of version {row['previous_version']}"
        causes.append(
            Cause(
                kind=kind,
                identity=f"{kind.value} {model} {row['sequence']}",
                subject=f"{model} version {version}",
                group=model,
                title=f"{model}: version {version} was {'restored' if back else 'promoted'}{before}",
                text=f"Decided by {row['decided_by']} ({row['rule'].replace('_', ' ')}): {_short(row['reason'])}",
                since=row["decided_at"],
                page=f"runs/{row['run_id']}" if row["run_id"] else f"assets/{model}/champion",
            )
        )
    return causes


# Freshness -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AssetFreshness:
    """What Dagster's freshness daemon recorded of an asset.

    ``stage`` is ``raw``, ``features``, ``predictions`` or ``models``; ``late`` since ``changed_at``, or not late since
    then. ``upstream`` are the assets with a freshness policy that it is made from, near and far.
    """

    asset: str
    dataset: str
    stage: str
    late: bool
    changed_at: datetime
    upstream: tuple[str, ...] = ()


def late_assets(known: Iterable[AssetFreshness], *, as_of: datetime) -> list[Cause]:
    """A cause for each asset that is late by itself: not one that waits for a late one, or has just been fed again.

    A late table explains no other table: each is delivered by itself. A late model explains no late prediction: it
    predicts all the same.
    """
    states = {state.asset: state for state in known}
    alone = []
    for state in states.values():
        above = [states[name] for name in state.upstream if name in states and state.stage != "raw"]
        above = [each for each in above if each.stage != "models" or state.stage == "models"]
        fed = max((each.changed_at for each in above if not each.late), default=state.changed_at)
        recovering = fed > state.changed_at and as_of - fed < RECOVERY
        if state.late and not recovering and not any(each.late for each in above):
            alone.append(state)
    settled = [state for state in alone if as_of - state.changed_at >= SETTLE]
    told = [
        state
        for state in alone
        if any(s.dataset == state.dataset and abs(s.changed_at - state.changed_at) <= _TOGETHER for s in settled)
    ]
    return [
        Cause(
            kind=Kind.FRESHNESS_FAILED,
            identity=f"late {state.asset} {state.changed_at.isoformat()}",
            subject=state.asset,
            group=state.dataset,
            title=f"{state.asset} is late",
            text=f"Nothing new since before {_moment(state.changed_at)}; what is made from it is late with it.",
            since=state.changed_at,
            page=f"assets/{state.asset}",
        )
        for state in told
    ]


# Sensors -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pulse:
    """A sensor, schedule or daemon that should work: when it last did, and how long it may be silent.

    ``name`` says what it is; ``error`` is that of its newest tick, empty if that went well or there is none.
    """

    name: str
    last_good: datetime | None
    patience: timedelta
    error: str = ""
    page: str = "overview/activity/sensors"


def dead_sensors(pulses: Iterable[Pulse], *, watched_since: datetime, as_of: datetime) -> list[Cause]:
    """A cause for each that was silent for longer than it may, while we were awake to hear it."""
    return [
        Cause(
            kind=Kind.DEAD_SENSOR,
            identity=f"dead {pulse.name} {'never' if pulse.last_good is None else pulse.last_good.isoformat()}",
            subject=pulse.name,
            group=pulse.name,
            title=f"{pulse.name} does not work",
            text=("It never worked" if pulse.last_good is None else f"It last worked at {_moment(pulse.last_good)}")
            + (f"; its newest tick failed: {_short(pulse.error)}" if pulse.error else "; it does not tick."),
            since=pulse.last_good or watched_since,
            page=pulse.page,
        )
        for pulse in pulses
        if as_of - max(pulse.last_good or watched_since, watched_since) > pulse.patience
    ]


# Backups -------------------------------------------------------------------------------------------


def overdue_backup(
    newest: datetime | None, within: timedelta, *, watched_since: datetime, as_of: datetime
) -> list[Cause]:
    """The cause that no finished backup was begun within the time in which there should be one.

    Args:
        newest: when the newest finished one was begun; None if there never was any.
        within: how old it may be; zero if nobody expects backups.
        watched_since: what came before counts as in time.
        as_of: now, wall time (UTC).
    """
    if not within or as_of - (newest or watched_since) <= within:
        return []
    hours = f"{within / timedelta(hours=1):g} hours"
    return [
        Cause(
            kind=Kind.BACKUP_OVERDUE,
            identity=f"backup overdue since {'never' if newest is None else newest.isoformat()}",
            subject="backup",
            group="backup",
            title="There is no recent backup",
            text=(
                "None was ever finished"
                if newest is None
                else f"The newest finished one was begun at {_moment(newest)}"
            )
            + f"; there should be one every {hours}.",
            since=newest or watched_since,
            page="assets/ledger/backups",
        )
    ]


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _short(text: str) -> str:
    """Text of others in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_LENGTH else line[: _TEXT_LENGTH - 1] + "…"
