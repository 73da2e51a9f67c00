"""Taking landed files into raw tables."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.assets.events import CheckResult, DayReport, report_days, report_whole
from ml_platform.assets.metadata import day_metadata, facts_metadata, picture, sample_rows
from ml_platform.assets.tables import CONTRACT
from ml_platform.core import plots
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.catalog import WHOLE
from ml_platform.stores.incremental import Outcome, Status
from ml_platform.stores.ingest import ingest
from ml_platform.stores.table_names import raw_table

_FOLLOWED = (
    "valid_rows",
    "quarantined_rows",
    "duplicate_rows",
    "completeness",
    "validity",
    "uniqueness",
    "timeliness",
    "consistency",
)
"""The figures of :class:`ml_platform.core.quality.Quality` that are drawn."""


def take_in(context: dg.AssetExecutionContext, platform: Platform, spec: TableSpec, key: dg.AssetKey) -> Iterator[Any]:
    """Take in what has landed for ``raw/<table>``, and report each day."""
    if spec.kind is TableKind.REFERENCE:
        (outcome,) = ingest(platform.lake, platform.landing, spec, [WHOLE])
        yield from _report_reference(context, key, outcome)
        return
    reports = [_report(outcome) for outcome in ingest(platform.lake, platform.landing, spec, context.partition_keys)]
    written = [n for n, report in enumerate(reports) if report.outcome.status is Status.WRITTEN]
    if written:
        newest = reports[written[-1]]
        history = picture(_quality_history(platform, spec), "quality by day")
        reports[written[-1]] = replace(newest, metadata={"history": history, **newest.metadata})
    yield from report_days(context, key, reports)


def _report(outcome: Outcome) -> DayReport:
    return DayReport(outcome, day_metadata(outcome), _contract_check(outcome))


def _quality_history(platform: Platform, spec: TableSpec) -> bytes:
    """The figures of every day that stands, by event time: Dagster's own plots end at the newest declared day."""
    days = [
        {"day": date.fromisoformat(day), **{name: state.facts[name] for name in _FOLLOWED if name in state.facts}}
        for day, state in platform.lake.partitions(raw_table(spec)).items()
        if not state.facts.keys().isdisjoint(_FOLLOWED)
    ]
    return plots.quality_over_time(pl.DataFrame(days), title=f"{spec.name}: deliveries by the day they became known")


def _contract_check(outcome: Outcome) -> Sequence[CheckResult]:
    blocked = outcome.status is Status.BLOCKED
    facts = {} if blocked or outcome.state is None else facts_metadata(outcome.state.facts)
    return [CheckResult(CONTRACT, not blocked, outcome.reason if blocked else "the contract was kept", facts)]


def _report_reference(context: dg.AssetExecutionContext, key: dg.AssetKey, outcome: Outcome) -> Iterator[Any]:
    if outcome.state is None or outcome.status is Status.WAITING:
        raise dg.Failure(f"{key.to_user_string()}: {outcome.reason}", allow_retries=False)
    (result,) = _contract_check(outcome)
    check = dg.AssetCheckResult(
        check_name=CONTRACT, asset_key=key, passed=result.passed, description=result.description
    )
    metadata = day_metadata(outcome) | {"dagster/row_count": outcome.state.rows}
    if outcome.sample is not None:
        metadata["sample"] = sample_rows(outcome.sample)
    yield from report_whole(context, key, outcome.state.content_hash or "none", metadata, [check])
