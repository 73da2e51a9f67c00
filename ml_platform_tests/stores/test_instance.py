"""A home's ports stay what its links say, and its Dagster instance is the one we ship."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ml_platform.settings import PROJECT_ROOT, Settings, load
from ml_platform.stores.instance import instance_files, is_free, prepare_dagster_home, settle_ports

FIRST = 24210
"""Ports of these tests begin here: no server of this machine should be there."""


def of(home: Path, **environ: str) -> Settings:
    return load({"ML_PLATFORM_HOME": str(home), **environ})


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", next(port for port in range(25_000, 32_000) if is_free("127.0.0.1", port))))
        server.listen()
        yield server.getsockname()[1]


@pytest.fixture(autouse=True)
def _defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {"dagster": FIRST, "mlflow": FIRST + 1, "reports": FIRST + 2}
    monkeypatch.setattr("ml_platform.settings.DEFAULT_PORTS", defaults)
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")


def test_a_new_home_takes_the_defaults_and_keeps_them(tmp_path: Path) -> None:
    settled = settle_ports(of(tmp_path))
    assert settled.ports == {"dagster": FIRST, "mlflow": FIRST + 1, "reports": FIRST + 2}
    assert of(tmp_path) == settled
    assert settle_ports(settled) == settled


def test_a_taken_default_gives_way_once_and_links_follow(
    tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {"dagster": taken, "mlflow": FIRST + 1, "reports": FIRST + 2}
    monkeypatch.setattr("ml_platform.settings.DEFAULT_PORTS", defaults)
    settled = settle_ports(of(tmp_path))
    assert settled.dagster_port == taken + 10
    assert settled.dagster_url == f"http://127.0.0.1:{taken + 10}"
    assert of(tmp_path).dagster_port == taken + 10


def test_a_kept_port_stays_though_it_is_taken_now(tmp_path: Path, taken: int) -> None:
    (tmp_path / "ports.json").write_text(json.dumps({"dagster": taken}))
    assert settle_ports(of(tmp_path)).dagster_port == taken
    assert not is_free("127.0.0.1", taken)


def test_a_configured_port_wins_and_is_kept_for_later(tmp_path: Path) -> None:
    settle_ports(of(tmp_path))
    assert settle_ports(of(tmp_path, ML_PLATFORM_MLFLOW_PORT="34444")).mlflow_url == "http://127.0.0.1:34444"
    assert of(tmp_path).mlflow_port == 34444


def test_a_configured_url_stays_whatever_the_port(tmp_path: Path) -> None:
    settled = settle_ports(of(tmp_path, ML_PLATFORM_DAGSTER_URL="https://dagster.example"))
    assert settled.with_ports({"dagster": 1}).dagster_url == "https://dagster.example"


@pytest.mark.parametrize("content", ["[]", "nonsense", '{"dagster": 70000}', '{"dagster": "x"}'])
def test_a_spoilt_ports_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    with pytest.raises(ValueError, match=r"ports\.json must"):
        of(tmp_path)


def test_processes_that_settle_at_once_agree(tmp_path: Path) -> None:
    code = "from ml_platform import settings; from ml_platform.stores.instance import settle_ports; "
    code += "print(settle_ports(settings.load()).ports)"
    env = {**os.environ, "ML_PLATFORM_HOME": str(tmp_path)}
    several = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in range(4)]
    answers = {process.communicate()[0] for process in several}
    assert len(answers) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ports.json"]


def test_the_instance_is_installed_and_exported_and_reinstalled_when_changed(tmp_path: Path) -> None:
    settings = prepare_dagster_home(of(tmp_path))
    home = settings.dagster_home
    assert os.environ["DAGSTER_HOME"] == str(home)
    (home / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    prepare_dagster_home(of(tmp_path))
    for name, content in instance_files(settings).items():
        assert (home / name).read_bytes() == content


def test_processes_that_prepare_a_new_home_at_once_leave_it_usable(tmp_path: Path) -> None:
    code = "from ml_platform import settings; from ml_platform.stores.instance import prepare_dagster_home; "
    code += "prepare_dagster_home(settings.load()); import dagster; dagster.DagsterInstance.get().get_runs()"
    env = {**os.environ, "ML_PLATFORM_HOME": str(tmp_path)}
    several = [subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in several] == [(b"", 0)] * 3


def test_an_environment_may_bring_its_own_instance(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("nux: {enabled: false}\n")
    settings = prepare_dagster_home(of(tmp_path / "home", ML_PLATFORM_DAGSTER_YAML=str(own)))
    assert (settings.dagster_home / "dagster.yaml").read_text() == own.read_text()


def test_dagster_reads_the_instance_as_meant(tmp_path: Path) -> None:
    import dagster as dg

    prepare_dagster_home(of(tmp_path))
    with dg.DagsterInstance.get() as instance:
        assert Path(instance.root_directory) == tmp_path / "dagster"
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_retries_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert type(instance.run_coordinator).__name__ == "QueuedRunCoordinator"
        concurrency = instance.get_concurrency_config()
        assert concurrency.run_queue_config is not None
        assert concurrency.run_queue_config.max_concurrent_runs == 2
        assert concurrency.pool_config.default_pool_limit == 1


def test_the_output_of_steps_goes_where_the_setting_says_and_all_else_is_boto3s_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dagster as dg
    from dagster_aws.s3 import S3ComputeLogManager

    authority = tmp_path / "authority.pem"
    authority.touch()
    keys = {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    around = {"AWS_ENDPOINT_URL": "https://objects.example:8333", "AWS_CA_BUNDLE": str(authority)}
    for name, value in {**keys, **around}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    settings = prepare_dagster_home(of(tmp_path, ML_PLATFORM_COMPUTE_LOGS_URI="s3://ml/of/steps", **keys, **around))
    text = (settings.dagster_home / "dagster.yaml").read_text()
    assert not [value for value in {**keys, **around}.values() if value in text]
    alone = yaml.safe_load(instance_files(of(tmp_path))["dagster.yaml"])
    composed = yaml.safe_load(text)
    assert "compute_logs" not in alone
    assert {name: composed[name] for name in alone} == alone
    with dg.DagsterInstance.get() as instance:
        logs = instance.compute_log_manager
        assert isinstance(logs, S3ComputeLogManager)
        assert 10 <= logs.upload_interval <= 30
        client = logs._s3_session
        assert client.meta.endpoint_url == "https://objects.example:8333"
        assert client._endpoint.http_session._verify == str(authority)
        local = Path(logs.local_manager.get_captured_local_path(["run", "compute_logs", "step"], "out"))
        assert local.is_relative_to(settings.dagster_home)


def test_the_shipped_files_are_those_of_the_project() -> None:
    shipped = instance_files(load({}))
    assert (PROJECT_ROOT / "deploy" / "dagster" / "dagster.yaml").read_bytes() == shipped["dagster.yaml"]
    workspace = yaml.safe_load((PROJECT_ROOT / "workspace.yaml").read_text())
    assert yaml.safe_load(shipped["workspace.yaml"]) == workspace
