"""Searching parameters: a resumable Optuna study over time-ordered folds, binned once.

Belongs here: the study and what a trial does. The only I/O is Optuna's storage, whose URL the caller
passes in. Unless the declaration says otherwise, a study has one worker, comes out the same every time, and a trial
found running belongs to a process that was killed; several share it by :mod:`ml_platform.core.shared_study`.
"""

import fcntl
import hashlib
import logging
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ml_platform.core.declared_features import assert_no_outcomes
from ml_platform.core.halving import halving_pruner, rungs
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.shared_study import PLACE, PULSE, Pulse, SharedStudy, place_seed
from ml_platform.core.splits import Fold, folds
from ml_platform.core.training import Params, base_params, check_labels, dataset, learn_categories

if TYPE_CHECKING:
    import lightgbm as lgb
    import optuna

WARMUP_PROGRESS = 3
"""Units of ``learning_rate * rounds`` before a trial may be pruned: 30 rounds at a learning rate of 0.1."""

_TOGETHER, _AHEAD = 4, 8
"""Rounds that a fold is boosted at a time, and by how many it may be ahead of the slowest."""

_ADVISORY_LOCK = 7_215_330_919
"""Any number that nothing else in the database locks."""

_ONE_THREAD: Params = {"num_threads": 1}

_BINNING = (
    "max_bin",
    "min_data_in_bin",
    "bin_construct_sample_cnt",
    "max_bin_by_feature",
    "use_missing",
    "zero_as_missing",
)


@dataclass(frozen=True)
class TrialSummary:
    """One finished trial, as a progress line needs it. ``value`` is the mean validation loss over folds."""

    number: int
    budget: int
    state: str
    value: float
    best_value: float | None
    rounds: int
    params: Params


@dataclass(frozen=True)
class TuningResult:
    """What the study found.

    ``rounds`` is the median over folds of the best trial's best rounds; ``fold_values`` are its validation losses
    by fold, oldest first; ``trials`` has a row per finished trial: ``trial``, ``state`` (complete or
    pruned), ``value``, ``best_value`` (so far), ``rounds`` and a column per searched parameter. Where trials are halved
    it also has ``rung``, the one (from 1) at which a trial was given up, null if none: its ``value`` and ``rounds`` are
    those of that rung, and to be compared with others of it alone.
    """

    study_name: str
    metric: str
    params: Params
    rounds: int
    best_trial: int
    best_value: float
    fold_values: tuple[float, ...]
    trials: pl.DataFrame

    @property
    def pruned(self) -> int:
        """Trials given up early."""
        return self.trials.filter(pl.col("state") == "pruned").height


def study_name(spec: ModelSpec, data_hash: str) -> str:
    """A study's name: the model, and a hash of the data and of all that decides what a trial's value means."""
    meaning = "\n".join(
        [
            data_hash,
            spec.task.value,
            spec.tuning.model_dump_json(exclude={"trials"}),
            spec.windows.model_dump_json(),
            str(spec.seed),
        ]
    )
    return f"{spec.name}-{hashlib.sha256(meaning.encode()).hexdigest()[:16]}"


