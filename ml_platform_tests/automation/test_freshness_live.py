"""Landing stops while real daemons run: the UI says so, one alert reaches a real webhook, and nothing is trained."""

import json
import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState

from ml_platform.serving.servers import Servers, servers
from ml_platform.settings import DEFAULT_PORTS, Settings, load
from ml_platform.stores.alerts import Alerts
from ml_platform.stores.instance import is_free, prepare_dagster_home
from ml_platform.stores.lake import Lake
from ml_platform_tests.receivers import Webhook, serving

METERS = Path(__file__).parents[1] / "second_data_set"
sys.path.insert(0, str(METERS))

import deliveries  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 240
LOCATION = """
from pathlib import Path
import dagster as dg
from ml_platform.definitions import platform_definitions

@dg.definitions
def defs() -> dg.Definitions:
    return platform_definitions(Path(__file__).parent / "energy_demand")
"""
ASKED = "{ assetNodes { assetKey { path } freshnessStatusInfo { freshnessStatus } } }"


@pytest.fixture
def meters(tmp_path: Path) -> Path:
    """The meters' project, whose data must be a minute old at most: Dagster allows no less."""
    project = Path(shutil.copytree(METERS, tmp_path / "project"))
    with (project / "energy_demand" / "defs" / "meters" / "dataset.yaml").open("a") as declared:
        declared.write("freshness: {raw: 1m, features: 1m, predictions: 1m, models: 1m}\n")
    (project / "location.py").write_text(LOCATION)
    return project


@pytest.fixture
def served(tmp_path: Path, meters: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Settings, Webhook]]:
    """What `ml-platform up` serves, of that project."""
    home, webhook = tmp_path / "home", Webhook()
    home.mkdir()
    ports = [port for port in random.sample(range(20_000, 32_000), 50) if is_free("127.0.0.1", port)]
    (home / "ports.json").write_text(json.dumps(dict(zip(DEFAULT_PORTS, ports, strict=False))))
    environment = {
        "ML_PLATFORM_HOME": str(home),
        "ML_PLATFORM_FEATURE_REPO": str(meters / "feature_repo"),
        "ML_PLATFORM_ALERT_WEBHOOK_URL": webhook.url,
        "FRESHNESS_DAEMON_INTERVAL_SECONDS": "5",
        "DAGSTER_HOME": str(home / "dagster"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(meters), os.environ.get("PYTHONPATH")])),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = prepare_dagster_home(load())
    location = {"relative_path": str(meters / "location.py"), "location_name": "meters"}
    workspace = {"load_from": [{"python_file": location}]}
    (settings.dagster_home / "workspace.yaml").write_text(json.dumps(workspace))
    deliveries.land(settings.landing, datetime(2024, 2, 22, tzinfo=UTC))
    with serving(webhook), Servers(settings, servers(settings)) as running:
        list(running.wait_until_ready(threading.Event()))
        yield settings, webhook


def wait_for(what: str, seen: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not seen():
        assert time.monotonic() < end, f"{what} did not happen in {PATIENCE_SECONDS} s"
        time.sleep(1)


def in_the_ui(settings: Settings) -> dict[str, str]:
    """What the UI shows as each asset's freshness."""
    body = json.dumps({"query": ASKED}).encode()
    request = Request(f"{settings.dagster_url}/graphql", data=body, headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        nodes = json.load(answer)["data"]["assetNodes"]
    return {
        "/".join(node["assetKey"]["path"]): node["freshnessStatusInfo"]["freshnessStatus"]
        for node in nodes
        if node["freshnessStatusInfo"]
    }


def test_when_landing_stops_the_ui_says_so_one_alert_is_sent_and_nothing_is_trained(
    served: tuple[Settings, Webhook],
) -> None:
    settings, webhook = served
    lake = Lake.of(settings)
    wait_for("the taking in of what landed", lambda: len(lake.partitions("features/recent_demand")) == 2)
    wait_for("an alert", lambda: bool(webhook.received))
    late = ["raw/installations", "raw/readings", "raw/weather"]
    shown = in_the_ui(settings)
    assert {asset: shown[asset] for asset in late} == dict.fromkeys(late, "DEGRADED")
    time.sleep(40)
    ((alert_id, body),) = webhook.received
    (raised,) = Alerts(lake).raised()
    assert raised.alert.alert_id == alert_id
    assert body["text"].startswith("CRITICAL: raw/")
    assert body["text"].endswith("is late, and 2 more like it")
    assert all(asset in raised.alert.text for asset in late)
    assert raised.state == "stands"
    with dg.DagsterInstance.get() as instance:
        keys = [dg.AssetKey(asset.split("/")) for asset in [*late, "features/recent_demand"]]
        recorded = instance.get_freshness_state_records(keys)
        assert {state.freshness_state for state in recorded.values()} == {FreshnessState.FAIL}
        assert len(recorded) == 4, "what is made from late tables is late, and not told apart"
        assert instance.get_latest_materialization_event(dg.AssetKey(["demand", "training_set"])) is None
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
