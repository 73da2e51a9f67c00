"""What no release may have, whatever its values: root, privilege, no bounds, secrets, a way in beside the proxies."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from ml_platform_tests.deploy.chart import (
    NAMESPACE,
    RELEASE,
    RUN_COMPONENTS,
    Pod,
    of_kind,
    pods,
    rendered,
    values,
)

pytestmark = pytest.mark.deploy

CALL_KUBERNETES = {"web", "daemon"}
"""Besides runs, which dagster-k8s makes (test_chart_runs.py)."""


def require_restricted(pod: Pod) -> None:
    """Pod Security Standards, level `restricted`, and what goes beyond it."""
    spec = pod.spec
    for forbidden in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"):
        assert not spec.get(forbidden), f"{pod.owner}: {forbidden}"
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True, pod.owner
    assert security["runAsUser"] > 0, pod.owner
    assert security["runAsGroup"] > 0, pod.owner
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}, pod.owner
    for volume in spec.get("volumes", ()):
        assert set(volume) - {"name"} <= {"emptyDir", "configMap", "secret", "projected"}, f"{pod.owner}: {volume}"
        if "emptyDir" in volume:
            assert volume["emptyDir"].get("sizeLimit"), f"{pod.owner}: {volume['name']} may fill the node"
    assert pod.containers, pod.owner
    for container in pod.containers:
        where = f"{pod.owner}/{container['name']}"
        own = container["securityContext"]
        assert own["runAsNonRoot"] is True, where
        assert own["allowPrivilegeEscalation"] is False, where
        assert own.get("privileged", False) is False, where
        assert own["readOnlyRootFilesystem"] is True, where
        assert own["capabilities"] == {"drop": ["ALL"]}, where
        assert own.get("runAsUser", 1) > 0, where
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][bound]), f"{where}: {bound}"
        assert not any("hostPort" in port for port in container.get("ports", ())), where


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches."""
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def labels_of_runs() -> list[dict[str, str]]:
    """Of a run's and a step's pod: the launcher's own, and the component that dagster-k8s gives."""
    release = {f"app.kubernetes.io/{key}": "ml-platform" for key in ("name", "part-of")}
    return [
        release | {"app.kubernetes.io/instance": RELEASE, "app.kubernetes.io/component": component}
        for component in RUN_COMPONENTS
    ]


def may_connect(objects: list[dict[str, Any]], one: Mapping[str, str], other: Mapping[str, str], port: int) -> bool:
    """Whether the policies let one pod of the namespace open a connection to another's port, both ways judged."""
    policies = [found["spec"] for found in of_kind(objects, "NetworkPolicy").values()]

    def allowed(subject: Mapping[str, str], peer: Mapping[str, str], direction: str, side: str) -> bool:
        mine = [p for p in policies if direction in p["policyTypes"] and selects(p["podSelector"], subject)]
        if not mine:
            return True
        rules = [rule for policy in mine for rule in policy.get(direction.lower(), ())]
        return any(
            port in {each["port"] for each in rule["ports"] if each.get("protocol", "TCP") == "TCP"}
            and (
                side not in rule
                or any(
                    "podSelector" in each and "namespaceSelector" not in each and selects(each["podSelector"], peer)
                    for each in rule[side]
                )
            )
            for rule in rules
        )

    return allowed(one, other, "Egress", "to") and allowed(other, one, "Ingress", "from")


def test_every_pod_is_restricted(release: list[dict[str, Any]]) -> None:
    found = list(pods(release))
    assert {pod.component for pod in found} >= {"web", "daemon", "code-location", "reports", "task"}
    for pod in found:
        require_restricted(pod)


@pytest.mark.parametrize(
    "breach",
    [
        {"securityContext": {"runAsUser": 0}},
        {"hostNetwork": True},
        {"containers": [{"securityContext": {"privileged": True}}]},
        {"containers": [{"securityContext": {"readOnlyRootFilesystem": False}}]},
        {"containers": [{"resources": {"limits": {"cpu": 1}}}]},
        {"volumes": [{"name": "node", "hostPath": {"path": "/"}}]},
    ],
    ids=str,
)
def test_a_breach_would_be_found(breach: dict[str, Any]) -> None:
    pod = next(pods(rendered(values("dev"))))
    spec = yaml.safe_load(yaml.safe_dump(dict(pod.spec)))
    for key, value in breach.items():
        if key == "containers":
            for part, changed in value[0].items():
                spec["containers"][0][part] |= changed
        elif isinstance(value, dict):
            spec[key] |= value
        else:
            spec[key] = value
    with pytest.raises(AssertionError):
        require_restricted(Pod(pod.owner, pod.labels, spec))


