"""Filling the tables of feature views, and the online store."""

from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from ml_platform.assets.events import CheckResult, DayReport, report_days, report_whole
from ml_platform.assets.features import SCHEMA
from ml_platform.assets.metadata import day_metadata, markdown_table
from ml_platform.core.digests import digest
from ml_platform.core.feature_manifest import ViewSpec
from ml_platform.resources.platform import Platform
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import Derivation
from ml_platform.stores.incremental import Outcome, Status, derive, derive_whole
from ml_platform.stores.lake import Lake


def fill_view(
    context: dg.AssetExecutionContext,
    platform: Platform,
    derivation: Derivation,
    dataset: Dataset,
    key: dg.AssetKey,
    *,
    partitioned: bool,
) -> Iterator[Any]:
    """Bring a view's table up to date, and report each day."""
    if not partitioned:
        outcome = derive_whole(platform.lake, derivation)
        if outcome.state is None or not outcome.good:
            raise dg.Failure(f"{key.to_user_string()} is blocked: {outcome.reason}", allow_retries=False)
        check = dg.AssetCheckResult(check_name=SCHEMA, asset_key=key, passed=True)
        metadata = day_metadata(outcome) | {"dagster/row_count": outcome.state.rows}
        yield from report_whole(context, key, outcome.state.content_hash, metadata, [check])
        return
    watermark = dataset.watermark(platform.landing)
    if watermark is None:
        raise dg.Failure("nothing has landed yet: run `ml-platform replay`", allow_retries=False)
    outcomes = derive(platform.lake, derivation, context.partition_keys, watermark)
    yield from report_days(context, key, [_report(outcome) for outcome in outcomes])


def push_online(
    context: dg.AssetExecutionContext, platform: Platform, stored: Sequence[ViewSpec], key: dg.AssetKey
) -> Iterator[Any]:
    """Have the online store hold the newest rows of these views, and report what it holds."""
    platform.features.apply()
    pushed = {
        view.name: platform.features.push_online(view.name) for view in stored if platform.lake.exists(str(view.table))
    }
    rows = [
        {
            "view": name,
            "keys in the lake": found.source_keys,
            "keys online": found.online_keys,
            "keys removed": found.removed_keys,
        }
        for name, found in pushed.items()
    ]
    wanted = sum(found.source_keys for found in pushed.values())
    written = sum(found.online_keys for found in pushed.values())
    removed = sum(found.removed_keys for found in pushed.values())
    context.log.info("%s keys in the lake, %s online, %s removed", wanted, written, removed)
    metadata = {
        "keys_in_lake": wanted,
        "keys_online": written,
        "keys_removed": removed,
        "by_view": dg.MetadataValue.md(markdown_table(rows)),
    }
    check = dg.AssetCheckResult(
        check_name="complete", asset_key=key, passed=wanted == written, metadata={"keys_in_lake": wanted}
    )
    yield from report_whole(context, key, online_version(platform.lake, stored), metadata, [check])


def _report(outcome: Outcome) -> DayReport:
    passed = outcome.status is not Status.BLOCKED
    check = CheckResult(SCHEMA, passed, outcome.reason if not passed else "as declared")
    return DayReport(outcome, day_metadata(outcome), [check])


def online_version(lake: Lake, views: Sequence[ViewSpec]) -> str:
    """What the online store is filled from, as the data version of ``online_features``."""
    return digest(*[f"{view.table}={lake.version(str(view.table))}" for view in views if lake.exists(str(view.table))])
