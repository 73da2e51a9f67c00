"""What people do by a runbook: its commands, read out of its text, and what they mean on the stand-in.

kubectl's commands are carried out by what they mean to the API, jq's edits by what they make of a Job, so that neither
program is needed. A command, option or edit that is not known here fails: a runbook does not drift from its walk.
"""

import argparse
import json
import re
import shlex
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ml_platform_tests.deploy.chart import NAMESPACE
from ml_platform_tests.kubernetes.cluster import Cluster

BOOKS = Path(__file__).parents[2] / "deploy" / "runbooks"
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_ENDED = "jsonpath={.status.conditions[0].status}=True"
"""That a Job has ended, well or not: one that is under way has no condition."""
_CONTAINER = ".spec.template.spec.containers[0]"
_ASSIGNMENT = r"\.(?P<field>\w+) = (?P<value>\$\w+|\[[^\]]*\])"
_PLAIN = re.sub(r"\?P<\w+>", "?:", _ASSIGNMENT)
_EDIT = re.compile(rf"{re.escape(_CONTAINER)}(?:{_PLAIN}| \|= \({_PLAIN}(?: \| {_PLAIN})*\))")


def commands(book: str, section: str = "", step: int | None = None) -> list[str]:
    """The lines of a runbook's blocks, those of one section, or of one of its numbered steps.

    Args:
        book: its name, without ``.md``.
        section: its heading; empty for what comes before the first.
        step: its number.
    """
    parts = re.split(r"^## (.*)\n", (BOOKS / f"{book}.md").read_text(), flags=re.MULTILINE)
    text = {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}[section]
    if step is not None:
        steps = re.split(r"^(\d+)\. ", text, flags=re.MULTILINE)
        text = dict(zip(steps[1::2], steps[2::2], strict=True))[str(step)]
        # What is not indented follows the last step.
        text = re.split(r"^(?=\S)", "   " + text, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^ *```\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines()]


def edited(document: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """What jq prints of a Job whose container's fields are set; ``words`` are its arguments."""
    given: dict[str, Any] = {}
    [*options, program] = words
    while options:
        option, name, value, *options = options
        assert option == "--arg", f"jq {option} is not known here"
        given[name] = value
    assert _EDIT.fullmatch(program), f"jq: {program} is not known here"
    result = deepcopy(dict(document))
    container = result["spec"]["template"]["spec"]["containers"][0]
    for field, value in re.findall(_ASSIGNMENT, program):
        container[field] = given[value[1:]] if value.startswith("$") else json.loads(value)
    return result


class Kubectl:
    """An administrator's, of the stand-in.

    Args:
        cluster: whose.
        scale: told of a Deployment and how many of it there are to be.
        execute: runs a command where a Deployment's container is, and gives what it prints.
    """

    def __init__(
        self, cluster: Cluster, scale: Callable[[str, int], None], execute: Callable[[str, Sequence[str]], str]
    ) -> None:
        self._cluster, self._scale, self._execute = cluster, scale, execute

    def run(self, line: str) -> str:
        """Carry a line out, with what its pipes connect; what the last command prints.

        Raises:
            AssertionError: a Job failed that was waited for, or something is not known here.
        """
        printed = ""
        for words in piped(line):
            if words[0] == "jq":
                printed = json.dumps(edited(json.loads(printed), words[1:]))
            else:
                assert words[:3] == ["kubectl", "-n", NAMESPACE], f"not known here: {' '.join(words)}"
                printed = self._run(words[3:], printed)
        return printed

    def _run(self, words: Sequence[str], given: str) -> str:
        if words[0] == "exec":
            _, name, dashes, *command = words
            assert dashes == "--"
            return self._execute(name, command)
        verb = words[0]
        told = _ARGUMENTS[verb].parse_intermixed_args(words[1:])
        printed: Any = ""
        if verb == "create":
            printed = self._create(told, given)
        elif verb == "scale":
            for name in told.named:
                self._scale(_named("deployment", name), told.replicas)
        elif verb == "wait":
            self._wait(told)
        elif verb == "logs":
            [job] = told.named
            return self._log(job)
        elif verb == "patch":
            [name] = told.named
            printed = self._ask("PATCH", f"cronjobs/{_named('cronjob', name)}", json.loads(told.patch))
        elif verb == "get":
            [name] = told.named
            there = self._listed("jobs", told.selector) if name == "jobs" else None
            printed = self._ask("GET", f"cronjobs/{_named('cronjob', name)}") if there is None else there
        elif verb == "delete":
            self._delete(told)
        return json.dumps(printed)

    def _create(self, told: argparse.Namespace, given: str) -> Any:
        if told.filename:
            assert told.filename == "-"
            return self._ask("POST", "jobs", json.loads(given))
        kind, name = told.named
        assert kind == "job"
        job = self._job_of(told.source, name)
        if told.dry_run:
            assert (told.dry_run, told.output) == ("client", "json")
            return job
        return self._ask("POST", "jobs", job)

    def _job_of(self, source: str, name: str) -> dict[str, Any]:
        """As ``create job --from`` makes it."""
        owner = self._ask("GET", f"cronjobs/{_named('cronjob', source)}")
        template = owner["spec"]["jobTemplate"]
        metadata = template.get("metadata", {})
        annotations = {"cronjob.kubernetes.io/instantiate": "manual", **metadata.get("annotations", {})}
        labels = {"labels": metadata["labels"]} if "labels" in metadata else {}
        of = {"apiVersion": "batch/v1", "kind": "CronJob", "name": owner["metadata"]["name"], "controller": True}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": name,
                "namespace": NAMESPACE,
                "annotations": annotations,
                "ownerReferences": [{**of, "uid": owner["metadata"]["uid"]}],
                **labels,
            },
            "spec": deepcopy(template["spec"]),
        }

    def _listed(self, kind: str, selector: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("GET", f"{kind}?labelSelector={urllib.parse.quote(selector)}")["items"]
        return found

    def _delete(self, told: argparse.Namespace) -> None:
        kind, *names = told.named
        if told.selector:
            assert kind == "jobs"
            names = [job["metadata"]["name"] for job in self._listed("jobs", told.selector)]
        else:
            assert kind == "job"
            if told.ignore_not_found:
                there = {job["metadata"]["name"] for job in self._listed("jobs", "")}
                names = [name for name in names if name in there]
        for name in names:
            self._ask("DELETE", f"jobs/{name}", {"propagationPolicy": "Background"})

    def _wait(self, told: argparse.Namespace) -> None:
        end = time.monotonic() + int(told.timeout[:-1]) * _SECONDS[told.timeout[-1]]
        if told.condition == "delete":
            assert (told.named, bool(told.selector)) == (["pods"], True)
            while there := self._listed("pods", told.selector):
                assert time.monotonic() < end, f"{len(there)} pods are still there"
                time.sleep(0.25)
            return
        assert told.condition in ("condition=complete", _ENDED)
        [job] = told.named
        status: dict[str, Any] = {}
        while "failed" not in status:
            status = self._ask("GET", f"jobs/{_named('job', job)}")["status"]
            conditions = [each["type"] for each in status.get("conditions", [])]
            if "Complete" in conditions or (conditions and told.condition == _ENDED):
                return
            assert time.monotonic() < end, f"{job} goes on"
            time.sleep(0.25)
        raise AssertionError(f"{job} failed:\n{self._log(job)}")

    def _log(self, named: str) -> str:
        """All of it, once the pod has ended."""
        pod = self._cluster.jobs[_named("job", named)].pod
        assert pod.process is not None, pod.waiting
        pod.process.wait()
        return pod.log.read_text(errors="replace")

    def _ask(self, method: str, what: str, body: object = None) -> Any:
        group = "api" if what.startswith("pods") else "apis/batch"
        asked = urllib.request.Request(
            f"{self._cluster.url}/{group}/v1/namespaces/{NAMESPACE}/{what}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._cluster.administrator}"},
        )
        try:
            with urllib.request.urlopen(asked) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            raise AssertionError(f"{method} {what}: {json.load(refused)['message']}") from None


def piped(line: str) -> list[list[str]]:
    """The words of each command of a line, by the shell's quotes."""
    found: list[list[str]] = [[]]
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|")
    lexer.whitespace_split, lexer.commenters = True, ""
    for word in lexer:
        if word == "|":
            found.append([])
        else:
            found[-1].append(word)
    return found


def _named(kind: str, name: str) -> str:
    """The name in ``kind/name``."""
    found, _, rest = name.partition("/")
    assert found == kind, f"{name} is no {kind}"
    return rest


def _arguments(*named: str, **options: Any) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kubectl", allow_abbrev=False)
    for count in named:
        parser.add_argument("named", nargs=count)
    for option, told in options.items():
        parser.add_argument(f"--{option.replace('_', '-')}", **told)
    return parser


_TEXT: dict[str, Any] = {"default": ""}
_NEEDED: dict[str, Any] = {"required": True}
_SWITCH: dict[str, Any] = {"action": "store_true"}
_ARGUMENTS = {
    "create": _arguments("*", **{"from": {"dest": "source"}}, dry_run=_TEXT, output=_TEXT, filename=_TEXT),
    "scale": _arguments("+", replicas={"type": int, **_NEEDED}),
    "wait": _arguments("+", **{"for": {"dest": "condition", **_NEEDED}}, timeout=_NEEDED, selector=_TEXT),
    "logs": _arguments("+", follow={**_SWITCH, **_NEEDED}),
    "get": _arguments("+", selector=_TEXT),
    "delete": _arguments("+", selector=_TEXT, ignore_not_found=_SWITCH),
    "patch": _arguments("+", patch=_NEEDED),
}
"""What is known here of kubectl's commands."""
