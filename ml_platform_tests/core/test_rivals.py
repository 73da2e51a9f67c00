"""Habits of retraining: when a calendar trains, who serves when, and whether differences are paired."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from ml_platform.core.rivals import (
    SERVED_SINCE,
    Cadence,
    Tenure,
    by_month,
    figures,
    moments,
    paired_difference,
    serve,
    train_on_all_past,
)
from ml_platform.core.scoring import raw_scores
from ml_platform_tests.core.learning_examples import FEATURES, START, parcels, spec

SPEC, ROWS = spec(), parcels()
AT = [START + timedelta(days=days) for days in (20, 40, 55)]
UNTIL = START + timedelta(days=70)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


@pytest.fixture(scope="module")
def tenures() -> list[Tenure]:
    return train_on_all_past(SPEC, ROWS, FEATURES, {"learning_rate": 0.1}, 20, AT)


def test_months_and_quarters_begin_on_their_first_day_also_over_new_year() -> None:
    monthly = moments(Cadence.MONTHLY, utc(2013, 11, 15), utc(2014, 2, 1))
    assert monthly == [utc(2013, 11, 15), utc(2013, 12, 1), utc(2014, 1, 1)]
    assert moments(Cadence.QUARTERLY, utc(2013, 4, 1), utc(2014, 1, 1)) == [
        utc(2013, 4, 1),
        utc(2013, 7, 1),
        utc(2013, 10, 1),
    ]
    assert moments(Cadence.QUARTERLY, utc(2013, 11, 30), utc(2014, 1, 2)) == [utc(2013, 11, 30), utc(2014, 1, 1)]


def test_weeks_are_counted_from_the_first_training() -> None:
    assert moments(Cadence.WEEKLY, utc(2013, 4, 3), utc(2013, 4, 17)) == [utc(2013, 4, 3), utc(2013, 4, 10)]


def test_each_model_learned_every_label_known_at_its_moment_and_no_other(tenures: list[Tenure]) -> None:
    newest = [ROWS.filter(pl.col("label_time") <= moment)["label_time"].max() for moment in AT]
    assert [tenure.model.trained_through for tenure in tenures] == newest
    assert len({tenure.model.model_text for tenure in tenures}) == len(AT)


def test_a_row_is_scored_by_the_model_that_served_when_it_was_due(tenures: list[Tenure]) -> None:
    scores = serve(tenures[::-1], ROWS, UNTIL)
    assert scores.height == ROWS.filter(pl.col("prediction_time") > AT[0]).height
    assert scores[SERVED_SINCE].unique().sort().to_list() == AT
    for tenure, end in zip(tenures, [*AT[1:], UNTIL], strict=True):
        part = scores.filter(pl.col(SERVED_SINCE) == tenure.since)
        assert part["prediction_time"].is_between(tenure.since, end, closed="right").all()
        assert part["score"].to_list() == raw_scores(tenure.model, part).tolist()


def test_a_model_that_learned_from_what_came_after_it_served_is_refused(tenures: list[Tenure]) -> None:
    with pytest.raises(ValueError, match="learned from a label known at"):
        serve([Tenure(AT[0], tenures[1].model)], ROWS, UNTIL)


def test_habits_are_compared_by_month_on_the_rows_that_all_of_them_scored(tenures: list[Tenure]) -> None:
    scores = serve(tenures, ROWS, UNTIL)
    found = by_month(SPEC, {"calendar": scores, "other": scores.filter(pl.col("load") > 0)}, ["auc", "log_loss"])
    loaded = scores.filter(pl.col("load") > 0)
    assert found["habit"].to_list() == ["calendar", "other"] * 3
    assert found["month"].to_list() == ["2020-01"] * 2 + ["2020-02"] * 2 + ["2020-03"] * 2
    assert found["rows"].sum() == 2 * loaded.height
    january = loaded.filter(pl.col("prediction_time") < utc(2020, 2, 1))
    assert (
        found.row(0)[3:]
        == found.row(1)[3:]
        == pytest.approx(tuple(figures(SPEC, january, ["auc", "log_loss"]).values()))
    )


def test_a_difference_is_paired_so_what_is_worse_everywhere_is_worse_for_sure(tenures: list[Tenure]) -> None:
    scores = serve(tenures, ROWS, UNTIL)
    duller = scores.with_columns(score=0.5 * pl.col("score") + 0.25)
    difference = paired_difference(SPEC, "log_loss", [(duller, scores.sample(fraction=1, shuffle=True, seed=1))])
    expected = [figures(SPEC, frame, ["log_loss"])["log_loss"] for frame in (duller, scores)]
    assert difference.value == pytest.approx(expected[0] - expected[1])
    assert difference.low is not None
    assert difference.low > 0
    same = paired_difference(SPEC, "log_loss", [(scores, scores)])
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_over_several_pairs_differences_are_averaged(tenures: list[Tenure]) -> None:
    scores = serve(tenures, ROWS, UNTIL)
    duller = scores.with_columns(score=0.8 * pl.col("score") + 0.1)
    once = paired_difference(SPEC, "log_loss", [(duller, scores)])
    none = paired_difference(SPEC, "log_loss", [(duller, scores), (scores, duller)])
    half = paired_difference(SPEC, "log_loss", [(duller, scores), (scores, scores)])
    assert (none.value, none.high) == (pytest.approx(0), pytest.approx(0))
    assert once.value is not None
    assert once.high is not None
    assert (half.value, half.high) == (pytest.approx(once.value / 2), pytest.approx(once.high / 2))


def test_frames_of_other_rows_are_not_compared(tenures: list[Tenure]) -> None:
    scores = serve(tenures, ROWS, UNTIL)
    with pytest.raises(ValueError, match="not of the same rows"):
        paired_difference(SPEC, "log_loss", [(scores, scores.head(100))])
