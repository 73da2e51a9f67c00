"""Backups of every store of the platform, and their return.

Belongs here: what makes up a backup, in which order it is copied and how it is verified. A backup is a folder, on a
disk or in object storage, whose ``manifest.json`` is written last and names every file with its size and digest: one
without it was never finished.

Nothing need stop meanwhile, because each store is copied before what it speaks of: requests for training (which name
the run that took them up), Dagster's events, the commits of the ledger of promotions, the other databases, the
catalog's commits, those of all other tables, and last the files that commits and databases name, which stay for days
when they are replaced. So a commit is in a backup wholly or not at all, and after a return

- every promotion is of a version that the registry has, and every table version that a registered version pins is in
  the lake with the rows that it had, so that its number is not given to others;
- Dagster's events are never newer than lake and ledger: what Dagster knows was made is there.

The lake may be ahead of the databases, and the registry of ledger and Dagster, as after a crash: the next run completes
what a run at work left.
"""

import errno
import hashlib
import json
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import IO, Literal, cast

from ml_platform.settings import Settings, place
from ml_platform.stores.catalog import CATALOG
from ml_platform.stores.delta_log import forget_open_tables
from ml_platform.stores.files import write_whole
from ml_platform.stores.ledger import TABLE as PROMOTIONS
from ml_platform.stores.training_requests import TABLE as REQUESTS

MANIFEST = "manifest.json"
_FORMAT = 1
_STAMP = "%Y-%m-%dT%H%M%SZ"
_LOG = "_delta_log"
_DAGSTER = "dagster"
_LOGS_OF_THEIR_OWN_TURN = tuple(f"{table}/{_LOG}/" for table in (REQUESTS, PROMOTIONS, CATALOG))
_POINTER = "_last_checkpoint"
"""Of a table's log: it may speak of a checkpoint that was made since the commits were listed; without it they are."""

_SQLITE = b"SQLite format 3\x00"
_BESIDE_SQLITE = ("-wal", "-shm", "-journal")
_EMPTY = """DO $$ DECLARE things text[]; thing text; BEGIN
  SELECT array_agg(kind || ' IF EXISTS ' || name ORDER BY kind = 'SEQUENCE') INTO things FROM (
    SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
           oid::regclass::text AS name
      FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')
    UNION ALL SELECT 'TYPE', oid::regtype::text FROM pg_type
      WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
    UNION ALL SELECT 'ROUTINE', oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  ) AS found;
  FOREACH thing IN ARRAY coalesce(things, '{}') LOOP EXECUTE 'DROP ' || thing || ' CASCADE'; END LOOP;
END $$;
"""
"""SQL that drops what a schema may hold, but not the schema, which need not be the user's."""

_AT_ONCE = 8
_PIECE = 2**20
_BLOCK = 2**24
"""Of a file in object storage: what is asked for at once. An upload has 10,000 of them at most."""

_READS = 3
"""How often a file is read that is replaced by another while it is."""

_AT_WORK_AT_MOST = timedelta(days=1)
"""How long a folder without a manifest may be of a backup that is still made; the chart ends its own after 4 hours."""


class BackupError(RuntimeError):
    """A backup could not be made or returned; nothing of what it was to replace was touched, unless it says so."""


@dataclass(frozen=True)
class Stores:
    """What there is to keep, by name: folders or prefixes, and databases as the file or URL that they are."""

    places: Mapping[str, Path]
    databases: Mapping[str, str]

    @classmethod
    def of(cls, settings: Settings) -> "Stores":
        """Every store of these settings but an online store in Redis, which is made from the lake.

        Raises:
            BackupError: MLflow's database is behind a server.
        """
        databases = {"mlflow": settings.mlflow_tracking_uri, "optuna": settings.optuna_storage_url}
        if databases["mlflow"].startswith(("http:", "https:")):
            raise BackupError(
                "ML_PLATFORM_MLFLOW_TRACKING_URI is a server: for backups and their return, let it name the database"
            )
        places = {
            "lake": place(settings.lake_uri),
            "landing": settings.landing,
            "reports": settings.reports,
            "feast": settings.feast_home,
            "mlflow_artifacts": place(settings.mlflow_artifacts_uri),
        }
        if settings.feast_registry_url:
            databases["feast"] = settings.feast_registry_url
        if settings.dagster_storage_url:
            databases[_DAGSTER] = settings.dagster_storage_url
        else:
            places[_DAGSTER] = settings.dagster_home
        return cls(places, {name: url.removeprefix("sqlite:///") for name, url in databases.items()})


