"""Performance speaks only of predictions whose label is known, and says how many are not."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.performance import performance

T = datetime(2020, 1, 10, tzinfo=UTC)
DAY = timedelta(days=1)
SPEC = ModelSpec.model_validate(
    {
        "name": "late",
        "task": "binary",
        "description": "",
        "intended_use": "",
        "owners": ["team:x"],
        "group": "g",
        "service": "s",
        "keys": ["id"],
        "entities": {"python": "m:f", "inputs": ["t"]},
        "labels": {"python": "m:f", "inputs": ["t"]},
        "label_unit": "late",
        "entity_look_back": "3d",
        "denied": ["label"],
        "baseline": {"by": ["c"]},
        "windows": {"training": "30d", "holdout": "7d"},
        "tuning": {"trials": 1, "search": {"learning_rate": {"low": 0.1, "high": 0.1}}},
        "costs": {"false_positive": 1, "false_negative": 1},
        "gate": {"metric": "auc", "floor": {"auc": 0.6}},
        "retrain": {"performance_window": "7d"},
    }
)


def predictions(rows: list[tuple[int, float, float, int]]) -> pl.DataFrame:
    """Rows of (id, days before T, score, version)."""
    return pl.DataFrame(
        {
            "id": pl.Series([r[0] for r in rows], dtype=pl.Int64),
            "prediction_time": pl.Series([T - r[1] * DAY for r in rows], dtype=pl.Datetime("us", "UTC")),
            "score": [r[2] for r in rows],
            "decision": [r[2] >= 0.5 for r in rows],
            "model_version": [r[3] for r in rows],
        }
    )


def labels(rows: list[tuple[int, float, float]]) -> pl.DataFrame:
    """Rows of (id, days before T at which it became known, label)."""
    return pl.DataFrame(
        {
            "id": pl.Series([r[0] for r in rows], dtype=pl.Int64),
            "label": [r[2] for r in rows],
            "label_time": pl.Series([T - r[1] * DAY for r in rows], dtype=pl.Datetime("us", "UTC")),
        }
    )


def test_a_day_and_the_trailing_window_are_measured_by_when_the_label_became_known() -> None:
    made = predictions([(1, 0.9, 0.9, 1), (2, 0.9, 0.1, 1), (3, 3, 0.8, 1), (4, 9, 0.3, 1)])
    known = labels([(1, 0.5, 1.0), (2, 0.5, 0.0), (3, 2, 0.0), (4, 8.5, 1.0)])
    report = performance(SPEC, made, known, start=T - DAY, end=T)
    day, trailing = report.of("day"), report.of("trailing")
    assert day is not None
    assert trailing is not None
    assert (day.rows, trailing.rows) == (2, 3)
    assert day.figures["auc"].value == 1.0
    assert day.figures["accuracy"].value == 1.0
    assert trailing.figures["accuracy"].value == pytest.approx(2 / 3)
    assert trailing.figures["label_mean"].value == pytest.approx(1 / 3)
    assert trailing.figures["score_mean"].value == pytest.approx(0.6)


def test_labels_still_owed_are_counted_and_a_label_of_tomorrow_is_not_known_today() -> None:
    made = predictions([(1, 1, 0.9, 1), (2, 1, 0.1, 1), (3, 5, 0.8, 1), (4, 0.5, 0.2, 1)])
    known = labels([(1, 0.5, 1.0), (2, -0.5, 0.0)])
    figures = performance(SPEC, made, known, start=T - DAY, end=T).of("trailing").figures
    owed = {name: figures[name].value for name in ("predicted", "labelled", "outstanding", "overdue")}
    assert owed == {"predicted": 4, "labelled": 1, "outstanding": 3, "overdue": 1}
    assert figures["label_delay_hours_median"].value == 12


def test_one_class_only_gives_no_auc_and_no_crash() -> None:
    made = predictions([(1, 0.9, 0.9, 1), (2, 0.9, 0.1, 1)])
    frame = performance(SPEC, made, labels([(1, 0.5, 1.0), (2, 0.5, 1.0)]), start=T - DAY, end=T).to_frame()
    values = dict(frame.filter(pl.col("period") == "day").select("metric", "value").iter_rows())
    assert values["auc"] is None
    assert values["recall"] == 0.5


def test_versions_are_reported_apart_and_the_newest_with_labels_speaks() -> None:
    made = predictions([(1, 0.9, 0.9, 1), (2, 0.9, 0.1, 1), (1, 0.9, 0.1, 2), (2, 0.9, 0.9, 2), (3, 0.1, 0.5, 3)])
    report = performance(SPEC, made, labels([(1, 0.5, 1.0), (2, 0.5, 0.0)]), start=T - DAY, end=T)
    assert report.of("day", 1).figures["auc"].value == 1.0
    assert report.of("day", 2).figures["auc"].value == 0.0
    assert report.of("day").model_version == 2
    assert report.as_metadata()["auc_day"] == 0.0
    assert set(report.to_frame()["model_version"]) == {1, 2, 3}


def test_nothing_predicted_or_nothing_known_is_an_empty_report() -> None:
    nothing = performance(SPEC, predictions([]), labels([]), start=T - DAY, end=T)
    assert nothing.to_frame().is_empty()
    assert nothing.as_metadata() == {}
    unknown = performance(SPEC, predictions([(1, 0.9, 0.9, 1)]), labels([]), start=T - DAY, end=T)
    assert unknown.of("day") is None
    assert unknown.of("trailing", 1).figures["outstanding"].value == 1


def test_a_label_that_comes_twice_is_refused() -> None:
    with pytest.raises(pl.exceptions.ComputeError):
        performance(SPEC, predictions([(1, 0.9, 0.9, 1)]), labels([(1, 0.5, 1.0), (1, 0.4, 0.0)]), start=T - DAY, end=T)
