"""The alerts sensor on a real home, a real Dagster instance and a real webhook: once per cause, whatever else fails."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.freshness import FreshnessState, FreshnessStateChange
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._utils.error import SerializableErrorInfo

from ml_platform.assets.backups import backup_event
from ml_platform.automation.alerts import Memory, tick
from ml_platform.core.alerts import Kind
from ml_platform.core.promotion import Decision
from ml_platform.defs.nyc_flights.replay import Awkward, Fault
from ml_platform.settings import load
from ml_platform.stores.alerts import Alerts, RaisedAlert
from ml_platform.stores.backup import Backup, back_up
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.ledger import SCHEMA, TABLE, Ledger, ManualDecision
from ml_platform_tests.loop.homes import FLIGHTS, Home
from ml_platform_tests.receivers import Webhook, serving

pytestmark = pytest.mark.timeout(900)

WATERMARK = datetime(2013, 1, 3, tzinfo=UTC)
APPROVED = Decision(promote=True, rule="better_than_champion", reason="better beyond doubt", gates=())


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = load({"ML_PLATFORM_HOME": str(tmp_path_factory.mktemp("feast"))})
    FeatureClient(settings).manifest()
    return settings.feast_home / "manifests"


@pytest.fixture(scope="module")
def repository(manifests: Path) -> dg.RepositoryDefinition:
    """The code location as daemons load it."""
    from ml_platform.definitions import defs

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ML_PLATFORM_HOME", str(manifests.parents[1]))
        return defs().get_repository_def()


@dataclass
class Watched:
    """A home whose alerts go to a webhook, and the sensor that watches it, tick by tick."""

    home: Home
    instance: dg.DagsterInstance
    repository: dg.RepositoryDefinition
    webhook: Webhook
    cursor: str | None = None

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            context = dg.build_sensor_context(
                instance=self.instance, cursor=self.cursor, repository_def=self.repository
            )
            self.cursor = tick(context, [self.home.dataset]).cursor

    @property
    def received(self) -> list[str]:
        return [body["text"] for _, body in self.webhook.received]

    @property
    def raised(self) -> list[RaisedAlert]:
        return Alerts(self.home.lake).raised()

    def awake_for(self, length: timedelta) -> None:
        """Let the sensor believe that it has ticked all the time since then."""
        memory = Memory(**json.loads(self.cursor or "{}"))
        memory.awake_since = (datetime.now(UTC) - length).isoformat()
        self.cursor = json.dumps(vars(memory))


@pytest.fixture
def watched(
    tmp_path: Path, manifests: Path, repository: dg.RepositoryDefinition, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    home, webhook = Home.at(tmp_path / "home", manifests), Webhook()
    for name, value in {**home.environment, "ML_PLATFORM_ALERT_WEBHOOK_URL": webhook.url}.items():
        monkeypatch.setenv(name, value)
    with home.instance() as instance, serving(webhook):
        yield Watched(home, instance, repository, webhook)


def spoil(file: Path) -> None:
    """Leave out a column."""
    lines = file.read_text().splitlines()
    file.write_text("\n".join(line.rsplit(",", 1)[0] for line in lines) + "\n")


def test_a_blocked_partition_is_told_once_and_told_again_only_when_it_is_blocked_anew(watched: Watched) -> None:
    home = watched.home
    home.land(until=date(2013, 1, 3), awkward=Awkward(corrupt={("weather", "2013-01-02"): Fault.MISSING_COLUMN}))
    home.catch_up()
    watched.tick(20)
    assert watched.received == ["WARNING: raw/weather 2013-01-02 is blocked"]
    assert watched.raised[0].state == "stands"
    assert "partitions of" in watched.raised[0].alert.text, "what waits for it is counted, not told"

    file = home.landed / "weather" / "2013-01-02.csv"
    file.unlink()
    home.land(until=date(2013, 1, 3))
    home.catch_up()
    watched.tick(3)
    assert len(watched.received) == 1
    assert watched.raised[0].state == "ended"

    spoil(file)
    home.catch_up()
    watched.tick(3)
    assert watched.received == ["WARNING: raw/weather 2013-01-02 is blocked"] * 2
    assert [each.state for each in watched.raised] == ["ended", "stands"]


def test_a_tick_without_news_asks_for_no_log_that_would_be_stored_empty(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.tick()
    asked: list[object] = []
    monkeypatch.setattr(dg.SensorEvaluationContext, "log", property(lambda context: asked.append(context)))
    watched.tick(2)
    assert not asked
    assert not watched.received


def test_an_alert_on_a_partition_leads_to_the_run_that_found_it(watched: Watched) -> None:
    home = watched.home
    home.land(until=date(2013, 1, 3), awkward=Awkward(corrupt={("weather", "2013-01-01"): Fault.MISSING_COLUMN}))
    run = home.run(["raw/weather"], ("2012-12-31", "2013-01-02"))
    watched.tick()
    (raised,) = watched.raised
    assert raised.alert.subject == "raw/weather 2013-01-01"
    assert raised.alert.link.endswith(f"/runs/{run.run_id}")


def test_an_alert_is_an_event_of_its_asset_and_a_row_for_sql(watched: Watched) -> None:
    Ledger(watched.home.lake).record(
        "flight_delay", 1, APPROVED, expected_current=None, watermark=WATERMARK, by="automation", run_id="r"
    )
    context = dg.build_sensor_context(instance=watched.instance, repository_def=watched.repository)
    (event,) = tick(context, [FLIGHTS]).asset_events
    assert event.asset_key.path == ["ledger", "alerts"]
    assert event.description == "flight_delay: version 1 was promoted"
    rows = watched.home.lake.query("select severity, sinks from ledger.alerts").rows()
    assert rows == [("info", "log, webhook")]


def test_promotions_and_rollbacks_are_told_once_each_and_a_refusal_never(watched: Watched) -> None:
    ledger = Ledger(watched.home.lake)
    made = {"watermark": WATERMARK, "by": "ann", "run_id": "r"}
    ledger.record("flight_delay", 1, APPROVED, expected_current=None, **made)
    ledger.record("flight_delay", 2, APPROVED, expected_current=1, **made)
    watched.tick(3)
    refused = ManualDecision(promote=False, rule="rejected_by_person", reason="worse")
    ledger.record("flight_delay", 3, refused, expected_current=2, **made)
    watched.tick()
    back = ManualDecision(promote=True, rule="restored_by_person", reason="it warns of everything")
    ledger.record("flight_delay", 1, back, expected_current=2, **made)
    watched.tick(3)
    assert watched.received == [
        "INFO: flight_delay: version 1 was promoted, and 1 more like it",
        "WARNING: flight_delay: version 1 was restored in place of version 2",
    ]


def test_a_home_with_history_is_told_of_what_stands_and_of_the_last_day_only(watched: Watched) -> None:
    lake = watched.home.lake
    lake.create(TABLE, SCHEMA)
    old = {
        "model": "flight_delay",
        "version": 1,
        "promoted": True,
        "rule": "first_champion",
        "reason": "good",
        "gates": "[]",
        "decided_at_watermark": WATERMARK,
        "decided_at": datetime.now(UTC) - timedelta(days=2),
        "decided_by": "automation",
        "run_id": "r",
        "sequence": 1,
    }
    lake.append(TABLE, pl.DataFrame([old], schema=dict(SCHEMA)))
    watched.tick(2)
    assert watched.received == []
    Ledger(lake).record(
        "flight_delay", 2, APPROVED, expected_current=1, watermark=WATERMARK, by="automation", run_id="q"
    )
    watched.tick(2)
    assert watched.received == ["INFO: flight_delay: version 2 was promoted in place of version 1"]
    watched.cursor = None
    watched.tick(2)
    assert len(watched.received) == 1, "a sensor that was reset repeats nothing"


def test_a_failed_run_is_told_with_its_error_and_link_and_one_that_is_tried_again_is_not(watched: Watched) -> None:
    days = ("2013-01-01", "2013-01-02")
    failed = watched.home.run(["features/arrival_delays_by_route"], days)
    assert not failed.success
    job = watched.home.definitions.resolve_job_def("nyc_flights_daily")
    dead = watched.instance.create_run_for_job(job)
    watched.instance.report_run_failed(dead)
    watched.tick(3)
    assert watched.received == ["CRITICAL: nyc_flights_daily failed at features__arrival_delays_by_route"]
    (raised,) = watched.raised
    assert raised.alert.link.endswith(f"/runs/{failed.run_id}")
    assert "nothing has landed yet" in raised.alert.text

    watched.instance.add_run_tags(dead.run_id, {"dagster/will_retry": "false"})
    watched.tick(3)
    assert watched.received[1:] == ["CRITICAL: nyc_flights_daily failed"]
    assert watched.raised[1].alert.link.endswith(f"/runs/{dead.run_id}")


def test_a_person_who_is_refused_has_the_answer_and_nobody_else_is_told(watched: Watched) -> None:
    asked = {"ops": {"delay_minutes_rollback_decision": {"config": {"reason": "why not", "person": "ann"}}}}
    watched.home.land(until=date(2013, 1, 2))
    refused = watched.home.run(None, job="delay_minutes_rollback", tags={}, config=asked)
    (failure,) = [event for event in refused.all_events if event.is_step_failure]
    assert "NotAllowedError" in failure.step_failure_data.error.to_string()
    watched.tick(2)
    assert watched.received == []


def test_an_origin_of_facts_that_breaks_silences_no_other_and_is_told_if_it_stays_so(watched: Watched) -> None:
    home = watched.home
    home.land(until=date(2013, 1, 2), awkward=Awkward(corrupt={("weather", "2013-01-01"): Fault.MISSING_COLUMN}))
    home.catch_up()
    broken = Path(home.settings.lake_uri) / TABLE / "_delta_log"
    broken.mkdir(parents=True)
    (broken / "00000000000000000000.json").write_text("no JSON\n")
    watched.tick(2)
    assert watched.received == ["WARNING: raw/weather 2013-01-01 is blocked"]
    memory = Memory(**json.loads(watched.cursor or ""))
    assert set(memory.failing) == {"ledger", "models"}
    long_ago = datetime.now(UTC) - timedelta(minutes=4)
    memory.failing = dict.fromkeys(memory.failing, long_ago.isoformat())
    memory.awake_since = long_ago.isoformat()
    watched.cursor = json.dumps(vars(memory))
    watched.tick(3)
    assert sorted(watched.received[1:]) == [
        "CRITICAL: alerts: ledger does not work",
        "CRITICAL: alerts: models does not work",
    ]


def late(instance: dg.DagsterInstance, asset: str, state: FreshnessState, at: datetime) -> None:
    """What Dagster's freshness daemon records."""
    change = FreshnessStateChange(
        key=dg.AssetKey(asset.split("/")),
        new_state=state,
        previous_state=FreshnessState.UNKNOWN,
        state_change_timestamp=at.timestamp(),
    )
    instance._report_runless_asset_event(change)