@dataclass(frozen=True)
class Backup:
    """A finished backup: where it is, when it was begun (wall time), and by name each file's size and digest."""

    root: Path
    begun_at: datetime
    platform: str
    files: Mapping[str, tuple[int, str]]
    parts: frozenset[str]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.files.values())


def back_up(settings: Settings, target: str, *, keep: int | None = None) -> Backup:
    """Copy every store into a new folder of ``target``, named for the moment.

    Args:
        settings: whose stores.
        target: a folder or ``s3://bucket/prefix``, which may hold earlier backups.
        keep: how many finished backups stay there, this one included, and nothing of those that were begun more than a
            day ago and not finished; all if absent.

    Raises:
        BackupError: a database could not be dumped, or the target lies within what is backed up.
    """
    stores, begun_at = Stores.of(settings), datetime.now(UTC)
    root = place(target) / begun_at.strftime(_STAMP)
    for name, source in stores.places.items():
        if str(root).startswith(f"{source}/"):
            raise BackupError(f"{target} lies within {source} ({name}), which is backed up: name a place outside")
    lake = stores.places["lake"]
    files: dict[str, tuple[int, str]] = {}

    def keep_all(part: str, names: Sequence[str]) -> None:
        source = stores.places[part]
        copied = pool.map(lambda name: _kept(source / name, root / part / name), names)
        files.update({f"{part}/{name}": told for name, told in zip(names, copied, strict=True) if told is not None})

    def keep_log(table: str) -> None:
        log = f"{table}/{_LOG}"
        keep_all("lake", [f"{log}/{name}" for name in _names(lake / log)])

    def keep_database(name: str) -> None:
        if (dump := _dumped(stores.databases[name], Path(scratch) / name)) is not None:
            files[f"databases/{name}"] = _copied(dump, root / "databases" / name)

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_AT_ONCE) as pool:
        # The order is what a backup is worth: see the module's docstring.
        keep_log(REQUESTS)
        if _DAGSTER in stores.databases:
            keep_database(_DAGSTER)
        else:
            keep_all(_DAGSTER, _names(stores.places[_DAGSTER]))
        keep_log(PROMOTIONS)
        for name in stores.databases:
            if name != _DAGSTER:
                keep_database(name)
        # The catalog's log is cleaned up within minutes: it alone is listed, and what was listed is copied at once.
        keep_log(CATALOG)
        keep_all("lake", [n for n in _names(lake) if _is_of_a_log(n) and not n.startswith(_LOGS_OF_THEIR_OWN_TURN)])
        for part, source in stores.places.items():
            if part != _DAGSTER:
                keep_all(part, [name for name in _names(source) if part != "lake" or not _is_of_a_log(name)])
    manifest = {
        "format": _FORMAT,
        "begun_at": begun_at.isoformat(),
        "platform": version("ml-platform"),
        "parts": sorted(_parts(stores)),
        "files": files,
    }
    # What has one is finished: it is there whole or not at all.
    write_whole(root / MANIFEST, json.dumps(manifest, indent=1).encode())
    if keep is not None:
        finished = backups(target)
        for old in finished[:-keep]:
            # Without its manifest it is none any more, also if this ends half-way.
            (old.root / MANIFEST).unlink()
            _remove(old.root)
        for left in _abandoned(place(target), before=finished[-1].begun_at):
            _remove(left)
    return _read(root)


def backups(source: str) -> list[Backup]:
    """The finished backups in a folder or prefix, oldest first; of a backup's own folder, that one.

    Raises:
        BackupError: a manifest there cannot be read.
    """
    root = place(source)
    if (root / MANIFEST).exists():
        return [_read(root)]
    found = [each.parent for each in root.glob(f"*/{MANIFEST}")] if root.exists() else []
    return [_read(each) for each in sorted(found, key=lambda each: each.name)]


def damaged(backup: Backup) -> list[str]:
    """The files of a backup that are not there or not what was written, by name."""

    def broken(name: str) -> bool:
        try:
            return _copied(backup.root / name, None) != backup.files[name]
        except FileNotFoundError:
            return True

    names = sorted(backup.files)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [name for name, is_broken in zip(names, pool.map(broken, names), strict=True) if is_broken]


