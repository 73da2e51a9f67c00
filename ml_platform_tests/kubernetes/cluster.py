"""A stand-in for a cluster on this machine: it speaks the API of Kubernetes over HTTP and runs containers as processes.

Jobs, their pods, logs and events are as Dagster's launcher and executor find them on a cluster: what they post is held
strictly to the schema of the API, names conflict, labels and fields select, a deleted Job leaves its pods, a deleted
pod gets SIGTERM and later SIGKILL, an image that is not there is waited for. A container has the environment of its
image, of ConfigMaps and Secrets, and nothing of this process's. Its files are this machine's, except for what is
mounted: that lies in a folder of the pod, and variables that name a mounted path are made to name it there.

People sign in as the administrator, who may do everything, and make Jobs of the CronJobs that the release has.

Not here: scheduling, limits that are enforced, networks, admission, watches, CronJobs' clock, and second pods of a Job:
one that would start a failed pod again never ends when its pod has failed.
"""

import json
import re
import secrets
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

from ml_platform_tests.deploy import chart
from ml_platform_tests.processes import Contained

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[\w.]+))/v1/namespaces/(?P<namespace>[^/]+)/(?P<kind>\w+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>\w+))?"
)
_SELECTOR = re.compile(r"([^\s,=]+)(?: in \(([^)]*)\)|=([^,]*))")
_API = "1.33"
_GRACE_SECONDS = 20.0


@dataclass(frozen=True)
class Asked:
    """One request, and how it was answered."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    status: int


class Refused(Exception):
    """An answer of the API that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Pod:
    """A pod of one container, which is a process, or waits to be one."""

    name: str
    job: str
    manifest: dict[str, Any]
    root: Path
    process: Contained | None = None
    waiting: tuple[str, str] | None = None
    started: str = ""
    ended: str = ""
    deleted: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def container(self) -> dict[str, Any]:
        found: dict[str, Any] = self.manifest["spec"]["containers"][0]
        return found

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def exit_code(self) -> int | None:
        """As a container's: of a signal, 128 and its number."""
        code = None if self.process is None else self.process.exit_code
        if code is not None and not self.ended:
            self.ended = _now()
        return code if code is None or code >= 0 else 128 - code

    @property
    def phase(self) -> str:
        if self.process is None:
            return "Pending"
        return {None: "Running", 0: "Succeeded"}.get(self.exit_code, "Failed")

    def status(self) -> dict[str, Any]:
        code = self.exit_code
        if self.waiting is not None:
            state: dict[str, Any] = {"waiting": dict(zip(("reason", "message"), self.waiting, strict=True))}
        elif code is None:
            state = {"running": {"startedAt": self.started}}
        else:
            reason = "Completed" if code == 0 else "Error"
            state = {
                "terminated": {
                    "exitCode": code,
                    "reason": reason,
                    "startedAt": self.started,
                    "finishedAt": self.ended,
                }
            }
        container = {
            "name": self.container["name"],
            "image": self.container["image"],
            "imageID": self.container["image"],
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
            "lastState": {},
        }
        return {"phase": self.phase, "containerStatuses": [container]}

    def as_json(self) -> dict[str, Any]:
        return {**self.manifest, "status": self.status()}


@dataclass
class Job:
    """A Job and its one pod."""

    manifest: dict[str, Any]
    pod: Pod

    @property
    def component(self) -> str:
        """``run_worker`` or ``step_worker``."""
        return str(self.manifest["metadata"]["labels"]["app.kubernetes.io/component"])

    @property
    def step(self) -> str:
        """The step whose Job it is."""
        named = {each["name"]: each.get("value") for each in self.pod.container["env"]}
        return str(named.get("DAGSTER_RUN_STEP_KEY", ""))

    @property
    def run_id(self) -> str:
        """Empty of a Job that is none of a run."""
        return str(self.manifest["metadata"]["labels"].get("dagster/run-id", ""))

    def as_json(self) -> dict[str, Any]:
        code = self.pod.exit_code
        status: dict[str, Any] = {"startTime": self.pod.started or _now()}
        if code is None and not self.pod.deleted:
            status["active"] = 1
        elif code == 0:
            status |= {"succeeded": 1, "completionTime": self.pod.ended, "conditions": [_condition("Complete")]}
        else:
            given_up = self.manifest["spec"]["backoffLimit"] == 0
            status |= {"failed": 1}
            status |= {"conditions": [_condition("Failed", "BackoffLimitExceeded")]} if given_up else {}
        return {**self.manifest, "status": status}


