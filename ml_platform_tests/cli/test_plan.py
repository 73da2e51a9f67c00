"""What would run and why: the evidence is the lake's, whatever command shows it."""

import json
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from ml_platform.automation.runs import TRIGGER_TAG, of_model
from ml_platform.core.retraining import judge
from ml_platform.defs import datasets
from ml_platform.settings import Settings, load
from ml_platform.stores.instance import prepare_dagster_home
from ml_platform.stores.lake import Lake
from ml_platform.stores.retraining import gather
from ml_platform_tests.cli.conftest import Run
from ml_platform_tests.small_home import AS_OF, MODEL, WATERMARK

SPEC = datasets()[0].model(MODEL)


def test_the_evidence_is_what_the_tables_say(finished: Settings) -> None:
    lake = Lake.of(finished)
    found = gather(lake, SPEC, WATERMARK)
    assert (found.champion, found.champion_as_of, found.last_training) == (1, AS_OF, AS_OF)
    labels = lake.query(f"select count(*) from {MODEL}.labels where label_time > timestamptz '{AS_OF.isoformat()}'")
    assert found.new_labels == labels.item() > 0
    (promised,) = lake.query(
        f"select value, low, high from {MODEL}.evaluation_report "
        "where section = 'metric' and subject = 'candidate' and name = 'auc'"
    ).rows()
    assert found.promised is not None
    assert (found.promised.value, found.promised.low, found.promised.high) == promised
    # The trailing window still reaches back to the days on which the champion was judged.
    assert (found.delivered, found.delivered_rows) == (None, 0)


def test_a_plan_says_what_is_due_and_why_and_runs_nothing(run: Run, finished: Settings) -> None:
    before = Lake.of(finished).version("ledger/promotions")
    answer = run("plan", "--json")
    assert answer.exit_code == 0, answer.output
    planned = json.loads(answer.stdout)["nyc_flights"]
    assert planned["watermark"] == "2013-01-06T00:00:00Z"
    fresh = planned["models"][MODEL]
    assert fresh["retrain"] is False
    assert fresh["reason"].startswith("Nothing calls for training:")
    other = planned["models"]["delay_minutes"]
    assert other["retrain"] is False
    assert other["reason"] == (
        "No version predicts yet. But 0 labels have come in since the last training; 1,000 are asked for. "
        "0 rows over 0 days would train; 5,000 over more than the 21 days of the folds are asked for."
    )
    assert [part["name"] for part in other["conditions"] if part["holds"]] == [
        "no champion",
        "enough of it is new",
        "cooled down",
        "within budget",
    ]
    text = run("plan")
    assert text.exit_code == 0
    assert "not due for training" in text.stdout
    assert Lake.of(finished).version("ledger/promotions") == before


def test_what_a_training_took_is_told_whoever_asked_for_it(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    prepare_dagster_home(load())
    tag = {of_model(TRIGGER_TAG, MODEL): "stale, drift persists"}
    stages = [dg.AssetKey([MODEL, stage]) for stage in ("training_set", "tuned_model", "champion")]
    runs = [
        (100, "__ASSET_JOB", tag, stages),
        (200, "__ASSET_JOB", {of_model(TRIGGER_TAG, MODEL): "by hand"}, stages),
        (300, f"{MODEL}_training", {of_model(TRIGGER_TAG, MODEL): "no champion"}, None),
        (1, "__ASSET_JOB", tag, stages[:1]),
        (2, "__ASSET_JOB", {}, stages),
        (9000, "nyc_flights_loop", tag, None),
    ]
    with dg.DagsterInstance.get() as instance:
        for seconds, job, tags, assets in runs:
            run = dg.DagsterRun(job, tags=tags, asset_selection=frozenset(assets) if assets else None)
            instance.add_run(run)
            for kind, moment in (
                (dg.DagsterEventType.RUN_START, 1000.0),
                (dg.DagsterEventType.RUN_SUCCESS, 1000.0 + seconds),
            ):
                event = dg.DagsterEvent(kind.value, job)
                instance.handle_new_event(dg.EventLogEntry(None, "INFO", "", run.run_id, moment, dagster_event=event))
    answer = command("plan", "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["nyc_flights"]["past_runs"] == {
        "nyc_flights_loop": {"runs": 1, "median_seconds": 9000.0},
        f"{MODEL}_training": {"runs": 3, "median_seconds": 200.0},
    }


def test_an_empty_home_has_nothing_to_plan(command: Run, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    answer = command("plan")
    assert answer.exit_code == 0
    assert "nothing has landed" in answer.stdout


def test_a_stale_champion_is_due_once_labels_have_come_in(finished: Settings) -> None:
    lake = Lake.of(finished)
    later = datetime(2013, 3, 1, tzinfo=UTC)
    few = SPEC.model_copy(update={"windows": SPEC.windows.model_copy(update={"minimum_rows": 1000})})
    found = judge(few, gather(lake, few, later))
    assert found.retrain, found.reason
    assert "The champion is 56 days old; 30 call for training." in found.reason
