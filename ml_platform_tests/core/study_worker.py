"""A process that is one worker of a shared study on the parcels; in one of its trials it may wait to be told to go on.

Called with the storage's URL, the study's name, its own name, how many trials the study is to have, which trial of
its own it waits in (-1: none), and how trials are pruned. It prints a line when it is ready, and one when it is in that
trial.
"""

import sys

import ml_platform.core.tuning as tuning
from ml_platform.core.shared_study import Pulse
from ml_platform_tests.core.learning_examples import FEATURES, parcels, spec

PULSE = Pulse(beat=0.2, silence=3.0)


def main(url: str, name: str, worker: str, trials: str, hangs_in: str, pruning: str) -> None:
    """Work until the study is complete, or for ever."""
    declared = spec(tuning={"trials": int(trials), "workers": 2, "pruning": pruning})
    make, begun = tuning.SharedStudy.make, 0

    def watched(shared, claim, objective):
        def objective_that_may_hang(trial):
            nonlocal begun
            begun += 1
            if begun - 1 == int(hangs_in):
                trial.suggest_float("learning_rate", 0.05, 0.3, log=True)
                print("in the trial", flush=True)  # noqa: T201
                sys.stdin.readline()
            return objective(trial)

        return make(shared, claim, objective_that_may_hang)

    tuning.SharedStudy.make = watched
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    made = tuning.work(declared, parcels(1200), FEATURES, storage_url=url, study_name=name, worker=worker, pulse=PULSE)
    print(f"made {made}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
