"""The workflows of GitHub Actions: valid, least rights, nothing that can change under their feet."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
BIN = Path(sys.executable).parent


@pytest.fixture(params=WORKFLOWS, ids=lambda file: file.stem)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    """One after the other; YAML takes the key `on` for a truth value."""
    return yaml.safe_load(request.param.read_text())


def test_they_are_there() -> None:
    assert [file.stem for file in WORKFLOWS] == ["chart", "ci", "image"]


def test_they_keep_the_schema() -> None:
    checked = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing() -> None:
    checked = [str(BIN / "zizmor"), "--offline", "--no-progress", "--persona", "pedantic", *map(str, WORKFLOWS)]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_zizmor_would_find_an_injection(tmp_path: Path) -> None:
    text = WORKFLOWS[1].read_text().replace('make "$TARGET"', "echo ${{ github.event.pull_request.title }}")
    (tmp_path / "ci.yaml").write_text(text)
    checked = [str(BIN / "zizmor"), "--offline", "--no-progress", str(tmp_path / "ci.yaml")]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "template-injection" in done.stdout


def test_actionlint_finds_nothing() -> None:
    found = shutil.which("actionlint")
    if found is None:
        pytest.skip("actionlint is not installed (a Go program: pip fetches it from elsewhere, npm has it of 2022)")
    done = subprocess.run([found, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nobody_has_more_rights_than_to_read(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert set(job["permissions"].values()) <= {"read"}, name
        assert job["timeout-minutes"] <= 90, name


def test_actions_are_named_by_commit(workflow: dict[str, Any]) -> None:
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"]), step["uses"]


def test_secrets_are_seen_by_the_step_that_needs_them_alone(workflow: dict[str, Any]) -> None:
    for name, job in workflow["jobs"].items():
        assert "secrets." not in str(job.get("env", "")), name
        for step in job["steps"]:
            if "secrets." in str(step):
                assert name == "push"
                assert "secrets." in str(step["env"])
                assert "secrets." not in step["run"]


def test_continuous_integration_runs_what_people_run() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    targets = ci["jobs"]["check"]["strategy"]["matrix"]["target"]
    assert targets == ["check", "test", "test-deploy"]
    makefile = (ROOT / "Makefile").read_text()
    missing = [target for target in targets if f"\n{target}:" not in makefile]
    assert missing == []


def test_continuous_integration_waits_for_the_tests_as_long_as_they_are_given() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    (minutes,) = re.findall(r"ends within (\d+) minutes", (ROOT / ".ci" / "run").read_text())
    assert ci["jobs"]["check"]["timeout-minutes"] >= int(minutes)


def test_continuous_integration_has_the_base_on_which_the_tests_build_the_image() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text())
    *_, pull, run = ci["jobs"]["check"]["steps"]
    assert run["env"]["ML_PLATFORM_TEST_BASE_IMAGE"] == pull["env"]["BASE_IMAGE"] == "${{ vars.BASE_IMAGE }}"
    assert 'buildah pull --quiet "$BASE_IMAGE"' in pull["run"]
    assert pull["if"] == "matrix.target == 'test-deploy'"


@pytest.mark.parametrize(
    ("base", "head", "says", "builds"),
    [
        ("base@sha256:0", "", "", True),
        ("base@sha256:0", "fork/ml-platform", "", True),
        ("", "fork/ml-platform", "::notice::", False),
        ("", "owner/ml-platform", "::error::", False),
        ("", "", "::error::", False),
    ],
)
def test_the_image_of_a_fork_that_sees_no_base_is_not_built_and_fails_nothing(
    base: str, head: str, says: str, builds: bool, tmp_path: Path
) -> None:
    image = yaml.safe_load((ROOT / ".github" / "workflows" / "image.yaml").read_text())
    _, asked, *others = image["jobs"]["build"]["steps"]
    for step in others:
        assert step["if"] in ("steps.base.outputs.there == 'true'", "github.ref_type == 'tag'"), step
    output = tmp_path / "output"
    output.touch()
    variables = {"GITHUB_OUTPUT": str(output), "GITHUB_REPOSITORY": "owner/ml-platform"}
    done = subprocess.run(
        ["bash", "-e", "-c", asked["run"]],
        env={**variables, "BASE_IMAGE": base, "HEAD": head},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout[: len("::notice::")].startswith(says)
    assert (done.returncode == 0) is (says != "::error::")
    assert (output.read_text() == "there=true\n") is builds
