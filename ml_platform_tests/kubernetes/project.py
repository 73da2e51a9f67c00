"""The flights as a project of its own, cut to what a test can wait for, and jobs that do what they are told."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

import ml_platform

FLIGHTS = Path(ml_platform.__file__).parent / "defs" / "nyc_flights"
TRIALS, WORKERS = 6, 2

NEEDS: Mapping[str, Any] = {
    "cpu": "250m",
    "memory": "512Mi",
    "node_selector": {"pool": "small"},
    "stages": {
        "tuned_model": {
            "cpu": "2",
            "memory": "2Gi",
            "memory_limit": "3Gi",
            "gpu": 1,
            "node_selector": {"pool": "training"},
            "tolerations": [{"key": "training", "value": "yes", "effect": "NoSchedule"}],
        }
    },
}
"""What the model's steps need."""

_LOCATION = '''
"""What the data set declares, without what would start runs by itself, and jobs that do what a test tells them."""

import os
import time
from pathlib import Path

import dagster as dg

from ml_platform.assets.pods import TRAINING_POOL
from ml_platform.definitions import platform_definitions

TOLD = Path(os.environ["TEST_TOLD"])


def wait_until_told(context: dg.OpExecutionContext) -> None:
    begun = TOLD / f"{context.op_handle.name}.{context.retry_number}"
    begun.write_text(str(os.getpid()))
    end = time.monotonic() + 600
    while not (TOLD / "go").exists() and time.monotonic() < end:
        time.sleep(0.1)
    print("it was told to go on")


@dg.op(out=dg.Out(dg.Nothing))
def waits(context: dg.OpExecutionContext) -> None:
    wait_until_told(context)


@dg.op(out=dg.Out(dg.Nothing), retry_policy=dg.RetryPolicy(max_retries=1, delay=0))
def waits_and_is_tried_again(context: dg.OpExecutionContext) -> None:
    wait_until_told(context)


@dg.op(pool=TRAINING_POOL)
def takes_turns(context: dg.OpExecutionContext) -> None:
    wait_until_told(context)


@dg.op(ins={"before": dg.In(dg.Nothing)})
def follows() -> None:
    (TOLD / "followed").write_text("")


@dg.op(out=dg.Out(dg.Nothing))
def breaks() -> None:
    raise ValueError("the tyre is flat")


@dg.job
def waiting() -> None:
    follows(waits())


@dg.job
def trying_again() -> None:
    follows(waits_and_is_tried_again())


@dg.job
def turning() -> None:
    takes_turns()


@dg.job
def breaking() -> None:
    follows(breaks())


@dg.definitions
def defs() -> dg.Definitions:
    declared = platform_definitions(Path(__file__).parent / "cut_flights")
    return dg.Definitions(
        assets=declared.assets,
        jobs=[*declared.jobs, waiting, trying_again, turning, breaking],
        resources=declared.resources,
        executor=declared.executor,
    )
'''

_CUT = {
    "windows": {"training": "30d", "holdout": "3d", "folds": 2, "fold_length": "2d", "minimum_rows": 1000},
    # Every trial takes seconds: there is time to kill who makes it.
    "tuning": {
        "trials": TRIALS,
        "max_rounds": 300,
        "early_stopping_rounds": 300,
        "startup_trials": TRIALS,
        "workers": WORKERS,
    },
}


def project(folder: Path) -> Path:
    """The project in a folder of its own; the file that is its code location."""
    package = folder / "cut_flights"
    declared = package / "defs" / "nyc_flights"
    shutil.copytree(FLIGHTS, declared, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for made in (package, package / "defs"):
        (made / "__init__.py").touch()
    documents = list(yaml.safe_load_all((declared / "defs.yaml").read_text()))
    for document in documents:
        attributes = document["attributes"]
        if document["type"].endswith("ModelComponent"):
            for section, changes in _CUT.items():
                attributes[section] |= changes
            attributes["resources"] = dict(NEEDS)
        if attributes.get("name") == "weather":
            attributes["resources"] = {"memory": "768Mi"}
    (declared / "defs.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))
    calendar = yaml.safe_load((declared / "dataset.yaml").read_text())
    calendar["resources"] = {
        "tables": {"cpu": "100m", "memory": "256Mi"},
        "views": {"aircraft_facts": {"memory": "300Mi"}},
        "online_features": {"cpu": "200m"},
    }
    (declared / "dataset.yaml").write_text(yaml.safe_dump(calendar, sort_keys=False))
    (folder / "dg.toml").write_text(
        'directory_type = "project"\n\n[project]\nroot_module = "cut_flights"\n'
        'code_location_name = "cut_flights"\nregistry_modules = ["ml_platform.components"]\n'
    )
    location = folder / "location.py"
    location.write_text(_LOCATION)
    return location


def python_path(location: Path) -> str:
    """Where the location's processes find it and the platform."""
    return os.pathsep.join([str(location.parent), str(Path(ml_platform.__file__).parents[1])])