def test_landing_that_stops_is_one_alert_and_another_when_it_stops_again(watched: Watched) -> None:
    now = datetime.now(UTC)
    assets = ["raw/arrivals", "raw/weather", "features/weather_at_origin", "flight_delay/predictions"]
    for asset in assets:
        late(watched.instance, asset, FreshnessState.FAIL, now - timedelta(hours=2))
    watched.tick(5)
    assert watched.received == ["CRITICAL: raw/arrivals is late, and 1 more like it"]
    assert watched.raised[0].alert.subject == "nyc_flights"
    for asset in assets:
        late(watched.instance, asset, FreshnessState.PASS, now - timedelta(hours=1))
    watched.tick(3)
    assert watched.raised[0].state == "ended"
    late(watched.instance, "raw/weather", FreshnessState.FAIL, now - timedelta(minutes=5))
    watched.tick(3)
    assert watched.received[1:] == ["CRITICAL: raw/weather is late"]


ORIGIN = RemoteInstigatorOrigin(
    RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("ml_platform"), "__repository__"), "nyc_flights_landing"
)


def ticked(instance: dg.DagsterInstance, status: TickStatus, at: datetime) -> None:
    """What Dagster's sensor daemon records of the landing sensor."""
    error = SerializableErrorInfo("ValueError: no such folder", [], "ValueError")
    instance.create_tick(
        TickData(
            instigator_origin_id=ORIGIN.get_id(),
            instigator_name=ORIGIN.instigator_name,
            instigator_type=InstigatorType.SENSOR,
            status=status,
            timestamp=at.timestamp(),
            selector_id=ORIGIN.get_selector().get_id(),
            error=error if status is TickStatus.FAILURE else None,
        )
    )


