"""The feature repository through the real Feast: retrieval, pushing, applying, and Feast's own commands."""

import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ml_platform import settings as platform_settings
from ml_platform.core.feature_manifest import EVENT_TIME, ColumnSpec, FeatureManifest, ViewSpec
from ml_platform.core.view_frames import polars_dtype
from ml_platform.settings import PROJECT_ROOT, Settings
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.repo_reader import FeatureRepoError, applied_state

REPO = PROJECT_ROOT / "feature_repo"
SERVICE = "flight_delay_v1"
T0 = datetime(2013, 1, 10, tzinfo=UTC)
AS_OF = T0 + timedelta(days=9)
FAR = T0 + timedelta(days=99)
KEYS = {
    "flight_id": [f"UA{n}" for n in range(12)],
    "origin": ["EWR", "JFK", "LGA"],
    "carrier": ["UA", "AA"],
    "route": ["EWR-IAH", "JFK-MIA"],
    "tailnum": ["N1", "N2", "N3"],
}


def settings_of(home: Path, repo: Path = REPO) -> Settings:
    return platform_settings.load({"ML_PLATFORM_HOME": str(home), "ML_PLATFORM_FEATURE_REPO": str(repo)})


def invented_rows(view: ViewSpec, seed: int) -> pl.DataFrame:
    """Rows of the view at odd minutes over ten days, with nulls among the values."""
    random = np.random.default_rng(seed)
    count = 60
    moments = [T0 + timedelta(minutes=int(minute)) for minute in random.choice(14_000, count, replace=False)]

    def values(column: ColumnSpec) -> pl.Series:
        numbers = random.integers(0, 1000, count)
        series = pl.Series(column.name, [f"v{n}" for n in numbers] if column.dtype == "String" else numbers)
        return series.cast(polars_dtype(column)).set(pl.Series(random.random(count) < 0.2), None)

    return pl.DataFrame(
        [pl.Series(key.name, random.choice(KEYS[key.name], count)) for key in view.join_keys]
        + [pl.Series(EVENT_TIME, moments, dtype=pl.Datetime("us", "UTC"))]
        + [values(column) for column in view.features]
    )


