"""What a person may decide on a model's versions, and what is refused with its reason."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from ml_platform.core.promotion import Decision, GateResult, Rule
from ml_platform.settings import load
from ml_platform.stores.manual_decisions import Instruction, NotAllowedError, promote, reject, rollback
from ml_platform.stores.models import ModelStore, UnknownModelError
from ml_platform_tests.stores.model_examples import PROVENANCE, WATERMARK, log

pytestmark = pytest.mark.timeout(240)

HELD = GateResult("floor:auc", True, 0.76, 0.68, "auc is 0.76; it must be at least 0.68.")
FAILED = GateResult("floor:auc", False, 0.6, 0.68, "auc is 0.6; it must be at least 0.68.")
RUNS = (f"run-{number}" for number in itertools.count())


def ann(reason: str = "the airport asked for it") -> Instruction:
    return Instruction("ann", reason, WATERMARK, next(RUNS), PROVENANCE.service_hash)


def judge(
    store: ModelStore,
    model: str,
    rule: Rule,
) -> int:
    """Register one more version and let its gates decide."""
    version = log(store, model)
    current = store.ledger.champion(model)
    gate = FAILED if rule == "rejected" else HELD
    decision = Decision(rule not in ("rejected", "awaits_approval"), rule, f"as {rule}", (gate,))
    store.promote(
        model,
        version,
        decision,
        expected_current=None if current is None else current.version,
        watermark=WATERMARK,
        by="automation",
        run_id=next(RUNS),
    )
    return version


def champion(store: ModelStore, model: str) -> int | None:
    found = store.champion(model)
    return None if found is None else found.version


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    home: Path = tmp_path_factory.mktemp("home")
    return ModelStore(load({"ML_PLATFORM_HOME": str(home)}))


@pytest.fixture
def model() -> str:
    return f"model_{next(NAMES)}"


NAMES = itertools.count()


def test_a_candidate_waits_until_a_person_lets_it_through(store: ModelStore, model: str) -> None:
    judge(store, model, "awaits_approval")
    assert champion(store, model) is None
    entry = promote(store, model, None, ann())
    assert champion(store, model) == 1
    assert (entry.rule, entry.decided_by, entry.reason) == ("promoted_by_person", "ann", "the airport asked for it")
    assert [gate["name"] for gate in entry.gate_results] == ["floor:auc"]


def test_by_default_the_newest_that_waits_is_meant(store: ModelStore, model: str) -> None:
    judge(store, model, "awaits_approval")
    judge(store, model, "rejected")
    log(store, model)
    assert promote(store, model, None, ann()).version == 1


def test_a_candidate_that_was_refused_stays_out_until_a_person_changes_their_mind(
    store: ModelStore, model: str
) -> None:
    judge(store, model, "first_champion")
    judge(store, model, "awaits_approval")
    assert reject(store, model, None, ann("not in August")).rule == "rejected_by_person"
    assert champion(store, model) == 1
    with pytest.raises(NotAllowedError, match="is rejected by person: only one that awaits approval is rejected"):
        reject(store, model, 2, ann())
    promote(store, model, 2, ann("August is over"))
    assert champion(store, model) == 2


def test_what_failed_its_gates_is_promoted_by_nobody(store: ModelStore, model: str) -> None:
    judge(store, model, "rejected")
    with pytest.raises(NotAllowedError, match="failed its gates, and what failed never predicts: as rejected"):
        promote(store, model, None, ann())
    assert champion(store, model) is None


def test_a_version_judged_against_an_older_champion_is_not_promoted(store: ModelStore, model: str) -> None:
    judge(store, model, "first_champion")
    waiting = judge(store, model, "awaits_approval")
    judge(store, model, "better_than_champion")
    with pytest.raises(NotAllowedError, match="was judged beside version 1, and champion is now version 3"):
        promote(store, model, waiting, ann())


def test_rollbacks_walk_back_through_those_that_served(store: ModelStore, model: str) -> None:
    for rule in ("first_champion", "better_than_champion", "better_than_champion"):
        judge(store, model, rule)
    assert rollback(store, model, None, ann()).version == 2
    assert rollback(store, model, None, ann()).version == 1
    with pytest.raises(NotAllowedError, match="version 1 is its first champion: there is none to go back to"):
        rollback(store, model, None, ann())
    assert rollback(store, model, 3, ann("it was the weather")).rule == "restored_by_person"
    assert champion(store, model) == 3
    served = store.ledger.served(model)
    assert served["version"].to_list() == [1, 2, 3, 2, 1, 3]
    assert served["served_until"].null_count() == 1


def test_a_version_rolled_back_from_may_be_promoted_again_by_a_person(store: ModelStore, model: str) -> None:
    judge(store, model, "first_champion")
    judge(store, model, "better_than_champion")
    rollback(store, model, None, ann())
    promote(store, model, 2, ann("the alarm was false"))
    assert champion(store, model) == 2


def test_a_version_of_features_that_mean_something_else_now_does_not_return(store: ModelStore, model: str) -> None:
    judge(store, model, "first_champion")
    judge(store, model, "better_than_champion")
    today = replace(ann(), service_hash="another")
    with pytest.raises(
        NotAllowedError, match="version 1 learned from features of hash def, and its service is now ano"
    ):
        rollback(store, model, None, today)
    judge(store, model, "awaits_approval")
    with pytest.raises(NotAllowedError, match="Of that hash are versions none"):
        promote(store, model, None, today)
    assert champion(store, model) == 2


def test_what_a_history_does_not_allow_is_refused_and_changes_nothing(store: ModelStore, model: str) -> None:
    judge(store, model, "first_champion")
    log(store, model)
    before = store.ledger.history(model).height
    refusals = [
        (promote, 1, "version 1 is champion already"),
        (promote, 2, "version 2 was never judged: materialise"),
        (reject, 1, "version 1 is first champion: .*; `rollback` replaces a champion"),
        (reject, 2, "version 2 has no decision"),
        (rollback, 1, "version 1 is champion already"),
        (rollback, 2, r"version 2 never was champion; have been: \[1\]"),
    ]
    for verdict, version, message in refusals:
        with pytest.raises(NotAllowedError, match=message):
            verdict(store, model, version, ann())
    for verdict in (promote, reject, rollback):
        with pytest.raises(UnknownModelError, match=r"has no version 9; it has \[1, 2\]"):
            verdict(store, model, 9, ann())
    assert store.ledger.history(model).height == before


def test_a_model_without_versions_has_nothing_to_decide_on(store: ModelStore, model: str) -> None:
    for verdict, message in ((promote, "has no version yet"), (rollback, "has no champion to roll back from")):
        with pytest.raises(NotAllowedError, match=message):
            verdict(store, model, None, ann())


@pytest.mark.parametrize(("person", "reason", "missing"), [("", "why not", "person"), ("ann", " ", "reason")])
def test_a_decision_needs_a_person_and_a_reason(person: str, reason: str, missing: str) -> None:
    with pytest.raises(ValueError, match=f"needs a {missing}"):
        Instruction(person, reason, WATERMARK, "run", "hash")
