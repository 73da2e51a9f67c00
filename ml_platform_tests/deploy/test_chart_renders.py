"""The chart without a cluster: it lints, renders, packages, and every object is what its API expects."""

from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from ml_platform_tests.deploy.chart import CASES, CHART, RELEASE, of_kind, rendered, values

pytestmark = pytest.mark.deploy

OLDEST, NEWEST = "1.27", "1.37"


@pytest.mark.parametrize("case", CASES)
def test_the_linter_finds_nothing(case: str) -> None:
    environment, changes = CASES[case]
    report = helm.lint(CHART, values(environment, changes), strict=True)
    assert [each for each in report["messages"] if each["severity"] > 1] == []
    assert report["errors"] == []


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid_strictly(release: list[dict[str, Any]], version: str) -> None:
    for found in release:
        kubernetes_validate.validate(found, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    daemon = of_kind(rendered(values("dev")), "Deployment")[f"{RELEASE}-daemon"]
    daemon["spec"]["template"]["spec"]["serviceAccuntName"] = "web"
    with pytest.raises(kubernetes_validate.ValidationError, match="serviceAccuntName"):
        kubernetes_validate.validate(daemon, NEWEST, strict=True)


def test_no_two_objects_have_one_name(release: list[dict[str, Any]]) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in release]
    assert len(names) == len(set(names))


def test_whatever_is_referred_to_is_there(release: list[dict[str, Any]]) -> None:
    """ConfigMaps and service accounts of the release's own; Secrets and authorities are the operator's."""
    own = {kind: set(of_kind(release, kind)) for kind in ("ConfigMap", "ServiceAccount", "Service")}
    text = yaml.safe_dump_all(release)
    for found in release:
        for each in _values_of(found, "serviceAccountName"):
            assert each in own["ServiceAccount"]
        for source in _values_of(found, "configMap"):
            assert source["name"] in own["ConfigMap"] or not source["name"].startswith(RELEASE)
        for source in _values_of(found, "configMapRef"):
            assert source["name"] in own["ConfigMap"]
    for service in of_kind(release, "Service").values():
        selector = service["spec"]["selector"]
        ports = {port["targetPort"] for port in service["spec"]["ports"]}
        served = [
            workload
            for workload in of_kind(release, "Deployment").values()
            if selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
        ]
        assert len(served) == 1, f"{service['metadata']['name']} should select one Deployment"
        named = {port["name"] for each in served[0]["spec"]["template"]["spec"]["containers"] for port in each["ports"]}
        assert ports <= named
    assert "<no value>" not in text
    assert "%!" not in text


def test_a_selector_selects_its_own_pods_alone(release: list[dict[str, Any]]) -> None:
    deployments = of_kind(release, "Deployment").values()
    for one in deployments:
        selector = one["spec"]["selector"]["matchLabels"].items()
        labels = [each["spec"]["template"]["metadata"]["labels"].items() for each in deployments]
        assert sum(selector <= each for each in labels) == 1


def test_servers_restart_when_their_configuration_changes() -> None:
    def checksums(changes: dict[str, Any]) -> set[str]:
        deployments = of_kind(rendered(values("dev", changes)), "Deployment").values()
        return {each["spec"]["template"]["metadata"]["annotations"]["checksum/configuration"] for each in deployments}

    before, same = checksums({}), checksums({"web": {"replicas": 2}})
    assert len(before) == 1
    assert same == before
    assert checksums({"runs": {"maxConcurrent": 3}}) != before
    assert checksums({"redis": {"url": "redis://other:6379/0"}}) != before


def test_a_release_can_have_any_name() -> None:
    objects = rendered(values("production"), release="another-team")
    assert {found["metadata"]["name"].startswith("another-team") for found in objects} == {True}
    with pytest.raises(helm.HelmError, match="longer than 63 characters"):
        rendered(values("dev", {"codeLocations": [_long_location()]}), release="r" * 40)


def test_notes_say_where_to_look() -> None:
    with helm.Chart.load(CHART) as chart:
        open_to_people = chart.render(values("staging"), name=RELEASE)["ml-platform/templates/NOTES.txt"]
        closed = chart.render(values("dev"), name=RELEASE)["ml-platform/templates/NOTES.txt"]
    assert "https://dagster.staging.example.org" in open_to_people
    assert "port-forward service/lab-web 3000" in closed
    assert "Nothing is backed up" in closed
    assert "Nothing is backed up" not in open_to_people


def test_it_packages(tmp_path: Path) -> None:
    archive = Path(helm.package(CHART, destination=tmp_path))
    with helm.Chart.load(archive) as packed, helm.Chart.load(CHART) as source:
        assert packed.version == source.version
        assert packed.render(values("dev"), name=RELEASE) == source.render(values("dev"), name=RELEASE)


def test_the_readme_describes_every_value() -> None:
    readme = (CHART / "README.md").read_text().split("## Values", 1)[1]
    rows = {line.split("`")[1] for line in readme.splitlines() if line.startswith("| `")}
    with helm.Chart.load(CHART) as chart:
        assert rows == set(_leaves(chart.values))


def test_the_schema_knows_exactly_the_values() -> None:
    with helm.Chart.load(CHART) as chart:
        defaults, schema = chart.values, chart.schema
    assert schema is not None
    assert set(schema["properties"]) - {"global"} == set(defaults)
    assert schema["additionalProperties"] is False


def _long_location() -> dict[str, Any]:
    amount = {"cpu": 1, "memory": "1Gi"}
    return {"name": "x" * 40, "module": "a.b", "resources": {"requests": amount, "limits": amount}}


def _leaves(tree: Any, path: str = "") -> list[str]:
    """Paths of values that people set; maps of free keys and requirements are one each."""
    if not isinstance(tree, dict) or not tree or path.endswith(("resources", "Labels", "allowedFields")):
        return [path]
    return [leaf for key, below in tree.items() for leaf in _leaves(below, f"{path}.{key}" if path else key)]


def _values_of(tree: Any, key: str) -> list[Any]:
    if isinstance(tree, dict):
        return [value for name, value in tree.items() if name == key] + [
            found for value in tree.values() for found in _values_of(value, key)
        ]
    return [found for item in tree for found in _values_of(item, key)] if isinstance(tree, list) else []
