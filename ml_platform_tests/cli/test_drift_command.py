"""The newest drift report, column by column."""

import json
from collections.abc import Callable

import dagster as dg
import pytest
from click.testing import Result

from ml_platform.settings import Settings
from ml_platform.stores.lake import Lake

Run = Callable[..., Result]


def test_every_column_is_listed_with_the_strongest_effect_first(run: Run) -> None:
    found = json.loads(run("drift", "show", "flight_delay", "--json").stdout)["flight_delay"]
    strengths = [column["strength"] for column in found["columns"].values() if not column["ignored"]]
    assert len(strengths) > 100
    assert strengths == sorted(strengths, reverse=True)
    assert found["strength"] == max(strengths[0], found["prediction"]["strength"])
    shown = run("drift", "show", "flight_delay").stdout
    assert found["reason"] in shown
    assert next(iter(found["columns"])) in shown


@pytest.mark.parametrize("arguments", [(), ("flight_delay",), ("--json",), ("flight_delay", "--json")])
def test_without_a_command_it_shows(run: Run, arguments: tuple[str, ...]) -> None:
    shown = run("drift", *arguments)
    assert shown.exit_code == 0
    assert shown.stdout == run("drift", "show", *arguments).stdout


def test_a_feature_that_the_policy_ignores_is_listed_and_never_drifted(run: Run) -> None:
    columns = json.loads(run("drift", "flight_delay", "--json").stdout)["flight_delay"]["columns"]
    ignored = {name: each for name, each in columns.items() if each["ignored"]}
    assert set(ignored) == {"days_to_holiday", "days_since_holiday"}
    assert all(each["psi"] > 0.2 and not each["drifted"] and each["strength"] is None for each in ignored.values())
    lines = run("drift", "flight_delay").stdout.splitlines()
    assert all(any(name in line and "ignored" in line for line in lines) for name in ignored)


def test_calibrating_runs_the_asset_and_shows_false_alarms_and_what_is_found(run: Run, finished: Settings) -> None:
    before = Lake.of(finished).version("flight_delay/drift_calibration")
    found = json.loads(run("drift", "calibrate", "--json").stdout)
    assert found["delay_minutes"] is None
    calibrated = found["flight_delay"]
    assert calibrated["false_alarms_per_100_windows"] == 100 * calibrated["false_alarms"] / calibrated["windows"] <= 1.0
    important = [shift["feature"] for shift in calibrated["shifts"]]
    assert len(set(important)) == 3
    assert {(shift["shift"], shift["trials"]) for shift in calibrated["shifts"]} == {
        (shift, 1000) for shift in (0.15, 0.2, 0.25, 0.5)
    }
    shown = run("drift", "calibrate", "flight_delay").stdout
    # What stands is of this champion and this policy: nothing is computed, and Dagster hears of it once.
    assert Lake.of(finished).version("flight_delay/drift_calibration") == before
    with dg.DagsterInstance.get() as instance:
        told = instance.fetch_materializations(dg.AssetKey(["flight_delay", "drift_calibration"]), limit=5)
        assert len(told.records) == 1
    assert f"effects stronger than {calibrated['alarm_limit']:.2f} are an alarm" in shown
    assert important[0] in shown
    assert "delay_minutes" not in shown
    assert "no champion yet" in run("drift", "calibrate", "delay_minutes").stdout


def test_a_model_without_a_report_says_so(run: Run) -> None:
    assert json.loads(run("drift", "--json").stdout)["delay_minutes"] is None
    assert "no drift report yet" in run("drift", "delay_minutes").stdout


def test_an_unknown_model_is_refused_with_those_there_are(run: Run) -> None:
    with pytest.raises(LookupError, match="no model 'nothing' is declared; there are flight_delay, delay_minutes"):
        raise run("drift", "nothing").exception
