"""What is a cause, and that it is one and the same for as long as it stands and another when it comes back."""

import re
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from ml_platform.core.alerts import (
    RECOVERY,
    SETTLE,
    AssetFreshness,
    Cause,
    FailedRun,
    Kind,
    Pulse,
    Severity,
    blocked_partitions,
    compose,
    dead_sensors,
    decisions,
    failed_runs,
    late_assets,
    model_causes,
    overdue_backup,
    quarantines,
)
from ml_platform.core.retraining import Condition
from ml_platform.core.table_spec import QuarantineLimit
from ml_platform.settings import PROJECT_ROOT

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
DAY = "2013-01-03"
BAD = "raw/weather 2013-01-03: weather/2013-01-03.csv lacks column 'humid'"

Record = tuple[str, str, str, str, str]


def catalog(*records: Record, facts: str = "{}") -> pl.DataFrame:
    """Records as (table, partition, inputs_hash, blocked, facts), a minute apart."""
    rows = [
        {
            "table_name": table,
            "partition": partition,
            "inputs_hash": inputs,
            "blocked": blocked,
            "facts": given or facts,
            "recorded_at": NOON + n * MINUTE,
        }
        for n, (table, partition, inputs, blocked, given) in enumerate(records)
    ]
    schema = dict.fromkeys(("table_name", "partition", "inputs_hash", "blocked", "facts"), pl.String())
    return pl.DataFrame(rows, schema={**schema, "recorded_at": pl.Datetime("us", "UTC")})


def identities(causes: list[Cause]) -> list[str]:
    return [cause.identity for cause in causes]


# Runbooks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_a_runbook_that_begins_with_its_line(kind: Kind) -> None:
    title, advice, *rest = (PROJECT_ROOT / kind.runbook).read_text().split("\n\n")
    assert title.startswith("# ")
    assert advice == kind.advice
    assert any("ml-platform " in part for part in rest)


def test_every_runbook_of_an_alert_is_of_a_kind_and_names_commands_that_exist() -> None:
    from ml_platform.cli import COMMANDS

    operations = {"README", "installing", "upgrading", "restoring", "rotating"}
    books = [book for book in (PROJECT_ROOT / "deploy" / "runbooks").glob("*.md") if book.stem not in operations]
    assert {book.stem for book in books} == {kind.value for kind in Kind}
    for book in books:
        assert set(re.findall(r"(?<![-\w])ml-platform ([a-z]+)", book.read_text())) <= set(COMMANDS), book.name


# Blocked and quarantined ---------------------------------------------------------------------------


def test_a_blocked_partition_is_one_cause_however_much_else_is_recorded() -> None:
    blocked = ("raw/weather", DAY, "file 1", BAD, "")
    other = ("raw/weather", "2013-01-04", "file", "", "")
    (cause,) = blocked_partitions(catalog(blocked))
    assert cause.subject == f"raw/weather {DAY}"
    assert cause.since == NOON
    assert "lacks column 'humid'" in cause.text
    assert identities(blocked_partitions(catalog(blocked, other))) == [cause.identity]


def test_what_waits_for_a_blocked_partition_is_no_cause_of_its_own_but_counted() -> None:
    (cause,) = blocked_partitions(
        catalog(
            ("raw/weather", DAY, "file 1", BAD, ""),
            ("features/weather_at_origin", DAY, "", BAD, ""),
            ("flight_delay/labels", DAY, "", BAD, ""),
        )
    )
    assert cause.group == "raw/weather"
    assert "2 partitions of 2 tables wait for it" in cause.text


def test_what_still_waits_when_the_cause_is_mended_is_not_told() -> None:
    mended = catalog(
        ("raw/weather", DAY, "file 1", BAD, ""),
        ("features/weather_at_origin", DAY, "", BAD, ""),
        ("raw/weather", DAY, "file 2", "", ""),
    )
    assert blocked_partitions(mended) == []


def test_blocked_anew_is_another_cause_even_by_the_same_file() -> None:
    blocked = ("raw/weather", DAY, "file 1", BAD, "")
    mended = ("raw/weather", DAY, "file 2", "", "")
    first = identities(blocked_partitions(catalog(blocked)))
    again = identities(blocked_partitions(catalog(blocked, mended, blocked)))
    assert first
    assert again
    assert first != again


