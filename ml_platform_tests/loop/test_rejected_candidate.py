"""Only what was promoted predicts: a candidate that is rejected, waits or was rolled back from does not.

Candidates through real runs; their declarations differ in gate and seed alone. People decide by the jobs of the
Launchpad and by the command line.
"""

import json
import socket
from datetime import timedelta

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from ml_platform import cli
from ml_platform.automation.runs import MADE_ON_TAG
from ml_platform.core.model_spec import Baseline, ModelSpec, PromotionGate
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.models import ModelStore
from ml_platform_tests.loop.homes import FLIGHTS, Home, small

MODEL = "flight_delay"
ONE_TRIAL = {"trials": 1, "max_rounds": 40, "early_stopping_rounds": 10, "startup_trials": 1}
IMPOSSIBLE = PromotionGate(metric="auc", floor={"auc": 0.9999})
LENIENT = PromotionGate(
    metric="auc", floor={"auc": 0.5}, slice_max_drop=1.0, protected_max_gap=1.0, latency_budget_ms=10_000
)

SUPERVISED = LENIENT.model_copy(update={"approval": "required", "stale_after": timedelta(0), "stale_margin": 1.0})


def declared(gate: PromotionGate, seed: int) -> ModelSpec:
    spec = FLIGHTS.model(MODEL)
    easy = Baseline(by=("aircraft_engines",))
    return small(spec, gate=gate, seed=seed, baseline=easy, tuning=spec.tuning.model_copy(update=ONE_TRIAL))


def train(home: Home) -> None:
    result = home.run(None, job=f"{MODEL}_training")
    assert result.success, result.all_events


def land_and_run(home: Home, until: str) -> dg.ExecuteInProcessResult:
    """The daily chain over what has landed since; features that nothing here needs are brought up by the stores."""
    home.land(until=until)
    days = home.plan().days
    assert days is not None
    home.catch_up()
    result = home.run([f"{MODEL}/predictions", f"{MODEL}/performance_report"], days)
    assert result.success
    return result


def decide(home: Home, verdict: str, **said: object) -> dg.ExecuteInProcessResult:
    """A person's decision, as the Launchpad runs it."""
    name = f"{MODEL}_{verdict}"
    return home.run(None, job=name, config={"ops": {f"{name}_decision": {"config": said}}})


def predicted_by(home: Home) -> dict[int, int]:
    """Predictions by the version that made them."""
    table = f"{MODEL}/predictions"
    if not home.lake.exists(table):
        return {}
    return dict(home.lake.read(table)["model_version"].value_counts().iter_rows())


def test_what_was_rejected_never_predicts(home: Home) -> None:
    first = home.with_models(declared(IMPOSSIBLE, seed=1))
    land_and_run(first, "2013-01-13")
    train(first)
    land_and_run(first, "2013-01-14")
    ledger, store = Ledger(home.lake), ModelStore(home.settings)
    assert ledger.history(MODEL)["promoted"].to_list() == [False]
    assert store.champion(MODEL) is None
    assert predicted_by(home) == {}

    second = home.with_models(declared(LENIENT, seed=2))
    train(second)
    land_and_run(second, "2013-01-15")
    champion = store.champion(MODEL)
    assert champion is not None, ledger.history(MODEL)["reason"].to_list()
    assert champion.version == 2
    before = predicted_by(home)
    assert set(before) == {2}

    third = home.with_models(declared(IMPOSSIBLE, seed=3))
    train(third)
    assert store.candidate(MODEL).version == 3  # type: ignore[union-attr]
    entry = ledger.latest(MODEL)
    assert entry is not None
    assert (entry.version, entry.promoted) == (3, False)
    assert "0.9999" in entry.reason
    land_and_run(third, "2013-01-17")
    after = predicted_by(home)
    assert set(after) == {2}
    assert after[2] > before[2] + 1000
    assert store.champion(MODEL) == champion
    predictions = home.lake.read(f"{MODEL}/predictions")
    assert predictions.filter(pl.col("prediction_time") <= champion.trained_through).is_empty()
    reported = home.lake.read(f"{MODEL}/performance_report")
    assert set(reported["model_version"]) == {2}


