"""What a declaration may say of its features, held against the features there are.

Belongs here: names. What a feature holds is not looked at.
"""

from collections.abc import Collection, Iterable

from ml_platform.core.model_spec import DriftPolicy

NEVER_FEATURES = ("label", "label_time")
"""Columns of every training set that are outcomes whatever the declaration says."""


class LeakageError(ValueError):
    """A row or column would let a model learn what could not have been known."""


def assert_no_outcomes(features: Iterable[str], denied: Iterable[str]) -> None:
    """Refuse features that are outcomes: by name, or by the part after a view prefix ``view__``.

    Raises:
        LeakageError: naming each of them and the deny list.
    """
    outcomes = {*denied, *NEVER_FEATURES}
    if leaks := sorted(name for name in features if outcomes & {name, name.split("__")[-1]}):
        raise LeakageError(f"outcomes can never be features: {leaks} (denied are {sorted(outcomes)})")


def assert_judged(features: Collection[str], policy: DriftPolicy) -> None:
    """Refuse a policy that ignores what is no feature, or every feature.

    Raises:
        ValueError: naming each such column and the features there are.
    """
    if unknown := sorted(set(policy.ignored_columns) - set(features)):
        raise ValueError(f"`drift.ignored_columns` has {unknown}, which are no features; there are {sorted(features)}")
    if set(features) <= set(policy.ignored_columns):
        raise ValueError(f"`drift.ignored_columns` has every feature, and nothing would be judged: {sorted(features)}")