def tune(
    spec: ModelSpec,
    train: pl.DataFrame,
    features: Sequence[str],
    *,
    storage_url: str | None = None,
    study_name: str = "study",
    on_trial: Callable[[TrialSummary], None] = lambda _: None,
    worker: str = "",
    pulse: Pulse = PULSE,
) -> TuningResult:
    """Search ``spec.tuning`` by TPE until its budget of finished trials is spent.

    A study that exists under ``study_name`` is resumed: its finished trials count, those a killed
    process left running are failed and run again with the same draw, so that a resumed study ends as an
    uninterrupted one. Every trial boosts all folds side by side, on ``tuning.threads`` threads between them; the
    median pruner sees the mean of their validation losses, and a trial stops when no new best mean came for
    ``early_stopping_rounds``. Bins are made once from all of ``train`` (feature quantiles, never labels, are shared
    between folds).

    With ``pruning: halving`` a trial first boosts the newest fold alone, on one thread: some of its rows for some of
    the rounds, and if it is among the best fifth of those that did so before, more (:mod:`ml_platform.core.halving`).
    Only what passes every rung boosts all folds, and only that can be the best. TPE learns from the others too: it
    holds those better that came further.

    If several workers are declared, this is one more of them: it makes what is left, and ends when all is made.

    Args:
        spec: the declaration; ``tuning``, ``windows``, ``denied`` and ``seed`` matter here.
        train: the training rows of the split: keys, ``prediction_time``, ``label``, ``label_time``, features.
        features: the feature service's, in its order.
        storage_url: Optuna's storage, ``sqlite:///…`` or ``postgresql+psycopg2://…``; None keeps the study in memory.
        study_name: see :func:`study_name`.
        on_trial: called after every trial run now.
        worker: see :func:`work`; of no meaning to a study of one worker, as the pulse.
        pulse: see :func:`work`.

    Raises:
        LeakageError: a feature is an outcome.
        ValueError: a fold is empty, a label is invalid, or a parameter that decides the binning is searched.
    """
    from optuna.trial import TrialState

    if spec.tuning.workers > 1:
        study, storage = _open(spec, train, features, storage_url, study_name)
        shared = SharedStudy(study, storage, spec.tuning.trials, worker or uuid.uuid4().hex, pulse)
        _share(spec, train, features, study, shared, on_trial)
        return _result(spec, study, shared.finished())
    study, _ = _open(spec, train, features, storage_url, study_name)
    for zombie in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(zombie.number, state=TrialState.FAIL)
    finished = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    if finished < spec.tuning.trials:
        data = _study_data(spec, train.sort(spec.keys), features)
        with ThreadPoolExecutor(min(spec.tuning.threads, len(data.folds)), initializer=_set_up) as workers:
            objective = partial(_objective, spec, workers, data)
            for index in range(finished, spec.tuning.trials):
                study.sampler = _sampler(spec, index)
                on_trial(_run(study, objective, spec.tuning.trials))
    finished_now = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    # A study made under a larger budget has more: what they found is not what this budget finds.
    return _result(spec, study, finished_now[: spec.tuning.trials])


def work(
    spec: ModelSpec,
    train: pl.DataFrame,
    features: Sequence[str],
    *,
    storage_url: str,
    study_name: str,
    worker: str,
    pulse: Pulse = PULSE,
    on_trial: Callable[[TrialSummary], None] = lambda _: None,
) -> int:
    """Be one of several workers of a study until all its trials are made; how many were made here.

    Exactly the declared number of trials finishes, whoever joins, leaves or dies. Each has a seed of its own, which the
    study records with the worker's name. Which parameters are found depends on who was how fast: only a study of one
    worker comes out the same every time.

    Args:
        spec: as for :func:`tune`, like all that is not told here.
        train: the training rows of the split.
        features: the feature service's, in its order.
        storage_url: Optuna's storage, which all workers reach.
        study_name: see :func:`study_name`.
        worker: a name that no other living process has; one that was killed is to be started again under its own.
        pulse: how often it says that it lives, and how long others may be silent.
        on_trial: called after every trial made here.

    Raises:
        LeakageError, ValueError: as :func:`tune`.
    """
    study, storage = _open(spec, train, features, storage_url, study_name)
    return _share(
        spec, train, features, study, SharedStudy(study, storage, spec.tuning.trials, worker, pulse), on_trial
    )


def storage_errors() -> "tuple[type[Exception], ...]":
    """What :func:`work` raises when the storage cannot be reached: the same worker may succeed later."""
    import optuna

    return (optuna.exceptions.StorageInternalError,)


def _share(
    spec: ModelSpec,
    train: pl.DataFrame,
    features: Sequence[str],
    study: "optuna.Study",
    shared: SharedStudy,
    on_trial: Callable[[TrialSummary], None],
) -> int:
    made = 0
    with ExitStack() as stack:
        objective: Callable[[optuna.Trial], float] | None = None
        while (claim := shared.claim(spec.seed, partial(_tpe, spec, shared=True))) is not None:
            if objective is None:
                data = _study_data(spec, train.sort(spec.keys), features)
                threads = min(spec.tuning.threads, len(data.folds))
                workers = stack.enter_context(ThreadPoolExecutor(threads, initializer=_set_up))
                objective = partial(_objective, spec, workers, data)
            told = shared.make(claim, objective)
            if told is not None:
                made += 1
                on_trial(_summary(study, told, claim.place, spec.tuning.trials))
    return made