class Cluster:
    """The API on a free port of the loopback, and what runs in it.

    Args:
        folder: for what pods write, and the kubeconfig.
        shared: storage that every node reaches; its paths are the same everywhere.
        images: the environment of each image there is, by its name; other images cannot be fetched.
    """

    def __init__(self, folder: Path, shared: Path, images: Mapping[str, Mapping[str, str]]) -> None:
        self.folder, self.shared, self.images = folder, shared, images
        folder.mkdir(parents=True, exist_ok=True)
        self.config_maps: dict[str, Mapping[str, str]] = {}
        self.secrets: dict[str, Mapping[str, str]] = {}
        self.cron_jobs: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.asked: list[Asked] = []
        self.posted: list[str] = []
        self.rules: Sequence[Mapping[str, Sequence[str]]] | None = None
        self._pods: dict[str, Pod] = {}
        self._events: list[dict[str, Any]] = []
        self._lock = threading.RLock()
        self._down_until = 0.0
        self._token = secrets.token_hex(16)
        self.administrator = secrets.token_hex(16)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    # The machine -----------------------------------------------------------------------------------

    def __enter__(self) -> "Cluster":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.kubeconfig.write_text(yaml.safe_dump(self._kubeconfig()))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for pod in list(self._pods.values()):
            if pod.process is not None:
                pod.process.end(0)

    @property
    def kubeconfig(self) -> Path:
        """By it clients find the API, and prove who they are."""
        return self.folder / "kubeconfig"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def _kubeconfig(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "dagster"}}],
            "clusters": [{"name": "here", "cluster": {"server": self.url}}],
            "users": [{"name": "dagster", "user": {"token": self._token}}],
        }

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """Every request is answered by 503 while the block runs."""
        self._down_until = float("inf")
        try:
            yield
        finally:
            self._down_until = 0.0

    def jobs_of(self, run_id: str, step: str = "") -> list[Job]:
        """A run's Jobs, or those of one of its steps."""
        found = [job for job in self.jobs.values() if job.run_id == run_id]
        return [job for job in found if not step or job.step == step]

    def set_secret(self, name: str, content: Mapping[str, str]) -> None:
        """Make a Secret, or replace it: where it is mounted, its files change; variables of what runs do not."""
        with self._lock:
            self.secrets[name] = content
            for pod in self._pods.values():
                if pod.process is not None and pod.exit_code is None:
                    self._mount(pod)

    def kill(self, job: Job) -> None:
        """SIGKILL, as the kernel does to a container that takes too much memory."""
        assert job.pod.process is not None
        job.pod.process.send(signal.SIGKILL)
        job.pod.process.wait()

    @staticmethod
    def pause(job: Job) -> None:
        """SIGSTOP, as a node does that is out of breath."""
        assert job.pod.process is not None
        job.pod.process.send(signal.SIGSTOP)

    @staticmethod
    def go_on(job: Job) -> None:
        """SIGCONT."""
        assert job.pod.process is not None
        job.pod.process.send(signal.SIGCONT)

    # Pods ------------------------------------------------------------------------------------------

    def _start(self, pod: Pod) -> None:
        image = pod.container["image"]
        if image not in self.images:
            pod.waiting = ("ErrImagePull", f"image {image} is not to be had")
            self._tell(pod.name, "Pod", "Warning", "Failed", f"Failed to pull image {image}")
            return
        try:
            pod.environment = self._environment(pod)
        except LookupError as missing:
            pod.waiting = ("CreateContainerConfigError", str(missing))
            self._tell(pod.name, "Pod", "Warning", "Failed", str(missing))
            return
        command = [*pod.container.get("command", []), *pod.container.get("args", [])]
        pod.started = _now()
        pod.process = Contained(command, pod.environment, pod.root, pod.log)

    def _environment(self, pod: Pod) -> dict[str, str]:
        env: dict[str, str] = {}
        env["HOSTNAME"] = pod.name
        for source in pod.container.get("envFrom", []):
            kind, kept = ("configMapRef", self.config_maps) if "configMapRef" in source else ("secretRef", self.secrets)
            env |= self._keys(kept, source[kind])
        for each in pod.container.get("env", []):
            origin = each.get("valueFrom", {})
            if "secretKeyRef" in origin:
                ref = origin["secretKeyRef"]
                env[each["name"]] = self._keys(self.secrets, ref)[ref["key"]]
            elif "configMapKeyRef" in origin:
                ref = origin["configMapKeyRef"]
                env[each["name"]] = self._keys(self.config_maps, ref)[ref["key"]]
            elif "fieldRef" in origin:
                names = {"metadata.name": pod.name, "metadata.namespace": pod.manifest["metadata"]["namespace"]}
                env[each["name"]] = names[origin["fieldRef"]["fieldPath"]]
            else:
                env[each["name"]] = each.get("value") or ""
        mounted = self._mount(pod)
        placed = {
            name: value if value.startswith(str(self.shared)) else _moved(value, mounted, pod.root / "mounts")
            for name, value in env.items()
        }
        return {**self.images[pod.container["image"]], **placed}

    @staticmethod
    def _keys(kept: Mapping[str, Mapping[str, str]], ref: Mapping[str, Any]) -> Mapping[str, str]:
        if ref["name"] in kept:
            return kept[ref["name"]]
        if ref.get("optional"):
            return {}
        raise LookupError(f'configmap or secret "{ref["name"]}" not found')

    def _mount(self, pod: Pod) -> list[str]:
        """Make what is mounted; the paths at which, those of containers."""
        volumes = {volume["name"]: volume for volume in pod.manifest["spec"].get("volumes", [])}
        mounts = pod.container.get("volumeMounts", [])
        # What is mounted into what is mounted comes last.
        for mount in sorted(mounts, key=lambda mount: len(mount["mountPath"])):
            volume = volumes[mount["name"]]
            here = pod.root / "mounts" / mount["mountPath"].lstrip("/")
            files: Mapping[str, str] = {}
            if "configMap" in volume:
                files = _items(volume["configMap"], self._keys(self.config_maps, volume["configMap"]))
            elif "secret" in volume:
                named = {**volume["secret"], "name": volume["secret"]["secretName"]}
                files = _items(named, self._keys(self.secrets, named))
            if "subPath" in mount and files:
                here.parent.mkdir(parents=True, exist_ok=True)
                here.write_text(files[mount["subPath"]])
                continue
            here.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                # As a kubelet does: who reads it finds the old content or the new.
                draft = here / f"..{name}"
                draft.write_text(content)
                draft.replace(here / name)
        return [mount["mountPath"] for mount in mounts]

    def _stop(self, pod: Pod) -> None:
        """SIGTERM to the container's first process, and after a while SIGKILL to all of them."""
        pod.deleted = True
        if pod.process is not None:
            pod.process.end(_GRACE_SECONDS)
        with self._lock:
            self._pods.pop(pod.name, None)

    def _tell(self, name: str, kind: str, type_: str, reason: str, message: str) -> None:
        event = {"type": type_, "reason": reason, "message": message, "count": 1, "metadata": {"name": f"{name}.event"}}
        self._events.append({**event, "involvedObject": {"kind": kind, "name": name}})

    # The API ---------------------------------------------------------------------------------------

    def _create_job(self, namespace: str, manifest: dict[str, Any]) -> dict[str, Any]:
        try:
            kubernetes_validate.validate(manifest, _API, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise Refused(422, "Invalid", str(error)) from error
        name = manifest["metadata"]["name"]
        if name in self.jobs:
            raise Refused(409, "AlreadyExists", f'jobs.batch "{name}" already exists')
        made = {"namespace": namespace, "uid": secrets.token_hex(16), "creationTimestamp": _now()}
        manifest["metadata"] |= made
        manifest["spec"].setdefault("backoffLimit", 6)
        template = manifest["spec"]["template"]
        # As Kubernetes' own defaults: of a Job that has none of its own.
        if not manifest["metadata"].get("labels"):
            manifest["metadata"]["labels"] = dict(template["metadata"].get("labels", {}))
        pod_name = f"{name}-{secrets.token_hex(3)[:5]}"
        labels = {**template["metadata"].get("labels", {}), "job-name": name, "batch.kubernetes.io/job-name": name}
        metadata = {**template["metadata"], **made, "name": pod_name, "labels": labels}
        pod = Pod(
            name=pod_name,
            job=name,
            manifest={"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]},
            root=self.folder / "pods" / pod_name,
        )
        pod.root.mkdir(parents=True)
        self._pods[pod_name] = pod
        self.jobs[name] = Job(manifest, pod)
        self._tell(name, "Job", "Normal", "SuccessfulCreate", f"Created pod: {pod_name}")
        self._start(pod)
        return self.jobs[name].as_json()

    def _answer(self, verb: str, path: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(path)
        found = _PATH.fullmatch(parts.path)
        if found is None:
            raise Refused(404, "NotFound", f"the stand-in does not serve {parts.path}")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            return self._route(verb, found.groupdict(default=""), query, body)

    def _route(self, verb: str, at: Mapping[str, str], query: Mapping[str, str], body: Any) -> tuple[int, Any]:
        kind, name, sub, namespace = at["kind"], at["name"], at["sub"], at["namespace"]
        if kind == "cronjobs" and at["group"] == "batch" and verb in ("get", "patch"):
            if name not in self.cron_jobs:
                raise Refused(404, "NotFound", f'cronjobs.batch "{name}" not found')
            self.cron_jobs[name]["metadata"].setdefault("uid", secrets.token_hex(16))
            if verb == "patch":
                self.cron_jobs[name] = chart.merged(self.cron_jobs[name], body)
            return 200, self.cron_jobs[name]
        if kind == "jobs" and at["group"] == "batch":
            if verb == "create":
                return 201, self._create_job(namespace, body)
            if verb == "list":
                there = [job.as_json() for key, job in self.jobs.items() if key == job.manifest["metadata"]["name"]]
                return 200, _listed("JobList", there, namespace, query)
            job = self.jobs.get(name)
            if job is None or job.manifest["metadata"]["namespace"] != namespace:
                raise Refused(404, "NotFound", f'jobs.batch "{name}" not found')
            if verb == "delete":
                # By default its pods stay, and are nobody's; kubectl asks for their end.
                job.pod.deleted = True
                if (body or {}).get("propagationPolicy", "Orphan") != "Orphan":
                    threading.Thread(target=self._stop, args=(job.pod,)).start()
                self.jobs[f"{name} (deleted)"] = self.jobs.pop(name)
                return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}
            return 200, job.as_json()
        if kind == "pods" and not at["group"]:
            if verb == "list":
                return 200, _listed("PodList", [p.as_json() for p in self._pods.values()], namespace, query)
            pod = self._pods.get(name)
            if pod is None:
                raise Refused(404, "NotFound", f'pods "{name}" not found')
            if verb == "delete":
                threading.Thread(target=self._stop, args=(pod,)).start()
                return 200, pod.as_json()
            return 200, pod.log.read_bytes() if sub == "log" and pod.log.exists() else pod.as_json()
        if kind == "events" and verb == "list":
            return 200, _listed("EventList", self._events, "", query)
        raise Refused(404, "NotFound", f"the stand-in does not {verb} {kind}")

    def _authorise(self, verb: str, group: str, resource: str) -> None:
        if self.rules is None:
            return
        for rule in self.rules:
            if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
                return
        raise Refused(403, "Forbidden", f'dagster cannot {verb} resource "{resource}" in API group "{group}"')

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self, verb: str) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = self.rfile.read(length)
                found = _PATH.fullmatch(urlsplit(self.path).path)
                at = found.groupdict(default="") if found else dict.fromkeys(("group", "kind", "sub"), "")
                asked = "list" if verb == "get" and not at.get("name") else verb
                try:
                    if time.monotonic() < cluster._down_until:
                        raise Refused(503, "ServiceUnavailable", "the server is currently unable to handle the request")
                    shown = self.headers.get("Authorization")
                    if shown not in (f"Bearer {cluster._token}", f"Bearer {cluster.administrator}"):
                        raise Refused(401, "Unauthorized", "Unauthorized")
                    if shown == f"Bearer {cluster._token}":
                        kind = f"{at['kind']}/{at['sub']}" if at["sub"] else at["kind"]
                        cluster._authorise(asked, at["group"], kind)
                    if asked == "create":
                        cluster.posted.append(sent.decode())
                    code, answer = cluster._answer(asked, self.path, json.loads(sent) if sent else None)
                except Refused as refused:
                    code = refused.code
                    answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
                    answer |= {"reason": refused.reason, "message": str(refused)}
                resource = f"{at['kind']}/{at['sub']}" if at["sub"] else at["kind"]
                named = (at["group"], resource, at.get("namespace", ""), at.get("name", ""))
                cluster.asked.append(Asked(asked, *named, code))
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/plain" if isinstance(answer, bytes) else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                self._serve("get")

            def do_POST(self) -> None:
                self._serve("create")

            def do_DELETE(self) -> None:
                self._serve("delete")

            def do_PATCH(self) -> None:
                self._serve("patch")

            def log_message(self, *_: object) -> None:
                """Nothing: what was asked is kept."""

        return Handler


def _listed(kind: str, items: list[dict[str, Any]], namespace: str, query: Mapping[str, str]) -> dict[str, Any]:
    chosen = [each for each in items if not namespace or each["metadata"]["namespace"] == namespace]
    for name, of_several, value in _SELECTOR.findall(query.get("labelSelector", "")):
        wanted = re.split(r", *", of_several or value)
        chosen = [each for each in chosen if each["metadata"].get("labels", {}).get(name) in wanted]
    for selector in filter(None, query.get("fieldSelector", "").split(",")):
        path, _, value = selector.partition("=")
        chosen = [each for each in chosen if _at(each, path) == value]
    version = "batch/v1" if kind == "JobList" else "v1"
    return {"kind": kind, "apiVersion": version, "metadata": {}, "items": chosen}


def _at(found: Any, path: str) -> Any:
    for name in path.split("."):
        found = found.get(name, {})
    return found


def _items(source: Mapping[str, Any], content: Mapping[str, str]) -> dict[str, str]:
    """The files of a mounted ConfigMap or Secret: all its keys, or those that are named, as they are to be called."""
    wanted = source.get("items")
    return dict(content) if wanted is None else {item["path"]: content[item["key"]] for item in wanted}


def _moved(value: str, mounted: Sequence[str], root: Path) -> str:
    """A path of the container that is mounted, or leads to what is, as it is called on this machine."""
    inside = value.startswith("/") and any(
        value == path or value.startswith(f"{path}/") or path.startswith(f"{value}/") for path in mounted
    )
    return f"{root}{value}" if inside else value


def _condition(kind: str, reason: str = "") -> dict[str, str]:
    return {"type": kind, "status": "True", **({"reason": reason} if reason else {})}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
