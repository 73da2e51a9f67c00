"""``ml-platform doctor``: is this machine and this home fit for use, and what to do if not."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated

import typer

from ml_platform import settings
from ml_platform.cli.console import console, table, write_json
from ml_platform.settings import Settings

DISTRIBUTION = "ml-platform"
_FREE_GIGABYTES = 2.0
_MOST_SHOWN = 3


class Verdict(StrEnum):
    """How a check ended; only ``failed`` makes the command fail."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it."""

    verdict: Verdict
    found: str
    fix: str = ""

    @property
    def usable(self) -> bool:
        """Whether others can build on what was checked."""
        return self.verdict is not Verdict.FAILED


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Check the machine and the home, each finding with what to do; exit code 1 if one is a failure."""
    checked: dict[str, Finding] = {}
    config = settings.load()
    servers = dict(_connections(config))
    with console(stderr=True).status("Checking …") as progress:
        # Servers first: what needs one that does not answer would ask it again for minutes.
        for name, check in (*servers.items(), *CHECKS.items()):
            progress.update(f"Checking {name} …")
            down = [needed for needed in _NEEDS.get(name, ()) if needed in checked and not checked[needed].usable]
            skipped = Finding(Verdict.WARNING, f"not checked: {', '.join(down)} cannot be used", "mend that first")
            checked[name] = skipped if down else _run(check, config)
    findings = {name: checked[name] for name in (*CHECKS, *servers)}
    failed = [name for name, finding in findings.items() if finding.verdict is Verdict.FAILED]
    if as_json:
        write_json({"ok": not failed, "checks": {name: asdict(finding) for name, finding in findings.items()}})
    else:
        rows = [(name, each.verdict.value, each.found, each.fix) for name, each in findings.items()]
        console().print(table(("check", "verdict", "found", "what to do"), rows))
    if failed:
        sys.exit(1)


def _run(check: Callable[[Settings], Finding], config: Settings) -> Finding:
    try:
        return check(config)
    except Exception as error:  # a check that breaks is a finding too, and the others still count
        return Finding(Verdict.FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}", "see the message")


def _python(_: Settings) -> Finding:
    from importlib.metadata import metadata

    from packaging.specifiers import SpecifierSet

    version, wanted = ".".join(map(str, sys.version_info[:3])), SpecifierSet(metadata(DISTRIBUTION)["Requires-Python"])
    if version not in wanted:
        return Finding(Verdict.FAILED, f"{version} is not {wanted}", f"install Python {wanted}; make clean run")
    return Finding(Verdict.OK, version)


def _packages(_: Settings) -> Finding:
    """Installed versions against what the distribution asks for, and against the lock file of a clone."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    installed: dict[str, str] = {}
    wrong = []
    for requirement in map(Requirement, requires(DISTRIBUTION) or []):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed[requirement.name] = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed[requirement.name], prereleases=True):
            wrong.append(f"{requirement.name} {installed[requirement.name]} is not {requirement.specifier}")
    if wrong:
        return Finding(Verdict.FAILED, _some(wrong), "make run, which installs from the lock file")
    locked = dict(_locked())
    moved = [f"{name} {has}, locked {locked[name]}" for name, has in installed.items() if locked.get(name, has) != has]
    if moved:
        return Finding(Verdict.WARNING, _some(moved), "make clean run, to install what the lock file says")
    return Finding(Verdict.OK, f"{len(installed)} required packages fit" + (" and are as locked" if locked else ""))


def _locked() -> Iterator[tuple[str, str]]:
    from packaging.requirements import Requirement

    lock = settings.PROJECT_ROOT / "requirements.lock"
    for line in lock.read_text().splitlines() if lock.is_file() else []:
        if line and not line.startswith((" ", "#", "-")):
            requirement = Requirement(line.rstrip(" \\"))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement.name, next(iter(requirement.specifier)).version


