"""What the clock asks for: a training that is due and can be made, and scores that are missing."""

from typing import Any

import dagster as dg

from ml_platform.automation.runs import REASON_TAG
from ml_platform.automation.schedules import nightly_scoring, weekly_review
from ml_platform.cli.plan import held_back
from ml_platform_tests.loop.homes import Home
from ml_platform_tests.loop.test_rejected_candidate import LENIENT, MODEL, declared, train

SPEC = declared(LENIENT, seed=1)


def asked(home: Home, schedule: dg.ScheduleDefinition) -> Any:
    """What a tick of it answers."""
    with home.instance() as instance:
        return schedule(dg.build_schedule_context(instance=instance))


def test_a_training_that_is_due_is_asked_for_unless_what_it_would_read_is_blocked(home: Home) -> None:
    home = home.with_models(SPEC)
    home.land(until="2013-01-13")
    home.catch_up()
    request = asked(home, weekly_review(home.dataset, SPEC))
    assert isinstance(request, dg.RunRequest), request
    assert request.tags[REASON_TAG].startswith("No version predicts yet. ")

    weather = home.landed / "weather" / "2013-01-10.csv"
    sound = weather.read_bytes()
    weather.write_text("no\n1\n")
    home.catch_up()
    refused = asked(home, weekly_review(home.dataset, SPEC))
    assert isinstance(refused, dg.SkipReason), refused
    assert "But what it would read is blocked: raw/weather 2013-01-10: " in str(refused.skip_message)

    (blocked,) = held_back(home.settings, home.dataset, SPEC, home.plan())
    assert blocked.startswith("raw/weather 2013-01-10: ")

    weather.write_bytes(sound)
    assert "data that landed is not taken in" in held_back(home.settings, home.dataset, SPEC, home.plan())
    home.catch_up()
    assert isinstance(asked(home, weekly_review(home.dataset, SPEC)), dg.RunRequest)
    with home.instance() as instance:
        chain = home.definitions.resolve_job_def("nyc_flights_daily")
        busy = instance.create_run_for_job(chain, status=dg.DagsterRunStatus.STARTED)
        told = f"nyc_flights_daily is under way (run {busy.run_id})"
        assert held_back(home.settings, home.dataset, SPEC, home.plan()) == [told]
        instance.report_run_failed(busy)
    assert held_back(home.settings, home.dataset, SPEC, home.plan()) == []


def test_what_is_due_and_has_no_score_is_asked_for_at_night_and_once_scored_no_more(home: Home) -> None:
    home = home.with_models(SPEC)
    home.land(until="2013-01-13")
    home.catch_up()
    nightly = nightly_scoring(home.dataset)
    assert "everything due is scored" in str(asked(home, nightly).skip_message), "nobody predicts yet"
    train(home)
    request = asked(home, nightly)
    assert isinstance(request, dg.RunRequest), request
    assert request.asset_selection == [dg.AssetKey([MODEL, "predictions"])]
    assert "days have unscored rows" in request.tags[REASON_TAG]
    with home.instance() as instance:
        chain = home.definitions.resolve_job_def(str(nightly.job_name))
        busy = instance.create_run_for_job(chain, status=dg.DagsterRunStatus.STARTED)
        assert "a run is under way" in str(asked(home, nightly).skip_message)
        instance.report_run_failed(busy)
    assert home.run([f"{MODEL}/predictions"], tags=request.tags).success
    assert home.lake.read(f"{MODEL}/predictions").height > 1000
    assert "everything due is scored" in str(asked(home, nightly).skip_message)
