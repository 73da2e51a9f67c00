"""Values that cannot work are refused before anything reaches a cluster, by an error that names them."""

from typing import Any

import helm_python as helm
import pytest

from ml_platform_tests.deploy.chart import CASES, CHART, RELEASE, of_kind, rendered, values

pytestmark = pytest.mark.deploy

LOCATION: dict[str, Any] = {
    "module": "pricing.definitions",
    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1Gi"}},
}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt value": ({"web": {"replica": 2}}, "replica"),
    "a misspelt section": ({"daemons": {}}, "daemons"),
    "no image": ({"image": {"repository": ""}}, "/image/repository"),
    "neither tag nor digest": ({"image": {"tag": "", "digest": ""}}, "/image"),
    "a digest that is none": ({"image": {"digest": "sha256:1234"}}, "/image/digest"),
    "no database": ({"postgres": {"host": ""}}, "/postgres/host"),
    "a password in a host": ({"postgres": {"host": "ml:secret@postgres"}}, "/postgres/host"),
    "a TLS mode that trusts anybody": ({"postgres": {"sslmode": "prefer"}}, "/postgres/sslmode"),
    "no authority to verify by": ({"postgres": {"caConfigMap": {"name": ""}}}, "/postgres/caConfigMap/name"),
    "no Secret for Postgres": ({"postgres": {"serviceSecret": {"name": ""}}}, "/postgres/serviceSecret/name"),
    "a password in Redis' address": ({"redis": {"url": "redis://:secret@redis:6379"}}, "/redis/url"),
    "plain http unasked": ({"objectStore": {"endpointUrl": "http://objects:8333"}}, "/objectStore/endpointUrl"),
    "a lake on a pod's disk": ({"objectStore": {"lakeUri": "/data"}}, "/objectStore/lakeUri"),
    "output of steps in no place of its own": (
        {"objectStore": {"computeLogsUri": "s3://example-ml"}},
        "/objectStore/computeLogsUri",
    ),
    "a secret among the settings": ({"settings": {"AWS_SECRET_ACCESS_KEY": "x"}}, "AWS_SECRET_ACCESS_KEY"),
    "a password among the settings": ({"settings": {"PGPASSWORD": "x"}}, "PGPASSWORD"),
    "a setting of another program": ({"settings": {"LD_PRELOAD": "x"}}, "LD_PRELOAD"),
    "no memory limit": ({"web": {"resources": {"limits": {"cpu": 1, "memory": None}}}}, "/web/resources/limits"),
    "a quantity that is none": ({"runs": {"resources": {"limits": {"memory": "4 GB"}}}}, "/runs/resources/limits"),
    "no replica": ({"web": {"replicas": 0}}, "/web/replicas"),
    "two daemons": ({"daemon": {"replicas": 2}}, "replicas"),
    "no code location": ({"codeLocations": []}, "/codeLocations"),
    "a name that is none": ({"codeLocations": [{"name": "My Code", "module": "a"}]}, "/codeLocations/0/name"),
    "an ingress without TLS": ({"ingress": {"tlsSecret": ""}}, "/ingress/tlsSecret"),
    "an ingress without a host": ({"ingress": {"hosts": {"dagster": ""}}}, "/ingress/hosts/dagster"),
    "an ingress without a proxy": ({"proxy": {"image": ""}}, "/proxy/image"),
    "an ingress from anywhere": (
        {"ingress": {"controller": {"namespaceLabels": {"kubernetes.io/metadata.name": None}}}},
        "/ingress/controller",
    ),
    "a proxy without a provider": ({"proxy": {"issuerUrl": ""}}, "/proxy/issuerUrl"),
    "a provider over plain http": ({"proxy": {"issuerUrl": "http://login.example.org"}}, "/proxy/issuerUrl"),
    "a proxy that knows nobody": ({"proxy": {"emailDomains": []}}, "/proxy/emailDomains"),
    "everybody": ({"proxy": {"emailDomains": ["*"], "allowedGroups": []}}, "proxy.allowedGroups"),
    "no MLflow at all": ({"mlflow": {"enabled": False}}, "/mlflow/trackingUri"),
    "a password in MLflow's database": (
        {"mlflow": {"trackingUri": "postgresql://ml:secret@postgres:5432/mlflow"}},
        "/mlflow/trackingUri",
    ),
    "a backup to nowhere": ({"backup": {"target": ""}}, "/backup/target"),
    "a backup of MLflow elsewhere": ({"mlflow": {"trackingUri": "https://mlflow.example.org"}}, "mlflow.trackingUri"),
    "a clock that is none": ({"backup": {"schedule": "nightly"}}, "/backup/schedule"),
    "a clock of 25 hours": ({"backup": {"schedule": "61 25 * * *"}}, "/backup/schedule"),
    "another account by a run's tags": (
        {"runs": {"allowedFields": {"pod_spec_config": {"service_account_name": True}}}},
        "service_account_name",
    ),
    "a Secret by a run's tags": ({"runs": {"allowedFields": {"container_config": {"env_from": True}}}}, "env_from"),
    "labels by a run's tags": (
        {"runs": {"allowedFields": {"pod_template_spec_metadata": {"labels": True}}}},
        "pod_template_spec_metadata",
    ),
    "one host for two servers": ({"ingress": {"hosts": {"reports": "dagster.example.org"}}}, "ingress.hosts"),
    "two code locations of one name": (
        {"codeLocations": [LOCATION | {"name": "a_b"}, LOCATION | {"name": "a-b"}]},
        "codeLocations",
    ),
    "one database for two": ({"postgres": {"databases": {"optuna": "mlflow"}}}, "postgres.databases"),
    "e-mail without a server": (
        {"alerts": {"emailTo": "ml@example.org", "smtpSecret": {"name": ""}}},
        "alerts.emailTo",
    ),
    "a backup inside the lake": ({"backup": {"target": "s3://example-ml/lake/backup"}}, "backup.target"),
    "reports inside the lake": (
        {"objectStore": {"reportsUri": "s3://example-ml/lake/reports/"}},
        "objectStore.reportsUri",
    ),
    "a password in the value of a setting": ({"settings": {"AWS_PROXY": "http://u:secret@proxy:80"}}, "AWS_PROXY"),
    "a key of an account among the settings": ({"settings": {"AWS_ACCOUNT_KEY": "x"}}, "AWS_ACCOUNT_KEY"),
    "commits that are not safe": ({"settings": {"AWS_CONDITIONAL_PUT": "disabled"}}, "AWS_CONDITIONAL_PUT"),
    "more requested than allowed": (
        {"web": {"resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1Gi"}}}},
        "web.resources",
    ),
    "more memory requested than a run may have": (
        {"runs": {"resources": {"limits": {"memory": "1.5G"}}}},
        "runs.resources",
    ),
    "a code location that requests more than it may have": (
        {
            "codeLocations": [
                LOCATION
                | {
                    "name": "big",
                    "resources": {
                        "requests": {"cpu": "1", "memory": "2Gi"},
                        "limits": {"cpu": "1", "memory": "2047Mi"},
                    },
                }
            ]
        },
        "codeLocations.big",
    ),
    "a network of 99 bits": (
        {"networkPolicy": {"redis": {"peers": [{"ipBlock": {"cidr": "10.0.0.0/99"}}]}}},
        "/networkPolicy/redis/peers/0/ipBlock/cidr",
    ),
    "a proxy of no version": ({"proxy": {"image": "oauth2-proxy:latest"}}, "/proxy/image"),
    "what the chart makes itself": ({"settings": {"ML_PLATFORM_REDIS_URL": "redis://x:1/0"}}, "ML_PLATFORM_REDIS_URL"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_by_name(what: str) -> None:
    changes, named = REFUSED[what]
    with pytest.raises(helm.HelmError) as refusal:
        rendered(values("production", changes))
    assert named in str(refusal.value)


@pytest.mark.parametrize("case", CASES)
def test_what_works_is_not(case: str) -> None:
    environment, changes = CASES[case]
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values(environment, changes))