def _open(
    spec: ModelSpec, train: pl.DataFrame, features: Sequence[str], storage_url: str | None, study_name: str
) -> "tuple[optuna.Study, optuna.storages.BaseStorage]":
    """The study, made if there is none, of a declaration and rows that can be searched."""
    import optuna

    assert_no_outcomes(features, spec.denied)
    check_labels(spec.task, train["label"])
    if binning := sorted(set(spec.tuning.search) & set(_BINNING)):
        raise ValueError(f"{binning} decide the binning, which is done once: put them under `tuning.fixed`")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    storage = optuna.storages.get_storage(_storage(storage_url))
    study = optuna.create_study(
        study_name=study_name,
        storage=storage,
        load_if_exists=True,
        direction="minimize",
        pruner=_pruner(spec),
    )
    return study, storage


def _pruner(spec: ModelSpec) -> "optuna.pruners.BasePruner":
    import optuna

    if spec.tuning.pruning == "halving":
        return halving_pruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=max(1, spec.tuning.startup_trials), n_warmup_steps=WARMUP_PROGRESS
    )


def _storage(url: str | None) -> "optuna.storages.BaseStorage | None":
    import optuna

    if url is None:
        return None
    # Two models tuned at once share one SQLite file: wait for the other's commit instead of failing.
    engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    with _making_tables(url):
        return optuna.storages.RDBStorage(url, engine_kwargs=engine)


