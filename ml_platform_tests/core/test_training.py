"""The same data give the same model, and only numbers reach LightGBM."""

import dataclasses

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.core.declared_features import LeakageError
from ml_platform.core.model_spec import Task
from ml_platform.core.training import (
    FittedModel,
    base_params,
    check_labels,
    cost_threshold,
    encode,
    fit,
    learn_categories,
)
from ml_platform_tests.core.learning_examples import FEATURES, minutes, parcels, regression_spec, spec

PARAMS = {"learning_rate": 0.1, "num_leaves": 8, "feature_fraction": 0.7, "bagging_fraction": 0.7, "bagging_freq": 1}


def test_training_twice_on_shuffled_rows_gives_the_same_text():
    frame = parcels(1500)

    first = fit(spec(), frame, FEATURES, PARAMS, 15)
    second = fit(spec(), frame.sample(fraction=1.0, shuffle=True, seed=9), FEATURES, PARAMS, 15)

    assert first.model_text == second.model_text
    assert first == second


def test_another_seed_gives_another_model():
    frame = parcels(1500)
    assert (
        fit(spec(), frame, FEATURES, PARAMS, 5).model_text != fit(spec(seed=6), frame, FEATURES, PARAMS, 5).model_text
    )


def test_a_model_is_text_files_that_read_back_equal():
    model = fit(spec(), parcels(500), FEATURES, PARAMS, 3)

    files = model.to_files()

    assert set(files) == {"model.txt", "model.json"}
    assert all(isinstance(text, str) for text in files.values())
    assert FittedModel.from_files(files) == model


def test_a_missing_model_file_is_named():
    with pytest.raises(ValueError, match=r"\['model.json'\]"):
        FittedModel.from_files({"model.txt": "tree"})


def test_a_model_knows_how_far_its_labels_reach_and_where_it_decides():
    frame = parcels(500)
    model = fit(spec(), frame, FEATURES, PARAMS, 3)
    assert model.trained_through == frame["label_time"].max()
    assert model.threshold == 0.25
    assert model.categories == {"depot": ("a", "b", "c")}
    assert model.rounds == model.booster.num_trees() == 3


def test_a_regression_has_no_threshold_and_takes_its_declared_objective():
    frame = minutes(parcels(500))
    model = fit(regression_spec(tuning={"fixed": {"objective": "regression_l1"}}), frame, FEATURES, PARAMS, 3)
    assert model.threshold is None
    assert "objective=regression_l1" in model.model_text
    assert base_params(regression_spec())["objective"] == "regression"
    assert cost_threshold(regression_spec()) is None


def test_an_outcome_never_trains():
    frame = parcels(500).with_columns(delivered_minutes=pl.col("label"))
    with pytest.raises(LeakageError, match="delivered_minutes"):
        fit(spec(), frame, (*FEATURES, "delivered_minutes"), PARAMS, 3)


def test_encoding_gives_codes_in_order_and_null_for_what_was_not_learned():
    frame = pl.DataFrame({"depot": ["b", "z", None, "a"], "on": [True, False, None, True], "n": [1, None, 3, 4]})

    encoded = encode(frame, ["n", "depot", "on"], {"depot": ("a", "b")})

    assert encoded.to_dict(as_series=False) == {
        "n": [1.0, None, 3.0, 4.0],
        "depot": [1.0, None, None, 0.0],
        "on": [1.0, 0.0, None, 1.0],
    }
    assert set(encoded.dtypes) == {pl.Float64}


@given(
    learned=st.lists(st.text(max_size=5), min_size=1, unique=True),
    seen=st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=1),
)
def test_any_text_encodes_to_its_place_or_null(learned, seen):
    categories = learn_categories(pl.DataFrame({"c": learned}), ["c"])
    codes = encode(pl.DataFrame({"c": seen}, schema={"c": pl.String}), ["c"], categories)["c"].to_list()
    assert categories["c"] == tuple(sorted(learned, key=lambda text: text.encode()))
    assert codes == [categories["c"].index(text) if text in learned else None for text in seen]


def test_text_that_was_not_learned_as_a_category_is_refused_before_lightgbm_sees_it():
    with pytest.raises(ValueError, match="feature 'depot' is String"):
        encode(pl.DataFrame({"depot": ["a"]}), ["depot"], {})


def test_absent_features_are_named():
    with pytest.raises(ValueError, match=r"features \['x'\] are not among the columns \['n'\]"):
        encode(pl.DataFrame({"n": [1]}), ["n", "x"], {})


@pytest.mark.parametrize(("task", "label"), [(Task.BINARY, 2), (Task.BINARY, None), (Task.REGRESSION, float("nan"))])
def test_labels_the_task_cannot_learn_are_refused(task, label):
    with pytest.raises(ValueError, match=f"1 labels of a {task.value} model are not"):
        check_labels(task, pl.Series([0.0, 1.0, label]))


def test_a_fitted_model_cannot_be_changed():
    model = fit(spec(), parcels(500), FEATURES, PARAMS, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.threshold = 0.9
