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
from dagster._core.scheduler.instigation import InstigatorTick

from ml_platform.automation import alerts_sensor, sensor
from ml_platform.core.alerts import Kind
from ml_platform.settings import Settings
from ml_platform.stores.alerts import Alerts
from ml_platform.stores.lake import Lake
from ml_platform_tests.automation import meters_home
from ml_platform_tests.automation.meters_home import STALE_SOON, at_rest, called, dataset, deliveries, wait_for
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


def looked_again(instance: dg.DagsterInstance, times: int) -> None:
    """Wait until the alerts sensor has looked so often from now on."""
    begun = datetime.now(UTC).timestamp()
    (alerts,) = (each for each in instance.all_instigator_state() if each.instigator_name == alerts_sensor.SENSOR)

    def looks() -> list[InstigatorTick]:
        ticks = instance.get_ticks(alerts.instigator_origin_id, alerts.selector_id, after=begun)
        return [tick for tick in ticks if tick.end_timestamp is not None]

    wait_for("another look at what is late", lambda: len(looks()) >= times)


def test_when_landing_stops_predictions_are_late_too_each_cause_is_one_alert_and_nothing_is_trained(
    tmp_path: Path,
) -> None:
    with served(tmp_path) as (settings, made, webhook), dg.DagsterInstance.get() as instance:
        deliveries.land(settings.landing, datetime(2024, 3, 3, tzinfo=UTC))
        wait_for("the first training", lambda: bool(called(instance)) and at_rest(instance, settings, dataset(made)))
        late = ["raw/installations", "raw/readings", "raw/weather"]
        fed = ["features/recent_demand", "demand/predictions"]
        wait_for("late predictions", lambda: in_the_ui(settings)["demand/predictions"] == "DEGRADED")
        wait_for("an alert of it", lambda: any("is late" in body["text"] for _, body in webhook.received))
        shown = in_the_ui(settings)
        assert {asset: shown[asset] for asset in [*late, *fed]} == dict.fromkeys([*late, *fed], "DEGRADED")
        looked_again(instance, times=3)
        told, promoted = sorted(body["text"] for _, body in webhook.received)
        assert told.startswith("CRITICAL: raw/")
        assert told.endswith("is late, and 2 more like it"), "what is made from late tables is not told apart"
        assert promoted == "INFO: demand: version 1 was promoted"
        (raised,) = (each for each in Alerts(Lake.of(settings)).raised() if each.alert.kind is Kind.FRESHNESS_FAILED)
        assert all(asset in raised.alert.text for asset in late)
        assert raised.state == "stands"
        recorded = instance.get_freshness_state_records([dg.AssetKey(asset.split("/")) for asset in [*late, *fed]])
        assert [state.freshness_state for state in recorded.values()] == [FreshnessState.FAIL] * 5
        assert called(instance) == ["no champion"]
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}


def test_a_model_that_is_late_by_the_clock_waits_for_labels_and_is_then_trained_once(tmp_path: Path) -> None:
    with served(tmp_path, STALE_SOON) as (settings, made, _), dg.DagsterInstance.get() as instance:
        deliveries.land(settings.landing, datetime(2024, 3, 3, tzinfo=UTC))
        wait_for("the first training", lambda: bool(called(instance)) and at_rest(instance, settings, dataset(made)))
        wait_for("a late model", lambda: in_the_ui(settings)["demand/champion"] == "DEGRADED")
        time.sleep(3 * sensor.INTERVAL_SECONDS)
        assert called(instance) == ["no champion"], "the clock went on, event time did not"
        deliveries.land(settings.landing, datetime(2024, 3, 7, tzinfo=UTC))
        wait_for("a retraining", lambda: len(called(instance)) > 1 and at_rest(instance, settings, dataset(made)))
        time.sleep(3 * sensor.INTERVAL_SECONDS)
        first, second = called(instance)
        assert first == "no champion"
        assert "stale" in second
        assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
