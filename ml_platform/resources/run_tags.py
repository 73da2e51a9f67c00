"""Tags that steps add to their run, none of which another step's takes away."""

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage
from sqlalchemy import text

_ADVISORY_LOCK = 7_215_330_918
"""Any number that nothing else in the database locks."""


def add_run_tags(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str]) -> None:
    """Add tags to a run while no other step of any run adds its own.

    Dagster reads the run's tags and writes all of them back: of two steps that do so at once, one would lose its own.
    """
    with _alone(instance):
        instance.add_run_tags(run_id, dict(tags))


@contextmanager
def _alone(instance: dg.DagsterInstance) -> Iterator[None]:
    storage = instance.run_storage
    if isinstance(storage, SqlRunStorage) and hasattr(storage, "postgres_url"):
        # Steps may be on different machines; the lock goes with the connection, however the process ends.
        with storage.connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})"))
            try:
                yield
            finally:
                connection.execute(text(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})"))
        return
    with (Path(instance.root_directory) / "run_tags.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