def _home(config: Settings) -> Finding:
    import tempfile

    try:
        config.home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=config.home):
            pass
    except OSError as error:
        return Finding(Verdict.FAILED, f"{config.home}: {error}", "make it writable, or set ML_PLATFORM_HOME")
    return Finding(Verdict.OK, str(config.home))


def _disk(config: Settings) -> Finding:
    free = shutil.disk_usage(config.home).free / 1e9
    verdict = Verdict.OK if free >= _FREE_GIGABYTES else Verdict.WARNING
    fix = "" if verdict is Verdict.OK else f"free at least {_FREE_GIGABYTES:g} GB, or set ML_PLATFORM_HOME"
    return Finding(verdict, f"{free:.1f} GB free", fix)


def _ports(config: Settings) -> Finding:
    from ml_platform.serving.servers import is_served
    from ml_platform.stores.instance import is_free

    listed = ", ".join(f"{name} {port}" for name, port in config.ports.items())
    if is_served(config):
        return Finding(Verdict.OK, f"{listed}: served now")
    taken = [name for name, port in config.ports.items() if not is_free(config.host, port)]
    settled = set(config.configured_ports) | (set(config.ports) if config.ports_file.is_file() else set())
    if stuck := [name for name in taken if name in settled]:
        variables = ", ".join(map(settings.port_variable, stuck))
        return Finding(
            Verdict.FAILED, f"{listed}: {', '.join(stuck)} taken", f"end what listens there, or set {variables}"
        )
    return Finding(Verdict.OK, listed + (f": {', '.join(taken)} taken, another will be chosen" if taken else ": free"))


def _instance(config: Settings) -> Finding:
    from ml_platform.stores.instance import instance_files

    fix = "ml-platform run or up installs it"
    for name, content in instance_files(config).items():
        file = config.dagster_home / name
        if name == "workspace.yaml" and config.dagster_yaml is not None and not file.is_file():
            continue  # as in a pod, which has the instance's file alone: what is served is named to its servers
        if not file.is_file():
            return Finding(Verdict.WARNING, f"{file} is not there yet", fix)
        if file.read_bytes() != content:
            own = "keep changes in a file of your own and name it with ML_PLATFORM_DAGSTER_YAML"
            return Finding(Verdict.WARNING, f"{file} is not as the settings have it", f"{fix} anew; {own}")
    done = _python_says(
        config,
        "import dagster as dg; i = dg.DagsterInstance.get(); print(type(i.run_coordinator).__name__, i.root_directory)",
    )
    if done.returncode:
        return Finding(Verdict.FAILED, _last_line(done.stderr), f"mend {config.dagster_home / 'dagster.yaml'}")
    return Finding(Verdict.OK, done.stdout.strip())


def _landing(config: Settings) -> Finding:
    from ml_platform.defs import datasets
    from ml_platform.stores.landing import Landing

    tables = [(dataset.landed(Landing(config.landing)), table) for dataset in datasets() for table in dataset.tables]
    if isinstance(config.landing, PurePath) and not config.landing.is_dir():
        return Finding(Verdict.WARNING, f"{config.landing} is not there", "ml-platform replay, or deliver files")
    strangers = [each for landing, table in tables for each in landing.strangers(table)]
    if strangers:
        fix = "rename the files, move them out of the landing folder, or declare their days in dataset.yaml"
        return Finding(Verdict.FAILED, _some(strangers), fix)
    files = sum(len(files) for landing, table in tables for files in landing.periods(table).values())
    return Finding(Verdict.OK, f"{files:,} files of {len(tables)} tables, none unknown")


def _feast(config: Settings) -> Finding:
    from ml_platform.stores.features import FeatureClient

    manifest = FeatureClient(config).manifest()
    return Finding(Verdict.OK, f"{len(manifest.views)} views and {len(manifest.services)} services")


def _definitions(config: Settings) -> Finding:
    code = (
        "import dagster as dg; from ml_platform.definitions import defs; d = defs(); "
        "dg.Definitions.validate_loadable(d); "
        "print(len(d.resolve_asset_graph().get_all_asset_keys()), 'assets')"
    )
    done = _python_says(config, code)
    if done.returncode:
        return Finding(
            Verdict.FAILED, _last_line(done.stderr), "dagster definitions validate -w workspace.yaml says where"
        )
    return Finding(Verdict.OK, done.stdout.strip())