def test_only_those_who_call_kubernetes_hold_its_token(release: list[dict[str, Any]]) -> None:
    for pod in pods(release):
        assert pod.spec["automountServiceAccountToken"] is (pod.component in CALL_KUBERNETES), pod.owner
        assert pod.spec["serviceAccountName"] == f"{RELEASE}-{pod.component}", pod.owner
    for account in of_kind(release, "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False


def test_rights_are_exactly_what_dagster_k8s_calls(release: list[dict[str, Any]]) -> None:
    granted = {
        name: {
            (resource, verb)
            for rule in role["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
            if rule["apiGroups"] == [{"jobs": "batch", "jobs/status": "batch"}.get(resource, "")]
        }
        for name, role in of_kind(release, "Role").items()
    }
    terminate = {("jobs", "delete"), ("pods", "list"), ("pods", "delete")}
    launch = {("jobs", "create"), ("jobs/status", "get")}
    debug = {("jobs", "list"), ("pods/log", "get"), ("events", "list")}
    assert granted == {
        f"{RELEASE}-web": terminate,
        f"{RELEASE}-daemon": terminate | launch | debug,
        f"{RELEASE}-run": terminate | launch | {("pods", "get")},
    }
    for name, binding in of_kind(release, "RoleBinding").items():
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE}]
    assert not of_kind(release, "ClusterRole")
    assert not of_kind(release, "ClusterRoleBinding")


def test_no_secret_is_made_nor_written_down(release: list[dict[str, Any]]) -> None:
    assert not of_kind(release, "Secret")
    for settings in of_kind(release, "ConfigMap").values():
        for name, value in settings["data"].items():
            assert not _names_a_secret(name), name
            assert not _holds_a_password(value), name
    for pod in pods(release):
        for container in pod.containers:
            for variable in container.get("env", ()):
                if _names_a_secret(variable["name"]):
                    assert set(variable) == {"name", "valueFrom"}, variable["name"]
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]
                assert not _holds_a_password(variable.get("value", "")), variable["name"]
            assert not any(map(_holds_a_password, container.get("args", ()))), pod.owner


def secrets_held(objects: list[dict[str, Any]]) -> dict[str, set[str]]:
    """By component, the Secrets that its pods mount or have in their environment."""
    return {
        pod.component: pod.volume_sources("secret")
        | {
            source["secretRef"]["name"]
            for container in pod.containers
            for source in container.get("envFrom", ())
            if "secretRef" in source
        }
        | {
            variable["valueFrom"]["secretKeyRef"]["name"]
            for container in pod.containers
            for variable in container.get("env", ())
            if "valueFrom" in variable
        }
        for pod in pods(objects)
    }


def test_a_component_holds_only_the_secrets_it_needs() -> None:
    keys = {"objectStore": {"credentialsSecret": "keys"}, "backup": {"credentialsSecret": "backup-keys"}}
    held = secrets_held(rendered(values("production", keys)))
    postgres, redis, alerts = "ml-platform-postgres", "ml-platform-redis", "ml-platform-alerts"
    assert held == {
        "web": {postgres, "keys"},
        "daemon": {postgres},
        "code-location": {postgres, redis, "keys", alerts},
        "mlflow": {postgres, "keys"},
        "reports": {"keys"},
        "task": {postgres, redis, "keys", alerts},
        "backup": {postgres, "backup-keys"},
        "restore": {postgres, redis, "backup-keys"},
        "proxy": {"ml-platform-proxy"},
    }


