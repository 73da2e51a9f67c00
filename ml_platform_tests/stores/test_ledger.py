"""The ledger keeps every decision, and of promotions made at once one."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_platform.core.promotion import Decision, GateResult
from ml_platform.settings import load
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger, LedgerEntry, ManualDecision, PromotionConflictError
from ml_platform_tests.stores.racing import race

WATERMARK = datetime(2013, 4, 1, tzinfo=UTC)
PROMOTED = Decision(promote=True, rule="first_champion", reason="every gate holds", gates=())
REJECTED = Decision(
    promote=False,
    rule="rejected",
    reason="auc is 0.55",
    gates=(GateResult(name="floor auc", passed=False, value=0.55, bound=0.6, explanation="too low"),),
)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def record(
    ledger: Ledger, version: int, decision: Decision | ManualDecision, expected: int | None, run_id: str = ""
) -> LedgerEntry:
    return ledger.record(
        "m",
        version,
        decision,
        expected_current=expected,
        watermark=WATERMARK,
        by="automation",
        run_id=run_id or f"run-{version}",
    )


def test_an_empty_ledger_has_no_champion_and_no_decision(lake: Lake) -> None:
    ledger = Ledger(lake)
    assert ledger.history().is_empty()
    assert ledger.latest("m") is None
    assert ledger.champion("m") is None


def test_a_rejection_is_kept_and_leaves_the_champion(lake: Lake) -> None:
    ledger = Ledger(lake)
    record(ledger, 1, PROMOTED, None)
    rejected = record(ledger, 2, REJECTED, 1)
    assert ledger.champion("m").version == 1
    assert ledger.latest("m") == rejected
    assert (rejected.sequence, rejected.previous_version, rejected.promoted) == (2, 1, False)
    assert '"floor auc"' in rejected.gates
    assert ledger.decision_on("m", 1).promoted
    assert ledger.decision_on("m", 3) is None
    assert ledger.champion("other") is None


def test_a_promotion_against_another_champion_than_the_present_is_refused_and_not_kept(lake: Lake) -> None:
    ledger = Ledger(lake)
    record(ledger, 1, PROMOTED, None)
    with pytest.raises(
        PromotionConflictError, match="version 2 was judged beside no champion, but the champion is version 1"
    ):
        record(ledger, 2, PROMOTED, None)
    with pytest.raises(PromotionConflictError):
        record(ledger, 1, PROMOTED, 1, run_id="another-run")
    assert ledger.history("m").height == 1


def test_a_candidate_waits_and_a_person_refuses_it_beside_the_present_champion_only(lake: Lake) -> None:
    ledger = Ledger(lake)
    record(ledger, 1, PROMOTED, None)
    waits = Decision(promote=False, rule="awaits_approval", reason="every gate holds", gates=())
    refused = ManualDecision(promote=False, rule="rejected_by_person", reason="not now")
    for decision in (waits, refused):
        with pytest.raises(PromotionConflictError):
            record(ledger, 2, decision, None)
    assert record(ledger, 2, waits, 1).previous_version == 1
    assert record(ledger, 2, REJECTED, None).previous_version == 1


def test_a_promotion_repeated_by_its_own_run_is_one_entry(lake: Lake) -> None:
    ledger = Ledger(lake)
    first = record(ledger, 1, PROMOTED, None)
    assert record(ledger, 1, PROMOTED, None) == first
    assert ledger.history("m").height == 1


def test_a_person_rolls_back_to_an_older_version(lake: Lake) -> None:
    ledger = Ledger(lake)
    record(ledger, 1, PROMOTED, None)
    record(ledger, 2, PROMOTED, 1)
    back = ManualDecision(promote=True, rule="restored_by_person", reason="complaints")
    assert record(ledger, 1, back, 2, run_id="person").previous_version == 2
    assert ledger.champion("m").rule == "restored_by_person"


def test_the_ledger_is_a_table_that_sql_reads(lake: Lake) -> None:
    record(Ledger(lake), 1, PROMOTED, None)
    assert load({}).ledger_table in lake.tables()
    assert lake.query("select version from ledger.promotions")["version"].to_list() == [1]


def test_of_processes_that_promote_at_once_exactly_one_wins_each_race(tmp_path: Path) -> None:
    race(str(tmp_path / "lake"), rounds=10)


def test_decisions_on_one_model_made_at_once_are_all_kept_in_one_order(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path / "lake"))
    stale, fresh = Ledger(lake), Ledger(lake)
    record(stale, 1, PROMOTED, None)
    seen = lake.version("ledger/promotions")
    record(fresh, 2, REJECTED, 1)
    claimed = lake.append_claimed("ledger/promotions", stale.history("m"), claim="decisions/m", sequence=2, onto=seen)
    assert not claimed
    assert record(stale, 3, REJECTED, 1).sequence == 3
    assert stale.history("m")["sequence"].to_list() == [1, 2, 3]
