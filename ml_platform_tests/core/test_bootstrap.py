"""Intervals are repeatable, cover what they claim, and respect that rows of a day belong together."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ml_platform.core.bootstrap import Figure, figure, metric_figure, resample
from ml_platform.core.metrics import METRICS, Scored

START = datetime(2020, 1, 1, tzinfo=UTC)


def times(days: int, rows_per_day: int) -> pl.Series:
    stamps = [START + timedelta(days=day, minutes=row) for day in range(days) for row in range(rows_per_day)]
    return pl.Series(stamps, dtype=pl.Datetime("us", "UTC"))


def test_rows_of_a_day_are_drawn_together_when_there_are_enough_days():
    drawn = resample(times(8, 5), seed=1, count=20)
    weights = np.concatenate(list(drawn.weights()))
    assert drawn.unit == "day"
    assert weights.shape == (20, 40)
    assert (weights.reshape(20, 8, 5) == weights.reshape(20, 8, 5)[:, :, :1]).all()
    assert (weights[:, ::5].sum(axis=1) == 8).all()


def test_with_few_days_rows_are_drawn():
    drawn = resample(times(6, 5), seed=1, count=20)
    assert drawn.unit == "row"
    assert (np.concatenate(list(drawn.weights())).sum(axis=1) == 30).all()


def test_draws_are_those_of_the_seed():
    first, second, other = (resample(times(8, 5), seed=seed, count=5).counts for seed in (1, 1, 2))
    assert (first == second).all()
    assert (first != other).any()


def test_a_part_of_the_rows_sees_the_same_draws():
    drawn, rows = resample(times(8, 5), seed=1, count=5), np.array([0, 7, 39])
    assert (np.concatenate(list(drawn.take(rows).weights())) == np.concatenate(list(drawn.weights()))[:, rows]).all()


def test_chunks_make_no_difference(monkeypatch):
    drawn = resample(times(8, 5), seed=1, count=7)
    score = np.random.default_rng(0).random(40)
    scored = Scored((score > 0.3).astype(float), score.round(1))
    whole = METRICS["auc"].function(scored, drawn)
    monkeypatch.setattr("ml_platform.core.resamples._CHUNK_CELLS", 80)
    assert len(list(drawn.weights())) == 4
    assert (METRICS["auc"].function(scored, drawn) == whole).all()


@pytest.mark.parametrize("days", [8, 6])
def test_totals_are_those_of_the_rows_written_out(days):
    drawn = resample(times(days, 5), seed=1, count=7).take(np.arange(3, 28))
    values, groups = np.arange(25.0), np.arange(25) % 3
    weights = np.concatenate(list(drawn.weights()))
    assert drawn.total(values) == pytest.approx(weights @ values)
    assert drawn.rows() == pytest.approx(weights.sum(axis=1))
    by_group = [weights[:, groups == group] @ values[groups == group] for group in range(3)]
    assert drawn.totals(values, groups, 4) == pytest.approx(np.stack([*by_group, np.zeros(7)], axis=1))


def test_intervals_cover_the_truth_about_as_often_as_they_claim():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        error = rng.normal(size=60)
        found = metric_figure(
            METRICS["mae"], Scored(error, np.zeros(60)), resample(times(1, 60), seed=trial, count=200), 0.9
        )
        covered += found.low <= np.sqrt(2 / np.pi) <= found.high
    assert 0.82 <= covered / 200 <= 0.96


def test_what_is_undefined_is_none_and_not_a_number():
    assert figure(float("nan"), np.array([1.0]), 0.95) == Figure(value=None)
    assert figure(1.0, np.array([np.nan]), 0.95) == Figure(value=1.0)
    assert str(Figure(value=None)) == "undefined"
    assert str(figure(0.5, np.array([0.25, np.nan, 0.75]), 0.5)) == "0.5 [0.375, 0.625]"


def test_no_rows_have_no_figures():
    drawn = resample(times(0, 0), seed=1, count=3)
    assert drawn.counts.shape == (3, 0)
    assert metric_figure(METRICS["mae"], Scored(np.empty(0), np.empty(0)), drawn, 0.95) == Figure(value=None)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_more_confidence_is_a_wider_interval(confidence):
    values = np.linspace(0, 1, 101)
    found = figure(0.5, values, confidence)
    assert (found.low, found.high) == pytest.approx(((1 - confidence) / 2, (1 + confidence) / 2))
