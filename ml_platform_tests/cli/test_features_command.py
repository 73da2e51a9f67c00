"""A view's values are the same from the lake and from the online store, and expire alike."""

import json
from collections.abc import Callable
from datetime import datetime

import polars as pl
import pytest
from click.testing import Result

from ml_platform.settings import Settings
from ml_platform.stores.lake import Lake

Run = Callable[..., Result]


def test_views_and_services_are_listed(run: Run) -> None:
    shown = run("features").stdout
    assert [name in shown for name in ("weather_at_origin", "flight_delay_v1", "team:flight-data", "6h")] == [True] * 4
    listed = json.loads(run("features", "--json").stdout)
    assert "flight_delay_v1" in [service["name"] for service in listed["services"]]


def test_values_are_the_newest_known_at_the_moment(run: Run, finished: Settings) -> None:
    found = json.loads(
        run("features", "weather_at_origin", "--key", "origin=JFK", "--as-of", "2013-01-03T12:30", "--json").stdout
    )
    (row,) = found["rows"]
    stored = Lake.of(finished).read("features/weather_at_origin").filter(pl.col("origin") == "JFK")
    known = stored.filter(pl.col("event_timestamp").dt.replace_time_zone(None) <= datetime(2013, 1, 3, 12, 30))
    newest = known.sort("event_timestamp").row(-1, named=True)
    assert row["temp_f"] == newest["temp_f"]
    assert row["event_timestamp"] == newest["event_timestamp"].isoformat().replace("+00:00", "Z")


def test_the_online_store_answers_as_the_lake_does(run: Run) -> None:
    asked = ("features", "weather_at_origin", "--key", "origin=JFK", "--json")
    stored, online = (json.loads(run(*asked, *more).stdout) for more in ((), ("--online",)))
    assert online["online"]
    assert stored["rows"][0] == online["rows"][0]


def test_what_has_expired_is_not_shown(run: Run) -> None:
    found = run("features", "weather_at_origin", "--as-of", "2013-02-01", "--json")
    assert json.loads(found.stdout)["rows"] == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["nothing"], "no feature view 'nothing'; there are .*weather_at_origin"),
        (["weather_at_origin", "--key", "carrier=UA"], "has no key .*its keys are .*origin"),
        (["weather_at_origin", "--key", "JFK"], "takes name=value"),
        (["weather_at_origin", "--as-of", "yesterday"], "'yesterday' is no time"),
        (["weather_at_origin", "--online"], "needs --key for each of .*origin"),
        (["flight_request_features"], "nothing is stored of it"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_allowed(run: Run, asked: list[str], message: str) -> None:
    with pytest.raises((ValueError, LookupError), match=message):
        raise run("features", *asked).exception