def test_backups_and_reports_may_be_known_to_the_object_store_as_others_than_runs_are() -> None:
    def known(changes: dict[str, Any]) -> dict[str, tuple[set[str], str | None]]:
        """By component, which Secrets of the object store it holds and which role its account has there."""
        store = {"objectStore": {"serviceAccountAnnotations": {"role": "ml"}, "credentialsSecret": "keys"}}
        backup = {"backup": {"enabled": True, "target": "s3://kept/here", **changes.get("backup", {})}}
        objects = rendered(values("dev", {**store, **changes, **backup}))
        accounts = of_kind(objects, "ServiceAccount")
        return {
            pod.component: (
                secrets_held(objects)[pod.component] & {"keys", "of-backups", "of-reports"},
                accounts[pod.spec["serviceAccountName"]]["metadata"].get("annotations", {}).get("role"),
            )
            for pod in pods(objects)
        }

    of_all = ({"keys"}, "ml")
    alike = known({})
    assert all(alike[name] == of_all for name in ("reports", "backup", "restore", "task", "mlflow"))
    changed = known(
        {
            "backup": {"credentialsSecret": "of-backups"},
            "reports": {"serviceAccountAnnotations": {"role": "reader"}},
        }
    )
    assert changed["backup"] == changed["restore"] == ({"of-backups"}, None)
    assert changed["reports"] == (set(), "reader")
    assert changed["task"] == changed["mlflow"] == of_all


def test_the_web_server_reaches_the_object_store_only_to_read_output_of_steps() -> None:
    def reaching(changes: dict[str, Any]) -> tuple[set[str], bool, bool]:
        store = {"credentialsSecret": "keys", "serviceAccountAnnotations": {"role": "ml"}, **changes}
        objects = rendered(values("production", {"objectStore": store}))
        policy = of_kind(objects, "NetworkPolicy")[f"{RELEASE}-to-object-store"]["spec"]["podSelector"]
        account = of_kind(objects, "ServiceAccount")[f"{RELEASE}-web"]["metadata"]
        whom = policy["matchExpressions"][0]["values"]
        return secrets_held(objects)["web"], "annotations" in account, "web" in whom

    assert reaching({}) == ({"ml-platform-postgres", "keys"}, True, True)
    assert reaching({"computeLogsUri": ""}) == ({"ml-platform-postgres"}, False, False)


def test_secrets_are_mounted_so_that_rotation_reaches_them(release: list[dict[str, Any]]) -> None:
    """A file that is mounted by subPath keeps its first content for ever."""
    for pod in pods(release):
        secret = {volume["name"] for volume in pod.spec.get("volumes", ()) if "secret" in volume}
        for container in pod.containers:
            for mount in container.get("volumeMounts", ()):
                if mount["name"] in secret:
                    assert "subPath" not in mount, f"{pod.owner}: {mount}"
                    assert mount["readOnly"] is True, f"{pod.owner}: {mount}"


def test_files_that_variables_name_are_mounted(release: list[dict[str, Any]]) -> None:
    for pod in pods(release):
        for container in pod.containers:
            mounted = tuple(mount["mountPath"] for mount in container.get("volumeMounts", ()))
            for variable in container.get("env", ()):
                if str(variable.get("value", "")).startswith("/"):
                    assert variable["value"].startswith(mounted), f"{pod.owner}: {variable}"


def test_nothing_is_reachable_from_outside_but_the_proxies(release: list[dict[str, Any]]) -> None:
    services = of_kind(release, "Service")
    assert {service["spec"].get("type", "ClusterIP") for service in services.values()} == {"ClusterIP"}
    assert not any(key in service["spec"] for service in services.values() for key in ("externalIPs", "externalName"))
    for ingress in of_kind(release, "Ingress").values():
        assert "defaultBackend" not in ingress["spec"]
        backends = {
            rule["host"]: path["backend"]["service"]["name"]
            for rule in ingress["spec"]["rules"]
            for path in rule["http"]["paths"]
        }
        for name in backends.values():
            assert services[name]["spec"]["selector"]["app.kubernetes.io/component"] == "proxy"
        assert set(ingress["spec"]["tls"][0]["hosts"]) == set(backends)