@pytest.mark.slow
def test_a_candidate_that_waits_predicts_once_a_person_says_so_and_no_more_once_it_is_rolled_back(home: Home) -> None:
    first = home.with_models(declared(LENIENT, seed=1))
    land_and_run(first, "2013-01-13")
    train(first)
    land_and_run(first, "2013-01-14")
    assert set(predicted_by(home)) == {1}

    second = home.with_models(declared(SUPERVISED, seed=2))
    train(second)
    land_and_run(second, "2013-01-15")
    ledger = Ledger(home.lake)
    assert ledger.history(MODEL)["rule"].to_list() == ["first_champion", "awaits_approval"]
    assert set(predicted_by(home)) == {1}

    approved = decide(second, "promote", reason="fewer alarms in the trial", person="ann")
    assert approved.success
    land_and_run(second, "2013-01-16")
    before = predicted_by(home)
    assert set(before) == {1, 2}
    evaluated = home.lake.read(f"{MODEL}/evaluation_report")
    assert "champion" in set(evaluated.filter(model_version=2)["subject"])
    assert second.run([f"{MODEL}/evaluation_report"], job=f"{MODEL}_training").success
    assert home.lake.read(f"{MODEL}/evaluation_report").equals(evaluated), "it says what the decision was made on"
    with home.instance() as instance:
        entries = instance.fetch_materializations(dg.AssetKey(["ledger", "promotions"]), limit=10).records
        champion = instance.get_latest_materialization_event(dg.AssetKey([MODEL, "champion"]))
    assert [entry.asset_materialization.metadata["version"].value for entry in entries] == [2, 2, 1]
    assert champion is not None
    assert champion.asset_materialization is not None
    explained = champion.asset_materialization.metadata["explanation"].value
    assert "**Version 2 is champion" in str(explained)
    assert "fewer alarms in the trial" in str(explained)

    refused = decide(second, "reject", reason="too late", person="ann")
    assert not refused.success

    answer = CliRunner().invoke(cli.app, ["rollback", MODEL, "--reason", "it warns of [/all]", "--by", "bob", "--json"])
    assert answer.exit_code == 0, answer.output
    entry = json.loads(answer.stdout)
    assert (entry["version"], entry["rule"], entry["decided_by"]) == (1, "restored_by_person", "bob")
    status = CliRunner().invoke(cli.app, ["status"])
    assert status.exit_code == 0, status.output
    assert "restored by person. it warns of [/all]" in status.stdout
    train(second)
    judged = ledger.judgement_on(MODEL, 3)
    assert judged is not None
    (gate,) = [gate for gate in judged.gate_results if gate["name"] == "champion"]
    assert gate["bound"] == 0.0, "no margin, however stale: a person restored the champion"
    assert "a person restored it" in gate["explanation"]
    assert (judged.rule == "awaits_approval") is (gate["value"] > 0)
    land_and_run(second, "2013-01-17")
    after = predicted_by(home)
    assert after[1] > before[1] + 1000
    assert after[2] == before[2]
    assert ledger.served(MODEL)["version"].to_list() == [1, 2, 1]
    with home.instance() as instance:
        run = instance.get_run_by_id(entry["run_id"])
    assert run is not None
    assert run.is_success
    assert run.tags[MADE_ON_TAG] == socket.gethostname()


@pytest.mark.slow
def test_a_candidate_is_compared_anew_when_a_person_changed_the_champion_meanwhile(home: Home) -> None:
    first = home.with_models(declared(LENIENT, seed=1))
    land_and_run(first, "2013-01-13")
    train(first)
    second = home.with_models(declared(SUPERVISED, seed=2))
    train(second)
    third = home.with_models(declared(LENIENT, seed=3))
    stages = [f"{MODEL}/{stage}" for stage in ("training_set", "tuned_model", "evaluation_report")]
    assert third.run(stages, job=f"{MODEL}_training").success
    assert decide(second, "promote", reason="it can be trusted", person="ann").success

    late = third.run([f"{MODEL}/champion"], job=f"{MODEL}_training")
    assert late.success
    history = Ledger(home.lake).history(MODEL)
    assert history["version"].to_list() == [1, 2, 2, 3]
    assert (history["previous_version"][-1], history["decided_by"][-1]) == (2, "automation")
    with home.instance() as instance:
        report = instance.get_latest_materialization_event(dg.AssetKey([MODEL, "evaluation_report"]))
    assert report is not None
    assert report.asset_materialization is not None
    assert report.asset_materialization.metadata["compared_with_champion"].value == 2
    assert report.run_id == late.run_id
