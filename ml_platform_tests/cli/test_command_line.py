"""The front door: every command is documented, mistakes are one line, and the answer comes at once."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main

from ml_platform import cli
from ml_platform.settings import PROJECT_ROOT

COMMAND = str(Path(sys.executable).with_name("ml-platform"))
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def terminal(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ML_PLATFORM_HOME": str(home)}
    return subprocess.run([COMMAND, *arguments], env=env, cwd="/", text=True, capture_output=True, check=False)


def section(name: str) -> str:
    """What docs/cli.md says under the command's heading."""
    text = (PROJECT_ROOT / "docs" / "cli.md").read_text()
    found = re.search(rf"^## `ml-platform {name}`\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section ## `ml-platform {name}`"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_documented_with_all_its_options(name: str) -> None:
    said = section(name)
    command = COMMANDS[name]
    assert command.help
    for option in command.params:
        longest = max(option.opts, key=len)
        if longest.startswith("--") and longest != "--help":
            assert f"`{longest}" in said, f"docs/cli.md does not say what {longest} of {name} does"
            assert option.help, f"{longest} of {name} has no help"


def test_no_command_is_documented_that_is_not_there() -> None:
    text = (PROJECT_ROOT / "docs" / "cli.md").read_text()
    assert set(re.findall(r"^## `ml-platform (\S+)`", text, re.MULTILINE)) == set(COMMANDS)


def test_help_lists_every_command_in_a_moment(tmp_path: Path) -> None:
    terminal("--help", home=tmp_path)
    started = time.monotonic()
    result = terminal("--help", home=tmp_path)
    assert time.monotonic() - started < 5
    assert [name for name in COMMANDS if name not in result.stdout] == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sql", "drop table x"], "DROP is not a read"),
        (["drift", "nothing"], "no model 'nothing' is declared; there are"),
        (["predict", "flight_delay", "--key", "a=b"], "nothing has landed yet: run `ml-platform replay`"),
        (["replay", "--with", "nonsense"], "nonsense"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = terminal(*arguments, home=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("ml-platform: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_wrong_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_MLFLOW_PORT", "many")
    result = terminal("status", home=tmp_path)
    assert (result.returncode, result.stderr) == (
        2,
        "ml-platform: ML_PLATFORM_MLFLOW_PORT must be a port between 1 and 65535, not 'many'\n",
    )


@pytest.mark.parametrize("arguments", [["sql"], ["nothing"], ["sql", "select 1", "--format", "xml"]])
def test_a_wrong_argument_is_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    result = terminal(*arguments, home=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
