"""The landing sensor on real files: one range run for what is out of date, and nothing when nothing is."""

import os
import threading
import time
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._daemon.sensor import MIN_INTERVAL_LOOP_TIME

from ml_platform.automation import landing as landing_module
from ml_platform.automation.calendar import daily
from ml_platform.automation.landing import landing_sensor
from ml_platform.defs import datasets
from ml_platform.defs.nyc_flights.replay import Awkward, replay
from ml_platform.settings import load
from ml_platform.stores.derivation import days_between
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import Status, derive
from ml_platform.stores.ingest import ingest
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.planning import plan
from ml_platform.stores.status import platform_status
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setenv("ML_PLATFORM_LANDING_SETTLE_SECONDS", "0")
    return tmp_path


def tick(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    (dataset,) = datasets()
    sensor = landing_sensor(dataset)
    return sensor(dg.build_sensor_context(instance=instance))  # type: ignore[return-value]


def requested(found: dg.SensorResult | dg.SkipReason) -> dg.RunRequest:
    assert isinstance(found, dg.SensorResult)
    assert found.run_requests is not None
    (request,) = found.run_requests
    return request


def daily_chain() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None:
        """Takes no time."""

    @dg.job(name="nyc_flights_daily")
    def daily() -> None:
        nothing()

    return daily


def test_nothing_landed_requests_nothing(home: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        found = tick(instance)
    assert isinstance(found, dg.SkipReason)
    assert "nothing has landed" in str(found.skip_message)


def test_landed_days_are_one_range_and_a_tick_without_news_repeats_its_key(home: Path) -> None:
    list(replay(load().landing, until="2013-01-03"))
    with dg.DagsterInstance.ephemeral() as instance:
        first, again = requested(tick(instance)), requested(tick(instance))
    assert first.tags["dagster/asset_partition_range_start"] == "2012-12-31"
    assert first.tags["dagster/asset_partition_range_end"] == "2013-01-02"
    assert first.run_key == again.run_key


def test_files_of_no_day_of_the_calendar_stop_nothing(home: Path) -> None:
    settings = load()
    list(replay(settings.landing, until="2013-01-03"))
    (dataset,) = datasets()
    with dg.DagsterInstance.ephemeral() as instance:
        before = requested(tick(instance))
        for table in ("schedule", "departures", "arrivals", "weather"):
            whole = (settings.landing / table / "2013-01-01.csv").read_bytes()
            for stranger in ("2012-12-30", "2014-01-03", "2099-01-01T05"):
                (settings.landing / table / f"{stranger}.csv").write_bytes(whole)
        after = requested(tick(instance))
    assert (after.run_key, after.tags) == (before.run_key, before.tags)
    assert dataset.watermark(Landing(settings.landing)) == datetime(2013, 1, 3, tzinfo=UTC)
    assert platform_status(settings, [dataset]).watermark == datetime(2013, 1, 3, tzinfo=UTC)


def test_of_an_open_calendar_the_hours_of_today_are_taken_in_and_tomorrow_s_wait(home: Path) -> None:
    settings = load()
    (declared,) = datasets()
    dataset = replace(declared, spec=declared.spec.model_copy(update={"end": None}))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for table in ("schedule", "departures", "arrivals", "weather"):
        (settings.landing / table).mkdir(parents=True)
        for period in (f"{today:%Y-%m-%d}T00", f"{today + timedelta(days=2):%Y-%m-%d}"):
            (settings.landing / table / f"{period}.csv").write_text("")
    found = plan(settings, dataset)
    assert found.watermark == today + timedelta(hours=1)
    assert found.days == (f"{today:%Y-%m-%d}", f"{today:%Y-%m-%d}")
    assert daily(dataset.spec).get_last_partition_key() == f"{today:%Y-%m-%d}"
    assert daily(declared.spec).get_last_partition_key() == "2014-01-02"


def test_a_correction_reaches_exactly_the_days_whose_look_back_reads_it(home: Path) -> None:
    settings = load()
    list(replay(settings.landing, until=date(2013, 1, 20)))
    (dataset,) = datasets()
    lake, landing = Lake.of(settings), Landing(settings.landing)
    for table in dataset.tables:
        list(ingest(lake, landing, table, list(landing.periods(table))))
    watermark = dataset.watermark(landing)
    assert watermark is not None
    manifest = FeatureClient(settings).manifest()
    for name in ("arrival_delays_by_route", "departure_delays_by_route"):
        derivation = view_derivation(manifest.view(name), bind(dataset.views[name], dataset.folder))
        list(derive(lake, derivation, days_between(date(2012, 12, 31), date(2013, 1, 19)), watermark))
    list(replay(settings.landing, until=date(2013, 1, 20), awkward=Awkward(corrections=["2013-01-05"])))
    stale = plan(settings, dataset).stale
    assert stale["raw/arrivals"] == ["2013-01-05"]
    assert stale["features/arrival_delays_by_route"] == days_between(date(2013, 1, 5), date(2013, 1, 13))
    assert "features/departure_delays_by_route" not in stale


def test_a_run_under_way_is_waited_for(home: Path) -> None:
    list(replay(load().landing, until="2013-01-02"))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.create_run_for_job(daily_chain(), status=dg.DagsterRunStatus.STARTED)
        found = tick(instance)
    assert isinstance(found, dg.SkipReason)
    assert "under way" in str(found.skip_message)


def test_a_period_waits_until_every_table_has_delivered_it_or_grace_is_over(home: Path) -> None:
    settings = load()
    list(replay(settings.landing, until=date(2013, 1, 3)))
    late = settings.landing / "weather" / "2013-01-02.csv"
    withheld = late.read_bytes()
    late.unlink()
    with dg.DagsterInstance.ephemeral() as instance:
        early = requested(tick(instance))
        assert early.tags["dagster/asset_partition_range_end"] == "2013-01-01", "the second waits for its weather"
        late.write_bytes(withheld)
        whole = requested(tick(instance))
        assert whole.tags["dagster/asset_partition_range_end"] == "2013-01-02"
        late.unlink()
        long_ago = time.time() - 7 * 3600
        for table in ("schedule", "departures", "arrivals"):
            os.utime(settings.landing / table / "2013-01-02.csv", (long_ago, long_ago))
        over = requested(tick(instance))
        assert over.tags["dagster/asset_partition_range_end"] == "2013-01-02", "six hours are declared"


def test_nothing_is_requested_while_only_some_tables_have_delivered_and_the_sensor_says_which(home: Path) -> None:
    settings = load()
    list(replay(settings.landing, until=date(2013, 1, 2)))
    for table in ("schedule", "weather"):
        for file in (settings.landing / table).iterdir():
            file.unlink()
    with dg.DagsterInstance.ephemeral() as instance:
        found = tick(instance)
    assert isinstance(found, dg.SkipReason)
    assert "not every table has delivered 2012-12-31 to 2013-01-01 yet" in str(found.skip_message)
    assert "raw/departures, raw/arrivals wait" in str(found.skip_message)


def test_a_file_that_still_grows_is_not_there_yet(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_LANDING_SETTLE_SECONDS", "60")
    settings = load()
    list(replay(settings.landing, until=date(2013, 1, 3)))
    long_ago = time.time() - 61
    files = [file for file in settings.landing.rglob("*.csv") if file.stem != "2013-01-02"]
    for file in files:
        os.utime(file, (long_ago, long_ago))
    with dg.DagsterInstance.ephemeral() as instance:
        assert requested(tick(instance)).tags["dagster/asset_partition_range_end"] == "2013-01-01"


def test_a_tick_waits_for_what_settles_within_seconds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_LANDING_SETTLE_SECONDS", "1")
    list(replay(load().landing, until=date(2013, 1, 2)))
    with dg.DagsterInstance.ephemeral() as instance:
        assert requested(tick(instance)).tags["dagster/asset_partition_range_end"] == "2013-01-01"


def test_a_tick_with_nothing_to_do_watches_the_folder_and_takes_in_what_lands(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_LANDING_SETTLE_SECONDS", "1")
    monkeypatch.setattr(landing_module, "_WATCH_SECONDS", 120.0)
    landing = threading.Timer(1.5, lambda: list(replay(load().landing, until=date(2013, 1, 2))))
    landing.start()
    with dg.DagsterInstance.ephemeral() as instance:
        assert requested(tick(instance)).tags["dagster/asset_partition_range_end"] == "2013-01-01"
    landing.join()


def test_a_tick_waits_for_the_end_of_a_run_and_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_LANDING_SETTLE_SECONDS", "1")
    monkeypatch.setattr(landing_module, "_WATCH_SECONDS", 120.0)
    list(replay(load().landing, until=date(2013, 1, 2)))
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(daily_chain(), status=dg.DagsterRunStatus.STARTED)
        ending = threading.Timer(1.5, lambda: instance.report_run_failed(run))
        ending.start()
        assert requested(tick(instance)).tags["dagster/asset_partition_range_end"] == "2013-01-01"
        assert instance.get_run_by_id(run.run_id).is_finished
        ending.join()


def test_a_tick_that_watches_ends_before_the_next_is_due() -> None:
    assert landing_module._WATCH_SECONDS < MIN_INTERVAL_LOOP_TIME


def test_a_run_reads_no_file_that_is_still_written(home: Path) -> None:
    """What was requested may be written again before the run reads it."""
    landed = load().landing
    list(replay(landed, until=date(2013, 1, 3)))
    lake, table = Lake.of(load()), datasets()[0].table("weather")
    days = ["2013-01-01", "2013-01-02"]
    list(ingest(lake, Landing(landed), table, days[:1]))
    stood = lake.partitions("raw/weather")
    for day in days:
        file = landed / "weather" / f"{day}.csv"
        file.write_bytes(file.read_bytes()[:2000])
        os.utime(file, (time.time() + 3600, time.time() + 3600))
    kept, waits = ingest(lake, Landing(landed, timedelta(seconds=1)), table, days)
    assert (kept.status, kept.state) == (Status.UNCHANGED, stood[days[0]])
    assert (waits.status, waits.reason) == (
        Status.WAITING,
        "a file of weather for 2013-01-02 is still being written",
    )
    assert lake.partitions("raw/weather") == stood


def test_the_same_day_corrected_again_is_another_state_and_requested_again(home: Path) -> None:
    """Days and watermark are the same both times: what tells the requests apart is what landed."""
    settings = load()
    list(replay(settings.landing, until=date(2013, 1, 3)))
    (dataset,) = datasets()
    lake, landing = Lake.of(settings), Landing(settings.landing)
    file = settings.landing / "arrivals" / "2013-01-01.csv"
    keys = []
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(3):
            keys.append(requested(tick(instance)).run_key)
            assert requested(tick(instance)).run_key == keys[-1]
            for table in dataset.tables:
                list(ingest(lake, landing, table, list(landing.periods(table))))
            file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    assert len(set(keys)) == 3
