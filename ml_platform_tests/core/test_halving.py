"""Most trials of a large study are given up where they cost little, and what is found is as good as it says."""

import math
from collections import Counter
from typing import Any

import optuna
import polars as pl
import pytest
from optuna.trial import TrialState
from pydantic import ValidationError

import ml_platform.core.tuning as tuning
from ml_platform.core.halving import PATIENCE, Rung, halving_pruner, rungs
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.recipe import as_declared, code_version, declaration
from ml_platform.core.splits import folds
from ml_platform.core.tuning import TrialSummary, TuningResult, study_name, tune
from ml_platform_tests.core.learning_examples import FEATURES, parcels, spec

TRAIN = parcels(1200)
TRIALS = 125


class Killed(BaseException):
    """Stands for the end of the process."""


def halved(**changes: Any) -> ModelSpec:
    return spec(tuning={"trials": TRIALS, "pruning": "halving", **changes})


@pytest.fixture(scope="module")
def found() -> TuningResult:
    return tune(halved(), TRAIN, FEATURES)


def passed(rung: int, *losses: float) -> list[bool]:
    """Which of the trials that reach a rung one after the other, with these losses, pass it."""
    study = optuna.create_study(pruner=halving_pruner())
    answers = []
    for loss in losses:
        trial = study.ask()
        trial.report(loss, step=rung)
        answers.append(not trial.should_prune())
        if answers[-1]:
            study.tell(trial, loss)
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return answers


