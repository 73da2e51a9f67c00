"""The image's recipe: linted, by digest, without root, telemetry or secrets; the build is sent what it copies."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from ml_platform.settings import TELEMETRY_OFF

pytestmark = pytest.mark.deploy

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "docker" / "Dockerfile"
TEXT = FILE.read_text()
RUNTIME = TEXT.split("AS runtime", 1)[1]
BIN = Path(sys.executable).parent


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([str(BIN / "hadolint"), str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(TEXT.replace("ENTRYPOINT [", "ENTRYPOINT tini #["))
    done = subprocess.run(
        [str(BIN / "hadolint"), str(tmp_path / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0


def test_the_base_is_given_by_digest() -> None:
    assert set(re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE)) == {"${BASE_IMAGE}", "scratch"}
    assert re.search(r"^ARG BASE_IMAGE$", TEXT, re.MULTILINE), "a default would name a registry"
    assert "*@sha256:*) ;;" in TEXT
    assert not re.search(r"docker\.io|ghcr\.io|quay\.io|gcr\.io|\.azurecr\.|\.amazonaws\.", TEXT)
    assert "syntax=" not in TEXT


def test_it_ends_without_root() -> None:
    (user,) = re.findall(r"^USER (\S+)$", RUNTIME, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user), "a number: Kubernetes cannot tell whether a name is root"
    assert RUNTIME.index("USER ") > RUNTIME.rindex("apt-get install")
    assert "sudo" not in TEXT


def test_everything_is_installed_by_hash() -> None:
    for line in TEXT.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            if re.search(r"\bpip\b.* (install|wheel) ", command):
                assert "--require-hashes" in command or "--no-index" in command, command


def test_what_builds_is_locked_as_developers_have_it() -> None:
    def versions(file: Path) -> dict[str, str]:
        lines = [line.rstrip(" \\") for line in file.read_text().splitlines() if line and line[0].isalnum()]
        return {each.name: str(each.specifier) for each in map(Requirement, lines)}

    build, development = versions(FILE.with_name("build-requirements.lock")), versions(ROOT / "requirements-dev.lock")
    assert {"setuptools", "cyclonedx-bom"} <= set(build)
    assert {name: version for name, version in build.items() if development.get(name, version) != version} == {}


def test_packages_without_a_wheel_are_the_one_that_is_built() -> None:
    (name,) = set(re.findall(r"'/\^([\w-]+)==/", TEXT))
    stanza = re.search(rf"^{name}==.*(?:\n    .*)*", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert stanza is not None
    assert stanza[0].count("--hash=") == 1, "a source alone has one file"


def test_telemetry_is_off() -> None:
    for name, value in TELEMETRY_OFF.items():
        assert re.search(rf"^\s*{name}={value}( \\)?$", RUNTIME, re.MULTILINE), name


def test_it_can_live_on_a_read_only_root() -> None:
    assert 'VOLUME ["/var/lib/ml-platform", "/tmp"]' in RUNTIME
    for name in ("HOME=/var/lib/ml-platform", "TMPDIR=/tmp", "ML_PLATFORM_HOME=/var/lib/ml-platform"):
        assert name in RUNTIME
    assert "PYTHONDONTWRITEBYTECODE=1" in RUNTIME


def test_it_says_what_it_is_and_whether_it_is_well() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f'ARG VERSION="{project["version"]}"' in RUNTIME
    for label in ("title", "version", "revision", "licenses", "base.name"):
        assert f"org.opencontainers.image.{label}=" in RUNTIME
    assert f'licenses="{project["license"]}"' in RUNTIME
    assert "HEALTHCHECK" in RUNTIME
    assert "COPY --from=build /usr/share/sbom" in RUNTIME


def test_no_secret_can_stay_in_a_layer() -> None:
    assert not re.search(r"^(ARG|ENV) .*(PASSWORD|TOKEN|SECRET|INDEX_URL)", TEXT, re.MULTILINE)
    assert TEXT.count("--mount=type=secret,id=pip_conf") == 2


def test_the_build_is_sent_what_it_copies_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    sent = {line[1:] for line in lines if line.startswith("!")}
    copies = [line.split()[1:-1] for line in TEXT.splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert {source for sources in copies for source in sources} == sent
    for source in sent:
        assert (ROOT / source).exists(), source
