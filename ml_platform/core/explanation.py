"""Why a model predicts what it does: feature importance, and reactions to declared changes.

Belongs here: what asks the model itself. How good its answers are is ``evaluation``.
"""

import numpy as np
import polars as pl

from ml_platform.core.evaluation_report import CaseResult, Importance
from ml_platform.core.model_spec import BehaviouralCase
from ml_platform.core.scoring import raw_scores
from ml_platform.core.training import FittedModel, encode

CONTRIBUTION_ROWS = 2000
"""Exact TreeSHAP takes time in proportion to rows: more than these are sampled with the model's seed."""


def importance(model: FittedModel, holdout: pl.DataFrame) -> tuple[Importance, ...]:
    """Every feature's total gain in training, and its mean absolute TreeSHAP contribution to held-out scores.

    Contributions are exact for each row, in log-odds (binary) or the label's unit (regression); highest first.
    """
    rows = holdout
    if holdout.height > CONTRIBUTION_ROWS:
        rows = holdout.sample(CONTRIBUTION_ROWS, seed=model.seed)
    encoded = encode(rows, model.features, model.categories)
    contributions = np.asarray(model.booster.predict(encoded, pred_contrib=True))[:, :-1]
    gains = model.booster.feature_importance(importance_type="gain")
    found = (
        Importance(feature=name, gain=float(gain), contribution=float(contribution))
        for name, gain, contribution in zip(model.features, gains, np.abs(contributions).mean(axis=0), strict=True)
    )
    return tuple(sorted(found, key=lambda each: (-each.contribution, -each.gain, each.feature)))


def case_result(model: FittedModel, holdout: pl.DataFrame, case: BehaviouralCase) -> CaseResult:
    """Whether the mean held-out score reacts to the declared change as expected.

    Nulls stay null under a shift: nothing known cannot get worse.

    Raises:
        ValueError: the case changes something that is no feature of the model, or shifts a category.
    """
    if unknown := sorted({*case.shift, *case.assign} - set(model.features)):
        raise ValueError(f"case {case.name!r} changes {unknown}: the features are {sorted(model.features)}")
    if text := sorted(set(case.shift) & set(model.categories)):
        raise ValueError(f"case {case.name!r} shifts {text}, which are categories: use `assign`")
    changed = holdout.with_columns(
        *(pl.col(name).cast(pl.Float64) + amount for name, amount in case.shift.items()),
        *(pl.lit(value).cast(holdout.schema[name]).alias(name) for name, value in case.assign.items()),
    )
    before, after = float(raw_scores(model, holdout).mean()), float(raw_scores(model, changed).mean())
    movement = after - before
    wrong_way = {"not_lower": -movement, "not_higher": movement, "unchanged": abs(movement)}[case.expect]
    return CaseResult(
        name=case.name,
        expect=case.expect,
        tolerance=case.tolerance,
        before=before,
        after=after,
        held=wrong_way <= case.tolerance,
    )