def test_each_proxy_leads_to_its_own_server_and_asks_who_is_there() -> None:
    objects = rendered(values("production"))
    upstreams = {"dagster": "lab-web:3000", "mlflow": "lab-mlflow:5000", "reports": "lab-reports:3001"}
    found = {pod.labels["ml-platform/of"]: pod for pod in pods(objects) if pod.component == "proxy"}
    assert set(found) == set(upstreams)
    for name, pod in found.items():
        (container,) = pod.containers
        arguments = container["args"]
        assert [each for each in arguments if each.startswith("--upstream=")] == [
            f"--upstream=http://{upstreams[name]}/"
        ]
        assert "--provider=oidc" in arguments
        assert "--cookie-secure=true" in arguments
        assert not [each for each in arguments if "skip-auth" in each or "trusted-ip" in each or "htpasswd" in each]


def test_network_policies_select_every_pod(release: list[dict[str, Any]]) -> None:
    deny = of_kind(release, "NetworkPolicy")[f"{RELEASE}-default-deny"]["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert "egress" not in deny
    for labels in [*(pod.labels for pod in pods(release)), *labels_of_runs()]:
        assert selects(deny["podSelector"], labels)


def test_servers_without_a_login_are_reached_through_their_proxy_alone() -> None:
    objects = rendered(values("production"))
    everybody = {pod.owner.split("/")[1]: pod.labels for pod in pods(objects)}
    everybody |= dict(zip(RUN_COMPONENTS, labels_of_runs(), strict=True))
    everybody["a stranger"] = {"app": "stranger"}

    def who_reaches(name: str, port: int) -> set[str]:
        return {one for one, labels in everybody.items() if may_connect(objects, labels, everybody[name], port)}

    own = {"lab-code-ml-platform", "lab-backup", "lab-restore", "lab-task", *RUN_COMPONENTS}
    assert who_reaches("lab-web", 3000) == {"lab-proxy-dagster"}
    assert who_reaches("lab-reports", 3001) == {"lab-proxy-reports"}
    assert who_reaches("lab-mlflow", 5000) == {"lab-proxy-mlflow"} | own
    assert who_reaches("lab-code-ml-platform", 4000) == {"lab-web", "lab-daemon"}
    for name in ("lab-daemon", "lab-backup", "run_worker", "lab-proxy-dagster"):
        assert [who_reaches(name, port) for port in (3000, 4000, 4180, 5000)] == [set()] * 4


def test_without_an_ingress_no_person_reaches_a_server() -> None:
    objects = rendered(values("production", {"ingress": {"enabled": False}}))
    assert not of_kind(objects, "Ingress")
    assert "proxy" not in {pod.component for pod in pods(objects)}
    names = set(of_kind(objects, "NetworkPolicy"))
    assert {f"{RELEASE}-into-web", f"{RELEASE}-into-reports", f"{RELEASE}-into-mlflow"}.isdisjoint(names)


def test_only_the_ingress_controller_reaches_the_proxies() -> None:
    policy = of_kind(rendered(values("production")), "NetworkPolicy")[f"{RELEASE}-into-proxy"]["spec"]
    assert policy["ingress"] == [
        {
            "from": [
                {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}},
                    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "ingress-nginx"}},
                }
            ],
            "ports": [{"port": 4180, "protocol": "TCP"}],
        }
    ]


def test_the_way_out_is_narrow() -> None:
    """Redis is for those who read features, Kubernetes' API for those who launch; no policy opens every port."""
    objects = rendered(values("production"))
    for name, policy in of_kind(objects, "NetworkPolicy").items():
        for rule in policy["spec"].get("egress", ()):
            assert rule["ports"], name
    whom = {
        name.removeprefix(f"{RELEASE}-to-"): set(policy["spec"]["podSelector"]["matchExpressions"][0]["values"])
        for name, policy in of_kind(objects, "NetworkPolicy").items()
        if name.startswith(f"{RELEASE}-to-")
    }
    assert whom["kubernetes-api"] == {"web", "daemon", *RUN_COMPONENTS}
    assert whom["redis"] == {"code-location", "restore", "task", *RUN_COMPONENTS}
    assert whom["issuer"] == {"proxy"}
    assert "daemon" not in whom["object-store"]


