"""The newest drift report, column by column."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_every_column_is_listed_with_the_largest_first(run: Run) -> None:
    found = json.loads(run("drift", "flight_delay", "--json").stdout)["flight_delay"]
    figures = [column["psi"] for column in found["columns"].values()]
    assert len(figures) > 100
    assert figures == sorted(figures, reverse=True)
    shown = run("drift", "flight_delay").stdout
    assert found["reason"] in shown
    assert next(iter(found["columns"])) in shown


def test_a_feature_that_the_policy_ignores_is_listed_and_never_drifted(run: Run) -> None:
    columns = json.loads(run("drift", "flight_delay", "--json").stdout)["flight_delay"]["columns"]
    ignored = {name: each for name, each in columns.items() if each["ignored"]}
    assert set(ignored) == {"days_to_holiday", "days_since_holiday"}
    assert all(each["psi"] > each["threshold"] and not each["drifted"] for each in ignored.values())
    lines = run("drift", "flight_delay").stdout.splitlines()
    assert all(any(name in line and "ignored" in line for line in lines) for name in ignored)


def test_a_model_without_a_report_says_so(run: Run) -> None:
    assert json.loads(run("drift", "--json").stdout)["delay_minutes"] is None
    assert "no drift report yet" in run("drift", "delay_minutes").stdout


def test_an_unknown_model_is_refused_with_those_there_are(run: Run) -> None:
    with pytest.raises(LookupError, match="no model 'nothing' is declared; there are flight_delay, delay_minutes"):
        raise run("drift", "nothing").exception
