"""From encoded rows to a fitted model: deterministic LightGBM, and the model as plain text.

Belongs here: how features become numbers, which parameters make a fit repeatable, the fit itself and
what a fitted model consists of. Searching parameters is ``tuning``; predicting is ``scoring``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import polars as pl

from ml_platform.core.declared_features import assert_no_outcomes
from ml_platform.core.model_spec import ModelSpec, Task
from ml_platform.core.splits import newest_label

if TYPE_CHECKING:
    import lightgbm as lgb

Categories = dict[str, tuple[str, ...]]
"""Known values of each categorical feature, in the order of their codes."""

Params = dict[str, int | float | str | bool]
"""LightGBM parameters by their canonical names."""

MODEL_FILE, DECLARATION_FILE = "model.txt", "model.json"


@dataclass(frozen=True)
class FittedModel:
    """Everything that predicting takes, and where it came from. Text and numbers only: no pickle.

    ``model_text`` is LightGBM's native format; ``categories`` are the codes of categorical features;
    ``threshold`` (binary only) is the score at and above which the decision is positive;
    ``trained_through`` is the newest training ``label_time`` (UTC): the model may predict what is due
    after it, and nothing earlier.
    """

    task: Task
    features: tuple[str, ...]
    categories: Categories
    model_text: str
    params: Params
    rounds: int
    threshold: float | None
    trained_through: datetime
    seed: int

    @cached_property
    def booster(self) -> "lgb.Booster":
        """LightGBM's own object."""
        return _parsed(self.model_text)

    @cached_property
    def importances(self) -> dict[str, float]:
        """The total gain of every feature's splits, in the order of the features."""
        return dict(zip(self.features, self.booster.feature_importance("gain").tolist(), strict=True))

    def to_files(self) -> dict[str, str]:
        """The model as two text files by name: LightGBM's, and a JSON of the rest."""
        declaration = {
            "task": self.task.value,
            "features": self.features,
            "categories": self.categories,
            "params": self.params,
            "rounds": self.rounds,
            "threshold": self.threshold,
            "trained_through": self.trained_through.isoformat(),
            "seed": self.seed,
        }
        return {MODEL_FILE: self.model_text, DECLARATION_FILE: json.dumps(declaration, indent=2) + "\n"}

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> "FittedModel":
        """The model whose :meth:`to_files` gave ``files``.

        Raises:
            ValueError: one of the two files is missing.
        """
        if missing := {MODEL_FILE, DECLARATION_FILE} - set(files):
            raise ValueError(
                f"a model needs {MODEL_FILE} and {DECLARATION_FILE}: {sorted(missing)} not among {sorted(files)}"
            )
        declaration = json.loads(files[DECLARATION_FILE])
        return cls(
            task=Task(declaration["task"]),
            features=tuple(declaration["features"]),
            categories={name: tuple(values) for name, values in declaration["categories"].items()},
            model_text=files[MODEL_FILE],
            params=declaration["params"],
            rounds=declaration["rounds"],
            threshold=declaration["threshold"],
            trained_through=datetime.fromisoformat(declaration["trained_through"]),
            seed=declaration["seed"],
        )


@lru_cache(maxsize=4)
def _parsed(model_text: str) -> "lgb.Booster":
    """A model that is loaded again, as a champion is every day, is not parsed again."""
    import lightgbm as lgb

    return lgb.Booster(model_str=model_text)


def learn_categories(train: pl.DataFrame, features: Sequence[str]) -> Categories:
    """The sorted values of every text feature among ``features``; other features have none."""
    return {
        name: tuple(train[name].cast(pl.String).drop_nulls().unique().sort())
        for name in features
        if isinstance(train.schema[name], pl.String | pl.Categorical | pl.Enum)
    }


