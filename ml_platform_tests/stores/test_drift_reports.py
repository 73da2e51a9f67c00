"""A drift report is made with the calibration of its own champion and policy, and waits without one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.core.model_spec import ModelSpec
from ml_platform.stores.incremental import Status
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger, ManualDecision
from ml_platform.stores.monitoring import DriftReference, Reports, calibrate_drift, calibrated, report_drift
from ml_platform.stores.table_names import REPORTED_DAY, calibration_table, drift_table, predictions_table
from ml_platform_tests.core.drift_examples import IMPORTANCES, parcels
from ml_platform_tests.core.learning_examples import spec

SPEC = spec(drift={"window": "7d", "minimum_rows": 100})
REFERENCE = DriftReference(parcels(40), IMPORTANCES)
DAYS = [f"2020-02-{day:02}" for day in range(20, 27)]
WATERMARK = datetime(2020, 2, 27, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """With a week of predictions by version 1 that are like those it learned from."""
    found = Lake(str(tmp_path))
    predict(found, parcels(7, seed=5, first=50))
    return found


def predict(lake: Lake, rows: pl.DataFrame, sort_by: str = "parcel_id") -> None:
    named = rows.with_columns(model_version=1, parcel_id=pl.int_range(pl.len()))
    by_day = named.with_columns(day=pl.col("prediction_time").dt.date().cast(pl.String)).partition_by(
        "day", as_dict=True, include_key=False
    )
    days = {day: frame for (day,), frame in by_day.items()}
    lake.write_partitions(
        predictions_table(SPEC), days, sort_by=[sort_by], inputs_hash=dict.fromkeys(days, ""), inputs={}
    )


def report(lake: Lake, version: int = 1, declared: ModelSpec = SPEC) -> Reports:
    return report_drift(lake, declared, version, lambda: REFERENCE, DAYS, WATERMARK)


def test_every_day_waits_until_its_version_is_calibrated(lake: Lake) -> None:
    waiting = report(lake)
    assert {outcome.status for outcome in waiting.outcomes} == {Status.WAITING}
    reason = "version 1 is not calibrated under this policy: materialise parcel_late/drift_calibration"
    assert {outcome.reason for outcome in waiting.outcomes} == {reason}
    assert not lake.exists(drift_table(SPEC))
    calibrate_drift(lake, SPEC, 1, REFERENCE)
    assert {outcome.status for outcome in report(lake).outcomes} == {Status.WRITTEN}


def test_a_report_is_judged_by_the_calibrated_limit(lake: Lake) -> None:
    calibrate_drift(lake, SPEC, 1, REFERENCE)
    limit = lake.read(calibration_table(SPEC)).filter("chosen")["alarm_limit"][0]
    assert {made.limit for made in report(lake).made.values()} == {limit}
    usual = lake.read(drift_table(SPEC))
    assert usual["alarm_limit"].unique().to_list() == [limit]
    assert not usual["alarm"].any()
    predict(lake, parcels(7, seed=5, first=50).with_columns(pl.col("load") + 0.5))
    assert report(lake).made[DAYS[-1]].drifted


def test_another_champion_or_policy_needs_another_calibration(lake: Lake) -> None:
    calibrate_drift(lake, SPEC, 1, REFERENCE)
    assert calibrated(lake, SPEC, 1) is not None
    assert calibrated(lake, SPEC, 2) is None
    stricter = spec(drift={"window": "7d", "minimum_rows": 100, "false_alarms_per_100_windows": 0.1})
    assert calibrated(lake, stricter, 1) is None
    assert {outcome.status for outcome in report(lake, declared=stricter).outcomes} == {Status.WAITING}
    before = lake.read(calibration_table(SPEC)).filter("chosen")["alarm_limit"][0]
    calibrate_drift(lake, stricter, 1, REFERENCE)
    assert lake.read(calibration_table(SPEC)).filter("chosen")["alarm_limit"][0] > before
    assert {outcome.status for outcome in report(lake, declared=stricter).outcomes} == {Status.WRITTEN}


def test_calibrating_again_gives_the_same_table_and_leaves_reports_alone(lake: Lake) -> None:
    first = calibrate_drift(lake, SPEC, 1, REFERENCE)
    report(lake)
    assert calibrate_drift(lake, SPEC, 1, REFERENCE).delta_version == first.delta_version
    assert {outcome.status for outcome in report(lake).outcomes} == {Status.UNCHANGED}


def test_a_report_is_the_same_in_whatever_order_its_predictions_were_stored(lake: Lake) -> None:
    calibrate_drift(lake, SPEC, 1, REFERENCE)
    report(lake)
    before = lake.partitions(drift_table(SPEC))[DAYS[-1]].content_hash
    predict(lake, parcels(7, seed=5, first=50), sort_by="load")
    lake.block(drift_table(SPEC), dict.fromkeys(DAYS, "to be made again"))
    assert report(lake).made
    assert lake.partitions(drift_table(SPEC))[DAYS[-1]].content_hash == before


def champion(lake: Lake, version: int, as_of: datetime) -> None:
    decision, before = ManualDecision(True, "restored_by_person", "tried"), Ledger(lake).champion(SPEC.name)
    expected = None if before is None else before.version
    Ledger(lake).record(
        SPEC.name, version, decision, expected_current=expected, watermark=as_of, by="anna", run_id=str(version)
    )


def test_another_champion_reports_on_its_own_days_and_leaves_what_was_reported_before(lake: Lake) -> None:
    champion(lake, 1, datetime(2020, 2, 20, tzinfo=UTC))
    calibrate_drift(lake, SPEC, 1, REFERENCE)
    first = report(lake)
    champion(lake, 2, datetime(2020, 2, 24, 12, tzinfo=UTC))
    uncalibrated = {outcome.day: outcome.status for outcome in report(lake, version=2).outcomes}
    assert [day for day, status in uncalibrated.items() if status is Status.UNCHANGED] == DAYS[:4]
    calibrate_drift(lake, SPEC, 2, REFERENCE)
    second = report(lake, version=2)
    assert [outcome.day for outcome in second.outcomes] == DAYS
    content = [outcome.state and outcome.state.content_hash for outcome in second.outcomes[:4]]
    assert content == [outcome.state and outcome.state.content_hash for outcome in first.outcomes[:4]]
    assert sorted(second.made) == DAYS[4:], "the day in which it was decided is the new champion's"
    by_day = lake.read(drift_table(SPEC)).group_by(REPORTED_DAY).agg(pl.col("model_version").unique())
    assert by_day.sort(REPORTED_DAY)["model_version"].to_list() == [[1]] * 4 + [[2]] * 3


def test_a_day_without_a_report_or_with_one_that_is_blocked_is_the_champions(lake: Lake) -> None:
    calibrate_drift(lake, SPEC, 1, REFERENCE)
    report(lake)
    lake.block(drift_table(SPEC), {DAYS[1]: "its predictions are blocked"})
    champion(lake, 2, WATERMARK)
    calibrate_drift(lake, SPEC, 2, REFERENCE)
    assert list(report(lake, version=2).made) == [DAYS[1]]


def test_drift_persists_when_windows_end_to_end_are_alarms() -> None:
    week = spec(drift={"window": "7d", "persists": 2}).drift
    first, last = DAYS[0], datetime(2020, 2, 20, tzinfo=UTC) + timedelta(days=week.alarming_days - 1)
    assert (week.alarming_days, f"{last - week.window:%Y-%m-%d}") == (8, first)
    assert spec(drift={"window": "7d", "persists": 1}).drift.alarming_days == 1
    assert spec(drift={"window": "12h", "persists": 3}).drift.alarming_days == 3
