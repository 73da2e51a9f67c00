"""How many parameter sets a study tries for its CPU, and what the best of them is worth on rows it never saw.

``python -m ml_platform.benchmarks.tuning halving|median|naive ROWS`` gives each of five seeds the same CPU seconds,
folds, rounds and ranges. The first two are the platform's search by what it is declared to prune with. The naive
objective is the usual one: every trial bins every fold anew and boosts all its rounds. ``trials`` are the means of what
was started, ``complete`` of what was not given up, ``auc`` of the final fits on as many new rows.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ml_platform.benchmarks.measuring import measured, tell
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.splits import folds
from ml_platform.core.training import base_params, dataset, fit, learn_categories
from ml_platform.core.tuning import TrialSummary, suggest, tune
from ml_platform.defs import model

SEEDS, FEATURES = range(5), [f"feature{number}" for number in range(20)]
CPU_SECONDS_A_MILLION = 300.0
"""Given to each seed, for a million rows."""

_BEGIN, _SPAN = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=90)


class _SpentError(Exception):
    """The CPU is used up."""


def rows(number: int, seed: int) -> pl.DataFrame:
    """Labels that depend on some of the features, alone and together, and are mostly chance."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(number, len(FEATURES)))
    told = values[:, 0] + values[:, 1] * values[:, 2] + np.sin(2 * values[:, 3]) + 0.5 * np.maximum(values[:, 4], 0)
    label = random.random(number) < 1 / (1 + np.exp(1.2 - 0.7 * told))
    moments = pl.Series(_BEGIN.timestamp() * 1e6 + np.sort(random.random(number)) * _SPAN.total_seconds() * 1e6)
    known = moments.cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame(
        {
            "flight_id": np.arange(number),
            "prediction_time": known,
            "label_time": known,
            "label": label.astype(int),
            **dict(zip(FEATURES, values.T, strict=True)),
        }
    )


def declared(seed: int, pruning: str = "median") -> ModelSpec:
    """The example's model, whose ranges and rounds are searched, on data of its own."""
    _, spec = model("flight_delay")
    changes = {"trials": 10_000, "pruning": pruning}
    if pruning == "halving":
        # A study of a hundred trials is not declared as one of eight is: a random draw costs little there.
        changes["startup_trials"] = 25
    tuning = spec.tuning.model_copy(update=changes)
    return spec.model_copy(update={"seed": seed, "tuning": tuning})


@dataclass(frozen=True)
class Found:
    """Trials started, those of them that were not given up, and the best parameters and rounds."""

    started: int
    complete: int
    params: dict[str, Any]
    rounds: int


def ours(spec: ModelSpec, train: pl.DataFrame, until: float) -> Found:
    """By the platform's own search."""

    def stop(trial: TrialSummary) -> None:
        # Before one is complete there is nothing to fit; what that takes beyond the budget is in `cpu_seconds`.
        if trial.best_value is not None and time.process_time() > until:
            raise _SpentError

    with tempfile.TemporaryDirectory() as folder:
        storage = f"sqlite:///{Path(folder) / 'study.db'}"
        try:
            tune(spec, train, FEATURES, storage_url=storage, on_trial=stop)
        except _SpentError:
            import optuna

            started = len(optuna.load_study(study_name="study", storage=storage).trials)
        over = spec.model_copy(update={"tuning": spec.tuning.model_copy(update={"trials": started})})
        found = tune(over, train, FEATURES, storage_url=storage)
    return Found(started, started - found.pruned, dict(found.params), found.rounds)


def naive(spec: ModelSpec, train: pl.DataFrame, until: float) -> Found:
    """The same by cross-validation of each trial from the beginning."""
    import lightgbm as lgb
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts = folds(train, spec.windows)

    def objective(trial: "optuna.Trial") -> float:
        params = {**base_params(spec), **suggest(spec, trial), "num_threads": 1}
        losses = []
        for part in parts:
            training, validation = train[part.train_rows], train[part.validation_rows]
            binned = dataset(spec, training, FEATURES, learn_categories(training, FEATURES))
            held_out = lgb.Dataset(
                validation.select(FEATURES).to_numpy(), label=validation["label"].to_numpy(), reference=binned
            )
            booster = lgb.train(params, binned, spec.tuning.max_rounds, valid_sets=[held_out])
            losses.append(booster.best_score["valid_0"]["binary_logloss"])
        return float(np.mean(losses))

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=spec.seed, n_startup_trials=spec.tuning.startup_trials)
    )
    study.optimize(objective, n_trials=1)
    while time.process_time() < until:
        study.optimize(objective, n_trials=1)
    trials = len(study.trials)
    return Found(trials, trials, dict(study.best_params), spec.tuning.max_rounds)


def main(side: str, number: int) -> None:
    """As the module says."""
    import_module("lightgbm")
    import_module("optuna")
    search = naive if side == "naive" else ours
    train, unseen = rows(number, 0), rows(number, 1)
    budget = CPU_SECONDS_A_MILLION * number / 1e6
    trials, complete, areas, spent = [], [], [], []
    for seed in SEEDS:
        spec = declared(seed) if side == "naive" else declared(seed, side)
        found, figures = measured(lambda: search(spec, train, time.process_time() + budget))  # noqa: B023
        trials.append(found.started)
        complete.append(found.complete)
        spent.append(figures["cpu_seconds"])
        fitted = fit(spec, train, FEATURES, found.params, found.rounds)
        areas.append(_auc(fitted.booster.predict(unseen.select(FEATURES).to_numpy()), unseen["label"].to_numpy()))
    tell(
        {
            "trials": float(np.mean(trials)),
            "complete": float(np.mean(complete)),
            "auc": float(np.mean(areas)),
            "aucs": areas,
            "cpu_seconds": float(np.mean(spent)),
        }
    )


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ranks = scores.argsort().argsort() + 1
    positive = int(labels.sum())
    return float((ranks[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(labels) - positive)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