def test_another_bad_file_or_reason_for_the_same_day_is_another_cause() -> None:
    blocked = ("raw/weather", DAY, "file 1", BAD, "")
    worse = ("raw/weather", DAY, "file 2", BAD, "")
    assert identities(blocked_partitions(catalog(blocked))) != identities(blocked_partitions(catalog(blocked, worse)))


def test_quarantine_over_the_limit_is_one_cause_until_the_day_is_delivered_well() -> None:
    limits = {"raw/arrivals": QuarantineLimit(share=0.05)}
    at_limit = ("raw/arrivals", "2013-01-02", "a", "", '{"quarantined_rows": 5, "valid_rows": 95}')
    over = ("raw/arrivals", DAY, "a", "", '{"quarantined_rows": 6, "valid_rows": 94}')
    still = ("raw/arrivals", DAY, "b", "", '{"quarantined_rows": 50, "valid_rows": 50}')
    good = ("raw/arrivals", DAY, "c", "", '{"quarantined_rows": 0, "valid_rows": 100}')
    (cause,) = quarantines(catalog(at_limit, over), limits)
    assert cause.subject == f"raw/arrivals {DAY}"
    assert "6 of 100 rows broke the contract (6.0%)" in cause.text
    (same,) = quarantines(catalog(at_limit, over, still), limits)
    assert same.identity == cause.identity
    assert quarantines(catalog(at_limit, over, still, good), limits) == []
    (back,) = quarantines(catalog(at_limit, over, still, good, over), limits)
    assert back.identity != cause.identity


def test_a_limit_of_rows_holds_beside_that_of_shares_and_empty_days_are_none() -> None:
    few = catalog(("raw/arrivals", DAY, "a", "", '{"quarantined_rows": 3, "valid_rows": 997}'))
    assert quarantines(few, {"raw/arrivals": QuarantineLimit(share=0.05)}) == []
    assert len(quarantines(few, {"raw/arrivals": QuarantineLimit(share=0.05, rows=2)})) == 1
    empty = catalog(("raw/arrivals", DAY, "a", "", '{"quarantined_rows": 0, "valid_rows": 0}'))
    assert quarantines(empty, {"raw/arrivals": QuarantineLimit()}) == []
    unknown = catalog(("raw/arrivals", DAY, "a", "unreadable", "{}"))
    assert quarantines(unknown, {"raw/arrivals": QuarantineLimit()}) == []


# Runs ----------------------------------------------------------------------------------------------


def test_a_run_is_told_of_when_it_is_given_up_not_when_it_is_tried_again_or_refused() -> None:
    died = FailedRun("one", "nyc_flights_daily", NOON, retried=True)
    given_up = FailedRun("two", "nyc_flights_daily", NOON, retried=False, step="raw__arrivals", error="ValueError: no")
    refused = FailedRun("three", "flight_delay_rollback", NOON, retried=False, refused=True)
    (cause,) = failed_runs([died, given_up, refused])
    assert cause.page == "runs/two"
    assert cause.title == "nyc_flights_daily failed at raw__arrivals"
    assert cause.text == "ValueError: no"


# Models --------------------------------------------------------------------------------------------


def condition(name: str, value: float, *, holds: bool = True) -> Condition:
    return Condition(name, "trigger", holds, value, 3.0, f"{name}: {value}")


def test_drift_is_one_cause_from_its_first_alarming_day_and_another_after_a_calm_one() -> None:
    def told(days: int, newest: datetime, version: int = 1) -> list[str]:
        found = [condition("drift persists", days), condition("stale", 1)]
        return identities(model_causes("flight_delay", version, found, newest, NOON))

    third = datetime(2013, 4, 3, tzinfo=UTC)
    assert told(3, third) == told(4, third + timedelta(days=1)) == ["drift flight_delay 1 2013-04-01"]
    assert told(3, third + timedelta(days=9)) != told(3, third)
    assert told(3, third, version=2) != told(3, third)


def test_a_fall_of_performance_is_one_cause_for_each_champion() -> None:
    fell = [condition("performance fell", 0.2)]
    (first,) = model_causes("flight_delay", 1, fell, None, NOON)
    (later,) = model_causes("flight_delay", 1, fell, None, NOON + timedelta(days=1))
    (other,) = model_causes("flight_delay", 2, fell, None, NOON)
    assert first.identity == later.identity != other.identity
    assert model_causes("flight_delay", None, fell, None, NOON) == []
    assert model_causes("flight_delay", 1, [condition("performance fell", 0.0, holds=False)], None, NOON) == []