def occupied(settings: Settings) -> list[str]:
    """Which stores hold something that a return would replace, by name."""
    stores = Stores.of(settings)
    full = [name for name, where in stores.places.items() if _names(where)]
    return full + [f"database {name}" for name, url in stores.databases.items() if _holds_something(url)]


def restore(settings: Settings, backup: Backup, *, on_part: Callable[[str], None] = lambda part: None) -> None:
    """Have every store hold what the backup does, and nothing else.

    An online store in Redis is not part of it: push it from the lake afterwards.

    Args:
        settings: whose stores; they may be other places and servers than those that were backed up.
        backup: which one.
        on_part: told of each part before it is replaced.

    Raises:
        BackupError: the backup is damaged, or is of stores of another kind; nothing was touched. Or a database could
            not be filled: it is as before, and the message names what has been replaced.
    """
    stores = Stores.of(settings)
    if _parts(stores) != backup.parts:
        raise BackupError(
            f"{backup.root} has {', '.join(sorted(backup.parts))}; these settings have "
            f"{', '.join(sorted(_parts(stores)))}: a backup does not move from embedded stores to servers or back"
        )
    if broken := damaged(backup):
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise BackupError(f"{backup.root} is damaged: {', '.join(broken[:3])}{more}")
    done: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, url in stores.databases.items():
            on_part(f"database {name}")
            kept = backup.root / "databases" / name if f"databases/{name}" in backup.files else None
            try:
                _refill(url, kept, Path(scratch) / name)
            except BackupError as error:
                raise BackupError(f"{error}; replaced so far: {', '.join(done) or 'nothing'}") from None
            done.append(f"database {name}")
        for part, target in stores.places.items():
            on_part(part)
            names = [name for name in backup.files if name.startswith(f"{part}/")]
            _remove(target)
            for _ in pool.map(
                lambda name, part=part, target=target: _copied(
                    backup.root / name, target / name.removeprefix(f"{part}/")
                ),
                names,
            ):
                pass
    forget_open_tables()


# Inside --------------------------------------------------------------------------------------------


