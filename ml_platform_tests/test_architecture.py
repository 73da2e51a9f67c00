"""The walls between the layers, and what importing them may cost."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ml_platform.settings import PROJECT_ROOT

HEAVY = (
    *("dagster_mlflow", "deltalake", "duckdb", "evidently", "feast", "lightgbm", "matplotlib", "mlflow", "optuna"),
    *("dagster_k8s", "kubernetes", "pandera", "sklearn"),
)
COMPUTING = ("numpy", "pandas", "polars", "pyarrow", "scipy")
LAYERS = [
    *("cli", "testing | benchmarks", "definitions", "defs", "components", "assets", "automation"),
    *("resources | serving", "stores", "core", "settings"),
]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    lint = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([lint, "--no-logo", "--no-cache"], cwd=folder, text=True, capture_output=True, check=False)


def loaded_by(module: str, names: tuple[str, ...], home: Path, *, then: str = "") -> set[str]:
    """Which of some packages a fresh interpreter has loaded once it imported a module, and ran a statement."""
    code = f"import sys, {module}\n{then}\nprint('loaded:', *set({names!r}) & sys.modules.keys())"
    env = {**os.environ, "ML_PLATFORM_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("loaded:").split())


def modules_of(layer: str) -> list[str]:
    files = sorted((PROJECT_ROOT / "ml_platform" / layer).rglob("*.py"))
    return [".".join(file.relative_to(PROJECT_ROOT).with_suffix("").parts) for file in files]


def test_the_import_contracts_hold() -> None:
    result = lint_imports(PROJECT_ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_contracts_are_those_of_the_design() -> None:
    contracts = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers, dagster_free = contracts[:2]
    assert [layer.translate({ord("("): None, ord(")"): None}) for layer in layers["layers"]] == LAYERS
    assert layers["exhaustive"]
    assert "dagster" in dagster_free["forbidden_modules"]
    free = {"ml_platform.core", "ml_platform.stores", "ml_platform.serving", "feature_repo"}
    assert set(dagster_free["source_modules"]) == free


def test_an_import_across_a_wall_is_noticed(tmp_path: Path) -> None:
    for folder in ("ml_platform", "ml_platform/stores", "ml_platform/core", "feature_repo"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    leak = "def late():\n    import dagster\n    from ml_platform import stores\n"
    (tmp_path / "ml_platform" / "core" / "leak.py").write_text(leak)
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_package = ml_platform\ninclude_external_packages = True\n"
        "[importlinter:contract:1]\nname = layers\ntype = layers\nlayers =\n  ml_platform.stores\n  ml_platform.core\n"
        "[importlinter:contract:2]\nname = free\ntype = forbidden\nsource_modules = ml_platform.core\n"
        "forbidden_modules = dagster\n"
    )
    result = lint_imports(tmp_path)
    assert result.returncode == 1
    assert "0 kept, 2 broken" in result.stdout


@pytest.mark.parametrize("layer", ["core", "stores", "serving"])
def test_layers_without_dagster_also_load_without_it(layer: str, tmp_path: Path) -> None:
    assert loaded_by(", ".join(modules_of(layer)), ("dagster",), tmp_path) == set()


def test_core_loads_without_any_heavy_library(tmp_path: Path) -> None:
    assert loaded_by(", ".join(modules_of("core")), HEAVY, tmp_path) == set()


def test_the_code_location_loads_without_any_heavy_library(tmp_path: Path) -> None:
    assert loaded_by("ml_platform.definitions", HEAVY, tmp_path) == set()


def test_the_code_location_is_made_without_what_computes(tmp_path: Path) -> None:
    made = "ml_platform.definitions.defs().get_repository_def()"
    loaded_by("ml_platform.definitions", (), tmp_path, then=made)  # what is learned once for each version of the code
    assert loaded_by("ml_platform.definitions", (*COMPUTING, *HEAVY), tmp_path, then=made) == set()


def test_the_command_line_answers_without_loading_dagster(tmp_path: Path) -> None:
    assert loaded_by("ml_platform.cli", ("dagster", "polars", *HEAVY), tmp_path) == set()


def test_the_contract_suite_loads_without_pytest_and_without_any_heavy_library(tmp_path: Path) -> None:
    assert loaded_by("ml_platform.testing", ("pytest", *HEAVY), tmp_path) == set()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_file_has_versions_and_hashes_and_no_addresses(name: str) -> None:
    text = (PROJECT_ROOT / name).read_text()
    packages = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert packages
    assert [line for line in packages if "==" not in line] == []
    assert text.count("--hash=sha256:") >= len(packages)
    assert not any(found in text for found in ("://", "--index", "--extra-index", "--find-links"))