def encode(frame: pl.DataFrame, features: Sequence[str], categories: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """The features as Float64 columns, in order: codes for categories, 0/1 for booleans, null for unknown.

    A category that was not learned is null, as a missing one is. LightGBM aborts the interpreter on
    text, so nothing but numbers may leave this function.

    Raises:
        ValueError: a feature is absent, or neither a number, a boolean nor a learned category.
    """
    if missing := [name for name in features if name not in frame.columns]:
        raise ValueError(f"features {missing} are not among the columns {sorted(frame.columns)}")
    columns = []
    for name in features:
        dtype, column = frame.schema[name], pl.col(name)
        if name in categories:
            values = list(categories[name])
            codes = pl.Series(range(len(values)), dtype=pl.Float64)
            column = column.cast(pl.String).replace_strict(pl.Series(values, dtype=pl.String), codes, default=None)
        elif not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
            raise ValueError(f"feature {name!r} is {dtype}: a feature is a number, a boolean or a learned category")
        columns.append(column.cast(pl.Float64).fill_nan(None).alias(name))
    return frame.select(columns)


def base_params(spec: ModelSpec) -> Params:
    """LightGBM parameters that hold for every fit of a model: its objective, and what makes it repeatable.

    The objective is ``tuning.fixed["objective"]`` if declared, else log loss (binary) or squared error
    (regression).
    """
    objective = "binary" if spec.task is Task.BINARY else "regression"
    return {
        "objective": objective,
        **spec.tuning.fixed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": spec.tuning.threads,
        "seed": spec.seed,
        "verbosity": -1,
        # Binning is shared by fits whose min_data_in_leaf differs: filtering by it would tie bins to one of them.
        "feature_pre_filter": False,
    }


def dataset(spec: ModelSpec, train: pl.DataFrame, features: Sequence[str], categories: Categories) -> "lgb.Dataset":
    """The rows of ``train``, in their order, encoded and binned."""
    import lightgbm as lgb

    return lgb.Dataset(
        encode(train, features, categories),
        label=train["label"].cast(pl.Float64).to_numpy(),
        categorical_feature=list(categories),
        params=base_params(spec),
    ).construct()


def fit(
    spec: ModelSpec,
    train: pl.DataFrame,
    features: Sequence[str],
    params: Mapping[str, int | float | str | bool],
    rounds: int,
) -> FittedModel:
    """Fit on every row of ``train``; the same rows in any order give the same ``model_text``.

    Args:
        spec: the declaration; its deny list is enforced.
        train: ``spec.keys``, ``label``, ``label_time`` and the features.
        features: the feature service's, in its order.
        params: tuned parameters, over :func:`base_params`.
        rounds: boosting rounds.

    Raises:
        LeakageError: a feature is an outcome.
        ValueError: a feature cannot be encoded, or the label is not 0/1 for a binary task.
    """
    import lightgbm as lgb

    assert_no_outcomes(features, spec.denied)
    check_labels(spec.task, train["label"])
    train = train.sort(spec.keys)
    categories = learn_categories(train, features)
    merged: Params = {**base_params(spec), **params}
    booster = lgb.train(merged, dataset(spec, train, features, categories), num_boost_round=rounds)
    return FittedModel(
        task=spec.task,
        features=tuple(features),
        categories=categories,
        model_text=booster.model_to_string(num_iteration=-1),
        params=merged,
        rounds=rounds,
        threshold=cost_threshold(spec),
        trained_through=newest_label(train),
        seed=spec.seed,
    )


def cost_threshold(spec: ModelSpec) -> float | None:
    """The score at which both wrong decisions cost the same in expectation: fp / (fp + fn).

    A score of log-loss boosting is an estimate of the probability (the calibration gate tests it), so the costs alone
    give the best threshold and no row, least of all a held-out one, is used to find it. None for a regression.
    """
    costs = spec.costs
    return None if costs is None else costs.false_positive / (costs.false_positive + costs.false_negative)


def check_labels(task: Task, label: pl.Series) -> None:
    """Refuse labels the task cannot learn from: null, not finite, or not 0/1 for a binary task.

    Raises:
        ValueError: with up to five offending values.
    """
    values = label.cast(pl.Float64)
    bad = values.is_null() | ~values.is_finite()
    if task is Task.BINARY:
        bad = bad | ~values.is_in([0.0, 1.0])
    if bad.fill_null(True).any():
        examples = values.filter(bad.fill_null(True)).unique().head(5).to_list()
        allowed = "0 or 1" if task is Task.BINARY else "a finite number"
        raise ValueError(
            f"{bad.fill_null(True).sum()} labels of a {task.value} model are not {allowed}, such as {examples}"
        )