def test_a_sensor_whose_ticks_fail_is_told_once_and_not_because_everything_slept(watched: Watched) -> None:
    running = InstigatorState(
        ORIGIN, InstigatorType.SENSOR, InstigatorStatus.DECLARED_IN_CODE, SensorInstigatorData(min_interval=30)
    )
    watched.instance.add_instigator_state(running)
    now = datetime.now(UTC)
    ticked(watched.instance, TickStatus.SKIPPED, now - timedelta(hours=9))
    ticked(watched.instance, TickStatus.FAILURE, now - timedelta(minutes=1))
    watched.tick(3)
    assert watched.received == [], "we have only just woken up"
    watched.awake_for(timedelta(hours=9))
    watched.tick(3)
    silent, failing = (f"CRITICAL: sensor {name} does not work" for name in ("automation", "nyc_flights_landing"))
    assert watched.received == [silent, failing], "one never ticked, the other's ticks fail"

    def landing() -> RaisedAlert:
        (found,) = (each for each in watched.raised if "nyc_flights_landing" in each.alert.title)
        return found

    assert "ValueError: no such folder" in landing().alert.text
    assert "/locations/__repository__@ml_platform/sensors/nyc_flights_landing" in landing().alert.link
    ticked(watched.instance, TickStatus.SKIPPED, now)
    watched.tick(2)
    assert landing().state == "ended"


