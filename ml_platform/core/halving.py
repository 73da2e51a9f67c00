"""Asynchronous successive halving: which trials of a large study are worth another, dearer look.

A trial is looked at on rungs, each of which costs several times the one before. Of those that have reached a rung, the
best fifth so far passes it. Whoever arrives is judged at once, so no trial waits for another, and one that was given
up is not taken up again when its rung fills.

Source: Li, Jamieson, Rostamizadeh, Gonina, Hardt, Recht and Talwalkar, "A System for Massively Parallel Hyperparameter
Tuning" (ASHA), arXiv 1810.05934, 2018; what "a look" costs is free in it, and was rounds or rows alone in "Hyperband"
(Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar, JMLR 18, 2018). Rung by rung each look here has four times the rows
and twice the rounds (:func:`rungs`); docs/adr/0014 has the measurements.

Belongs here: rungs, and who passes one. What is boosted there is :mod:`ml_platform.core.tuning`'s.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ml_platform.core.model_spec import HALVING_REDUCTION, HALVING_RUNGS

if TYPE_CHECKING:
    import optuna

_ROWS, _ROUNDS = 4, 2
"""How many times as many a rung has as the one before."""

FEWEST_ROWS = 4_000
"""A sample has no fewer: boosting fewer rows is hardly cheaper, and what it finds is chance."""

FIRST_RUNG = 1

PATIENCE = HALVING_REDUCTION**2
"""Trials that may begin before one must become complete, whatever it is worth."""


@dataclass(frozen=True)
class Rung:
    """How many training rows of the newest fold are boosted, and for how many rounds at most."""

    rows: int
    rounds: int


def rungs(training_rows: int, max_rounds: int) -> list[Rung]:
    """The rungs, cheapest first; the last has all rows and rounds.

    Rows are a quarter and rounds a half of the next rung's. Fewer rounds of all rows would order trials by how fast
    they learn, as many rounds of fewer rows by how little; with both reduced the order comes closest to the final one.
    """
    below = [HALVING_RUNGS - 1 - rung for rung in range(HALVING_RUNGS)]
    return [
        Rung(
            rows=min(training_rows, max(FEWEST_ROWS, training_rows // _ROWS**steps)),
            rounds=math.ceil(max_rounds / _ROUNDS**steps),
        )
        for steps in below
    ]


def halving_pruner() -> "optuna.pruners.BasePruner":
    """A pruner that keeps a trial if it is among the best fifth of those that reached its rung, its last ``step``.

    None passes the first rung until five have reached it; the others are passed by whatever is the best so far, too. If
    chance lets none become complete, the first that comes after :data:`PATIENCE` trials is.

    It differs in three things from Optuna's SuccessiveHalvingPruner. That lets the best so far pass the first rung too,
    so that the first trial, the dearest of all, is drawn at random, and those drawn after it lie near it. Trials whose
    worker was killed do not count here: they are made again with the same draw and would count twice, and a resumed
    study would not end as an uninterrupted one. And some trial is always complete: the best of a rung could die after
    it had outdone all others.
    """
    from optuna.pruners import BasePruner

    class HalvingPruner(BasePruner):
        def prune(self, study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> bool:
            return _given_up(study, trial)

    return HalvingPruner()


def _given_up(study: "optuna.Study", trial: "optuna.trial.FrozenTrial") -> bool:
    from optuna.trial import TrialState

    rung = trial.last_step
    if rung is None:
        return False
    living = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    others = [t for t in study.get_trials(deepcopy=False, states=living) if t.number != trial.number]
    begun = sum(FIRST_RUNG in t.intermediate_values for t in others)
    if begun >= PATIENCE and not any(t.state is TrialState.COMPLETE for t in others):
        return False
    value = trial.intermediate_values[rung]
    reached = [value, *(t.intermediate_values[rung] for t in others if rung in t.intermediate_values)]
    passing = max(int(rung > FIRST_RUNG), len(reached) // HALVING_REDUCTION)
    best = sorted(reached, key=lambda loss: (math.isnan(loss), loss))[:passing]
    return not any(value <= loss for loss in best)