def _read(root: Path) -> Backup:
    try:
        told = json.loads((root / MANIFEST).read_bytes())
        if told["format"] != _FORMAT:
            raise BackupError(f"{root} has format {told['format']}; this platform reads {_FORMAT}")
        files = {name: (int(size), str(digest)) for name, (size, digest) in told["files"].items()}
        begun_at = datetime.fromisoformat(told["begun_at"])
        return Backup(root, begun_at, told["platform"], files, frozenset(told["parts"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{root / MANIFEST} cannot be read: {error}") from None


def _abandoned(target: Path, *, before: datetime) -> list[Path]:
    """Folders of backups that were begun before a moment and killed, or whose removal was."""
    until = min(before, datetime.now(UTC) - _AT_WORK_AT_MOST)
    named = [each for each in target.iterdir() if (begun_at := _stamped(each.name)) is not None and begun_at < until]
    return [each for each in named if each.is_dir() and not (each / MANIFEST).exists()]


def _stamped(name: str) -> datetime | None:
    """The moment that a backup's folder is named for; None if it is not named as one."""
    try:
        moment = datetime.strptime(name, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None
    return moment if moment.strftime(_STAMP) == name else None


def _parts(stores: Stores) -> frozenset[str]:
    """What a backup of these stores is made of, with the kind of each database."""
    kinds = {name: "Postgres" if _is_postgres(url) else "SQLite" for name, url in stores.databases.items()}
    return frozenset([*stores.places, *(f"database {name} ({kind})" for name, kind in kinds.items())])


def _names(source: Path) -> list[str]:
    """Every file under a place, by its name relative to it."""
    if isinstance(source, PurePath):
        return sorted(found.relative_to(source).as_posix() for found in source.rglob("*") if found.is_file())
    root = source.path.rstrip("/") + "/"
    return sorted(name.removeprefix(root) for name in source.fs.find(source.path) if name.startswith(root))


def _is_of_a_log(name: str) -> bool:
    """Whether a file of the lake is of a table's log."""
    return f"/{_LOG}/" in f"/{name}"


def _kept(source: Path, target: Path) -> tuple[int, str] | None:
    """Copy one file into the backup; None if it was removed meanwhile, or is none that is kept."""
    if source.name == _POINTER or source.name.endswith((".lock", ".tmp", *_BESIDE_SQLITE)):
        return None
    for attempt in range(1, _READS + 1):
        try:
            if not isinstance(source, PurePath) or not _is_sqlite(source):
                return _copied(source, target)
            with tempfile.TemporaryDirectory() as scratch:
                return _copied(_sqlite_copy(source, Path(scratch) / source.name), target)
        except FileNotFoundError:
            return None
        except OSError as error:
            # Object storage says so of an object that became another since it was opened.
            if error.errno != errno.EBUSY or attempt == _READS:
                raise
    raise AssertionError("unreachable")


def _copied(source: Path, target: Path | None) -> tuple[int, str]:
    """Copy a file of any size, a piece at a time, or only read it; size and digest of what was read."""
    size, digest = 0, hashlib.blake2b(digest_size=16)
    with ExitStack() as opened:
        read = opened.enter_context(_opened(source, "rb"))
        written = None if target is None else opened.enter_context(_opened(target, "wb"))
        while piece := read.read(_PIECE):
            size += len(piece)
            digest.update(piece)
            if written is not None:
                written.write(piece)
    return size, digest.hexdigest()


def _opened(path: Path, mode: Literal["rb", "wb"]) -> IO[bytes]:
    if not isinstance(path, PurePath):
        # By default it would read ahead, and gather for an upload, more than a pod may have for each of several files.
        return cast(IO[bytes], path.fs.open(path.path, mode, block_size=_BLOCK))
    if mode == "wb":
        path.parent.mkdir(parents=True, exist_ok=True)
    return path.open(mode)


def _remove(root: Path) -> None:
    if isinstance(root, PurePath):
        shutil.rmtree(root, ignore_errors=not root.exists())
    elif root.fs.exists(root.path):
        root.fs.rm(root.path, recursive=True)


# Databases -----------------------------------------------------------------------------------------


def _is_postgres(url: str) -> bool:
    return url.startswith("postgresql")


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _sqlite_copy(source: Path, target: Path) -> Path:
    """A copy in which what others write meanwhile is wholly or not at all."""
    with closing(sqlite3.connect(source, timeout=60)) as live, closing(sqlite3.connect(target)) as kept:
        live.backup(kept)
    return target


def _dumped(url: str, dump: Path) -> Path | None:
    """A database's content as one file; None if an embedded one was never made."""
    if not _is_postgres(url):
        return _sqlite_copy(Path(url), dump) if Path(url).is_file() else None
    _run("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={_libpq(url)}")
    return dump


def _refill(url: str, kept: Path | None, scratch: Path) -> None:
    """Have a database hold what was dumped and nothing else, at once or not at all."""
    if not _is_postgres(url):
        draft = Path(f"{url}.tmp")
        if kept is not None:
            _copied(kept, draft)
        for suffix in ("", *_BESIDE_SQLITE):
            Path(f"{url}{suffix}").unlink(missing_ok=True)
        if kept is not None:
            draft.replace(url)
        return
    if kept is None:
        raise BackupError(f"the backup has no dump of {url}")
    _copied(kept, scratch)
    emptied, filled = scratch.with_suffix(".empty.sql"), scratch.with_suffix(".sql")
    # Everything that is there goes, also tables that the dump knows nothing of: another version may have made them.
    emptied.write_text(_EMPTY)
    _run("pg_restore", "--no-owner", "--no-privileges", f"--file={filled}", str(scratch))
    options = ("--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--output=/dev/null")
    _run("psql", *options, f"--file={emptied}", f"--file={filled}", f"--dbname={_libpq(url)}")


def _holds_something(url: str) -> bool:
    if not _is_postgres(url):
        return Path(url).exists()
    import psycopg2

    with closing(psycopg2.connect(_libpq(url))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')")
        return bool(cursor.fetchone()[0])


def _libpq(url: str) -> str:
    """As Postgres' own programs read it; it holds no password."""
    return url.replace("postgresql+psycopg2:", "postgresql:", 1)


def _run(program: str, *arguments: str) -> None:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BackupError(
            f"{program} is not there: install Postgres' client programs, of the server's version"
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise BackupError(f"{program}: {next((line for line in lines if 'error' in line.lower()), lines[0])}")