def test_promotions_and_rollbacks_are_told_and_refusals_are_not() -> None:
    rows = [
        ("first_champion", True, None, 1),
        ("rejected", False, 1, 2),
        ("better", True, 1, 3),
        ("restored_by_person", True, 2, 4),
    ]
    entries = pl.DataFrame(
        [
            {
                "model": "flight_delay",
                "version": n,
                "previous_version": before,
                "promoted": promoted,
                "rule": rule,
                "reason": "because",
                "decided_at": NOON + n * MINUTE,
                "decided_by": "ann",
                "sequence": n,
                "run_id": f"run {n}",
            }
            for rule, promoted, before, n in rows
        ]
    )
    found = decisions(entries, after=NOON)
    assert [cause.kind for cause in found] == [Kind.PROMOTION, Kind.PROMOTION, Kind.ROLLBACK]
    assert found[-1].title == "flight_delay: version 4 was restored in place of version 2"
    assert "ann" in found[-1].text
    assert found[-1].page == "runs/run 4"
    assert identities(decisions(entries, after=NOON + 3 * MINUTE)) == ["rollback flight_delay 4"]


# Freshness -----------------------------------------------------------------------------------------


def asset(name: str, *, late: bool, changed_at: datetime = NOON, upstream: tuple[str, ...] = ()) -> AssetFreshness:
    stage = name.split("/")[0] if name.startswith(("raw", "features")) else "predictions"
    return AssetFreshness(name, "nyc_flights", "models" if "champion" in name else stage, late, changed_at, upstream)


def subjects(*known: AssetFreshness, as_of: datetime) -> set[str]:
    return {cause.subject for cause in late_assets(known, as_of=as_of)}


def test_when_landing_stops_all_raw_tables_are_one_alert_and_what_is_downstream_none() -> None:
    raw = [
        asset("raw/a", late=True),
        asset("raw/b", late=True, changed_at=NOON + SETTLE / 2, upstream=("raw/a",)),
    ]
    derived = asset("features/view", late=True, upstream=("raw/a", "raw/b"))
    model = asset("model/champion", late=True, upstream=("raw/a",))
    assert subjects(*raw, derived, model, as_of=NOON + SETTLE / 2) == set()
    causes = late_assets([*raw, derived, model], as_of=NOON + SETTLE)
    assert {cause.subject for cause in causes} == {"raw/a", "raw/b"}
    (alert,) = compose(causes, (), now=NOON, dagster_url="http://ui")
    assert alert.subject == "nyc_flights"
    assert "- raw/a:" in alert.text
    assert "- raw/b:" in alert.text


def test_what_is_downstream_is_given_time_once_it_is_fed_again() -> None:
    fed = NOON + timedelta(hours=5)
    known = (asset("raw/a", late=False, changed_at=fed), asset("features/view", late=True, upstream=("raw/a",)))
    assert subjects(*known, as_of=fed + RECOVERY - MINUTE) == set()
    assert subjects(*known, as_of=fed + RECOVERY) == {"features/view"}


def test_predictions_that_stop_are_told_although_the_model_is_late_too() -> None:
    model = asset("model/champion", late=True, changed_at=NOON - timedelta(days=9), upstream=("raw/a",))
    predictions = asset("model/predictions", late=True, upstream=("raw/a", "model/champion"))
    fresh = asset("raw/a", late=False, changed_at=NOON - timedelta(days=30))
    assert subjects(fresh, model, predictions, as_of=NOON + SETTLE) == {"model/champion", "model/predictions"}


def test_lateness_that_comes_back_is_another_cause() -> None:
    def told(since: datetime, as_of: datetime) -> list[str]:
        return identities(late_assets([asset("raw/a", late=True, changed_at=since)], as_of=as_of))

    assert told(NOON, NOON + SETTLE) == told(NOON, NOON + timedelta(days=3)) != []
    assert told(NOON, NOON + SETTLE) != told(NOON + timedelta(hours=1), NOON + timedelta(hours=2))


# Sensors -------------------------------------------------------------------------------------------


