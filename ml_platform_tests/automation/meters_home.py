"""The meters' project in a folder of its own, and homes in which real servers and daemons run it."""

import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorType

from ml_platform.automation import sensor
from ml_platform.automation.jobs import UNFINISHED
from ml_platform.automation.runs import TRIGGER_TAG
from ml_platform.serving.servers import Servers, servers
from ml_platform.settings import DEFAULT_PORTS, Settings, load
from ml_platform.stores.declarations import Dataset, load_dataset
from ml_platform.stores.instance import is_free, prepare_dagster_home
from ml_platform.stores.planning import plan

STALE_SOON = ("cooldown: 2d, stale_after: 7d", "cooldown: 2d, stale_after: 3d")
"""A change of the project: its model is trained again for its age after some days."""

METERS = Path(__file__).parents[1] / "second_data_set"
PATIENCE_SECONDS = 600
LOCATION = """
from pathlib import Path
import dagster as dg
from ml_platform.definitions import platform_definitions

@dg.definitions
def defs() -> dg.Definitions:
    return platform_definitions(Path(__file__).parent / "energy_demand")
"""

# The project is a package of its own, as a user's would be; what delivers its files lies beside it.
sys.path.insert(0, str(METERS))
deliveries = import_module("deliveries")


def project(folder: Path, *changes: tuple[str, str], declared: str = "") -> Path:
    """A copy of the meters' project, with changes of its ``defs.yaml``, and lines added to its ``dataset.yaml``."""
    made = Path(shutil.copytree(METERS, folder))
    declarations = made / "energy_demand" / "defs" / "meters"
    with (declarations / "dataset.yaml").open("a") as file:
        file.write(declared)
    text = (declarations / "defs.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (declarations / "defs.yaml").write_text(text)
    (made / "location.py").write_text(LOCATION)
    return made


def environment(home: Path, made: Path, **extra: str) -> dict[str, str]:
    """What a process needs to work in a home of the project."""
    return {
        "ML_PLATFORM_HOME": str(home),
        "ML_PLATFORM_FEATURE_REPO": str(made / "feature_repo"),
        "DAGSTER_HOME": str(home / "dagster"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(made), os.environ.get("PYTHONPATH")])),
        **extra,
    }


def prepared(home: Path, made: Path) -> Settings:
    """A home whose workspace is the project, on free ports; the environment must be this home's."""
    home.mkdir(exist_ok=True)
    ports = [port for port in random.sample(range(20_000, 32_000), 50) if is_free("127.0.0.1", port)]
    (home / "ports.json").write_text(json.dumps(dict(zip(DEFAULT_PORTS, ports, strict=False))))
    settings = prepare_dagster_home(load())
    location: Mapping[str, str] = {"relative_path": str(made / "location.py"), "location_name": "meters"}
    (settings.dagster_home / "workspace.yaml").write_text(json.dumps({"load_from": [{"python_file": location}]}))
    return settings


@contextmanager
def serving(settings: Settings) -> Iterator[Servers]:
    """What `ml-platform up` serves, while the block runs."""
    with Servers(settings, servers(settings)) as running:
        list(running.wait_until_ready(threading.Event()))
        yield running


def dataset(made: Path) -> Dataset:
    """What a copy of the project declares."""
    return load_dataset(made / "energy_demand" / "defs" / "meters")


def at_rest(instance: dg.DagsterInstance, settings: Settings, declared: Dataset) -> bool:
    """Whether nothing is out of date or under way, and the conditions were evaluated after the last run ended."""
    if plan(settings, declared).stale:
        return False
    if instance.get_runs(dg.RunsFilter(statuses=[*UNFINISHED]), limit=1):
        return False
    states = {
        state.instigator_name: state for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    }
    ended = max((record.end_time or 0.0 for record in instance.get_run_records(limit=5)), default=0.0)
    conditions = states.get(sensor.NAME)
    if conditions is None or not ended:
        return False
    ticks = instance.get_ticks(conditions.instigator_origin_id, conditions.selector_id, limit=1)
    return bool(ticks) and ticks[0].timestamp > ended and ticks[0].end_timestamp is not None


def called(instance: dg.DagsterInstance) -> list[str]:
    """What called for each training, the first one first."""
    return [
        said for run in reversed(instance.get_runs()) for tag, said in run.tags.items() if tag.startswith(TRIGGER_TAG)
    ]


def wait_for(what: str, seen: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until something is seen."""
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, f"{what} did not happen in {seconds:g} s"
        time.sleep(1)
