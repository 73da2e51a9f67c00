"""Explanations add up to the score, and declared behaviour is measured as declared."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from ml_platform.core.explanation import case_result, importance
from ml_platform.core.model_spec import BehaviouralCase
from ml_platform.core.scoring import raw_scores
from ml_platform.core.training import encode, fit
from ml_platform_tests.core.learning_examples import FEATURES, START, parcels, spec

FRAME = parcels(1500)
MODEL = fit(spec(), FRAME, FEATURES, {"learning_rate": 0.1, "num_leaves": 8}, 30)
RECENT = FRAME.filter(pl.col("prediction_time") > START + timedelta(days=60))


def test_contributions_add_up_to_the_score_and_rank_what_the_data_were_made_from():
    contributions = MODEL.booster.predict(encode(RECENT, MODEL.features, MODEL.categories), pred_contrib=True)
    assert 1 / (1 + np.exp(-contributions.sum(axis=1))) == pytest.approx(raw_scores(MODEL, RECENT))

    found = importance(MODEL, RECENT)

    assert found[0].feature == "load"
    assert {each.feature for each in found} == set(FEATURES)
    assert found[0].contribution == pytest.approx(np.abs(contributions[:, 0]).mean())


def test_many_rows_are_sampled_the_same_way_each_time(monkeypatch):
    monkeypatch.setattr("ml_platform.core.explanation.CONTRIBUTION_ROWS", 50)
    assert importance(MODEL, RECENT) == importance(MODEL, RECENT)
    assert importance(MODEL, RECENT) != importance(MODEL, RECENT[:50])


@pytest.mark.parametrize(
    ("expect", "amount", "held"),
    [
        ("not_lower", 1.0, True),
        ("not_lower", -1.0, False),
        ("not_higher", -1.0, True),
        ("not_higher", 1.0, False),
        ("unchanged", 1.0, False),
        ("unchanged", 0.0, True),
    ],
)
def test_a_shift_must_move_the_mean_score_as_expected(expect, amount, held):
    found = case_result(MODEL, RECENT, BehaviouralCase(name="load", shift={"load": amount}, expect=expect))
    assert found.held is held
    assert found.before == pytest.approx(raw_scores(MODEL, RECENT).mean())


def test_tolerance_is_exactly_the_movement_allowed_the_wrong_way():
    moved = case_result(MODEL, RECENT, BehaviouralCase(name="load", shift={"load": -1.0}, expect="not_lower"))
    movement = moved.before - moved.after
    for tolerance, held in ((movement, True), (np.nextafter(movement, 0), False)):
        case = BehaviouralCase(name="load", shift={"load": -1.0}, expect="not_lower", tolerance=tolerance)
        assert case_result(MODEL, RECENT, case).held is held


def test_assigning_a_category_or_nothing_at_all_replaces_the_feature():
    worse = BehaviouralCase(name="depot", assign={"depot": "b"}, expect="not_lower")
    unknown = BehaviouralCase(name="unknown", assign={"depot": None, "load": None}, expect="unchanged")
    assert case_result(MODEL, RECENT, worse).after == pytest.approx(
        raw_scores(MODEL, RECENT.with_columns(depot=pl.lit("b"))).mean()
    )
    assert case_result(MODEL, RECENT, unknown).held is False


def test_a_case_on_something_that_is_no_feature_is_an_error():
    with pytest.raises(ValueError, match=r"case 'x' changes \['town'\]"):
        case_result(MODEL, RECENT, BehaviouralCase(name="x", assign={"town": 1.0}, expect="unchanged"))
    with pytest.raises(ValueError, match=r"case 'x' shifts \['depot'\]"):
        case_result(MODEL, RECENT, BehaviouralCase(name="x", shift={"depot": 1.0}, expect="unchanged"))
