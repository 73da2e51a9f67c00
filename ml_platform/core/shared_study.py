"""One study and several workers: who makes which trial, and what becomes of one whose worker died.

Optuna's storage is all that workers have in common, and nothing in it says that a process is gone. So a study of n
trials has n places, and a trial holds its place unless it failed, or an earlier trial holds it. Trials are made one
after the other (the storage locks the study's row), so that of two workers that want one place both see who was first.
A worker says again and again that it lives. One that was silent for long, by the clock of whoever looks, has its trial
failed: from then on the storage refuses what it says, and its place is free.

Belongs here: places, and signs of life. What a trial does is :mod:`ml_platform.core.tuning`'s.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import optuna

PLACE, SEED, WORKER, _BEAT = "place", "seed", "worker", "beat"
"""Attributes of a trial, by which the study records who drew what."""

_SAME_DRAW = 2
"""How often a place is tried with the same draw; a trial that kills its workers would do so for ever."""


@dataclass(frozen=True)
class Pulse:
    """How often a worker says that it lives, and after what silence its trial is another's; seconds."""

    beat: float = 5.0
    silence: float = 60.0


PULSE = Pulse()


@dataclass(frozen=True)
class Claim:
    """A trial that this worker makes: of 0, 1, … the ``place`` among the trials that the study is to have."""

    place: int
    trial: "optuna.Trial"


class SharedStudy:
    """A study as one of its workers sees it.

    Args:
        study: the study; its sampler is set for every trial.
        storage: the study's own.
        trials: how many finished trials it is to have.
        worker: a name that no other process has while this one lives. A worker that is started again under its name
            takes back what it held: whoever starts it knows that the process before it is gone.
        pulse: signs of life.
    """

    def __init__(
        self,
        study: "optuna.Study",
        storage: "optuna.storages.BaseStorage",
        trials: int,
        worker: str,
        pulse: Pulse,
    ) -> None:
        self._study, self._storage, self._trials, self._worker, self._pulse = study, storage, trials, worker, pulse
        self._id = storage.get_study_id_from_name(study.study_name)
        self._heard: dict[int, tuple[object, float]] = {}
        for trial in self._running():
            if trial.user_attrs.get(WORKER) == worker:
                self._give_up(trial)

    def claim(self, seed: int, sampler: "Callable[[int], optuna.samplers.BaseSampler]") -> Claim | None:
        """The next trial to make; None once every place has a finished one.

        While all that is left is made by others, this waits: one of them may die.

        Args:
            seed: the model's; with the place it decides the draw.
            sampler: makes one of a seed.
        """
        import optuna
        from optuna.trial import TrialState

        while True:
            self._end_the_silent()
            trials = self._study.get_trials(deepcopy=False)
            held = {t.user_attrs[PLACE] for t in trials if PLACE in t.user_attrs and t.state is not TrialState.FAIL}
            place = next((place for place in range(self._trials) if place not in held), None)
            if place is None:
                if not any(t.state is TrialState.RUNNING and t.user_attrs[PLACE] < self._trials for t in trials):
                    return None
                time.sleep(min(1.0, self._pulse.beat))
                continue
            failed = sum(t.user_attrs.get(PLACE) == place for t in trials)
            drawn = place_seed(seed, place, failed)
            mine = self._storage.create_new_trial(
                self._id,
                optuna.trial.create_trial(
                    state=TrialState.RUNNING, user_attrs={PLACE: place, SEED: drawn, WORKER: self._worker}
                ),
            )
            if self._holds(mine, place):
                self._study.sampler = sampler(drawn)
                return Claim(place, optuna.trial.Trial(self._study, mine))
            self._storage.set_trial_state_values(mine, state=TrialState.FAIL)

    def make(self, claim: Claim, objective: "Callable[[optuna.Trial], float]") -> "optuna.trial.FrozenTrial | None":
        """The finished trial, or None if this worker was thought dead and the place is another's."""
        import optuna
        from optuna.trial import TrialState

        trial = claim.trial
        try:
            with self._living(trial._trial_id):
                try:
                    return self._study.tell(trial, objective(trial))
                except optuna.TrialPruned:
                    return self._study.tell(trial, state=TrialState.PRUNED)
        except Exception:
            if self._storage.get_trial(trial._trial_id).state is TrialState.FAIL:
                # Reports, attributes and results are refused: whatever the worker would say of it came too late.
                return None
            self._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            raise
        except BaseException:
            # It is being ended: others need not wait for its silence.
            with suppress(optuna.exceptions.OptunaError):
                self._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            raise

    def finished(self) -> "list[optuna.trial.FrozenTrial]":
        """The finished trials by their places."""
        from optuna.trial import TrialState

        told = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return sorted((t for t in told if t.user_attrs[PLACE] < self._trials), key=lambda t: int(t.user_attrs[PLACE]))

    def _holds(self, mine: int, place: int) -> bool:
        """Whether no trial made before mine holds the place; those made later ask the same and yield."""
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        number = next(t.number for t in trials if t._trial_id == mine)
        return not any(
            t.user_attrs.get(PLACE) == place and t.number < number and t.state is not TrialState.FAIL for t in trials
        )

    def _running(self) -> "list[optuna.trial.FrozenTrial]":
        from optuna.trial import TrialState

        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _end_the_silent(self) -> None:
        """Fail the trials that gave no sign while this worker's own clock went on: machines' clocks differ."""
        now = time.monotonic()
        running = self._running()
        for trial in running:
            beat = trial.user_attrs.get(_BEAT)
            said, since = self._heard.setdefault(trial._trial_id, (beat, now))
            if said != beat:
                self._heard[trial._trial_id] = (beat, now)
            elif now - since > self._pulse.silence:
                self._give_up(trial)
        self._heard = {t._trial_id: self._heard[t._trial_id] for t in running}

    def _give_up(self, trial: "optuna.trial.FrozenTrial") -> None:
        import optuna
        from optuna.trial import TrialState

        try:
            self._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
        except optuna.exceptions.UpdateFinishedTrialError:
            return  # It ended, or another worker was faster.
        logging.getLogger(__name__).warning(
            "trial %s of worker %s gave no sign of life: it is made again", trial.number, trial.user_attrs.get(WORKER)
        )

    @contextmanager
    def _living(self, trial_id: int) -> Iterator[None]:
        """Say again and again that the trial is being made."""
        ended = threading.Event()

        def beat() -> None:
            import optuna

            count = 0
            while not ended.wait(self._pulse.beat):
                count += 1
                try:
                    self._storage.set_trial_user_attr(trial_id, _BEAT, count)
                except optuna.exceptions.UpdateFinishedTrialError:
                    return
                except optuna.exceptions.StorageInternalError as error:
                    # The database may be back before the silence is too long.
                    logging.getLogger(__name__).warning("no sign of life could be given: %s", error)

        thread = threading.Thread(target=beat, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def place_seed(seed: int, place: int, failed: int = 0) -> int:
    """Of a place's draw; the same if it is drawn again, unless it failed before more than once."""
    entropy = [seed, place] if failed < _SAME_DRAW else [seed, place, failed]
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
