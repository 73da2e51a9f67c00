"""Everything answers on its link, and nothing is left when it ends, however it ends."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from ml_platform.settings import load
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.instance import is_free

pytestmark = pytest.mark.timeout(300)

COMMAND = str(Path(sys.executable).with_name("ml-platform"))


def free_ports(count: int) -> list[int]:
    """Below the range from which the system gives outgoing connections their ports."""
    candidates = random.sample(range(20_000, 32_000), 100)
    return [port for port in candidates if is_free("127.0.0.1", port)][:count]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("served")
    ports = dict(zip(("dagster", "mlflow", "reports"), free_ports(3), strict=True))
    (home / "ports.json").write_text(json.dumps(ports))
    FeatureClient(load({"ML_PLATFORM_HOME": str(home)})).manifest()
    return home


def start(home: Path, **environ: str) -> subprocess.Popen[str]:
    env = {**os.environ, "ML_PLATFORM_HOME": str(home), **environ}
    return subprocess.Popen(
        [COMMAND, "up"], env=env, cwd="/", text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def left_over(home: Path) -> list[str]:
    """Command lines of live processes of this home."""
    mark = f"ML_PLATFORM_HOME={home}".encode()
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def read_until(process: subprocess.Popen[str], text: str) -> str:
    seen = ""
    assert process.stdout is not None
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} was not printed: {seen}\n{process.stderr.read() if process.stderr else ''}")


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = start(home)
    try:
        yield process, read_until(process, "Ctrl-C stops everything")
    finally:
        process.terminate()
        process.wait(180)


def test_every_printed_link_answers(served: tuple[subprocess.Popen[str], str], home: Path) -> None:
    links = re.findall(r"http://\S+", served[1])
    assert links == [url for url in links if url.rsplit(":", 1)[1] in (home / "ports.json").read_text()]
    assert len(links) == 3
    for link in links:
        with urlopen(link) as answer:
            assert answer.status == 200


def test_the_daemon_is_at_work(served: tuple[subprocess.Popen[str], str], home: Path) -> None:
    assert "Dagster daemon" in served[1]
    assert any("dagster._daemon run" in command for command in left_over(home))


def test_the_same_home_is_not_served_twice(served: tuple[subprocess.Popen[str], str], home: Path) -> None:
    second = start(home)
    _, error = second.communicate(timeout=300)
    assert second.returncode == 2
    assert f"is served already by process {served[0].pid}" in error
    assert "\n" not in error.strip()


def test_a_server_that_dies_ends_the_others_and_is_named_with_its_log(
    served: tuple[subprocess.Popen[str], str], home: Path
) -> None:
    process, _ = served
    (reports,) = subprocess.run(
        ["pgrep", "-g", _group_of("ml_platform.serving.report_server", home)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    os.kill(int(reports), signal.SIGKILL)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Reports was ended by SIGKILL" in error
    assert "reports.log" in error
    assert left_over(home) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_cleanly(home: Path, kind: signal.Signals) -> None:
    process = start(home)
    read_until(process, "Ctrl-C stops everything")
    process.send_signal(kind)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "Stopped." in out
    assert left_over(home) == []


def test_a_signal_during_the_start_stops_everything_too(home: Path) -> None:
    process = start(home)
    read_until(process, "Starting in")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "Stopped." in out
    assert left_over(home) == []


def test_a_taken_port_is_named_with_the_setting_that_changes_it(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = start(home, ML_PLATFORM_REPORTS_PORT=str(port))
        _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert f"port {port} for the Reports is taken" in error
    assert "ML_PLATFORM_REPORTS_PORT" in error
    assert left_over(home) == []


def _group_of(module: str, home: Path) -> str:
    for process in Path("/proc").iterdir():
        try:
            if (
                process.name.isdigit()
                and module in (process / "cmdline").read_text()
                and f"ML_PLATFORM_HOME={home}".encode() in (process / "environ").read_bytes()
            ):
                return process.name
        except OSError:
            continue
    raise AssertionError(f"no process runs {module}")
