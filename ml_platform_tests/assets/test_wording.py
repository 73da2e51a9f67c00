"""What assets say in words: short enough to be shown in place, and complete."""

import json
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from ml_platform.assets import wording
from ml_platform.assets.metadata import Column, table_definition
from ml_platform.core.bootstrap import Figure
from ml_platform.core.drift_calibration import calibrate
from ml_platform.core.drift_effects import yardstick
from ml_platform.core.metrics import metrics_for
from ml_platform.core.model_spec import ModelSpec, Task
from ml_platform.core.performance import PerformanceReport, VersionPerformance
from ml_platform.settings import PROJECT_ROOT, load
from ml_platform.stores.declarations import load_dataset
from ml_platform.stores.ledger import LedgerEntry
from ml_platform.stores.models import ModelVersion, Provenance
from ml_platform_tests.core.drift_examples import IMPORTANCES, parcels

APRIL = datetime(2013, 4, 1, tzinfo=UTC)
GATES = [
    {"name": "floor:auc", "passed": True, "value": 0.75, "bound": 0.68, "explanation": "auc is 0.75"},
    {"name": "latency", "passed": False, "value": 80.0, "bound": 50.0, "explanation": "One row takes 80 ms."},
]
ENTRY = LedgerEntry(
    model="flight_delay",
    version=3,
    previous_version=2,
    promoted=True,
    rule="better_than_champion",
    reason="auc is 0.75 [0.74, 0.76], 0.02 [0.01, 0.03] better than version 2.",
    gates=json.dumps(GATES),
    decided_at_watermark=APRIL,
    decided_at=datetime(2026, 11, 21, tzinfo=UTC),
    decided_by="automation",
    run_id="run",
    sequence=3,
)
CHAMPION = ModelVersion(
    name="flight_delay",
    version=3,
    run_id="run",
    run_url="http://mlflow/run",
    url="http://mlflow/version/3",
    made_at=datetime(2013, 4, 2, tzinfo=UTC),
    provenance=Provenance(
        training_set_version=7,
        training_set_hash="hash",
        training_rows=63_949,
        as_of=APRIL,
        inputs={},
        service="flight_delay_v1",
        service_hash="hash",
        code_version="code",
        dagster_run_id="run",
    ),
    trained_through=datetime(2013, 3, 17, tzinfo=UTC),
    seed=1,
    model_hash="hash",
    metrics={},
    parameters={},
)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_dataset(PROJECT_ROOT / "ml_platform/defs/nyc_flights").model("flight_delay")


def test_an_explanation_says_who_since_when_why_and_on_what_in_place() -> None:
    said = wording.explanation(CHAMPION, ENTRY, load({"ML_PLATFORM_REPORTS_URL": "http://reports"}))
    for part in (
        "Version 3 is champion since 2013-04-01 00:00 UTC",
        ENTRY.reason,
        "63,949 rows",
        "up to 2013-03-17 00:00 UTC",
        "/assets/flight_delay/training_set) version 7",
        "/assets/flight_delay/performance_report)",
        "http://reports/flight_delay/model_card/version_3.html",
    ):
        assert part in said
    assert len(said) < wording.SHOWN_IN_PLACE


def test_a_decision_names_its_verdict_rule_author_and_moment() -> None:
    said = wording.decision(ENTRY)
    assert said.startswith(
        "Version 3 **promoted** (better than champion) by automation, on data up to 2013-04-01 00:00"
    )
    assert said.endswith(ENTRY.reason)


def test_gates_that_failed_come_first() -> None:
    rows = wording.gates_table(ENTRY).splitlines()[2:]
    assert rows == ["| latency | **no** | One row takes 80 ms. |", "| floor:auc | yes | auc is 0.75 |"]


def test_a_summary_of_the_week_fits_in_place_and_puts_the_deciding_metric_first(spec: ModelSpec) -> None:
    figure = Figure(value=0.012345, low=0.012345, high=0.012345)
    figures = dict.fromkeys(metrics_for(Task.BINARY), figure) | {"auc": Figure(value=0.75, low=0.7, high=0.8)}
    week = VersionPerformance(3, "trailing", APRIL - timedelta(days=7), APRIL, 6_327, figures)
    day = VersionPerformance(3, "day", APRIL - timedelta(days=1), APRIL, 900, {**figures, "auc": Figure(value=None)})
    said = wording.performance_summary(spec, PerformanceReport((week, day)))
    lead, _, _, _, first, *_ = said.splitlines()
    assert lead == "Version 3, trailing 7d: **6,327 labels** known from 2013-03-25 to 2013-04-01."
    assert first == "| auc | 0.75 [0.7, 0.8] | undefined |"
    assert len(said) < wording.SHOWN_IN_PLACE


def test_without_labels_nothing_is_said_of_performance(spec: ModelSpec) -> None:
    assert wording.performance_summary(spec, PerformanceReport(())) == ""


def test_columns_of_feast_and_of_contracts_share_a_vocabulary_and_names_have_no_unit() -> None:
    schema = table_definition(
        "features/x", [Column("a", "Float64", "A.", "minutes"), Column("b", "String", "B.", "name")]
    )["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert [(column.type, dict(column.tags)) for column in schema.columns] == [
        ("number", {"unit": "minutes"}),
        ("text", {}),
    ]


def test_a_calibration_is_told_in_place_with_its_rates_and_what_is_found() -> None:
    spec = load_dataset(PROJECT_ROOT / "ml_platform" / "defs" / "nyc_flights").model("flight_delay")
    measure = yardstick(spec.drift, parcels(40), IMPORTANCES)
    calibration = calibrate(spec.drift, measure, seed=0)
    chosen = calibration.to_frame().with_columns(model_version=3).filter("chosen")
    said = wording.calibration_summary(spec, chosen)
    assert f"**{calibration.limit:.2f}**" in said
    assert f"{calibration.chosen.alarms} of 10,000 windows without change" in said
    assert "each 7 of the 40 days that version 3 learned from" in said
    assert [line for line in said.splitlines() if line.startswith(("| load", "| queue", "| depot"))] == [
        f"| {each.feature} | {each.found_at_once:.0%} | {each.found:.0%} | {each.delay:.2f} |"
        for each in sorted(calibration.detections, key=lambda each: list(IMPORTANCES).index(each.feature))
        if each.limit == calibration.limit and each.shift == 0.25
    ]
    assert len(said) < wording.SHOWN_IN_PLACE