def write(lake: Lake, view: ViewSpec, rows: pl.DataFrame) -> None:
    order = [*(key.name for key in view.join_keys), EVENT_TIME]
    if view.ttl is None:
        lake.write(str(view.table), rows, sort_by=order)
        return
    by_day = rows.with_columns(pl.col(EVENT_TIME).dt.date().cast(pl.String).alias("day")).partition_by(
        "day", as_dict=True, include_key=False
    )
    frames = {str(day): frame for (day,), frame in by_day.items()}
    lake.write_partitions(str(view.table), frames, sort_by=order, inputs_hash=dict.fromkeys(frames, "x"), inputs={})


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_of(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def manifest(settings: Settings) -> FeatureManifest:
    return FeatureClient(settings).manifest()


@pytest.fixture(scope="module")
def tables(settings: Settings, manifest: FeatureManifest) -> dict[str, pl.DataFrame]:
    frames = {view.name: invented_rows(view, seed) for seed, view in enumerate(manifest.batch_views)}
    for view in manifest.batch_views:
        write(Lake.of(settings), view, frames[view.name])
    return frames


@pytest.fixture(scope="module")
def entities() -> pl.DataFrame:
    random = np.random.default_rng(1)
    count = 80
    moments = [T0 + timedelta(minutes=int(minute)) for minute in random.integers(0, 16_000, count)]
    departure = pl.Series(moments, dtype=pl.Datetime("us", "UTC")) + timedelta(hours=2)
    return pl.DataFrame([pl.Series(name, random.choice(values, count)) for name, values in KEYS.items()]).with_columns(
        pl.when(pl.int_range(count) % 10 > 0).then("tailnum").alias("tailnum"),
        pl.Series("distance_miles", random.integers(100, 2500, count)),
        departure.alias("scheduled_departure_at"),
        (departure + timedelta(minutes=90)).alias("scheduled_arrival_at"),
        pl.Series(EVENT_TIME, moments, dtype=pl.Datetime("us", "UTC")),
        pl.int_range(count).alias("row"),
    )


def known_then(view: ViewSpec, rows: pl.DataFrame, entity: dict[str, Any], feature: str) -> Any:
    """The definition: the newest row of the key at or before the moment, unless it has expired."""
    key = view.join_keys[0].name
    past = [
        row for row in rows.iter_rows(named=True) if row[key] == entity[key] and row[EVENT_TIME] <= entity[EVENT_TIME]
    ]
    if not past or entity[key] is None:
        return None
    newest = max(past, key=lambda row: row[EVENT_TIME])
    if view.ttl is not None and entity[EVENT_TIME] - newest[EVENT_TIME] > view.ttl:
        return None
    return newest[feature]


def test_each_row_gets_what_was_known_at_its_moment(
    settings: Settings, manifest: FeatureManifest, tables: dict[str, pl.DataFrame], entities: pl.DataFrame
) -> None:
    joined = FeatureClient(settings).historical(SERVICE, entities)
    assert joined.columns == [*entities.columns, *manifest.service(SERVICE).features]
    assert_frame_equal(joined.select(entities.columns), entities)
    found = 0
    for view in manifest.batch_views:
        for column in view.features:
            expected = [known_then(view, tables[view.name], row, column.name) for row in entities.to_dicts()]
            assert joined[column.name].to_list() == expected, f"{view.name}:{column.name}"
            found += sum(value is not None for value in expected)
    assert found > 1000


def test_local_time_block_and_holidays_follow_from_the_request(
    settings: Settings, tables: dict[str, pl.DataFrame], entities: pl.DataFrame
) -> None:
    instants = [
        datetime(2013, 7, 4, 3, 30, tzinfo=UTC),
        datetime(2012, 12, 31, 17, tzinfo=UTC),
        datetime(2013, 11, 3, 6, 15, tzinfo=UTC),
    ]
    departure = pl.Series("scheduled_departure_at", instants, dtype=pl.Datetime("us", "UTC"))
    rows = entities.head(3).with_columns(
        departure, scheduled_arrival_at=departure + timedelta(minutes=75), distance_miles=500
    )
    joined = FeatureClient(settings).historical(SERVICE, rows)
    names = ["local_hour", "local_weekday", "scheduled_block_minutes", "days_since_holiday", "days_to_holiday"]
    assert joined.select(names).rows() == [
        # Half past eleven in the evening of Wednesday 3 July: Memorial Day was 27 May.
        (23, 3, 75, 37, 1),
        # New Year's Eve at noon, Christmas was six days before.
        (12, 1, 75, 6, 1),
        # The second 01:15 of the night in which the clocks go back; Columbus Day was 14 October.
        (1, 7, 75, 20, 8),
    ]
    assert joined["scheduled_speed_mph"].to_list() == [400.0] * 3


def test_pinned_versions_are_read_after_the_table_moved_on(
    settings: Settings, manifest: FeatureManifest, tables: dict[str, pl.DataFrame], entities: pl.DataFrame
) -> None:
    client, lake, view = FeatureClient(settings), Lake.of(settings), manifest.view("aircraft_facts")
    before, pinned = client.historical(SERVICE, entities), lake.version(str(view.table))
    write(lake, view, tables[view.name].with_columns(aircraft_seats=pl.lit(-1, pl.Int64)))
    try:
        moved = client.historical(SERVICE, entities)
        assert set(moved["aircraft_seats"].drop_nulls()) == {-1}
        assert_frame_equal(client.historical(SERVICE, entities, versions={str(view.table): pinned}), before)
    finally:
        write(lake, view, tables[view.name])


def test_online_answers_what_history_says_of_the_same_moment(
    settings: Settings, manifest: FeatureManifest, tables: dict[str, pl.DataFrame], entities: pl.DataFrame
) -> None:
    client = FeatureClient(settings)
    for view in manifest.batch_views:
        pushed = client.push_online(view.name, as_of=AS_OF)
        assert pushed.source_keys == pushed.online_keys > 0
    asked = entities.with_columns(pl.lit(AS_OF).cast(pl.Datetime("us", "UTC")).alias(EVENT_TIME))
    assert asked["tailnum"].null_count() > 0
    assert_frame_equal(client.online(SERVICE, asked, as_of=AS_OF), client.historical(SERVICE, asked))


def test_a_copy_of_a_home_leaves_the_online_store_of_the_original_alone(
    settings: Settings, tables: dict[str, pl.DataFrame], entities: pl.DataFrame, tmp_path: Path
) -> None:
    client = FeatureClient(settings)
    assert client.push_online("aircraft_facts", as_of=AS_OF).online_keys > 0
    entities = entities.drop_nulls("tailnum")
    before = client.online_view("aircraft_facts", entities, as_of=AS_OF)
    assert before["aircraft_seats"].null_count() < before.height
    copy = settings_of(Path(shutil.copytree(settings.home, tmp_path / "copy")))
    assert FeatureClient(copy).push_online("aircraft_facts", as_of=AS_OF).online_keys > 0
    assert_frame_equal(FeatureClient(settings).online_view("aircraft_facts", entities, as_of=AS_OF), before)


def test_a_key_that_a_correction_takes_back_is_not_served_any_more(
    settings: Settings, manifest: FeatureManifest, tables: dict[str, pl.DataFrame]
) -> None:
    client, lake, view = FeatureClient(settings), Lake.of(settings), manifest.view("aircraft_facts")
    rows = tables["aircraft_facts"]
    keys = rows.select("tailnum").unique().sort("tailnum")
    client.push_online("aircraft_facts")
    try:
        for left in (rows.filter(pl.col("tailnum") != "N2"), rows.clear()):
            write(lake, view, left)
            before = client.online_view("aircraft_facts", keys, as_of=FAR)
            pushed = client.push_online("aircraft_facts")
            assert pushed.removed_keys == before[EVENT_TIME].count() - left["tailnum"].n_unique()
            assert pushed.source_keys == pushed.online_keys == left["tailnum"].n_unique()
            after = client.online_view("aircraft_facts", keys, as_of=FAR).drop_nulls(EVENT_TIME)
            assert after["tailnum"].to_list() == sorted(set(left["tailnum"]))
    finally:
        write(lake, view, rows)


def test_an_online_value_older_than_its_ttl_is_not_served(
    settings: Settings, manifest: FeatureManifest, tables: dict[str, pl.DataFrame], entities: pl.DataFrame
) -> None:
    client = FeatureClient(settings)
    client.push_online("weather_at_origin", as_of=AS_OF)
    client.push_online("aircraft_facts", as_of=AS_OF)
    rows = entities.drop(EVENT_TIME)
    much_later = client.online(SERVICE, rows, as_of=AS_OF + timedelta(days=30))
    assert much_later["temp_f"].null_count() == rows.height
    assert much_later["aircraft_seats"].null_count() < rows.height


def test_what_a_service_needs_and_does_not_get_is_named(settings: Settings, entities: pl.DataFrame) -> None:
    client = FeatureClient(settings)
    with pytest.raises(ValueError, match=r"needs the columns \['route', 'scheduled_arrival_at'\]"):
        client.historical(SERVICE, entities.drop("route", "scheduled_arrival_at"))
    with pytest.raises(ValueError, match=r"columns \['temp_f'\] have the names of features"):
        client.historical(SERVICE, entities.with_columns(temp_f=1.0))
    with pytest.raises(LookupError, match=r"no feature service 'nope'; there are delay_minutes_v1, flight_delay_v1"):
        client.historical("nope", entities)


def test_an_empty_frame_has_the_columns_and_no_rows(
    settings: Settings, manifest: FeatureManifest, entities: pl.DataFrame
) -> None:
    joined = FeatureClient(settings).historical(SERVICE, entities.clear())
    assert joined.is_empty()
    assert joined.schema["flight_carrier"] == pl.String
    assert joined.columns == [*entities.columns, *manifest.service(SERVICE).features]


def test_the_manifest_says_who_owns_what_and_in_which_unit(manifest: FeatureManifest) -> None:
    for view in manifest.views:
        assert view.owner
        assert view.description
        assert view.tags
        for column in view.columns:
            assert column.description, f"{view.name}:{column.name}"
            assert column.unit, f"{view.name}:{column.name}"
    assert {view.name: view.ttl for view in manifest.views if view.ttl is None}.keys() == {
        "aircraft_facts",
        "flight_request_features",
    }
    for service in manifest.services:
        assert service.owner
        assert service.description
        assert service.tags
    assert set(manifest.service(SERVICE).categorical) == {
        "flight_carrier",
        "flight_origin",
        "flight_dest",
        "aircraft_manufacturer",
        "aircraft_engine",
    }


def test_views_of_several_keys_have_them_in_one_order_in_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters = Path(__file__).parents[1] / "second_data_set" / "feature_repo"
    read = []
    for seed in ("1", "2", "3"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        read.append(FeatureClient(settings_of(tmp_path / seed, meters)).manifest())
    assert {tuple(key.name for key in view.join_keys) for view in read[0].views} >= {("site", "meter"), ("site",)}
    assert read[0] == read[1] == read[2]


def test_no_identity_of_an_aircraft_or_flight_is_a_feature(manifest: FeatureManifest) -> None:
    for service in manifest.services:
        assert not {"tailnum", "flight_id"} & set(service.features)


def test_reading_the_manifest_imports_no_feast(settings: Settings, manifest: FeatureManifest) -> None:
    code = (
        "import sys; from ml_platform.settings import load; from ml_platform.stores.features import FeatureClient;"
        f"FeatureClient(load({{'ML_PLATFORM_HOME': {str(settings.home)!r}}})).manifest();"
        "sys.exit(int(bool({'feast', 'pandas'} & set(sys.modules))))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def copied_repo(folder: Path, *edits: tuple[str, str]) -> Path:
    repo = folder / "feature_repo"
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("__pycache__"))
    views = repo / "views" / "nyc_flights.py"
    text = views.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    views.write_text(text)
    return repo


def test_feast_is_opened_without_type_checks_and_other_classes_have_theirs(
    settings: Settings, manifest: FeatureManifest
) -> None:
    code = (
        "import sys, typeguard; from ml_platform.settings import load;"
        "from ml_platform.stores.features import FeatureClient; before = typeguard.typechecked;"
        f"FeatureClient(load({{'ML_PLATFORM_HOME': {str(settings.home)!r}}}))._newest_store();"
        "import feast; checking = set(feast.Field.__init__.__code__.co_names) & {'check_argument_types'};"
        "sys.exit(int(bool(checking) or typeguard.typechecked is not before))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_declaration_of_a_wrong_type_is_refused(tmp_path: Path) -> None:
    repo = copied_repo(tmp_path, ('_field("tailnum", String, "name"', '_field("tailnum", "words", "name"'))
    with pytest.raises(FeatureRepoError, match='argument "dtype"'):
        FeatureClient(settings_of(tmp_path / "home", repo)).manifest()


def test_a_service_hash_follows_meaning_and_not_words(tmp_path: Path, manifest: FeatureManifest) -> None:
    words = copied_repo(
        tmp_path / "words", ("The register of aircraft", "All aircraft"), ("team:flight-data", "team:other")
    )
    code = copied_repo(tmp_path / "code", ('dt.dayofweek.astype("int64") + 1', 'dt.dayofweek.astype("int64") + 2'))
    same = FeatureClient(settings_of(tmp_path / "words" / "home", words)).manifest()
    other = FeatureClient(settings_of(tmp_path / "code" / "home", code)).manifest()
    assert same.service(SERVICE).hash == manifest.service(SERVICE).hash
    assert other.service(SERVICE).hash != manifest.service(SERVICE).hash


HIDDEN_ENTITY = (
    ("\naircraft = Entity(", "\n_held = {}\n_held['aircraft'] = Entity("),
    ("[aircraft]", "[_held['aircraft']]"),
    ("aircraft.description", "_held['aircraft'].description"),
)
MISSING_JOIN_KEY = (('_field("tailnum", String, "name", aircraft.description),', ""),)
WRONG_KEY_TYPE = (('_field("tailnum", String,', '_field("tailnum", Int64,'),)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (HIDDEN_ENTITY, r"view 'aircraft_\w+' names entities \['aircraft'\] that Feast did not find"),
        (MISSING_JOIN_KEY, r"view 'aircraft_\w+' has entity columns \[\], but its entities join on \['tailnum'\]"),
    ],
)
def test_apply_refuses_a_view_that_feast_would_join_wrongly(
    tmp_path: Path, edits: tuple[tuple[str, str], ...], message: str
) -> None:
    client = FeatureClient(settings_of(tmp_path / "home", copied_repo(tmp_path, *edits)))
    with pytest.raises(FeatureRepoError, match=message):
        client.apply()


def feast(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Feast's own command line on the copied repository."""
    command = [str(Path(sys.executable).with_name("feast")), "-c", "feature_repo", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_home_whose_configuration_of_feast_was_cut_off_writes_it_anew(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    written = FeatureClient(settings)._config_file
    whole = written.read_text()
    written.write_text("")
    assert FeatureClient(settings)._config_file.read_text() == whole
    assert written.stat().st_mode & 0o777 == 0o600


DIES_IN_THE_MIDDLE = """
import os, sys
from feast.infra.registry.sql import SqlRegistry
from ml_platform.stores import repo_reader
SqlRegistry.apply_feature_service = lambda *_, **__: os._exit(9)
sys.exit(repo_reader.main(sys.argv[1:]))
"""


def test_a_registry_in_a_database_is_taken_for_applied_only_when_all_is_in_it(tmp_path: Path) -> None:
    """It takes one object after the other: another process may look, or the first one die, in between."""
    registry = f"sqlite:///{tmp_path / 'registry.sqlite'}"
    client = FeatureClient(replace(settings_of(tmp_path / "home"), feast_registry_url=registry))
    asked = ["apply", str(REPO), str(client._config_file), str(tmp_path / "manifest.json"), client._state()]
    died = subprocess.run([sys.executable, "-c", DIES_IN_THE_MIDDLE, *asked], capture_output=True, check=False)
    assert died.returncode == 9, died.stderr
    store = client._store({})
    assert store.get_feature_service(SERVICE).name == SERVICE
    assert applied_state(store) == client._state()


def test_feast_by_itself_applies_materializes_and_serves(tmp_path: Path, manifest: FeatureManifest) -> None:
    copied_repo(tmp_path)
    view = manifest.view("weather_at_origin")
    rows = invented_rows(view, 7)
    write(Lake(str(tmp_path / ".ml_platform" / "lake")), view, rows)

    def answer(*arguments: str) -> str:
        done = feast(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    answer("apply")
    answer("materialize", "2013-01-01T00:00:00", "2013-02-01T00:00:00", "--views", view.name)
    newest = rows.filter(pl.col("origin") == "EWR").sort(EVENT_TIME).row(-1, named=True)
    wanted = next(name for name in ("temp_f", "dewp_f", "humid_pct") if newest[name] is not None)
    served = answer("get-online-features", "-e", "origin=EWR", "-f", f"{view.name}:{wanted}")
    assert str(newest[wanted]) in served


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        (HIDDEN_ENTITY, "names entities ['aircraft'] that Feast did not find: define each as a module-level object"),
        ((*HIDDEN_ENTITY[:2], *MISSING_JOIN_KEY), "declare the whole schema of the view on 'features/aircraft_"),
        (WRONG_KEY_TYPE, "Entity aircraft has type ValueType.STRING, which does not match the inferred type Int64"),
    ],
    ids=["entity is not found", "nor is its join key listed", "join key of another type"],
)
def test_feast_by_itself_refuses_a_view_whose_entity_does_not_match(
    tmp_path: Path, edits: tuple[tuple[str, str], ...], message: str
) -> None:
    copied_repo(tmp_path, *edits)
    refused = feast(tmp_path, "apply")
    assert refused.returncode == 1, refused.stdout
    assert message in refused.stderr
    registry = tmp_path / ".ml_platform" / "feast" / "registry.db"
    assert not registry.exists() or b"aircraft_facts" not in registry.read_bytes()
