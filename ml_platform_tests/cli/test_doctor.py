"""Every check can fail, says what it found and what to do, and one failure is exit code 1."""

import json
import random
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from ml_platform.cli import doctor as module
from ml_platform.cli.doctor import CHECKS, Finding, Verdict
from ml_platform.settings import DEFAULT_PORTS, Settings, load, port_variable
from ml_platform.stores.instance import is_free, prepare_dagster_home
from ml_platform.stores.models import ModelStore

Run = Callable[..., Result]


def check(name: str, home: Path, **environ: str) -> Finding:
    return CHECKS[name](load({"ML_PLATFORM_HOME": str(home), **environ}))


def test_a_sound_home_has_no_failure(run: Run, finished: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")
    ports = [port for port in random.sample(range(20_000, 32_000), 50) if is_free("127.0.0.1", port)]
    for name, port in zip(DEFAULT_PORTS, ports, strict=False):
        monkeypatch.setenv(port_variable(name), str(port))
    prepare_dagster_home(finished)
    result = run("doctor", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    failed = {name: each for name, each in found["checks"].items() if each["verdict"] == "failed"}
    assert failed == {}
    assert found["ok"]
    assert result.exit_code == 0
    assert list(found["checks"]) == list(CHECKS)
    assert found["checks"]["dagster instance"]["verdict"] == "ok"
    assert "views" in found["checks"]["feast"]["found"]
    assert "assets" in found["checks"]["definitions"]["found"]


def test_a_failed_check_is_shown_with_its_fix_and_is_exit_code_1(
    command: Run, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKS", {"landing": CHECKS["landing"]})
    (spoilt / "landing" / "arrivals" / "january.csv").write_text("x")
    result = command("doctor")
    assert result.exit_code == 1
    assert "arrivals/january.csv is no landed file" in result.stdout
    assert "move them out of the landing folder" in result.stdout


def test_a_check_that_breaks_is_a_finding(command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(_: Settings) -> Finding:
        raise RuntimeError("it\nbroke")

    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    monkeypatch.setattr(module, "CHECKS", {"broken": broken})
    result = command("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["checks"]["broken"]["found"] == "RuntimeError: it broke"


def test_a_package_outside_its_range_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["polars>=99", "rich", "not-there-at-all>=1", "pytest>=99; extra == 'dev'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: asked)
    found = check("packages", tmp_path)
    assert found.verdict is Verdict.FAILED
    assert "is not >=99" in found.found
    assert "not-there-at-all is missing" in found.found
    assert "pytest" not in found.found


def test_a_package_that_moved_from_the_lock_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text("rich==1.2.3 \\\n    --hash=sha256:0\n# a remark\n")
    monkeypatch.setattr("ml_platform.settings.PROJECT_ROOT", tmp_path)
    found = check("packages", tmp_path)
    assert found.verdict is Verdict.WARNING
    assert "locked 1.2.3" in found.found


def test_a_home_that_cannot_be_written_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = check("home", tmp_path / "file")
    assert found.verdict is Verdict.FAILED
    assert "ML_PLATFORM_HOME" in found.fix


def test_little_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1e9))
    assert check("disk", tmp_path).verdict is Verdict.WARNING


def test_a_port_the_home_depends_on_must_be_free_but_a_default_may_give_way(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        found = check("ports", tmp_path, ML_PLATFORM_MLFLOW_PORT=port)
        assert found.verdict is Verdict.FAILED
        assert found.fix == "end what listens there, or set ML_PLATFORM_MLFLOW_PORT"
    assert check("ports", tmp_path, ML_PLATFORM_MLFLOW_PORT=port).verdict is Verdict.OK


def test_another_instance_configuration_is_pointed_out(tmp_path: Path) -> None:
    assert "is not there yet" in check("dagster instance", tmp_path).found
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text("nux: {enabled: true}\n")
    assert "ML_PLATFORM_DAGSTER_YAML" in check("dagster instance", tmp_path).fix


def test_where_the_instance_is_one_file_as_in_a_pod_it_is_opened(tmp_path: Path) -> None:
    own = tmp_path / "dagster" / "dagster.yaml"
    own.parent.mkdir()
    own.write_text("telemetry: {enabled: false}\n")
    found = check("dagster instance", tmp_path, ML_PLATFORM_DAGSTER_YAML=str(own))
    assert (found.verdict, found.found.split()[0]) == (Verdict.OK, "QueuedRunCoordinator")


def test_an_instance_dagster_refuses_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", "elsewhere")
    own = tmp_path / "own.yaml"
    own.write_text("nonsense: true\n")
    environ = {"ML_PLATFORM_HOME": str(tmp_path), "ML_PLATFORM_DAGSTER_YAML": str(own)}
    with pytest.raises(ValueError, match=r"Dagster cannot use .*nonsense"):
        prepare_dagster_home(load(environ))
    assert CHECKS["dagster instance"](load(environ)).verdict is Verdict.FAILED


def test_where_alerts_go_is_told_without_secrets_and_a_sink_that_is_configured_wrongly_fails(tmp_path: Path) -> None:
    assert check("alerts", tmp_path).found == "the log"
    webhook = {"ML_PLATFORM_ALERT_WEBHOOK_URL": "https://hooks.example.org/SECRET"}
    assert check("alerts", tmp_path, **webhook).found == "the log; webhook at hooks.example.org"
    broken = check("alerts", tmp_path, **webhook, ML_PLATFORM_ALERT_SMTP_URL="smtp://robot:SECRET@")
    assert broken.verdict is Verdict.FAILED
    assert broken.found.startswith("ML_PLATFORM_ALERT_SMTP_URL is no mail server")
    assert "SECRET" not in broken.found


def test_an_mlflow_run_whose_process_is_gone_is_found(tmp_path: Path) -> None:
    import mlflow

    settings = load({"ML_PLATFORM_HOME": str(tmp_path)})
    assert CHECKS["mlflow runs"](settings).found == "nothing is logged yet"
    store = ModelStore(settings)
    experiment = store.experiment("flight_delay")
    run = mlflow.MlflowClient().create_run(experiment, tags={"dagster_run_id": "gone"})
    found = CHECKS["mlflow runs"](settings)
    assert found.verdict is Verdict.WARNING
    assert run.info.run_id in found.found
    assert store.end_abandoned("flight_delay", lambda _: True) == [run.info.run_id]
    assert CHECKS["mlflow runs"](settings).found == "no run is open"