@contextmanager
def _making_tables(url: str) -> Iterator[None]:
    """Let one process at a time look whether Optuna's tables are there, and make them.

    Workers that find a new database at once would fail on each other's: Optuna looks first and makes then.
    """
    if url.startswith("sqlite:///"):
        with Path(f"{url.removeprefix('sqlite:///')}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    if not url.startswith("postgresql"):
        yield
        return
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect() as connection:
        # It goes with the connection, however the process ends.
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
        yield


def _sampler(spec: ModelSpec, index: int) -> "optuna.samplers.BaseSampler":
    """TPE seeded by the model's seed and the trial's place: a resumed study would else repeat its draws."""
    return _tpe(spec, place_seed(spec.seed, index))


def _tpe(spec: ModelSpec, seed: int, *, shared: bool = False) -> "optuna.samplers.BaseSampler":
    """TPE; of a shared study it keeps away from what others are trying."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=spec.tuning.startup_trials, constant_liar=shared)


FoldData = tuple["lgb.Dataset", "lgb.Dataset"]


@dataclass(frozen=True)
class _Rung:
    """Part of the newest fold's training rows and all it validates on, and for how many rounds at most."""

    data: FoldData
    rounds: int


@dataclass(frozen=True)
class _StudyData:
    """Training and validation part of each fold, oldest first, and the rungs below them where trials are halved."""

    folds: list[FoldData]
    rungs: list[_Rung]


def _study_data(spec: ModelSpec, train: pl.DataFrame, features: Sequence[str]) -> _StudyData:
    """All that trials are made of, from rows that are binned together."""
    binned = dataset(spec, train, features, learn_categories(train, features))

    def part(rows: Any) -> "lgb.Dataset":
        return binned.subset(rows.tolist(), params=base_params(spec)).construct()

    def both(fold: Fold) -> FoldData:
        return part(fold.train_rows), part(fold.validation_rows)

    parts = folds(train, spec.windows)
    whole = [both(fold) for fold in parts]
    if spec.tuning.pruning == "median":
        return _StudyData(whole, [])
    newest, (training, validation) = parts[-1].train_rows, whole[-1]
    # Each sample is part of the next, and the same for every trial: chance favours none of them.
    order = np.random.default_rng(spec.seed).permutation(newest)
    return _StudyData(
        whole,
        [
            _Rung(
                (training if rung.rows == len(newest) else part(np.sort(order[: rung.rows])), validation), rung.rounds
            )
            for rung in rungs(len(newest), spec.tuning.max_rounds)
        ],
    )


def _set_up() -> None:
    """Silence LightGBM in a worker: its verbosity is the thread's, set whenever parameters are read there.

    Its number of threads is the process's and set likewise, so it is said here as everywhere.
    """
    import lightgbm as lgb

    lgb.Dataset(np.zeros((1, 1)), params={"verbosity": -1, **_ONE_THREAD}).construct()


def _objective(
    spec: ModelSpec,
    workers: ThreadPoolExecutor,
    data: _StudyData,
    trial: "optuna.Trial",
) -> float:
    """Mean validation loss over folds of a trial's parameters at its best round.

    A fold has one thread. Two wait for each other at every node of every tree, which took twice as long, and the order
    in which they end shows in the last digit of the loss.
    """
    import optuna

    params: Params = {**base_params(spec), **suggest(spec, trial), **_ONE_THREAD}
    climbed = _climb(spec, workers, params, data.rungs, trial)
    boosters = [_booster(params, part) for part in data.folds[: len(data.folds) - len(climbed)]]
    found: list[list[float]] = [[] for _ in boosters]
    for booster, losses_so_far in climbed:
        boosters.append(booster)
        found.append(losses_so_far)
    curves = np.full((spec.tuning.max_rounds, len(boosters)), np.inf)
    learning_rate = float(params.get("learning_rate", 0.1))
    best = 0
    with closing(_losses(workers, boosters, found, spec.tuning.max_rounds)) as losses:
        for round_, curves[round_] in enumerate(losses):
            if curves[round_].mean() < curves[best].mean():
                best = round_
            # Trials are compared at equal learning_rate * rounds: by rounds alone, slow learners would be pruned.
            progress = int((round_ + 1) * learning_rate + 1e-9)
            if not climbed and progress > int(round_ * learning_rate + 1e-9):
                trial.report(float(curves[best].mean()), step=progress)
                if trial.should_prune():
                    trial.set_user_attr("rounds", round_ + 1)
                    raise optuna.TrialPruned
            if round_ - best >= spec.tuning.early_stopping_rounds:
                break
    trial.set_user_attr("metric", boosters[0].eval_valid()[0][1])
    trial.set_user_attr("rounds", int(np.median(curves.argmin(axis=0) + 1)))
    trial.set_user_attr("fold_values", [float(value) for value in curves[best]])
    return float(curves[best].mean())


def _booster(params: Params, data: FoldData) -> "lgb.Booster":
    import lightgbm as lgb

    training, validation = data
    booster = lgb.Booster(params=dict(params), train_set=training)
    booster.add_valid(validation, "validation")
    return booster


def _climb(
    spec: ModelSpec, workers: ThreadPoolExecutor, params: Params, rungs: Sequence[_Rung], trial: "optuna.Trial"
) -> list[tuple["lgb.Booster", list[float]]]:
    """Boost from rung to rung as long as the trial passes; what the last left: the newest fold's booster and losses.

    It is judged by the best loss of the rung. Each rung begins anew, as it has other rows.
    """
    import optuna

    top: list[tuple[lgb.Booster, list[float]]] = []
    for number, rung in enumerate(rungs, start=1):
        booster, losses = _booster(params, rung.data), list[float]()
        while len(losses) < rung.rounds and not _stopped(losses, spec.tuning.early_stopping_rounds):
            losses += workers.submit(_boost, booster, min(_TOGETHER, rung.rounds - len(losses))).result()
        trial.report(min(losses), step=number)
        if trial.should_prune():
            trial.set_user_attr("rounds", len(losses))
            raise optuna.TrialPruned
        top = [(booster, losses)]
    return top


def _stopped(losses: Sequence[float], patience: int) -> bool:
    return bool(losses) and len(losses) - 1 - int(np.argmin(losses)) >= patience


def _losses(
    workers: ThreadPoolExecutor, boosters: Sequence["lgb.Booster"], found: list[list[float]], rounds: int
) -> Generator[list[float], None, None]:
    """Each round's validation losses by fold, in order; ``found`` are those of rounds already boosted.

    Folds are boosted side by side, and none waits for the others at every round: three folds on two threads would leave
    one idle for a quarter of the time. None runs far ahead either: what is boosted beyond the last round that is asked
    for is in vain.
    """
    running: dict[Future[list[float]], int] = {}
    told = 0
    try:
        while told < rounds:
            most = min(rounds, min(map(len, found)) + _AHEAD)
            for fold in sorted(set(range(len(boosters))) - set(running.values()), key=lambda fold: len(found[fold])):
                if len(found[fold]) < most:
                    asked = min(_TOGETHER, rounds - len(found[fold]))
                    running[workers.submit(_boost, boosters[fold], asked)] = fold
            for ended in wait(running, return_when=FIRST_COMPLETED).done:
                found[running.pop(ended)] += ended.result()
            while told < min(map(len, found)):
                yield [losses[told] for losses in found]
                told += 1
    finally:
        wait(running)


def _boost(booster: "lgb.Booster", rounds: int) -> list[float]:
    """So many rounds more, and the validation loss after each."""
    losses = []
    for _ in range(rounds):
        booster.update()
        losses.append(float(booster.eval_valid()[0][2]))
    return losses


def suggest(spec: ModelSpec, trial: "optuna.Trial") -> Params:
    """The trial's draw from ``spec.tuning.search``."""
    drawn: Params = {}
    for name, bounds in spec.tuning.search.items():
        if bounds.integer:
            drawn[name] = trial.suggest_int(name, int(bounds.low), int(bounds.high), log=bounds.log)
        else:
            drawn[name] = trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log)
    return drawn