def test_a_backup_that_is_overdue_is_told_once_until_one_is_finished(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now(UTC)
    old = Backup(tmp_path / "backups" / "old", now - timedelta(hours=31), "0.1", {}, frozenset())
    watched.instance.report_runless_asset_event(backup_event(old))
    watched.tick(2)
    assert watched.received == [], "nobody said how old it may be"
    monkeypatch.setenv("ML_PLATFORM_BACKUP_WITHIN_HOURS", "30")
    watched.tick(3)
    assert watched.received == ["CRITICAL: There is no recent backup"]
    assert f"{old.begun_at:%Y-%m-%d %H:%M} UTC" in watched.raised[0].alert.text
    made = back_up(load(), str(tmp_path / "backups"))
    watched.instance.report_runless_asset_event(backup_event(made))
    watched.tick(2)
    assert [(each.state, each.alert.kind) for each in watched.raised] == [("ended", Kind.BACKUP_OVERDUE)]


def test_a_webhook_that_is_configured_wrongly_is_told_in_the_log_and_owed_what_it_missed(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = os.environ["ML_PLATFORM_ALERT_WEBHOOK_URL"]
    monkeypatch.setenv("ML_PLATFORM_ALERT_WEBHOOK_URL", "hooks.example.org/SECRET")
    Ledger(watched.home.lake).record(
        "flight_delay", 1, APPROVED, expected_current=None, watermark=WATERMARK, by="automation", run_id="r"
    )
    watched.tick(2)
    assert "SECRET" not in (watched.cursor or "")
    assert watched.received == []
    monkeypatch.setenv("ML_PLATFORM_ALERT_WEBHOOK_URL", sound)
    watched.tick(2)
    assert watched.received == ["INFO: flight_delay: version 1 was promoted"]


def test_a_tick_without_news_writes_nothing(watched: Watched) -> None:
    watched.home.land(until=date(2013, 1, 2))
    watched.home.catch_up()
    watched.tick()
    before = watched.home.versions()
    watched.tick(3)
    assert watched.home.versions() == before
    assert "ledger/alerts" not in before
