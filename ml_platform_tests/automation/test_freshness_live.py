"""Landing stops while real daemons run: the UI says so, one alert reaches a real webhook, and nothing is trained."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState

from ml_platform.settings import Settings
from ml_platform.stores.alerts import Alerts
from ml_platform.stores.lake import Lake
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import deliveries, wait_for
from ml_platform_tests.receivers import Webhook, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ASKED = "{ assetNodes { assetKey { path } freshnessStatusInfo { freshnessStatus } } }"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Settings, Webhook]]:
    """What `ml-platform up` serves, of meters whose data must be a minute old at most: Dagster allows no less."""
    webhook, home = Webhook(), tmp_path / "home"
    meters = meters_home.project(
        tmp_path / "project", declared="freshness: {raw: 1m, features: 1m, predictions: 1m, models: 1m}\n"
    )
    told = {"ML_PLATFORM_ALERT_WEBHOOK_URL": webhook.url, "FRESHNESS_DAEMON_INTERVAL_SECONDS": "5"}
    for name, value in meters_home.environment(home, meters, **told).items():
        monkeypatch.setenv(name, value)
    settings = meters_home.prepared(home, meters)
    deliveries.land(settings.landing, datetime(2024, 2, 22, tzinfo=UTC))
    with serving(webhook), meters_home.serving(settings):
        yield settings, webhook


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
