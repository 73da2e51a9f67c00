"""A home that was backed up, destroyed and restored is what it was; what cannot be a backup is refused."""

import json
import multiprocessing
import re
import shutil
import sqlite3
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath

import dagster as dg
import polars as pl
import pytest
from click.testing import Result

from ml_platform.core.promotion import Decision
from ml_platform.settings import Settings, load, place
from ml_platform.stores import backup as backup_module
from ml_platform.stores.backup import MANIFEST, BackupError, Stores, back_up, backups, damaged, restore
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.training_requests import TABLE, TrainingRequests
from ml_platform_tests.small_home import build_home

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home of this module's own, since it is destroyed."""
    settings = load({"ML_PLATFORM_HOME": str(tmp_path_factory.mktemp("kept") / "home")})
    build_home(settings)
    return settings


@pytest.fixture
def run(home: Settings, command: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(home.home))
    return command


@pytest.fixture
def empty(tmp_path: Path) -> Settings:
    return load({"ML_PLATFORM_HOME": str(tmp_path / "home")})


def answers(run: Run, home: Settings) -> list[object]:
    """All that people ask of a home: its status, its champion's predictions on record, and one made anew."""
    recorded = Lake.of(home).read("flight_delay/predictions").sort("prediction_time", "flight_id")
    last = recorded.row(-1, named=True)["flight_id"]
    asked = run("predict", "flight_delay", "--key", f"flight_id={last}", "--json")
    return [json.loads(run("status", "--json").stdout), json.loads(asked.stdout), recorded.to_dicts()]


def test_a_destroyed_home_is_restored_with_its_status_champion_and_predictions(
    run: Run, home: Settings, tmp_path: Path
) -> None:
    before = answers(run, home)
    made = json.loads(run("backup", str(tmp_path), "--json").stdout)
    shutil.rmtree(home.home)
    done = run("restore", str(tmp_path), "--json")
    assert json.loads(done.stdout) == {"backup": made["backup"], "files": made["files"], "online": {}}
    assert answers(run, home) == before


def test_a_finished_backup_is_an_event_that_dagster_shows_and_a_refused_one_is_none(
    run: Run, home: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster_home))
    made = json.loads(run("backup", str(tmp_path), "--json").stdout)
    assert isinstance(run("backup", str(home.home / "lake" / "inside")).exception, BackupError)
    with dg.DagsterInstance.get() as instance:
        told = instance.get_latest_materialization_event(dg.AssetKey(["ledger", "backups"]))
    assert told is not None
    assert told.asset_materialization is not None
    metadata = told.asset_materialization.metadata
    assert (metadata["place"].value, metadata["files"].value) == (made["backup"], made["files"])
    assert metadata["begun_at"].value == backups(str(tmp_path))[-1].begun_at.timestamp()


def test_what_stores_hold_is_replaced_only_on_request_and_then_wholly(run: Run, home: Settings, tmp_path: Path) -> None:
    run("backup", str(tmp_path))
    before = answers(run, home)
    stranger = home.home / "lake" / "raw" / "arrivals" / "later.parquet"
    stranger.write_bytes(b"of after the backup")
    TrainingRequests(Lake.of(home)).ask("flight_delay", "analyst", "after the backup")
    refused = run("restore", str(tmp_path))
    assert "there is something in lake" in str(refused.exception)
    assert "--replace" in str(refused.exception)
    assert stranger.exists()
    run("restore", str(tmp_path), "--replace")
    assert not stranger.exists()
    assert TrainingRequests(Lake.of(home)).waiting("flight_delay") is None
    assert answers(run, home) == before


def test_a_damaged_backup_is_refused_before_anything_is_touched(run: Run, home: Settings, tmp_path: Path) -> None:
    run("backup", str(tmp_path))
    (backup,) = backups(str(tmp_path))
    changed = backup.root / "databases" / "mlflow"
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    gone = next(name for name in backup.files if name.startswith("lake/"))
    (backup.root / gone).unlink()
    assert set(damaged(backup)) == {"databases/mlflow", gone}
    before = answers(run, home)
    refused = run("restore", str(tmp_path), "--replace")
    assert "is damaged" in str(refused.exception)
    assert gone in str(refused.exception)
    assert answers(run, home) == before


def test_a_backup_that_was_never_finished_is_none(empty: Settings, tmp_path: Path) -> None:
    finished = back_up(empty, str(tmp_path / "backups"))
    later = finished.root.with_name("2999-01-01T000000Z")
    shutil.copytree(finished.root, later)
    (later / MANIFEST).unlink()
    assert [each.root for each in backups(str(tmp_path / "backups"))] == [finished.root]
    (finished.root / MANIFEST).write_text("{")
    with pytest.raises(BackupError, match=r"manifest\.json cannot be read"):
        backups(str(tmp_path / "backups"))


