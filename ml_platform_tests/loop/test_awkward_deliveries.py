"""What upstream gets wrong, through real Dagster runs: bad data stops what follows from it, nothing else, for as long
as it is bad; and Dagster is told so, day by day."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from ml_platform.defs.nyc_flights.replay import Awkward, Fault, deliver, planned_deliveries
from ml_platform.defs.nyc_flights.upstream import KNOWN_AT
from ml_platform.stores.catalog import CATALOG
from ml_platform.stores.planning import days_between_names
from ml_platform.stores.training_requests import TrainingRequests
from ml_platform_tests.loop.homes import Home

UNTIL = "2013-01-16"
DAYS = days_between_names("2012-12-31", "2013-01-15")
CORRUPT = {
    ("schedule", "2013-01-02"): Fault.BINARY,
    ("departures", "2013-01-03"): Fault.CUT_OFF,
    ("arrivals", "2013-01-04"): Fault.MISSING_COLUMN,
    ("weather", "2013-01-06"): Fault.CHANGED_TYPE,
    ("departures", "2013-01-14"): Fault.OUT_OF_BOUNDS,
}
REFUSED = {table: day for (table, day), fault in CORRUPT.items() if fault is not Fault.OUT_OF_BOUNDS}
LATE = [("arrivals", "2013-01-08"), ("schedule", "2013-01-09")]
CORRECTED = "2013-01-10"
NEW_SCHEMA = "2013-01-11"
AWKWARD = Awkward(
    corrections=[CORRECTED],
    duplicates=[("arrivals", "2013-01-05"), ("departures", "2013-01-07")],
    corrupt=CORRUPT,
    schema_change_from=NEW_SCHEMA,
)
MENDED = Awkward(corrections=[CORRECTED], schema_change_from=NEW_SCHEMA)
"""The same events, had nothing gone wrong."""

ASSETS = [
    *(f"raw/{table}" for table in (*KNOWN_AT, "planes", "airports", "airlines")),
    *("features/scheduled_flight", "features/weather_at_origin", "features/departure_delays_by_origin"),
    *("features/arrival_delays_by_carrier", "features/aircraft_facts", "flight_delay/labels"),
]
BY_DAY = [asset for asset in ASSETS if not asset.endswith(("planes", "airports", "airlines", "facts"))]
DOWNSTREAM = {
    # The days whose look-back reaches the refused file, worked out by hand.
    "features/scheduled_flight": {"2013-01-02"},
    "features/departure_delays_by_origin": set(days_between_names("2013-01-03", "2013-01-11")),
    "features/arrival_delays_by_carrier": set(days_between_names("2013-01-04", "2013-01-12")),
    "features/weather_at_origin": {"2013-01-06", "2013-01-07"},
    # Labels read arrivals of their day, and the schedule of six days before.
    "flight_delay/labels": set(days_between_names("2013-01-02", "2013-01-08")),
}


@dataclass
class Events:
    """What a run told Dagster, and what Dagster knows after it."""

    success: bool
    failure: str
    materialised: dict[str, set[str]] = field(default_factory=dict)
    """Days with an event of this run, by asset."""
    known: dict[str, set[str]] = field(default_factory=dict)
    """Days that Dagster holds to be materialised."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """The newest data version by asset and day."""
    checks: dict[str, dict[str, tuple[bool, str]]] = field(default_factory=dict)
    """By asset and day, whether its check passed in this run, and what it said."""


def events_of(home: Home, result: dg.ExecuteInProcessResult) -> Events:
    failed = [event for event in result.all_events if event.is_step_failure]
    told = Events(result.success, "; ".join(str(event.step_failure_data.user_failure_data) for event in failed))
    with home.instance() as instance:
        # The instance keeps what a step logged before it failed; the result does not.
        for entry in instance.all_logs(result.run_id):
            event = entry.dagster_event
            if event is None:
                continue
            if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and event.partition:
                told.materialised.setdefault("/".join(event.asset_key.path), set()).add(event.partition)
            elif event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                check = event.asset_check_evaluation_data
                if check.partition is not None:
                    answers = told.checks.setdefault("/".join(check.asset_key.path), {})
                    answers[check.partition] = (check.passed, check.description or "")
        for asset in BY_DAY:
            key = dg.AssetKey(asset.split("/"))
            told.known[asset] = instance.get_materialized_partitions(key)
            records = instance.fetch_materializations(key, limit=1000, ascending=True).records
            told.versions[asset] = {
                str(record.partition_key): (record.asset_materialization.tags or {})[DATA_VERSION_TAG]  # type: ignore[union-attr]
                for record in records
            }
    return told


def bytes_of(home: Home) -> dict[str, bytes]:
    return {str(path.relative_to(home.landed)): path.read_bytes() for path in home.landed.rglob("*.csv")}


@dataclass
class Story:
    """One home through four runs, and what it was like after each."""

    home: Home
    landed_before: dict[str, bytes]
    landed_after: dict[str, bytes]
    bad: Events
    bad_states: dict[str, dict[str, str]]
    quarantined: pl.DataFrame
    mended: Events
    again: Events
    versions_before_again: dict[str, int]
    versions_after_again: dict[str, int]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Iterator[Story]:
    home = Home.at(tmp_path_factory.mktemp("awkward"), manifests)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.environment.items():
            patch.setenv(name, value)
        planned = planned_deliveries(until=UNTIL, awkward=AWKWARD)
        first = [one for one in planned if not one.restates and (one.table, one.name) not in LATE]
        list(deliver(home.landed, first))
        before = bytes_of(home)
        bad = events_of(home, home.run(ASSETS, home.plan().days))
        states = {asset: {day: state.blocked for day, state in home.lake.partitions(asset).items()} for asset in BY_DAY}
        after, quarantined = bytes_of(home), home.lake.read("quarantine/departures")
        for table, day in CORRUPT:
            (home.landed / table / f"{day}.csv").unlink()
        home.land(until=UNTIL, awkward=MENDED)
        mended = events_of(home, home.run(ASSETS, home.plan().days))
        for path in home.landed.rglob("*.csv"):
            path.write_bytes(path.read_bytes())
        versions = {**home.versions(), CATALOG: home.lake.version(CATALOG)}
        again = events_of(home, home.run(ASSETS, (DAYS[0], DAYS[-1])))
        yield Story(
            *(home, before, after, bad, states, quarantined, mended, again, versions),
            {**home.versions(), CATALOG: home.lake.version(CATALOG)},
        )


def blocked(story: Story, asset: str) -> set[str]:
    return {day for day, reason in story.bad_states[asset].items() if reason}


def test_a_bad_file_does_not_fail_the_run_of_the_good_ones(story: Story) -> None:
    assert story.bad.success, story.bad.failure


@pytest.mark.parametrize("table", KNOWN_AT)
def test_a_refused_file_blocks_its_own_day_alone(story: Story, table: str) -> None:
    assert blocked(story, f"raw/{table}") == {REFUSED[table]}
    absent = {day for name, day in LATE if name == table}
    assert story.bad.known[f"raw/{table}"] == set(DAYS) - {REFUSED[table]} - absent


@pytest.mark.parametrize("asset", DOWNSTREAM)
def test_days_that_read_it_are_blocked_and_no_others(story: Story, asset: str) -> None:
    assert blocked(story, asset) == DOWNSTREAM[asset]
    assert story.bad.known[asset] == set(DAYS) - DOWNSTREAM[asset]


@pytest.mark.parametrize("asset", [asset for asset in BY_DAY if asset.startswith(("raw/", "features/"))])
def test_the_check_of_each_day_says_what_became_of_it(story: Story, asset: str) -> None:
    checks = story.bad.checks[asset]
    assert {day for day, (passed, _) in checks.items() if not passed} == blocked(story, asset)
    assert {day for day, (passed, _) in checks.items() if passed} == story.bad.known[asset]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("schedule", ["schedule/2013-01-02.csv", "is not UTF-8", "CSV text in UTF-8"]),
        ("departures", ["departures/2013-01-03.csv, line", "cut off after", "a line break at the end of every line"]),
        ("arrivals", ["arrivals/2013-01-04.csv", "'arr_delay_minutes' is missing", "the columns of version 1"]),
        ("weather", ["weather/2013-01-06.csv, line 2", "'temp_f' changed its type: 'many'", "a finite decimal number"]),
    ],
)
def test_the_error_names_file_column_value_and_what_is_allowed(story: Story, table: str, said: list[str]) -> None:
    _, description = story.bad.checks[f"raw/{table}"][REFUSED[table]]
    assert all(words in description for words in said), description
    downstream = "flight_delay/labels" if table in ("arrivals", "schedule") else None
    if downstream is not None:
        assert said[0] in story.bad_states[downstream][REFUSED[table]], "what is blocked downstream says why"


def test_rows_out_of_bounds_are_in_quarantine_with_reasons_and_the_rest_goes_on(story: Story) -> None:
    lines = story.landed_before["departures/2013-01-14.csv"].decode().splitlines()
    wrong = [number for number, line in enumerate(lines, start=1) if ",99999," in line]
    found = story.quarantined.sort("source_line")
    assert found["source_line"].to_list() == wrong
    assert set(found["source_file"]) == {"departures/2013-01-14.csv"}
    assert found["reasons"].str.contains("dep_delay_minutes = '99999' is above the maximum 2880", literal=True).all()
    passed, _ = story.bad.checks["raw/departures"]["2013-01-14"]
    assert passed


def test_landed_files_are_never_touched(story: Story) -> None:
    assert story.landed_after == story.landed_before


def test_every_day_has_its_own_data_version(story: Story) -> None:
    for asset in BY_DAY:
        now = {day: state.content_hash for day, state in story.home.lake.partitions(asset).items()}
        assert story.mended.versions[asset] == now, f"{asset}: Dagster's data versions are the hashes in the lake"
        full = {day: version for day, version in now.items() if story.home.lake.partitions(asset)[day].rows}
        assert len(set(full.values())) == len(full) > 10


def test_mending_delivering_late_and_correcting_ends_as_if_all_had_been_well(
    story: Story, tmp_path: Path, manifests: Path
) -> None:
    assert story.mended.success, story.mended.failure
    well = Home.at(tmp_path / "well", manifests)
    well.land(until=UNTIL, awkward=MENDED)
    well.catch_up()
    expected, found = well.contents(), story.home.contents()
    for asset in ASSETS:
        assert found[asset] == expected[asset], asset
        assert not any(state.blocked for state in story.home.lake.partitions(asset).values())
    assert all(days == set(DAYS) for days in story.mended.known.values())
    assert story.home.lake.read("quarantine/departures").is_empty()


def test_a_correction_reaches_the_days_that_read_it_and_dagster_hears_of_those_alone(story: Story) -> None:
    assert story.mended.materialised["raw/weather"] == {REFUSED["weather"]}
    assert story.mended.materialised["raw/arrivals"] == {REFUSED["arrivals"], CORRECTED, "2013-01-08"}
    assert story.mended.materialised["features/weather_at_origin"] == DOWNSTREAM["features/weather_at_origin"]


def test_a_renamed_and_an_added_column_are_taken_in_and_old_days_stay_readable(story: Story) -> None:
    weather = story.home.lake.read("raw/weather")
    after = pl.col("known_at") >= pl.lit(NEW_SCHEMA).str.to_datetime(time_zone="UTC")
    old, new = weather.filter(~after), weather.filter(after)
    assert old["station"].null_count() == old.height > 0
    assert set(new["station"]) == {"KEWR", "KJFK", "KLGA"}
    assert weather["visibility_miles"].null_count() == 0


def test_landing_the_same_again_changes_nothing(story: Story) -> None:
    assert story.again.success, story.again.failure
    assert story.versions_after_again == story.versions_before_again, "no table has a new Delta version"
    assert story.again.versions == story.mended.versions
    assert story.again.materialised == {}


def test_a_range_started_by_hand_fails_after_reporting_its_good_days(home: Home) -> None:
    home.land(until="2013-01-05", awkward=Awkward(corrupt={("weather", "2013-01-02"): Fault.CHANGED_TYPE}))
    days = days_between_names("2012-12-31", "2013-01-05")
    by_hand = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]}
    told = events_of(home, home.run(["raw/weather"], job="__ASSET_JOB", tags=by_hand))
    good = set(days) - {"2013-01-02", "2013-01-05"}
    assert not told.success
    assert "could not be materialised for 2 days" in told.failure
    assert "2013-01-02 blocked" in told.failure
    assert "2013-01-05 waiting: no file of weather has landed for 2013-01-05" in told.failure
    assert told.known["raw/weather"] == told.materialised["raw/weather"] == good
    assert {day: passed for day, (passed, _) in told.checks["raw/weather"].items()} == {
        **dict.fromkeys(good, True),
        "2013-01-02": False,
    }

    (home.landed / "weather" / "2013-01-02.csv").unlink()
    home.land(until="2013-01-06")
    told = events_of(home, home.run(["raw/weather"], job="__ASSET_JOB", tags=by_hand))
    assert told.success, told.failure
    assert told.known["raw/weather"] == set(days)
    assert told.versions["raw/weather"] == home.contents()["raw/weather"]


def test_what_a_person_asked_for_waits_while_bad_data_keep_a_training_set_from_being_made(home: Home) -> None:
    home.land(until="2013-01-05", awkward=Awkward(corrupt={("weather", "2013-01-02"): Fault.CHANGED_TYPE}))
    home.catch_up()
    requests = TrainingRequests(home.lake)
    asked = requests.ask("flight_delay", "ann", "new sensors")
    training_set = ["flight_delay/training_set"]
    refused = events_of(home, home.run(training_set, job="flight_delay_training"))
    assert "raw/weather 2013-01-02" in refused.failure
    assert requests.waiting("flight_delay") == asked

    (home.landed / "weather" / "2013-01-02.csv").unlink()
    home.land(until="2013-01-05")
    home.catch_up()
    assert home.run(training_set, job="flight_delay_training").success
    assert requests.waiting("flight_delay") is None