def test_a_sensor_is_dead_after_its_patience_and_one_cause_until_it_worked_again() -> None:
    pulse = Pulse("sensor landing", NOON, 5 * MINUTE, "ValueError: no")

    def dead(pulse: Pulse, minutes: int) -> list[str]:
        early = NOON - timedelta(days=1)
        return identities(dead_sensors([pulse], watched_since=early, as_of=NOON + minutes * MINUTE))

    assert dead(pulse, 5) == []
    assert dead(pulse, 6) == dead(pulse, 600) != []
    again = Pulse("sensor landing", NOON + 10 * MINUTE, 5 * MINUTE)
    assert dead(again, 12) == []
    assert dead(again, 20) != dead(pulse, 20)


def test_nobody_is_dead_because_all_of_us_slept() -> None:
    pulse = Pulse("sensor landing", NOON - timedelta(hours=8), 5 * MINUTE)
    assert dead_sensors([pulse], watched_since=NOON, as_of=NOON + MINUTE) == []
    assert len(dead_sensors([pulse], watched_since=NOON, as_of=NOON + 6 * MINUTE)) == 1


def test_a_sensor_that_never_ticked_is_dead_too() -> None:
    (cause,) = dead_sensors([Pulse("sensor a", None, MINUTE)], watched_since=NOON, as_of=NOON + 2 * MINUTE)
    assert cause.text == "It never worked; it does not tick."


# Backups -------------------------------------------------------------------------------------------


def test_a_backup_is_overdue_after_its_time_and_one_cause_until_there_is_another() -> None:
    def overdue(newest: datetime | None, hours: float) -> list[str]:
        early = NOON - timedelta(days=9)
        now = NOON + timedelta(hours=hours)
        return identities(overdue_backup(newest, timedelta(hours=30), watched_since=early, as_of=now))

    assert overdue(NOON, 30) == []
    assert overdue(NOON, 30.1) == overdue(NOON, 300) != []
    later = NOON + timedelta(hours=40)
    assert overdue(later, 60) == []
    assert overdue(later, 80) != overdue(NOON, 80)


def test_nobody_is_told_of_backups_that_nobody_expects_or_whose_time_is_to_come() -> None:
    assert overdue_backup(None, timedelta(0), watched_since=NOON, as_of=NOON + timedelta(days=99)) == []
    assert overdue_backup(None, timedelta(hours=30), watched_since=NOON, as_of=NOON + timedelta(hours=30)) == []
    (cause,) = overdue_backup(None, timedelta(hours=30), watched_since=NOON, as_of=NOON + timedelta(hours=31))
    assert cause.text == "None was ever finished; there should be one every 30 hours."


# Alerts --------------------------------------------------------------------------------------------


def cause(identity: str, group: str = "g", kind: Kind = Kind.BLOCKED_PARTITION) -> Cause:
    return Cause(kind, identity, identity, group, f"{identity} is bad", f"why {identity}", NOON, "assets/x")


def test_causes_found_together_are_one_alert_and_known_ones_are_in_none() -> None:
    found = [cause("a"), cause("b"), cause("c", group="h"), cause("d", kind=Kind.QUARANTINE)]
    raised = compose(found, {"b"}, now=NOON, dagster_url="http://ui/")
    assert [alert.causes for alert in raised] == [("a",), ("c",), ("d",)]
    (both,) = compose(found[:2], (), now=NOON, dagster_url="http://ui/")
    assert both.causes == ("a", "b")
    assert both.title == "a is bad, and 1 more like it"
    assert both.text == "- a: why a\n- b: why b"
    assert both.link == "http://ui/assets/x"
    assert compose(found, {"a", "b", "c", "d"}, now=NOON, dagster_url="http://ui/") == []


def test_a_flood_of_causes_is_one_alert_of_bounded_length() -> None:
    (alert,) = compose([cause(f"{n:04}") for n in range(365)], (), now=NOON, dagster_url="http://ui")
    assert len(alert.causes) == 365
    assert alert.text.endswith("- and 345 more")
    assert len(alert.text) < 1000


def test_severity_says_what_an_alert_asks_for() -> None:
    assert Kind.PROMOTION.severity is Severity.INFO
    assert Kind.ROLLBACK.severity is Severity.WARNING
    assert Kind.FAILED_RUN.severity is Severity.CRITICAL