def test_a_port_that_a_url_names_is_open_and_another_only_if_it_is_said() -> None:
    def ports(changes: dict[str, Any]) -> dict[str, list[int]]:
        return {
            name.removeprefix(f"{RELEASE}-to-"): [each["port"] for each in policy["spec"]["egress"][0]["ports"]]
            for name, policy in of_kind(rendered(values("production", changes)), "NetworkPolicy").items()
            if name.startswith(f"{RELEASE}-to-")
        }

    assert {name: ports({})[name] for name in ("redis", "object-store", "issuer")} == {
        "redis": [6379],
        "object-store": [443],
        "issuer": [443],
    }
    elsewhere = {
        "redis": {"url": "rediss://cache.example.org:6380/0"},
        "objectStore": {"endpointUrl": "http://objects:8333", "allowHttp": True},
        "proxy": {"issuerUrl": "https://login.example.org:8443/realms/staff"},
        "mlflow": {"enabled": False, "trackingUri": "http://mlflow.example.org"},
        "backup": {"enabled": False},
    }
    found = ports(elsewhere)
    assert (found["redis"], found["object-store"], found["issuer"]) == ([6380], [8333], [8443])
    assert found["external-mlflow"] == [80]
    behind_a_service = ports({**elsewhere, "networkPolicy": {"redis": {"ports": [6379]}}})
    assert behind_a_service["redis"] == [6379]


def test_a_server_is_never_taken_away_whole(release: list[dict[str, Any]]) -> None:
    budgets = [found["spec"] for found in of_kind(release, "PodDisruptionBudget").values()]
    for workload in of_kind(release, "Deployment").values():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        mine = [budget for budget in budgets if selects(budget["selector"], labels)]
        assert len(mine) == 1, f"{workload['metadata']['name']}: more than one budget blocks every eviction"
        assert mine[0]["maxUnavailable"] == 1
    daemon = of_kind(release, "Deployment")[f"{RELEASE}-daemon"]["spec"]
    assert daemon["replicas"] == 1
    assert daemon["strategy"] == {"type": "Recreate"}


def test_every_server_is_asked_whether_it_lives(release: list[dict[str, Any]]) -> None:
    for pod in pods(release):
        if pod.owner.startswith("Deployment/"):
            for container in pod.containers:
                assert "livenessProbe" in container, pod.owner
                assert "readinessProbe" in container or pod.component == "daemon", pod.owner


def test_the_backup_runs_the_platforms_own_command() -> None:
    jobs = of_kind(rendered(values("production")), "CronJob")
    backup, task, back = (jobs[f"{RELEASE}-{name}"]["spec"] for name in ("backup", "task", "restore"))
    (container,) = backup["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["ml-platform", "backup", "s3://example-ml-backup/ml-platform", "--keep", "14"]
    database = {
        "name": "ML_PLATFORM_MLFLOW_TRACKING_URI",
        "value": "postgresql+psycopg2://postgres.example.org:5432/mlflow",
    }
    assert database in container["env"], "MLflow's database cannot be copied through its server"
    assert (backup["suspend"], backup["concurrencyPolicy"], backup["timeZone"]) == (False, "Forbid", "Etc/UTC")
    assert task["suspend"] is True
    assert back["suspend"] is True
    (container,) = back["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["ml-platform", "restore", "s3://example-ml-backup/ml-platform"]
    assert database in container["env"]


def test_people_are_told_of_backups_that_are_overdue_only_where_some_are_made() -> None:
    def within(enabled: bool) -> str | None:
        objects = rendered(values("production", {"backup": {"enabled": enabled, "alertAfterHours": 26}}))
        settings: dict[str, str] = of_kind(objects, "ConfigMap")[f"{RELEASE}-settings"]["data"]
        return settings.get("ML_PLATFORM_BACKUP_WITHIN_HOURS")

    assert within(enabled=True) == "26"
    assert within(enabled=False) is None


def test_telemetry_is_off_everywhere(release: list[dict[str, Any]]) -> None:
    from ml_platform.settings import TELEMETRY_OFF

    settings = of_kind(release, "ConfigMap")[f"{RELEASE}-settings"]["data"]
    assert TELEMETRY_OFF.items() <= settings.items()


def _names_a_secret(name: str) -> bool:
    if name.endswith("_FILE"):
        return False
    return bool(re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CLIENT_ID|WEBHOOK_URL|SMTP_URL", name))


def _holds_a_password(value: str) -> bool:
    return bool(re.search(r"://[^/\s@]*:[^/\s@]+@|password\s*[=:]\s*\S", value))
