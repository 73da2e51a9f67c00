"""The whole loop of `make run` on Postgres, Redis and object storage, by settings alone."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ml_platform.serving.servers import servers
from ml_platform.settings import load
from ml_platform_tests.processes import Contained
from ml_platform_tests.servers.postgres import free_port
from ml_platform_tests.servers.shared import Platform, shared_stores

pytestmark = pytest.mark.deploy

MODELS = ("delay_minutes", "flight_delay")
_DOWN_SECONDS = 5
_RUN_SECONDS = 1200


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """What `make run` leaves on servers."""
    folder = tmp_path_factory.mktemp("platform")
    with shared_stores(folder / "stores") as stores:
        made = Platform(stores, folder / "home")
        done = made.run("run")
        assert done.returncode == 0, done.stderr[-3000:]
        yield made


def elsewhere(platform: Platform, name: str) -> Platform:
    """The same platform from another machine: nothing is shared but the servers."""
    return Platform(platform.stores, platform.home.with_name(name))


def started(platform: Platform, log: Path) -> "subprocess.Popen[bytes]":
    """`ml-platform run` of what has landed, under way."""
    command = [str(Path(sys.executable).with_name("ml-platform")), "run", "--as-landed"]
    with log.open("wb") as out:
        return subprocess.Popen(command, env=platform.environment, stdout=out, stderr=out)


def question(platform: Platform, statement: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = platform.said("sql", statement)
    return found


def is_whole(platform: Platform, watermark: str) -> None:
    """All that landed is taken in, every flight is predicted once by each champion, and no run is open."""
    assert platform.said("status")["watermark"].startswith(watermark)
    for model in MODELS:
        (counted,) = question(
            platform,
            f"SELECT count(*) AS rows, count(DISTINCT flight_id) AS flights, min(model_version) AS version "
            f"FROM {model}.predictions",
        )
        assert counted["rows"] == counted["flights"] > 27_000
        assert counted["version"] == 1
    again = platform.run("run", "--as-landed")
    assert again.returncode == 0, again.stderr
    assert "everything is up to date" in again.stderr
    assert open_runs(platform) == 0


def open_runs(platform: Platform) -> int:
    import psycopg2

    server = platform.stores.postgres
    reached = {"host": "127.0.0.1", "port": server.port, "user": "platform", "password": server.password}
    with closing(psycopg2.connect(dbname="dagster", **reached)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')")
        return int(cursor.fetchone()[0])


def test_the_loop_leaves_everything_on_the_servers_and_nothing_of_it_in_the_home(platform: Platform) -> None:
    is_whole(platform, "2013-04-15")
    assert platform.online()
    kinds = {
        each["Key"].split("/")[0]
        for page in platform.stores.bucket.client().get_paginator("list_objects_v2").paginate(Bucket="tests")
        for each in page["Contents"]
    }
    assert kinds == {"compute-logs", "lake", "landing", "mlflow", "reports"}
    assert {path.name for path in platform.home.iterdir()} <= {"dagster", "entity_columns", "feast", "ports.json"}
    assert not list(platform.home.rglob("*.db")), "an embedded store was used"


def test_a_process_elsewhere_finds_the_same_champion_and_predicts_alike(platform: Platform) -> None:
    other = elsewhere(platform, "other")
    other.run("plan")  # a home of its own, with its own links
    here, there = platform.answers(), other.answers()
    assert there[1:] == here[1:]


def test_two_runs_at_once_take_in_each_day_once(platform: Platform, tmp_path: Path) -> None:
    assert platform.run("replay", "--until", "2013-04-17").returncode == 0
    both = [started(elsewhere(platform, name), tmp_path / name) for name in ("one", "two")]
    codes = [each.wait(_RUN_SECONDS) for each in both]
    assert codes == [0, 0], [(tmp_path / name).read_text()[-2000:] for name in ("one", "two")]
    is_whole(platform, "2013-04-17")


@pytest.mark.parametrize(("server", "day"), [("postgres", 18), ("bucket", 19)])
def test_a_server_that_dies_in_the_middle_of_a_run_and_comes_back_costs_at_most_that_run(
    server: str, day: int, platform: Platform, tmp_path: Path
) -> None:
    assert platform.run("replay", "--until", f"2013-04-{day}").returncode == 0
    log = tmp_path / "log"
    run = started(platform, log)
    until = time.monotonic() + _RUN_SECONDS
    # The first table is taken in: the run is in the middle.
    while "raw/" not in (said := log.read_text()).partition("out of date\n")[2] and run.poll() is None:
        assert time.monotonic() < until, said
        time.sleep(0.1)
    assert run.poll() is None, f"the run ended before the server could: {log.read_text()}"
    hit = getattr(platform.stores, server)
    hit.kill()
    time.sleep(_DOWN_SECONDS)
    hit.start()
    code = run.wait(_RUN_SECONDS)
    if code:
        # One line that a person can act on, and no secret in it.
        assert code == 2, log.read_text()[-3000:]
        assert "failed" in log.read_text()
    said = log.read_text()
    assert platform.stores.postgres.password not in said
    assert platform.stores.redis.password not in said
    again = platform.run("run", "--as-landed")
    assert again.returncode == 0, again.stderr[-3000:]
    is_whole(platform, f"2013-04-{day}")


def test_an_online_store_that_is_down_when_it_is_filled_fails_the_run_by_name_and_is_filled_by_the_next(
    platform: Platform,
) -> None:
    assert platform.run("replay", "--until", "2013-04-20").returncode == 0
    redis, before = platform.stores.redis, platform.online()
    redis.kill()
    try:
        failed = platform.run("run", "--as-landed")
    finally:
        redis.start()
    assert failed.returncode == 2, failed.stderr[-3000:]
    assert "online_features" in failed.stderr
    assert f":{redis.port}" in failed.stderr, "which server it was"
    assert redis.password not in failed.stderr
    assert platform.online() == before, "nothing is lost"
    again = platform.run("run", "--as-landed")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "the online store is behind the lake" in again.stderr
    is_whole(platform, "2013-04-20")
    assert platform.online() != before
    for view, key in (("weather_at_origin", "origin=JFK"), ("arrival_delays_by_carrier", "carrier=UA")):
        asked = ("features", view, "--key", key)
        offline, online = platform.said(*asked), platform.said(*asked, "--online")
        assert offline["rows"]
        assert online["rows"] == offline["rows"]


def test_a_model_is_trained_through_mlflows_own_server(platform: Platform, tmp_path: Path) -> None:
    """As on Kubernetes, where a server stands between runs and MLflow's database."""
    port = free_port()
    (server,) = (
        each
        for each in servers(load({**platform.environment, "ML_PLATFORM_MLFLOW_PORT": str(port)}))
        if each.name == "mlflow"
    )
    running = Contained(server.command, {**platform.environment, **server.environment}, tmp_path, tmp_path / "log")
    try:
        until = time.monotonic() + 120
        while not server.answers():
            assert time.monotonic() < until, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.5)
        through = {
            **platform.environment,
            "ML_PLATFORM_MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
            "DAGSTER_HOME": str(platform.home / "dagster"),
        }
        trained = subprocess.run(
            [
                sys.executable,
                "-m",
                "dagster",
                "job",
                "execute",
                "-m",
                "ml_platform.definitions",
                "-j",
                "flight_delay_training",
            ],
            env=through,
            capture_output=True,
            text=True,
            check=False,
        )
        assert trained.returncode == 0, trained.stderr[-4000:]
    finally:
        running.end(30)
    asked = question(
        platform,
        "SELECT max(version) AS version, count(*) AS decisions FROM ledger.promotions WHERE model = 'flight_delay'",
    )
    assert asked[0]["version"] == 2
    explained = platform.said("explain", "flight_delay", "2")
    assert explained
