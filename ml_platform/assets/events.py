"""How assets report to Dagster: one event per partition, each with its own data version.

A range run ends a step with one result, which would stamp every partition of the range alike: one data
version for all, and days that are blocked or have not landed marked as materialised. So the steps here log
an event for each day that really stands in the lake; in runs that carry the tag of
:mod:`ml_platform.automation.runs`, Dagster adds none of its own. A range started by hand from the UI has no such
tag: there a day that could not be materialised fails the step, after the good days were reported (docs/adr/0004).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from ml_platform.automation.runs import reports_itself
from ml_platform.stores.incremental import Outcome, Status


@dataclass(frozen=True)
class CheckResult:
    """The result of an asset check on one partition."""

    name: str
    passed: bool
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    blocking: bool = True


@dataclass(frozen=True)
class DayReport:
    """What to tell Dagster of one day."""

    outcome: Outcome
    metadata: Mapping[str, Any] = field(default_factory=dict)
    checks: Sequence[CheckResult] = ()

    @property
    def data_version(self) -> str:
        """The identity of the day's content; empty if it has none."""
        return "" if self.outcome.state is None else self.outcome.state.content_hash


def report_days(context: dg.AssetExecutionContext, key: dg.AssetKey, reports: Iterable[DayReport]) -> Iterator[Any]:
    """Log what became of each day, then end the step.

    Raises:
        dagster.Failure: in a run that does not report itself, a requested day could not be materialised; the
            description gives every reason.
    """
    listed = list(reports)
    _summarise(context, listed)
    deferred = reports_itself(context.run.tags)
    one_day = len(context.partition_keys) == 1
    bad = [report for report in listed if not report.outcome.good]
    news = _news(context, key, listed)
    for report in news:
        for check in report.checks:
            context.log_event(_evaluation(key, check, report.outcome.day))
    if bad and not deferred:
        if not one_day:
            _log_materialisations(context, key, news)
        days = "\n".join(f"{report.outcome.day} {report.outcome.status}: {report.outcome.reason}" for report in bad)
        raise dg.Failure(
            f"{key.to_user_string()} could not be materialised for {len(bad)} days\n{days}", allow_retries=False
        )
    if one_day and not deferred:
        yield dg.MaterializeResult(
            asset_key=key, metadata=listed[0].metadata, data_version=dg.DataVersion(listed[0].data_version)
        )
        return
    if deferred:
        _log_materialisations(context, key, news)
        yield dg.MaterializeResult(asset_key=key)
        return
    yield dg.MaterializeResult(asset_key=key)
    # After the step's own events, which gave every day one version: the newest event of a day counts.
    for report in listed:
        yield _materialisation(key, report)


def report_whole(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    key: dg.AssetKey,
    data_version: str,
    metadata: Mapping[str, Any],
    checks: Sequence[dg.AssetCheckResult] = (),
) -> Iterator[Any]:
    """Report an asset without partitions; ``data_version`` identifies its content."""
    if reports_itself(context.run.tags):
        context.log_event(dg.AssetMaterialization(key, metadata=metadata, tags={DATA_VERSION_TAG: data_version}))
        yield dg.MaterializeResult(asset_key=key)
    else:
        yield dg.MaterializeResult(asset_key=key, metadata=metadata, data_version=dg.DataVersion(data_version))
    yield from checks


def is_told(context: dg.AssetExecutionContext, key: dg.AssetKey, data_version: str) -> bool:
    """Whether what Dagster heard last of an asset without partitions is this content, and nothing needs telling."""
    event = context.instance.get_latest_materialization_event(key)
    known = None if event is None else event.asset_materialization
    told = None if known is None else (known.tags or {}).get(DATA_VERSION_TAG)
    return reports_itself(context.run.tags) and told == data_version


def _news(context: dg.AssetExecutionContext, key: dg.AssetKey, reports: Sequence[DayReport]) -> list[DayReport]:
    """The days that Dagster must hear of: those computed or blocked now, and those of which it knows another version.

    The latter are left by a run that died after writing a day and before telling.
    """
    told: Mapping[str, Mapping[str, str]] = {}
    if any(report.outcome.status is Status.UNCHANGED for report in reports):
        told = context.instance.event_log_storage.get_latest_tags_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
        )

    def is_news(report: DayReport) -> bool:
        if report.outcome.status is Status.UNCHANGED:
            return told.get(report.outcome.day, {}).get(DATA_VERSION_TAG) != report.data_version
        return report.outcome.status is not Status.WAITING

    return [report for report in reports if is_news(report)]


def _log_materialisations(context: dg.AssetExecutionContext, key: dg.AssetKey, reports: Sequence[DayReport]) -> None:
    for report in reports:
        if report.outcome.good:
            context.log_event(_materialisation(key, report))


def _materialisation(key: dg.AssetKey, report: DayReport) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key, partition=report.outcome.day, metadata=report.metadata, tags={DATA_VERSION_TAG: report.data_version}
    )


def _evaluation(key: dg.AssetKey, check: CheckResult, day: str) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check.name,
        passed=check.passed,
        description=check.description,
        metadata=dict(check.metadata),
        severity=dg.AssetCheckSeverity.ERROR,
        blocking=check.blocking,
        partition=day,
    )


def _summarise(context: dg.AssetExecutionContext, reports: Sequence[DayReport]) -> None:
    counts: dict[Status, int] = {}
    for report in reports:
        counts[report.outcome.status] = counts.get(report.outcome.status, 0) + 1
    context.log.info("%s days: %s", len(reports), ", ".join(f"{n} {status}" for status, n in counts.items()))
    for report in reports:
        if report.outcome.status is Status.BLOCKED:
            context.log.warning("%s is blocked: %s", report.outcome.day, report.outcome.reason)
