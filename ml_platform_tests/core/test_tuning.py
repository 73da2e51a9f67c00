"""A study is repeatable, resumable and spends its budget once."""

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from ml_platform.core.declared_features import LeakageError
from ml_platform.core.splits import folds
from ml_platform.core.training import base_params, dataset, learn_categories
from ml_platform.core.tuning import TrialSummary, study_name, tune
from ml_platform_tests.core.learning_examples import FEATURES, minutes, parcels, regression_spec, spec

TRAIN = parcels(1200)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_study_gives_the_same_result_again_and_its_rounds_and_folds_are_those_of_the_best_trial():
    seen: list[TrialSummary] = []

    first = tune(spec(), TRAIN, FEATURES, on_trial=seen.append)
    second = tune(spec(), TRAIN.sample(fraction=1.0, shuffle=True, seed=2), FEATURES)

    assert first.params == second.params
    assert first.trials.equals(second.trials)
    assert (first.rounds, first.fold_values) == (second.rounds, second.fold_values)
    assert [(each.number, each.budget) for each in seen] == [(number, 5) for number in range(5)]
    assert first.best_value == pytest.approx(sum(first.fold_values) / 2)
    assert first.best_value == min(each.value for each in seen if each.state == "complete") == seen[-1].best_value
    assert len(first.fold_values) == 2
    assert 1 <= first.rounds <= 40
    assert first.metric == "binary_logloss"
    assert set(first.params) == {"learning_rate", "num_leaves"}
    draws = first.trials.select("learning_rate", "num_leaves")
    assert draws.is_unique().all()


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_change_the_time_a_study_takes_and_not_a_digit_of_it(threads):
    one = tune(spec(), TRAIN, FEATURES)
    many = tune(spec(tuning={"threads": threads}), TRAIN, FEATURES)
    assert one.trials.equals(many.trials)
    assert one.fold_values == many.fold_values


def test_rounds_and_fold_values_are_those_of_naive_training_on_each_fold():
    import lightgbm as lgb

    declared = spec(tuning={"trials": 1, "max_rounds": 60, "search": {"learning_rate": {"low": 0.3, "high": 0.3}}})
    result = tune(declared, TRAIN, FEATURES)

    frame = TRAIN.sort("parcel_id")
    binned = dataset(declared, frame, FEATURES, learn_categories(frame, FEATURES))
    curves = []
    for fold in folds(frame, declared.windows):
        training, validation = (binned.subset(rows.tolist()) for rows in (fold.train_rows, fold.validation_rows))
        record: dict[str, dict[str, list[float]]] = {}
        params = {**base_params(declared), **result.params}
        lgb.train(params, training, 60, valid_sets=[validation], callbacks=[lgb.record_evaluation(record)])
        curves.append(record["valid_0"]["binary_logloss"])
    mean = np.mean(curves, axis=0)
    best = next(r for r in range(60) if r == 59 or mean[r] < mean[r + 1 : r + 9].min())
    assert best < 50
    assert result.fold_values == tuple(curve[best] for curve in curves)
    assert result.rounds == int(np.median([np.argmin(curve[: best + 9]) + 1 for curve in curves]))


def test_a_killed_study_resumes_with_the_missing_trials_only_and_ends_as_an_uninterrupted_one(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"

    def die(trial: TrialSummary) -> None:
        if trial.number == 2:
            raise Killed

    with pytest.raises(Killed):
        tune(spec(), TRAIN, FEATURES, storage_url=url, study_name="s", on_trial=die)
    zombie = optuna.load_study(study_name="s", storage=url).ask()
    later: list[TrialSummary] = []
    resumed = tune(spec(), TRAIN, FEATURES, storage_url=url, study_name="s", on_trial=later.append)
    again: list[TrialSummary] = []
    finished = tune(spec(), TRAIN, FEATURES, storage_url=url, study_name="s", on_trial=again.append)

    whole = tune(spec(), TRAIN, FEATURES)
    states = [trial.state for trial in optuna.load_study(study_name="s", storage=url).get_trials()]
    assert states[zombie.number] == TrialState.FAIL
    assert len(later) == 2
    assert again == []
    columns = [name for name in whole.trials.columns if name != "trial"]
    assert resumed.trials.select(columns).equals(whole.trials.select(columns))
    assert resumed.params == finished.params == whole.params
    assert resumed.fold_values == whole.fold_values


def test_a_larger_budget_runs_only_the_trials_it_adds(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    tune(spec(tuning={"trials": 2}), TRAIN, FEATURES, storage_url=url, study_name="s")
    added: list[TrialSummary] = []
    tune(spec(tuning={"trials": 3}), TRAIN, FEATURES, storage_url=url, study_name="s", on_trial=added.append)
    assert [each.number for each in added] == [2]


def test_a_hopeless_trial_is_pruned():
    search = {"learning_rate": {"low": 0.05, "high": 0.3}, "lambda_l2": {"low": 1e-3, "high": 1e6, "log": True}}
    result = tune(spec(tuning={"trials": 8, "search": search, "max_rounds": 80}), TRAIN, FEATURES)
    assert result.pruned > 0
    assert result.trials.filter(result.trials["trial"] == result.best_trial)["state"].item() == "complete"
    assert result.trials["best_value"].to_list() == sorted(result.trials["best_value"], reverse=True)


def test_a_failed_trial_is_recorded_as_failed_and_the_error_is_told(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    broken = spec(tuning={"fixed": {"objective": "no_such_objective"}})
    with pytest.raises(Exception, match="no_such_objective"):
        tune(broken, TRAIN, FEATURES, storage_url=url, study_name="s")
    [trial] = optuna.load_study(study_name="s", storage=url).get_trials()
    assert trial.state == TrialState.FAIL


def test_an_outcome_is_never_tuned_on():
    with pytest.raises(LeakageError, match="label_time"):
        tune(spec(), TRAIN, (*FEATURES, "label_time"))


def test_a_parameter_of_the_binning_cannot_be_searched():
    with pytest.raises(ValueError, match=r"\['max_bin'\] decide the binning"):
        tune(spec(tuning={"search": {"max_bin": {"low": 15, "high": 255, "integer": True}}}), TRAIN, FEATURES)


def test_a_regression_is_tuned_on_the_loss_of_its_objective():
    declared = regression_spec(tuning={"trials": 1, "fixed": {"objective": "regression_l1"}})
    assert tune(declared, minutes(TRAIN), FEATURES).metric == "l1"


def test_a_study_is_named_by_what_its_values_depend_on():
    name = study_name(spec(), "abc")
    assert name.startswith("parcel_late-")
    assert name == study_name(spec(tuning={"trials": 99}), "abc")
    others = [study_name(spec(), "abd"), study_name(spec(seed=6), "abc"), study_name(spec(windows={"folds": 3}), "abc")]
    assert len({name, *others}) == 4