def _mlflow(config: Settings) -> Finding:
    """MLflow runs that say RUNNING although their Dagster run has ended."""
    uri = config.mlflow_tracking_uri
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        return Finding(Verdict.OK, "nothing is logged yet")
    from ml_platform.defs import datasets
    from ml_platform.stores.models import ModelStore

    store = ModelStore(config)
    running = {run: by for data in datasets() for spec in data.models for run, by in store.open_runs(spec.name).items()}
    if not running:
        return Finding(Verdict.OK, "no run is open")
    ended = _ended(config, set(running.values()))
    orphans = [run for run, by in running.items() if ended.get(by, True)]
    if orphans:
        fix = "the model's next training marks them FAILED"
        return Finding(Verdict.WARNING, f"{len(orphans)} runs are open without a process: {_some(orphans)}", fix)
    return Finding(Verdict.OK, f"{len(running)} runs in progress")


def _ended(config: Settings, run_ids: Collection[str]) -> dict[str, bool]:
    """Whether each Dagster run has ended, or is unknown to the home's instance."""
    if not config.dagster_home.is_dir():
        return dict.fromkeys(run_ids, True)
    from dagster import DagsterInstance

    settings.export_dagster_home(config)
    with DagsterInstance.get() as instance:
        runs = {run_id: instance.get_run_by_id(run_id) for run_id in run_ids if run_id}
    return {run_id: run is None or run.is_finished for run_id, run in runs.items()}


def _alerts(config: Settings) -> Finding:
    """Where alerts go; nothing is sent."""
    import logging

    from ml_platform.stores.alert_sinks import sinks

    found = sinks(config, logging.getLogger)
    if found.broken:
        return Finding(Verdict.FAILED, "; ".join(found.broken.values()), "set it right, or unset it")
    return Finding(Verdict.OK, "; ".join(sink.where for sink in found.ready))


def _connections(config: Settings) -> Iterator[tuple[str, Callable[[Settings], Finding]]]:
    """A check for each server and place that the settings name, called as its setting is."""
    from ml_platform.stores.connections import Connection, ConnectionProblem, connections

    def checked(connection: Connection) -> Finding:
        try:
            return Finding(Verdict.OK, f"{connection.place}: {connection.probe()}")
        except ConnectionProblem as problem:
            return Finding(Verdict.FAILED, f"{connection.place}: {problem}", problem.fix)

    for connection in connections(config):
        yield connection.setting, partial(lambda connection, _: checked(connection), connection)


CHECKS: dict[str, Callable[[Settings], Finding]] = {
    "python": _python,
    "packages": _packages,
    "home": _home,
    "disk": _disk,
    "ports": _ports,
    "dagster instance": _instance,
    "landing": _landing,
    "feast": _feast,
    "definitions": _definitions,
    "mlflow runs": _mlflow,
    "alerts": _alerts,
}


_NEEDS: dict[str, tuple[str, ...]] = {
    "dagster instance": ("ML_PLATFORM_DAGSTER_STORAGE_URL",),
    "landing": ("ML_PLATFORM_LANDING",),
    "mlflow runs": ("ML_PLATFORM_MLFLOW_TRACKING_URI", "ML_PLATFORM_DAGSTER_STORAGE_URL"),
}
"""The servers and places that a check asks, by their settings."""


def _python_says(config: Settings, code: str) -> subprocess.CompletedProcess[str]:
    environment = settings.child_environment({"DAGSTER_HOME": str(config.dagster_home), "PYTHONWARNINGS": "ignore"})
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"


def _some(things: list[str]) -> str:
    more = f"; and {len(things) - _MOST_SHOWN} more" if len(things) > _MOST_SHOWN else ""
    return "; ".join(things[:_MOST_SHOWN]) + more
