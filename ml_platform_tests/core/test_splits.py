"""Rows that could not have been known never train."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_platform.core.declared_features import LeakageError, assert_no_outcomes
from ml_platform.core.model_spec import Windows
from ml_platform.core.splits import assert_no_leakage, folds, split
from ml_platform_tests.core.learning_examples import START, parcels

HOUR = timedelta(hours=1)
UTC_TIME = pl.Datetime("us", "UTC")


def labelled(rows: list[tuple[float, float]]) -> pl.DataFrame:
    """Rows by (prediction, label) hours after the start."""
    return pl.DataFrame(
        {
            "row": range(len(rows)),
            "prediction_time": [START + p * HOUR for p, _ in rows],
            "label_time": [START + at * HOUR for _, at in rows],
            "label": [0] * len(rows),
        },
        schema={"row": pl.Int64, "prediction_time": UTC_TIME, "label_time": UTC_TIME, "label": pl.Int8},
    )


def test_a_row_predicted_before_the_cutoff_and_labelled_after_it_is_on_neither_side():
    windows = Windows(training="10d", holdout="1d", minimum_rows=1)
    frame = labelled([(0, 20), (23, 24), (23, 24.01), (24, 26), (24.01, 30), (40, 48), (47, 48.01)])

    found = split(frame, windows, START + 48 * HOUR)

    assert found.cutoff == datetime(2020, 1, 2, tzinfo=UTC)
    assert found.train["row"].to_list() == [0, 1]
    assert found.holdout["row"].to_list() == [4, 5]


def test_rows_older_than_the_training_window_do_not_train():
    windows = Windows(training="1d", holdout="1d", minimum_rows=1)

    found = split(labelled([(0, 20), (1, 20), (30, 40)]), windows, START + 48 * HOUR)

    assert found.train["row"].to_list() == [1]


@given(
    rows=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 200)), min_size=30, max_size=120),
    holdout=st.integers(1, 10),
    fold_count=st.integers(1, 4),
)
def test_no_split_and_no_fold_ever_leaks(rows, holdout, fold_count):
    windows = Windows(training="60d", holdout=f"{holdout}d", folds=fold_count, fold_length="3d", minimum_rows=1)
    frame = labelled([(p, p + wait) for p, wait in rows])
    try:
        found = split(frame, windows, START + 900 * HOUR)
        inner = folds(found.train, windows)
    except LeakageError:
        raise
    except ValueError:
        return

    assert found.train["label_time"].max() <= found.cutoff <= found.holdout["prediction_time"].min()
    assert not set(found.train["row"]) & set(found.holdout["row"])
    for fold in inner:
        train, validation = found.train[fold.train_rows], found.train[fold.validation_rows]
        assert train["label_time"].max() <= fold.start < validation["prediction_time"].min()
        assert validation["prediction_time"].max() <= fold.end
    assert [fold.start for fold in inner[1:]] == [fold.end for fold in inner[:-1]]
    assert inner[-1].end == found.train["label_time"].max()


def test_too_few_training_rows_are_an_error_that_names_the_bound():
    with pytest.raises(ValueError, match=r"2 rows have a label .* `windows.minimum_rows` asks for 3"):
        split(
            labelled([(0, 1), (1, 2), (30, 31)]),
            Windows(training="9d", holdout="1d", minimum_rows=3),
            START + 48 * HOUR,
        )


def test_an_empty_holdout_is_an_error():
    with pytest.raises(ValueError, match="no row is predicted after 2020-01-02 00:00"):
        split(labelled([(0, 1)]), Windows(training="9d", holdout="1d", minimum_rows=1), START + 48 * HOUR)


def test_an_unlabelled_row_is_an_error():
    frame = labelled([(0, 1), (30, 31)]).with_columns(label=pl.lit(None, pl.Int8))
    with pytest.raises(ValueError, match="2 of 2 rows have no label"):
        split(frame, Windows(training="9d", holdout="1d", minimum_rows=1), START + 48 * HOUR)


def test_an_empty_fold_is_an_error_that_names_its_stretch():
    with pytest.raises(ValueError, match=r"fold 1 of 3 validates on .* has 0 training"):
        folds(parcels(200, days=10), Windows(training="60d", holdout="1d", folds=3, fold_length="5d"))


def test_the_guard_refuses_a_label_known_after_the_first_held_out_prediction():
    frame = labelled([(0, 10), (9, 12)])
    with pytest.raises(LeakageError, match="2020-01-01 10:00:00"):
        assert_no_leakage(frame[:1], frame[1:])
    assert_no_leakage(labelled([(0, 9)]), frame[1:])


def test_the_guard_refuses_rows_whose_times_are_unknown():
    unknown = labelled([(0, 1)]).with_columns(label_time=pl.lit(None, UTC_TIME))
    with pytest.raises(LeakageError, match="no `label_time`"):
        assert_no_leakage(unknown, labelled([(5, 6)]))


@pytest.mark.parametrize("name", ["delay", "label", "label_time", "arrivals__delay"])
def test_an_outcome_is_refused_as_a_feature_by_any_of_its_names(name):
    with pytest.raises(LeakageError, match=name):
        assert_no_outcomes(["load", name], ["delay"])


def test_a_feature_that_only_contains_a_denied_name_is_allowed():
    assert_no_outcomes(["delay_mean_7d", "view__delay_mean"], ["delay"])
