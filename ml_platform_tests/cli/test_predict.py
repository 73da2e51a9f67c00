"""Asking the champion by hand gives the scores of its recorded predictions, and names its version."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import polars as pl
import pytest
from click.testing import Result

from ml_platform.settings import Settings
from ml_platform.stores.lake import Lake

Run = Callable[..., Result]


def recorded(finished: Settings) -> pl.DataFrame:
    return Lake.of(finished).read("flight_delay/predictions").sort("prediction_time", "flight_id")


def test_a_landed_flight_scores_as_it_was_predicted(run: Run, finished: Settings) -> None:
    row = recorded(finished).row(-1, named=True)
    found = json.loads(run("predict", "flight_delay", "--key", f"flight_id={row['flight_id']}", "--json").stdout)
    assert (found["model"], found["version"]) == ("flight_delay", 1)
    (prediction,) = found["predictions"]
    assert prediction["score"] == row["score"]
    assert prediction["decision"] == row["decision"]
    assert prediction["known_until"] == prediction["prediction_time"]
    assert found["rows_before_trained_through"] == 0


def test_a_flight_given_as_json_scores_alike(run: Run, finished: Settings) -> None:
    row = recorded(finished).row(-1, named=True)
    flight = Lake.of(finished).read("raw/schedule").filter(pl.col("flight_id") == row["flight_id"]).row(0, named=True)
    names = ("flight_id", "carrier", "origin", "dest", "tailnum", "distance_miles")
    given = {
        **{name: flight[name] for name in names},
        "route": f"{flight['origin']}-{flight['dest']}",
        "scheduled_departure_at": flight["scheduled_departure_at"].isoformat(),
        "scheduled_arrival_at": flight["scheduled_arrival_at"].isoformat(),
        "prediction_time": row["prediction_time"].isoformat(),
    }
    found = json.loads(run("predict", "flight_delay", "--json", stdin=json.dumps(given)).stdout)
    assert found["predictions"][0]["score"] == row["score"]


def test_until_holds_back_what_became_known_later(run: Run, finished: Settings) -> None:
    row = recorded(finished).row(-1, named=True)
    key = ("--key", f"flight_id={row['flight_id']}")
    found = json.loads(run("predict", "flight_delay", *key, "--until", "2013-01-05T06:00", "--json").stdout)
    assert found["predictions"][0]["known_until"] == "2013-01-05T06:00:00Z"


def test_a_flight_beyond_the_watermark_is_scored_with_what_is_known_now(run: Run, finished: Settings) -> None:
    ahead = Lake.of(finished).read("raw/schedule").sort("scheduled_departure_at").row(-1, named=True)
    assert ahead["scheduled_departure_at"] > datetime(2013, 1, 6, 12, tzinfo=UTC)
    found = json.loads(run("predict", "flight_delay", "--key", f"flight_id={ahead['flight_id']}", "--json").stdout)
    assert found["predictions"][0]["known_until"] == "2013-01-06T00:00:00Z"


def test_rows_the_champion_may_have_learned_from_are_pointed_out(run: Run, finished: Settings) -> None:
    early = Lake.of(finished).read("raw/schedule").sort("scheduled_departure_at").row(0, named=True)
    result = run("predict", "flight_delay", "--key", f"flight_id={early['flight_id']}")
    assert result.exit_code == 0, result.output
    assert "it may have seen how they ended" in result.stdout
    assert "by version 1, the champion" in result.stdout


@pytest.mark.parametrize(
    ("asked", "stdin", "message"),
    [
        (["nothing"], "{}", "no model 'nothing' is declared; there are flight_delay"),
        (["delay_minutes"], None, "no champion yet"),
        (["flight_delay", "--key", "flight_id=none"], None, "no row with flight_id=none has landed; keys look like"),
        (["flight_delay", "--key", "nope=1"], None, "no column 'nope' to find rows by; it has flight_id"),
        (["flight_delay"], "[]", "must be a JSON object, or a list of at least one"),
        (["flight_delay"], "not json", "is no JSON"),
        (["flight_delay"], '{"origin": "JFK"}', "row 1 lacks .*; flight_delay needs"),
    ],
)
def test_a_wrong_question_is_answered_with_what_is_allowed(
    run: Run, finished: Settings, asked: list[str], stdin: str | None, message: str
) -> None:
    if asked == ["delay_minutes"]:
        asked = [*asked, "--key", f"flight_id={recorded(finished)['flight_id'][0]}"]
    with pytest.raises((ValueError, LookupError), match=message):
        raise run("predict", *asked, stdin=stdin).exception
