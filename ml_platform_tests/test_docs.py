"""What the README and the command reference say is true: commands, settings, links, excerpts and answers."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from ml_platform import cli
from ml_platform.settings import DEFAULT_PORTS, PROJECT_ROOT, port_variable

README = (PROJECT_ROOT / "README.md").read_text()
REFERENCE = (PROJECT_ROOT / "docs" / "cli.md").read_text()
FOLDERS = [PROJECT_ROOT / "docs", PROJECT_ROOT / "deploy"]
DOCUMENTS = sorted([*PROJECT_ROOT.glob("*.md"), *(path for folder in FOLDERS for path in folder.rglob("*.md"))])
COMMANDS = set(get_command(cli.app).commands)
SETTINGS = (PROJECT_ROOT / "ml_platform" / "settings.py").read_text()
QUERY = re.compile(r"^\$ (ml-platform sql .*)\n((?:(?!\$ |```).*\n)*)", re.MULTILINE)
VARIABLE = re.compile(r"ML_PLATFORM_[A-Z0-9_]+[A-Z]")


def variables_read() -> set[str]:
    """Every variable that settings.py reads, prefixes as they are."""
    ports = {port_variable(server) for server in DEFAULT_PORTS}
    yaml = {f"ML_PLATFORM_{name}_YAML" for name in ("FEATURE_STORE", "DAGSTER")}
    named = {found for found in VARIABLE.findall(SETTINGS) if found != "ML_PLATFORM_STORAGE"}
    return named | ports | yaml | {"ML_PLATFORM_STORAGE"}


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    for document in (README, REFERENCE):
        assert set(re.findall(r"`ml-platform ([a-z]+)", document)) == COMMANDS
    assert set(re.findall(r"^ml-platform ([a-z]+)", README, re.MULTILINE)) <= COMMANDS


def test_every_option_named_in_the_readme_exists() -> None:
    known = {option for command in get_command(cli.app).commands.values() for p in command.params for option in p.opts}
    assert set(re.findall(r"(?<=[ `])--[a-z][a-z-]+", README)) <= known | {"--help"}


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE))
        assert named <= targets, document.name
    assert {"run", "up", "test", "check", "bench"} <= set(re.findall(r"`make ([a-z-]+)", README))


def test_make_bench_writes_the_page_by_the_command_that_the_page_names() -> None:
    recipe = re.search(r"^bench:.*\n\t(.+)$", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert recipe[1].removeprefix("$(BIN)/") in (PROJECT_ROOT / "docs/benchmarks.md").read_text().splitlines()


def test_every_setting_is_documented_and_every_documented_setting_exists() -> None:
    said = set(VARIABLE.findall(README))
    assert said == variables_read()
    of_tests = {"ML_PLATFORM_FINISHED_HOME", "ML_PLATFORM_TEST_BASE_IMAGE"}
    for document in DOCUMENTS:
        assert set(VARIABLE.findall(document.read_text())) <= variables_read() | of_tests, document.name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT_ROOT)))
def test_every_link_to_a_file_resolves(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    local = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [target for target in local if not (document.parent / target).exists()] == []


def test_the_readme_shows_two_screenshots_of_modest_size() -> None:
    images = [PROJECT_ROOT / image for image in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)]
    assert len(images) == 2
    for image in images:
        assert image.read_bytes().startswith(b"\x89PNG"), image
        assert image.stat().st_size < 400_000, image


def test_excerpts_are_what_their_files_say() -> None:
    excerpts = re.findall(r"<!-- from (\S+) -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert len(excerpts) == 3
    for source, excerpt in excerpts:
        assert excerpt in (PROJECT_ROOT / source).read_text(), source


def test_the_readme_names_assets_that_exist() -> None:
    from ml_platform.definitions import defs

    known = {key.to_user_string() for key in defs().resolve_asset_graph().get_all_asset_keys()}
    named = set(re.findall(r"`((?:flight_delay|delay_minutes|raw|features)/[a-z_]+)`", README))
    assert named
    assert named <= known


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_readme_s_queries_answer_as_it_shows(finished_home: Path) -> None:
    shown = QUERY.findall(README)
    assert len(shown) == 4
    command = str(Path(sys.executable).with_name("ml-platform"))
    for line, answer in shown:
        asked = [command, *shlex.split(line)[1:]]
        env = {**os.environ, "ML_PLATFORM_HOME": str(finished_home)}
        found = subprocess.run(asked, env=env, check=True, capture_output=True, text=True).stdout
        assert found == answer, line
