"""How runs of the platform are tagged: their range of days, and that their steps report partitions themselves."""

from collections.abc import Mapping

from dagster._core.storage.tags import AUTOMATION_CONDITION_TAG, EXTERNALLY_MANAGED_ASSETS_TAG

__all__ = ["AUTOMATION_CONDITION_TAG", "EVIDENCE_TAG", "OWN_EVENTS", "REASON_TAG", "TRIGGER_TAG", "of_model"]

REASON_TAG = "ml_platform/reason"
"""Why a run was started, in a sentence; every run the platform starts has it."""

TRIGGER_TAG = "ml_platform/trigger"
"""What called for a model's training: names of the policy's triggers, or ``by hand``."""

EVIDENCE_TAG = "ml_platform/evidence"
"""The figures of every part of the verdict on a model's training, as JSON by name."""

OWN_EVENTS: Mapping[str, str] = {EXTERNALLY_MANAGED_ASSETS_TAG: "true"}
"""Tags of runs whose steps report their own partitions (docs/adr/0004); every run the platform starts has them."""

_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def of_model(tag: str, model: str) -> str:
    """The tag as it is said of one model: a run may train several, each for reasons of its own."""
    return f"{tag}/{model}"


def range_tags(first: str, last: str) -> Mapping[str, str]:
    """Tags of one run over the days from ``first`` to ``last``, both included."""
    return {**OWN_EVENTS, _RANGE_START: first, _RANGE_END: last}


def reports_itself(tags: Mapping[str, str]) -> bool:
    """Whether the steps of a run with these tags report their own partitions."""
    return tags.get(EXTERNALLY_MANAGED_ASSETS_TAG) == "true"
