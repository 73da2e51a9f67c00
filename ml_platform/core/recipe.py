"""The part of a declaration that decides what a training gives.

Belongs here: what a training and its repetition must have in common, as text. Learning itself is
:mod:`ml_platform.core.learning`.
"""

import json

from ml_platform.core.digests import digest
from ml_platform.core.model_spec import ModelSpec

_LEARNED = ("task", "service", "keys", "seed", "windows", "tuning", "denied")


_DECLARED = (*_LEARNED, "costs")


def code_version(spec: ModelSpec, service_hash: str) -> str:
    """Changes when the declaration of what is learned, or how, does."""
    return digest(spec.model_dump_json(include=set(_LEARNED)), service_hash)


def declaration(spec: ModelSpec) -> str:
    """The part of the declaration that decides what a training gives, as JSON to be kept with the version."""
    return spec.model_dump_json(include=set(_DECLARED), indent=2) + "\n"


def as_declared(spec: ModelSpec, kept: str) -> ModelSpec:
    """Today's declaration with what decides a training put back to what it was.

    Args:
        spec: the declaration of today; all else (gates, drift, owners) stays its own.
        kept: what :func:`declaration` gave when the version was trained.

    Raises:
        ValueError: today's code does not know what was declared then.
    """
    return ModelSpec.model_validate({**spec.model_dump(mode="json"), **json.loads(kept)})


def changed_since(spec: ModelSpec, kept: str) -> tuple[str, ...]:
    """What decides a training and is declared otherwise today, as ``windows.training``, sorted."""
    return tuple(sorted(_differences(json.loads(declaration(spec)), json.loads(kept))))


def _differences(now: object, then: object, path: str = "") -> list[str]:
    if isinstance(now, dict) and isinstance(then, dict):
        names = sorted({*now, *then})
        return [found for name in names for found in _differences(now.get(name), then.get(name), f"{path}.{name}")]
    return [] if now == then else [path.lstrip(".")]