def _run(study: "optuna.Study", objective: Callable[["optuna.Trial"], float], budget: int) -> TrialSummary:
    import optuna
    from optuna.trial import TrialState

    trial = study.ask()
    try:
        told = study.tell(trial, objective(trial))
    except optuna.TrialPruned:
        told = study.tell(trial, state=TrialState.PRUNED)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    return _summary(study, told, told.number, budget)


def _summary(study: "optuna.Study", told: "optuna.trial.FrozenTrial", number: int, budget: int) -> TrialSummary:
    from optuna.trial import TrialState

    completed = [
        t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if t.value is not None
    ]
    return TrialSummary(
        number=number,
        budget=budget,
        state=told.state.name.lower(),
        value=float("nan") if told.value is None else told.value,
        best_value=min(completed, default=None),
        rounds=told.user_attrs["rounds"],
        params=told.params,
    )


def _place(trial: "optuna.trial.FrozenTrial") -> int:
    """Which of the declared trials it is: of a shared study, those that died have numbers too."""
    return int(trial.user_attrs.get(PLACE, trial.number))


def _result(spec: ModelSpec, study: "optuna.Study", finished: "list[optuna.trial.FrozenTrial]") -> TuningResult:
    from optuna.trial import TrialState

    best_value, _, best = min(
        (t.value, _place(t), t) for t in finished if t.state is TrialState.COMPLETE and t.value is not None
    )
    halved = spec.tuning.pruning == "halving"
    rows = [
        {
            "trial": _place(t),
            "state": t.state.name.lower(),
            "value": t.value,
            "rounds": t.user_attrs["rounds"],
            **({"rung": t.last_step if t.state is TrialState.PRUNED else None} if halved else {}),
            **t.params,
        }
        for t in finished
    ]
    complete = pl.when(pl.col("state") == "complete").then("value")
    return TuningResult(
        study_name=study.study_name,
        metric=best.user_attrs["metric"],
        params=dict(best.params),
        rounds=best.user_attrs["rounds"],
        best_trial=_place(best),
        best_value=best_value,
        fold_values=tuple(best.user_attrs["fold_values"]),
        trials=pl.DataFrame(rows, infer_schema_length=None).with_columns(
            complete.cum_min().forward_fill().alias("best_value")
        ),
    )