def test_the_oldest_backups_beyond_those_to_keep_are_removed(empty: Settings, tmp_path: Path) -> None:
    target = str(tmp_path / "backups")
    made = []
    for _ in range(3):
        made.append(back_up(empty, target, keep=2))
        time.sleep(1.1)  # a backup is named for its second
    assert [each.root for each in backups(target)] == [made[1].root, made[2].root]
    assert not made[0].root.exists()


@pytest.mark.parametrize("target", ["{folder}/backups", "memory://{folder}/backups"])
def test_what_backups_left_that_were_killed_goes_with_those_not_to_keep_and_nothing_else(
    target: str, empty: Settings, tmp_path: Path
) -> None:
    target = target.format(folder=tmp_path)
    where, now = place(target), datetime.now(UTC)

    def put(name: str, file: str = "lake/raw/x/_delta_log/00000000000000000000.json") -> str:
        if isinstance(where, PurePath):
            (where / name / file).parent.mkdir(parents=True, exist_ok=True)
        (where / name / file).write_bytes(b"{}")
        return name

    def stamp(hours_ago: float) -> str:
        return f"{now - timedelta(hours=hours_ago):%Y-%m-%dT%H%M%SZ}"

    killed = {put(stamp(25)), put(stamp(24 * 400)), put(stamp(72), "databases/mlflow")}
    others = {
        put(stamp(23)),
        put("2999-01-01T000000Z"),
        put("notes"),
        put(f"{stamp(72)}-kept"),
        put("2013-1-1T000000Z"),
    }
    (where / stamp(96)).write_bytes(b"no folder")
    others.add(stamp(96))

    finished = {back_up(empty, target).root.name}
    assert {each.name for each in where.iterdir()} == killed | others | finished
    time.sleep(1.1)  # a backup is named for its second
    finished.add(back_up(empty, target, keep=2).root.name)
    assert {each.name for each in where.iterdir()} == others | finished


def test_a_target_within_what_is_backed_up_is_refused(home: Settings) -> None:
    with pytest.raises(BackupError, match=r"lies within .* name a place outside"):
        back_up(home, str(home.home / "lake" / "backups"))


def test_a_backup_is_not_restored_into_stores_of_another_kind(empty: Settings, tmp_path: Path) -> None:
    backup = back_up(empty, str(tmp_path / "backups"))
    other = load({"ML_PLATFORM_HOME": str(tmp_path), "ML_PLATFORM_OPTUNA_URL": "postgresql://u@127.0.0.1:1/optuna"})
    with pytest.raises(BackupError, match=r"optuna \(SQLite\).*optuna \(Postgres\)"):
        restore(other, backup)


def test_an_mlflow_server_is_refused_since_its_database_is_elsewhere() -> None:
    with pytest.raises(BackupError, match="let it name the database"):
        Stores.of(load({"ML_PLATFORM_MLFLOW_TRACKING_URI": "http://mlflow:5000"}))


_LARGE = 64 * 2**20


@pytest.mark.parametrize("database", ["SQLite", "Postgres"])
def test_no_file_or_dump_need_fit_into_memory(
    database: str, empty: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.landing.mkdir(parents=True)
    with (empty.landing / "large").open("wb") as file:
        file.truncate(_LARGE)
    if database == "SQLite":
        tell(registry_file(empty), "large", "0" * _LARGE)
    else:
        programs = tmp_path / "programs"
        for name in ("pg_dump", "pg_restore", "psql"):
            stand_in(programs / name, log=tmp_path / "asked")
        monkeypatch.setenv("PATH", str(programs), prepend=":")
        empty = replace(empty, mlflow_tracking_uri="postgresql://user@db/mlflow")
    tracemalloc.start()
    try:
        made = back_up(empty, str(tmp_path / "backups"))
        restore(empty, made)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [name for name, (size, _) in made.files.items() if size >= _LARGE] == ["databases/mlflow", "landing/large"]
    assert most < _LARGE / 2
    if database == "SQLite":
        assert told(registry_file(empty)) == {"large": "0" * _LARGE}
    else:
        *_, filled = (tmp_path / "asked").read_text().splitlines()
        assert re.search(r"psql .*--single-transaction .*--file=\S+\.empty\.sql --file=\S+/mlflow\.sql ", filled)


def stand_in(program: Path, *, log: Path) -> None:
    """One of Postgres' programs, which notes what it was asked and writes a large file if it is to write one."""
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        f'#!/bin/sh\necho "${{0##*/}} $*" >> {log}\n[ "${{0##*/}}" = psql ] && exit\n'
        f'for each; do case $each in --file=*) truncate --size {_LARGE} "${{each#--file=}}";; esac; done\n'
    )
    program.chmod(0o755)


