"""Of a champion's figures, those that say how it does now."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ml_platform.core.performance import FRAME_SCHEMA
from ml_platform.core.promotion import Decision, GateResult
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.retraining import gather
from ml_platform.stores.table_names import REPORTED_DAY, drift_table, labels_table, performance_table
from ml_platform.stores.training_requests import TrainingRequests
from ml_platform_tests.core.learning_examples import spec

AS_OF = datetime(2013, 4, 1, tzinfo=UTC)
SPEC = spec(retrain={"performance_window": "7d"})
DAY = timedelta(days=1)


def reported(version: int, end: datetime, value: float) -> dict[str, object]:
    """A trailing week's figure; ``end`` is the end of its last day."""
    return {
        REPORTED_DAY: end - DAY,
        "model_version": version,
        "period": "trailing",
        "period_start": end - 7 * DAY,
        "period_end": end,
        "rows": 1000,
        "metric": "auc",
        "value": value,
        "low": value - 0.1,
        "high": value + 0.1,
    }


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake(str(tmp_path))
    first = Decision(promote=True, rule="first_champion", reason="every gate holds", gates=())
    Ledger(made).record(SPEC.name, 1, first, expected_current=None, watermark=AS_OF, by="automation", run_id="run")
    schema = {REPORTED_DAY: pl.Datetime("us", "UTC"), **FRAME_SCHEMA}
    rows = [reported(1, AS_OF + day * DAY, 0.6 + day / 100) for day in range(1, 20)]
    made.append(performance_table(SPEC), pl.DataFrame([*rows, reported(2, AS_OF + 19 * DAY, 0.5)], schema=schema))
    return made


def test_each_whole_week_after_the_data_it_was_judged_on_is_looked_at_once(lake: Lake) -> None:
    """The weeks end on days 7 and 14; of the days after these the reports overlap with one that was looked at."""
    found = gather(lake, SPEC, AS_OF + 19 * DAY)
    assert found.delivered is not None
    assert (found.delivered.value, found.delivered_rows, found.looks) == (pytest.approx(0.74), 1000, 2)


def test_a_week_that_reaches_into_the_data_it_was_judged_on_says_nothing(lake: Lake) -> None:
    early = lake.read(performance_table(SPEC)).filter(pl.col("period_end") < AS_OF + 7 * DAY)
    other = Lake(str(Path(lake.uri("")).parent / "early"))
    other.append(performance_table(SPEC), early)
    Ledger(other).record(
        SPEC.name,
        1,
        Decision(promote=True, rule="first_champion", reason="", gates=()),
        expected_current=None,
        watermark=AS_OF,
        by="automation",
        run_id="run",
    )
    assert gather(other, SPEC, AS_OF + 6 * DAY).delivered is None


def test_what_a_version_did_before_it_was_restored_is_too_long_ago(lake: Lake) -> None:
    assert gather(lake, SPEC, AS_OF + 20 * DAY).delivered is not None
    assert gather(lake, SPEC, AS_OF + 21 * DAY).delivered is None


def test_a_training_that_its_gates_never_decided_on_holds_no_other_back_but_is_charged_to_the_day(lake: Lake) -> None:
    labels = pl.DataFrame({"label_time": [AS_OF + day * DAY for day in range(1, 10)]})
    lake.append(labels_table(SPEC), labels.with_columns(pl.col("label_time").alias("prediction_time")))
    TrainingRequests(lake).take(SPEC.name, "failed", AS_OF + 9.5 * DAY)
    failed = gather(lake, SPEC, AS_OF + 10 * DAY)
    assert (failed.last_training, failed.new_labels, failed.trainings_today) == (AS_OF, 9, 1)

    rejected = Decision(promote=False, rule="rejected", reason="", gates=(GateResult("floor", False, 0.1, 0.5, ""),))
    Ledger(lake).record(
        SPEC.name, 2, rejected, expected_current=1, watermark=AS_OF + 9.5 * DAY, by="automation", run_id="another"
    )
    decided = gather(lake, SPEC, AS_OF + 10 * DAY)
    assert (decided.last_training, decided.new_labels, decided.trainings_today) == (AS_OF + 9.5 * DAY, 0, 1)


def test_each_attempt_is_charged_to_its_day_though_its_rows_are_those_of_the_last_and_a_retried_step_is_none(
    lake: Lake,
) -> None:
    for run in ("first", "first", "second", "third"):
        TrainingRequests(lake).take(SPEC.name, run, AS_OF + 9.5 * DAY)
    TrainingRequests(lake).take("another", "fourth", AS_OF + 9.5 * DAY)
    assert gather(lake, SPEC, AS_OF + 10 * DAY).trainings_today == 3
    assert gather(lake, SPEC, AS_OF + 10.5 * DAY).trainings_today == 0


def test_alarms_before_the_champion_predicts_are_not_its_own(lake: Lake) -> None:
    days = [AS_OF + day * DAY for day in range(-3, 3)]
    lake.append(drift_table(SPEC), pl.DataFrame({REPORTED_DAY: days, "alarm": [True] * 6}))
    assert gather(lake, SPEC, AS_OF + 3 * DAY).drift_days == 3