def test_what_must_be_given_has_no_default() -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmError) as refusal:
        chart.render({}, name=RELEASE)
    for named in ("/image/repository", "/postgres/host", "/redis/url", "/objectStore/lakeUri"):
        assert named in str(refusal.value)


def test_environments_differ_by_values_alone() -> None:
    kinds = {}
    for environment in ("staging", "production"):
        objects = rendered(values(environment))
        kinds[environment] = {
            kind: set(of_kind(objects, kind)) for kind in ("Deployment", "Service", "NetworkPolicy", "CronJob", "Role")
        }
    assert kinds["staging"] == kinds["production"]


def test_each_code_location_serves_its_own_image_and_its_runs_have_it() -> None:
    environment, changes = CASES["several code locations"]
    deployments = of_kind(rendered(values(environment, changes)), "Deployment")
    found = {}
    for name in ("pricing", "fraud"):
        (container,) = deployments[f"{RELEASE}-code-{name}"]["spec"]["template"]["spec"]["containers"]
        (runs,) = [each["value"] for each in container["env"] if each["name"] == "DAGSTER_CONTAINER_IMAGE"]
        assert runs == container["image"]
        found[name] = container["image"]
    assert found == {"pricing": "pricing:1.4", "fraud": f"ml-platform@sha256:{'a' * 64}"}
