"""One path predicts, and a row's score is its own."""

import dataclasses

import polars as pl
import pytest

from ml_platform.core.scoring import raw_scores, score
from ml_platform.core.training import FittedModel, fit
from ml_platform_tests.core.learning_examples import FEATURES, minutes, parcels, regression_spec, spec


@pytest.fixture(scope="module")
def model() -> FittedModel:
    return fit(spec(), parcels(1000), FEATURES, {"learning_rate": 0.2}, 10)


def test_a_binary_model_scores_probabilities_and_decides_at_its_threshold(model):
    scored = score(model, parcels(200, seed=3))
    assert scored["score"].is_between(0, 1).all()
    assert scored["decision"].to_list() == [value >= 0.25 for value in scored["score"]]


def test_a_score_at_the_threshold_is_a_positive_decision(model):
    frame = parcels(20, seed=3)
    exactly = dataclasses.replace(model, threshold=float(raw_scores(model, frame)[4]))
    assert score(exactly, frame)["decision"][4] is True


def test_a_score_does_not_depend_on_the_rest_of_the_batch(model):
    frame = parcels(100, seed=3)
    alone = [score(model, frame[row : row + 1])["score"][0] for row in range(frame.height)]
    assert alone == score(model, frame)["score"].to_list()
    assert alone[::-1] == score(model, frame.reverse())["score"].to_list()


def test_a_model_read_from_its_files_gives_the_same_bits(model):
    frame = parcels(100, seed=3)
    assert (raw_scores(FittedModel.from_files(model.to_files()), frame) == raw_scores(model, frame)).all()


def test_unseen_and_missing_categories_score_alike(model):
    frame = parcels(50, seed=3)
    unseen, missing = (frame.with_columns(depot=pl.lit(value, pl.String)) for value in ("elsewhere", None))
    assert (raw_scores(model, unseen) == raw_scores(model, missing)).all()


def test_no_rows_give_no_scores_and_the_same_columns(model):
    scored = score(model, parcels(10).clear())
    assert scored.is_empty()
    assert scored.schema["score"] == pl.Float64
    assert scored.schema["decision"] == pl.Boolean


def test_a_regression_makes_no_decision():
    model = fit(regression_spec(), minutes(parcels(500)), FEATURES, {}, 5)
    assert "decision" not in score(model, parcels(20)).columns


def test_a_frame_without_a_feature_is_refused(model):
    with pytest.raises(ValueError, match="'load'"):
        score(model, parcels(20).drop("load"))