def test_a_backup_taken_while_others_write_holds_whole_commits(empty: Settings, tmp_path: Path) -> None:
    """A process appends to a table without pause; each backup has a prefix of what it wrote, and every file of it."""
    TrainingRequests(Lake.of(empty)).ask("before", "analyst", "the table is there")
    spawned = multiprocessing.get_context("spawn")
    writer = spawned.Process(target=write_on, args=(str(empty.home),))
    writer.start()
    try:
        until = time.monotonic() + 60
        while Lake.of(empty).read(TABLE).height < 3:
            assert time.monotonic() < until, "the writer does not write"
            time.sleep(0.1)
        rows = []
        for number in range(4):
            backup = back_up(empty, str(tmp_path / f"backups_{number}"))
            copy = load({"ML_PLATFORM_HOME": str(tmp_path / f"copy_{number}")})
            restore(copy, backup)
            rows.append(Lake.of(copy).read(TABLE)["model"].to_list())
    finally:
        writer.kill()
        writer.join()
    every = sorted(Lake.of(empty).read(TABLE)["model"].to_list())
    for number, kept in enumerate(rows):
        assert sorted(kept) == every[: len(kept)], f"backup {number}"
    assert len(rows[-1]) > len(rows[0])


def write_on(home: str) -> None:
    requests = TrainingRequests(Lake.of(load({"ML_PLATFORM_HOME": home})))
    for number in range(10_000):
        requests.ask(f"model_{number:05}", "analyst", "as fast as it goes")


@pytest.mark.parametrize("rounds_before", [0, 1])
def test_after_a_return_no_store_speaks_of_what_another_lacks(
    rounds_before: int, empty: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each step of the backup a run trains on a table that it has just written, and promotes."""
    for number in range(1, rounds_before + 1):
        train_and_promote(empty, number)
    rounds = [rounds_before]

    def with_a_round_around(step: Callable[..., object]) -> Callable[..., object]:
        def stepped(*arguments: object) -> object:
            rounds.append(rounds[-1] + 1)
            train_and_promote(empty, rounds[-1])
            answer = step(*arguments)
            rounds.append(rounds[-1] + 1)
            train_and_promote(empty, rounds[-1])
            return answer

        return stepped

    with monkeypatch.context() as patched:
        for step in ("_names", "_dumped"):
            patched.setattr(backup_module, step, with_a_round_around(getattr(backup_module, step)))
        made = back_up(empty, str(tmp_path / "backups"))
    copy = load({"ML_PLATFORM_HOME": str(tmp_path / "copy")})
    restore(copy, made)

    lake, dagster, registered = Lake.of(copy), told(dagster_file(copy)), told(registry_file(copy))
    assert 0 < len(registered) < rounds[-1], "the backup was made while rounds went on"
    pinned = {version: json.loads(pin) for version, pin in registered.items()}
    assert {v: lake.read("raw/x", version=pin)["round"].to_list() for v, pin in pinned.items()} == {
        version: [int(version)] for version in pinned
    }
    assert all(lake.partitions("raw/x", pin) for pin in pinned.values())
    promoted = {str(version) for version in Ledger(lake).history("m")["version"]}
    assert promoted <= set(registered)
    assert {number for number, event in dagster.items() if event == "promoted"} <= promoted
    runs = Lake.of(copy).read(TABLE)["taken_by_run"].to_list() if lake.exists(TABLE) else []
    assert {run for run in runs if run} <= set(dagster)
    train_and_promote(copy, 1_000)


def train_and_promote(settings: Settings, number: int) -> None:
    """What a run leaves in lake, registry, ledger and Dagster, where each model version is named for its round."""
    lake = Lake.of(settings)
    requests, ledger = TrainingRequests(lake), Ledger(lake)
    if requests.waiting("m") is None:
        requests.ask("m", "analyst", "new labels")
    tell(dagster_file(settings), str(number), "started")
    requests.take("m", str(number), datetime(2013, 1, 1, tzinfo=UTC))
    pinned = lake.write("raw/x", pl.DataFrame({"round": [number]}), sort_by=["round"]).delta_version
    tell(registry_file(settings), str(number), json.dumps(pinned))
    champion = ledger.champion("m")
    ledger.record(
        "m",
        number,
        Decision(promote=True, rule="first_champion", reason="every gate holds", gates=()),
        expected_current=None if champion is None else champion.version,
        watermark=datetime(2013, 1, 1, tzinfo=UTC),
        by="automation",
        run_id=str(number),
    )
    tell(dagster_file(settings), str(number), "promoted")


def dagster_file(settings: Settings) -> Path:
    return settings.dagster_home / "events.db"


def registry_file(settings: Settings) -> Path:
    return Path(settings.mlflow_tracking_uri.removeprefix("sqlite:///"))


def tell(database: Path, name: str, fact: str) -> None:
    database.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, fact TEXT)")
        connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, fact))


def told(database: Path) -> dict[str, str]:
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT name, fact FROM facts").fetchall())
