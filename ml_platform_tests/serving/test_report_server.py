"""Reports open in a browser by their address, and nothing else does."""

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_platform.serving.report_server import report_server
from ml_platform.settings import Settings, load


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Settings]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = load({"ML_PLATFORM_HOME": str(tmp_path), "ML_PLATFORM_REPORTS_PORT": str(port)})
    page = config.reports / "m" / "drift" / "2020-01-01.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>grün</p>", encoding="utf-8")
    (tmp_path / "secret.txt").write_text("secret")
    with report_server(config) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield config
        server.shutdown()
        thread.join()


def get(config: Settings, path: str) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection(config.host, config.reports_port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer.getheader("Cache-Control")


def test_a_report_opens_at_its_address_and_the_index_at_the_root(config: Settings) -> None:
    assert get(config, "/m/drift/2020-01-01.html") == (200, "<p>grün</p>", "no-cache")
    status, index, _ = get(config, "/")
    assert status == 200
    assert 'href="m/drift/2020-01-01.html"' in index


@pytest.mark.parametrize("path", ["/m/", "/m/drift/", "/nothing.html", "/../secret.txt", "/%2e%2e/secret.txt"])
def test_folders_and_files_beside_the_reports_do_not_open(config: Settings, path: str) -> None:
    status, body, _ = get(config, path)
    assert status == 404
    assert "secret" not in body


def test_a_port_that_is_taken_is_an_error(config: Settings) -> None:
    with pytest.raises(OSError, match="in use"):
        report_server(config)
