"""What a step needs of the machine it runs on: declared in YAML, meaningful to Kubernetes, and nothing of it here.

Belongs here: the shape of the declaration, what is a valid quantity, and how one declaration goes over another. How it
reaches a pod belongs to :mod:`ml_platform.assets.pods`.
"""

import re
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
}
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?")
_LABEL = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LABEL_NAME = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_LABEL}")
_LABEL_VALUE = re.compile(rf"({_LABEL})?")


def quantity(text: str) -> Decimal:
    """The number that a quantity of Kubernetes stands for: ``500m`` is 0.5, ``2Gi`` is 2147483648.

    Raises:
        ValueError: it is none.
    """
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(
            f"{text!r} is no quantity of Kubernetes: a number, with one of {' '.join(filter(None, _SUFFIXES))} after it"
        )
    number, suffix = found[1], found[2] or ""
    return Decimal(number) * _SUFFIXES[suffix] if suffix in _SUFFIXES else Decimal(f"{number}{suffix}")


def _as_text(value: Any) -> Any:
    """YAML reads ``cpu: 2`` as a number; Kubernetes knows quantities as text."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _processors(text: str) -> str:
    found = quantity(text)
    if found <= 0 or found % _SUFFIXES["m"]:
        raise ValueError(f"cpu {text!r} must be more than 0, in thousandths of a processor at most, as 500m or 2")
    return text


def _bytes(text: str) -> str:
    found = quantity(text)
    if found < _SUFFIXES["Mi"]:
        # `512m` is half a byte: that it meant 512Mi was found out only by a pod that was never scheduled.
        raise ValueError(f"memory {text!r} is {found.normalize():f} bytes: write it as 512Mi or 4Gi")
    return text


Processors = Annotated[str, BeforeValidator(_as_text), AfterValidator(_processors)]
"""A quantity of processors: ``2``, ``0.5`` or ``500m``."""

Memory = Annotated[str, BeforeValidator(_as_text), AfterValidator(_bytes)]
"""A quantity of bytes, a mebibyte or more: ``512Mi``, ``4Gi``."""


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaintEffect(StrEnum):
    """What a node's taint does to pods that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


class Toleration(_Declared):
    """A taint of nodes that the step's pod tolerates; without a ``value``, any value of the ``key``."""

    key: str = Field(min_length=1)
    value: str | None = None
    effect: TaintEffect | None = Field(default=None, description="Absent: every effect.")


class Compute(_Declared):
    """What a step needs. What is absent is left to who runs the cluster.

    A pod gets what it asks for and no more: ``cpu`` and ``memory`` are request and limit, unless a higher limit is
    declared. A limit alone is the request, too.
    """

    cpu: Processors | None = Field(default=None, description="Processors, as `500m` or `2`.")
    memory: Memory | None = Field(default=None, description="As `512Mi` or `4Gi`.")
    cpu_limit: Processors | None = Field(default=None, description="What may be used if it is there; default `cpu`.")
    memory_limit: Memory | None = Field(default=None, description="Above it the step is killed; default `memory`.")
    gpu: int | None = Field(default=None, ge=0, description="Whole devices.")
    gpu_kind: str = Field(default="nvidia.com/gpu", description="The name under which nodes offer the device.")
    node_selector: dict[str, str] | None = Field(default=None, description="Labels that the node must have.")
    tolerations: tuple[Toleration, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, asked, limit in (("cpu", self.cpu, self.cpu_limit), ("memory", self.memory, self.memory_limit)):
            if limit is not None and asked is not None and quantity(limit) < quantity(asked):
                raise ValueError(f"{name}_limit ({limit}) is less than {name} ({asked})")
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-\w.]*[A-Za-z0-9])?", self.gpu_kind):
            raise ValueError(f"gpu_kind {self.gpu_kind!r} must be vendor/device, as nvidia.com/gpu")
        for name, value in (self.node_selector or {}).items():
            if not _LABEL_NAME.fullmatch(name) or not _LABEL_VALUE.fullmatch(value):
                raise ValueError(f"node_selector {name}: {value} is no label of a node, as pool: training")
        return self

    def over(self, other: "Compute") -> "Compute":
        """This declaration where it says something, the other's where it does not.

        A limit goes with its request: who asks for more than the other's limit does not keep that.
        """
        ours = {name: getattr(self, name) for name in self.model_fields_set if getattr(self, name) is not None}
        theirs = {name: getattr(other, name) for name in other.model_fields_set}
        for name in ("cpu", "memory"):
            if name in ours:
                theirs.pop(f"{name}_limit", None)
        return Compute(**{**theirs, **ours})


class StagesCompute(Compute):
    """What all steps of a model need, and what single stages need otherwise."""

    stages: dict[str, Compute] = Field(default_factory=dict, description="By name of the model's asset.")

    @model_validator(mode="after")
    def _stages_are_consistent(self) -> Self:
        for stage in self.stages:
            self.of(stage)
        return self

    def of(self, stage: str) -> Compute:
        """What a stage needs."""
        common = Compute(**{name: getattr(self, name) for name in self.model_fields_set - {"stages"}})
        return self.stages[stage].over(common) if stage in self.stages else common


class DatasetCompute(_Declared):
    """What the steps of a data set need that no model has: raw tables, feature views and the online store.

    A table's own declaration goes over ``tables``, a view's in ``views`` over ``features``.
    """

    tables: Compute = Compute()
    features: Compute = Compute()
    views: dict[str, Compute] = Field(default_factory=dict, description="By name of the Feast view.")
    online_features: Compute = Compute()

    def of_view(self, name: str) -> Compute:
        """What a view's step needs."""
        return self.views[name].over(self.features) if name in self.views else self.features
