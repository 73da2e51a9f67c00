"""What the landing sensor asks for and lets wait, and that what it lets wait is no reason for anybody else to wait."""

import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dagster as dg
import pytest
from typer.testing import CliRunner

from ml_platform import cli
from ml_platform.automation.conditions import _up_to_date
from ml_platform.automation.landing import landing_sensor
from ml_platform.automation.schedules import weekly_review
from ml_platform.core.table_spec import TableSpec
from ml_platform.settings import load
from ml_platform.stores import planning
from ml_platform.stores.landing import LandedFile, Landing
from ml_platform_tests.loop.homes import FLIGHTS, Home

MODEL = FLIGHTS.model("flight_delay")


@pytest.fixture(scope="module")
def three_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that has taken in what landed, and has no model."""
    home = Home(load({"ML_PLATFORM_HOME": str(tmp_path_factory.mktemp("three_days"))})).with_models(MODEL)
    home.land(until="2013-01-03")
    home.catch_up()
    return home.settings.home


@pytest.fixture
def home(three_days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of it, whose files have settled long ago; it is that of the environment."""
    shutil.copytree(three_days, tmp_path / "home")
    made = Home(load({"ML_PLATFORM_HOME": str(tmp_path / "home")})).with_models(MODEL)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    before = time.time() - 7200
    for file in made.landed.rglob("*.csv"):
        os.utime(file, (before, before))
    assert made.plan().stale == {}
    return made


def said(evaluated: Any) -> str:
    """Why a sensor or a schedule asked for nothing."""
    assert isinstance(evaluated, dg.SkipReason), evaluated
    return str(evaluated.skip_message)


def reviewed(home: Home) -> str:
    """What the weekly review says."""
    with home.instance() as instance:
        return said(weekly_review(home.dataset, MODEL)(dg.build_schedule_context(instance=instance)))


def sensed(home: Home) -> dg.SensorResult | dg.SkipReason:
    """What the landing sensor says."""
    with dg.DagsterInstance.ephemeral() as instance:
        return landing_sensor(home.dataset)(dg.build_sensor_context(instance=instance))  # type: ignore[return-value]


def up_to_date(home: Home) -> bool:
    """Whether the condition on a training set finds that all data is taken in, at an evaluation of its own."""
    context = SimpleNamespace(evaluation_time=time.time())
    holds = _up_to_date(home.dataset).holds(cast("Any", context))
    assert isinstance(holds, bool)
    return holds


def test_a_period_that_others_have_not_delivered_holds_back_no_training(home: Home) -> None:
    day = home.landed / "schedule" / "2013-01-02.csv"
    shutil.copyfile(day, day.with_name("2013-01-03.csv"))
    assert home.plan().stale, "it has landed, and is not taken in"
    assert said(sensed(home)) == "not every table has delivered 2013-01-03 to 2013-01-03 yet: raw/schedule wait"
    planned = json.loads(CliRunner().invoke(cli.app, ["plan", "--json"]).stdout)["nyc_flights"]
    assert planned["waiting"] == {"raw/schedule": ["2013-01-03"]}
    assert "raw/schedule" not in planned["stale"]
    assert "waits for others" in CliRunner().invoke(cli.app, ["plan"]).stdout
    assert up_to_date(home)
    assert reviewed(home).startswith("No version predicts yet. But ")


def test_a_file_that_goes_while_it_is_looked_at_waits(home: Home) -> None:
    day = home.landed / "schedule" / "2013-01-02.csv"
    ahead = day.with_name("2013-01-03.csv")
    shutil.copyfile(day, ahead)
    schedule = FLIGHTS.table("schedule")
    listed = home.landing.periods(schedule)

    class Before(Landing):
        """The folder as it was listed."""

        def periods(self, spec: TableSpec) -> dict[str, tuple[LandedFile, ...]]:
            return listed if spec.name == schedule.name else super().periods(spec)

    ahead.unlink()
    found = planning._unripe(Before(home.landed), schedule, datetime(2013, 1, 3, tzinfo=UTC), datetime.now(UTC))
    assert found == {"2013-01-03"}


def test_a_file_that_may_still_be_written_holds_back_no_training(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_LANDING_SETTLE_SECONDS", "3600")
    (home.landed / "weather" / "2013-01-03.csv").write_text("")
    assert home.plan().stale, "it has landed, and is not taken in"
    assert up_to_date(home)
    assert reviewed(home).startswith("No version predicts yet. But ")


def test_a_corrected_reference_table_is_taken_in_by_a_run_over_the_newest_day(home: Home) -> None:
    assert "everything is up to date" in said(sensed(home))
    stood = home.contents()
    file = home.landed / "planes" / "planes.csv"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    found = sensed(home)
    assert isinstance(found, dg.SensorResult), found
    (request,) = found.run_requests or ()
    assert request.tags["dagster/asset_partition_range_start"] == "2013-01-02"
    assert request.tags["dagster/asset_partition_range_end"] == "2013-01-02"
    assert request.tags["ml_platform/reason"] == "out of date: raw/planes: 1, features/aircraft_facts: 1"

    chain = home.run(["raw/planes", "features/aircraft_facts"], ("2013-01-02", "2013-01-02"), tags=request.tags)
    assert chain.success
    changed = {table for table, days in home.contents().items() if days != stood[table]}
    assert changed == {"raw/planes", "features/aircraft_facts"}
    assert "everything is up to date" in said(sensed(home))


def test_a_view_of_reference_tables_that_a_run_did_not_make_is_out_of_date(home: Home) -> None:
    file = home.landed / "planes" / "planes.csv"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))
    assert home.run(["raw/planes"], ("2013-01-02", "2013-01-02")).success
    assert home.plan().stale == {"features/aircraft_facts": ["all"]}
    assert home.plan().days == ("2013-01-02", "2013-01-02")


def test_reference_tables_alone_wait_for_a_first_day(home: Home) -> None:
    for folder in home.landed.iterdir():
        if folder.name not in ("planes", "airports", "airlines"):
            shutil.rmtree(folder)
    shutil.rmtree(home.settings.home / "lake")
    assert said(sensed(home)).endswith("landed, and wait until every table with days has one")


def test_what_is_ready_and_not_taken_in_holds_back_training(home: Home) -> None:
    day = home.landed / "weather" / "2013-01-02.csv"
    day.write_bytes(b"".join(day.read_bytes().splitlines(keepends=True)[:-1]))
    assert not up_to_date(home)
    assert reviewed(home).startswith("evidence is not whole")