def test_the_first_rung_is_passed_by_the_best_fifth_so_far() -> None:
    assert passed(1, 5, 6, 4, 3, 2, 2, 1, 1.5, 1.5, 1.5) == [*[False] * 4, True, True, True, False, False, True]
    first_nine = (1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert passed(1, *first_nine, 2.5) == [False] * 10
    assert passed(1, *first_nine, 1.5) == [*[False] * 9, True]


@pytest.mark.parametrize("rung", [2, 3])
def test_the_other_rungs_are_passed_by_the_best_so_far_too(rung: int) -> None:
    assert passed(rung, 5, 6, 4, 3, 7, 2) == [True, False, True, True, False, True]
    assert passed(rung, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1.5) == [True, *[False] * 8, True]


def test_a_loss_that_is_no_number_does_not_pass_and_stands_in_no_ones_way() -> None:
    assert passed(1, *[math.nan] * 4, 2.0, 1.0) == [*[False] * 4, True, True]


def test_rungs_are_compared_apart() -> None:
    study = optuna.create_study(pruner=halving_pruner())
    first, second = study.ask(), study.ask()
    for trial, loss in ((first, 1.0), (second, 2.0)):
        assert not trial.should_prune()
        trial.report(loss, step=2)
    assert second.should_prune()
    assert not first.should_prune()
    first.report(3.0, step=3)
    second.report(2.5, step=3)
    assert not second.should_prune()
    assert first.should_prune()


def test_some_trial_becomes_complete_however_much_worse_each_is_than_the_last() -> None:
    worse_and_worse = passed(1, *range(40))
    assert worse_and_worse.index(True) == PATIENCE
    assert sum(worse_and_worse) == 1


def test_a_trial_whose_worker_died_does_not_count() -> None:
    study = optuna.create_study(pruner=halving_pruner())
    dead, again = study.ask(), study.ask()
    dead.report(1.0, step=2)
    again.report(1.5, step=2)
    assert again.should_prune()
    study.tell(dead, state=TrialState.FAIL)
    assert not again.should_prune()


def test_each_rung_has_four_times_the_rows_and_twice_the_rounds() -> None:
    assert rungs(160_000, 200) == [Rung(10_000, 50), Rung(40_000, 100), Rung(160_000, 200)]
    assert rungs(20_000, 30) == [Rung(4_000, 8), Rung(5_000, 15), Rung(20_000, 30)]
    assert rungs(900, 1) == [Rung(900, 1)] * 3


def test_most_trials_are_given_up_early_and_the_best_is_a_finished_one(found: TuningResult) -> None:
    assert found.trials.height == TRIALS
    assert found.pruned > TRIALS / 2
    places = Counter(found.trials["rung"].to_list())
    assert places[1] > TRIALS / 2
    assert set(places) <= {None, 1, 2, 3}
    complete = found.trials.filter(pl.col("state") == "complete")
    assert complete["rung"].null_count() == complete.height == TRIALS - found.pruned == places[None]
    assert found.trials.filter(state="pruned").filter(rung=1)["rounds"].max() <= 10
    assert found.best_trial in complete["trial"]
    assert found.best_value == complete["value"].min()
    best_so_far = found.trials["best_value"].drop_nulls().to_list()
    assert best_so_far == sorted(best_so_far, reverse=True)


def test_what_passed_every_rung_is_worth_what_it_is_worth_without_rungs(found: TuningResult) -> None:
    search = {
        name: {"low": value, "high": value, "integer": isinstance(value, int)} for name, value in found.params.items()
    }
    alone = tune(spec(tuning={"trials": 1, "search": search}), TRAIN, FEATURES)
    assert alone.params == found.params
    assert alone.fold_values == found.fold_values
    assert (alone.best_value, alone.rounds, alone.metric) == (found.best_value, found.rounds, found.metric)


@pytest.mark.parametrize("threads", [1, 8])
def test_it_finds_the_same_every_time_whatever_the_order_of_rows_and_the_threads(
    found: TuningResult, threads: int
) -> None:
    again = tune(halved(threads=threads), TRAIN.sample(fraction=1.0, shuffle=True, seed=2), FEATURES)
    assert again.trials.equals(found.trials)
    assert again.fold_values == found.fold_values


def test_a_killed_study_ends_as_an_uninterrupted_one(found: TuningResult, tmp_path: Any) -> None:
    kept = {"storage_url": f"sqlite:///{tmp_path / 'studies.db'}", "study_name": "s"}

    def die(trial: TrialSummary) -> None:
        if trial.number == 20:
            raise Killed

    with pytest.raises(Killed):
        tune(halved(), TRAIN, FEATURES, **kept, on_trial=die)
    zombie = optuna.load_study(study_name="s", storage=kept["storage_url"]).ask()
    for rung in (1, 2, 3):
        zombie.report(0.0, step=rung)
    later: list[TrialSummary] = []
    resumed = tune(halved(), TRAIN, FEATURES, **kept, on_trial=later.append)
    columns = [name for name in found.trials.columns if name != "trial"]
    assert len(later) == TRIALS - 21
    assert resumed.trials.select(columns).equals(found.trials.select(columns))
    assert resumed.params == found.params
    assert resumed.fold_values == found.fold_values


def test_low_rungs_boost_a_sample_of_the_newest_fold_and_only_what_passed_boosts_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train, boosted = parcels(24_000), []
    booster = tuning._booster

    def seen(params: Any, data: Any) -> Any:
        boosted.append(data[0].num_data())
        return booster(params, data)

    monkeypatch.setattr(tuning, "_booster", seen)
    result = tune(halved(max_rounds=4), train, FEATURES)
    oldest, newest = (len(fold.train_rows) for fold in folds(train, halved().windows))
    places = Counter(result.trials["rung"].to_list())
    assert newest // 4 > 4_000
    assert Counter(boosted) == {
        4_000: TRIALS,
        newest // 4: TRIALS - places[1],
        newest: TRIALS - places[1] - places[2],
        oldest: places[None],
    }


def test_too_few_trials_are_refused_and_so_is_another_way() -> None:
    with pytest.raises(ValidationError, match=r"`pruning: halving` of 124 trials.*125.*pruning: median"):
        halved(trials=124)
    with pytest.raises(ValidationError, match="'median' or 'halving'"):
        halved(pruning="hyperband")


def test_the_default_is_called_what_it_was_before_there_was_a_choice() -> None:
    before, said, other = spec(), spec(tuning={"pruning": "median"}), halved()
    assert "pruning" not in before.tuning.model_dump_json() + said.tuning.model_dump_json()
    assert "pruning" not in declaration(before)
    # What version 0.1.0 gave for the same declaration: studies are found again, and nothing is trained anew.
    assert code_version(said, "x") == "ded6ba17d2699ec88dbb0b33a4066b62"
    median = spec(tuning={"trials": TRIALS})
    assert study_name(other, "a") != study_name(median, "a") == study_name(before, "a")
    assert code_version(other, "x") != code_version(median, "x")
    assert as_declared(before, declaration(other)).tuning.pruning == "halving"
    assert as_declared(other, declaration(before)).tuning.pruning == "median"
    assert "rung" not in tune(spec(tuning={"trials": 2}), TRAIN, FEATURES).trials.columns
