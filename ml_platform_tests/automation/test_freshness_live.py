"""Freshness with real daemons: what is late is shown and told once, and trains nothing; new labels do."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState

from ml_platform.automation import sensor
from ml_platform.settings import Settings
from ml_platform.stores.alerts import Alerts
from ml_platform.stores.lake import Lake
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import STALE_SOON, at_rest, called, deliveries, wait_for
from ml_platform_tests.receivers import Webhook, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ASKED = "{ assetNodes { assetKey { path } freshnessStatusInfo { freshnessStatus } } }"


@contextmanager
def served(folder: Path, *changes: tuple[str, str]) -> Iterator[tuple[Settings, Path, Webhook]]:
    """What `ml-platform up` serves, of meters whose data must be a minute old at most: Dagster allows no less."""
    webhook, home = Webhook(), folder / "home"
    made = meters_home.project(
        folder / "project", *changes, declared="freshness: {raw: 1m, features: 1m, predictions: 1m, models: 1m}\n"
    )
    told = {"ML_PLATFORM_ALERT_WEBHOOK_URL": webhook.url, "FRESHNESS_DAEMON_INTERVAL_SECONDS": "5"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in meters_home.environment(home, made, **told).items():
            patch.setenv(name, value)
        settings = meters_home.prepared(home, made)
        with serving(webhook), meters_home.serving(settings):
            yield settings, made, webhook


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
    tmp_path: Path,
) -> None:
    with served(tmp_path) as (settings, _, webhook):
        deliveries.land(settings.landing, datetime(2024, 2, 22, tzinfo=UTC))
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


def test_a_model_that_is_late_by_the_clock_waits_for_labels_and_is_then_trained_once(tmp_path: Path) -> None:
    with served(tmp_path, STALE_SOON) as (settings, made, _), dg.DagsterInstance.get() as instance:
        deliveries.land(settings.landing, datetime(2024, 3, 3, tzinfo=UTC))
        wait_for("the first training", lambda: bool(called(instance)) and at_rest(instance, settings, made))
        wait_for("a late model", lambda: in_the_ui(settings)["demand/champion"] == "DEGRADED")
        time.sleep(3 * sensor.INTERVAL_SECONDS)
        assert called(instance) == ["no champion"], "the clock went on, event time did not"
        deliveries.land(settings.landing, datetime(2024, 3, 7, tzinfo=UTC))
        wait_for("a retraining", lambda: len(called(instance)) > 1 and at_rest(instance, settings, made))
        time.sleep(3 * sensor.INTERVAL_SECONDS)
        first, second = called(instance)
        assert first == "no champion"
        assert "stale" in second
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
