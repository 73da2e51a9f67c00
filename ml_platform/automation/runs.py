"""How runs of the platform are tagged: their range of days, and that their steps report partitions themselves."""

import socket
from collections.abc import Mapping

from dagster._core.storage.tags import AUTOMATION_CONDITION_TAG as AUTOMATION_CONDITION_TAG
from dagster._core.storage.tags import EXTERNALLY_MANAGED_ASSETS_TAG

REASON_TAG = "ml_platform/reason"
"""Why a run was started, in a sentence; every run the platform starts has it."""

TRIGGER_TAG = "ml_platform/trigger"
"""What called for a model's training: names of the policy's triggers, or ``by hand``."""

EVIDENCE_TAG = "ml_platform/evidence"
"""The figures of every part of the verdict on a model's training, as JSON by name."""

MADE_ON_TAG = "ml_platform/made_on"
"""The machine of a run that a command makes in its own process: whether that lives can be seen there alone."""

OWN_EVENTS: Mapping[str, str] = {EXTERNALLY_MANAGED_ASSETS_TAG: "true"}
"""Tags of runs whose steps report their own partitions (docs/adr/0004); every run the platform starts has them."""

_RANGE_START, _RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def of_model(tag: str, model: str) -> str:
    """The tag as it is said of one model: a run may train several, each for reasons of its own."""
    return f"{tag}/{model}"


def made_here() -> Mapping[str, str]:
    """The tag of a run that this process makes itself."""
    return {MADE_ON_TAG: socket.gethostname()}


def range_tags(first: str, last: str) -> Mapping[str, str]:
    """Tags of one run over the days from ``first`` to ``last``, both included."""
    return {**OWN_EVENTS, _RANGE_START: first, _RANGE_END: last}


def reports_itself(tags: Mapping[str, str]) -> bool:
    """Whether the steps of a run with these tags report their own partitions."""
    return tags.get(EXTERNALLY_MANAGED_ASSETS_TAG) == "true"
