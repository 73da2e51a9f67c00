"""The home as Dagster and its viewers find it: the instance's configuration, and ports that stay the same.

Links to Dagster, MLflow and reports are stored with every materialisation, so they must open again when the home is
served next. The ports are therefore chosen once, by whichever command first makes links, and kept in the home.
"""

import fcntl
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from ml_platform.settings import Settings, child_environment, export_dagster_home
from ml_platform.stores.files import write_whole
from ml_platform.stores.run_launcher import kubernetes_sections

_MAKE_STORAGE = (
    "import dagster as dg; i = dg.DagsterInstance.get(); i.run_storage, i.event_log_storage, i.schedule_storage"
)
_PORT_STEP, _PORT_TRIES = 10, 100
_UPLOAD_SECONDS = 15
"""How often the output of a step at work is written to object storage: what people see of it is no older."""

_TEMPLATE = Path(__file__).with_name("dagster_home")
_INSTANCE = "dagster.yaml"


def prepare_dagster_home(settings: Settings) -> Settings:
    """Make the home ready for Dagster, and point this process and its children at it.

    Installs ``dagster.yaml`` and ``workspace.yaml``, makes the instance's storage, settles the ports, and exports
    ``DAGSTER_HOME``. Running it again changes nothing.

    Returns:
        The settings with the ports that links are to carry; loading them anew gives the same.

    Raises:
        FileNotFoundError: ``ML_PLATFORM_DAGSTER_YAML`` names no file.
        ValueError: Dagster cannot use the configuration; the message says why.
    """
    home = settings.dagster_home
    for name, content in instance_files(settings).items():
        if not (home / name).is_file() or (home / name).read_bytes() != content:
            write_whole(home / name, content)
    export_dagster_home(settings)
    _make_storage(home)
    return settle_ports(settings)


def instance_files(settings: Settings) -> dict[str, bytes]:
    """The files of ``DAGSTER_HOME`` that the platform installs, by name.

    Raises:
        FileNotFoundError, ValueError: as :func:`prepare_dagster_home` says.
    """
    files = {path.name: path.read_bytes() for path in sorted(_TEMPLATE.iterdir())}
    if settings.dagster_yaml is not None:
        return files | {_INSTANCE: settings.dagster_yaml.read_bytes()}
    return files | {_INSTANCE: _configured(files[_INSTANCE], settings)}


def _configured(template: bytes, settings: Settings) -> bytes:
    """The platform's own ``dagster.yaml``, with the sections that settings decide.

    Raises:
        ValueError: what Kubernetes needs is not set.
    """
    sections: dict[str, object] = {**kubernetes_sections(settings)}
    if settings.on_kubernetes and not settings.dagster_storage_url:
        raise ValueError(
            "ML_PLATFORM_EXECUTION is kubernetes, and ML_PLATFORM_DAGSTER_STORAGE_URL not set: pods share no disk"
        )
    if settings.dagster_storage_url:
        sections["storage"] = {"postgres": {"postgres_url": settings.dagster_storage_url}}
    if settings.compute_logs_uri:
        sections["compute_logs"] = _compute_logs(settings)
    if not sections:
        return template
    note = (
        f"# From {_TEMPLATE.name}/{_INSTANCE} of the package, with what ML_PLATFORM_* says of: {', '.join(sections)}.\n"
    )
    return (note + yaml.safe_dump(yaml.safe_load(template) | sections, sort_keys=False)).encode()


def _compute_logs(settings: Settings) -> dict[str, object]:
    """Where the output of steps is kept that all machines are to see.

    Endpoint, keys, region and authority are boto3's to find (``AWS_*``): what is written here would win over them.
    """
    bucket, _, prefix = settings.compute_logs_uri.removeprefix("s3://").partition("/")
    return {
        "module": "dagster_aws.s3",
        "class": "S3ComputeLogManager",
        "config": {
            "bucket": bucket,
            "prefix": prefix,
            # Where a process gathers what it uploads, and keeps what it was asked for.
            "local_dir": str(settings.dagster_home / "storage"),
            "upload_interval": _UPLOAD_SECONDS,
        },
    }


def settle_ports(settings: Settings) -> Settings:
    """The settings with the home's ports, chosen and kept if it has none yet.

    A configured port is taken as it is. Otherwise the home's own stays; a new home gets the default, or the next free
    one in steps of ten if another program has that.

    Raises:
        OSError: a hundred ports in a row are taken.
    """
    for _ in range(2):
        kept = _read(settings.ports_file)
        ports: dict[str, int] = {}
        for name, port in settings.ports.items():
            fixed = name in settings.configured_ports or name in kept
            ports[name] = port if fixed else _free_port(settings.host, port, set(ports.values()))
        if ports == kept or _keep(settings.ports_file, ports, first=not kept):
            return settings.with_ports(ports)
        # Another process settled them meanwhile: take its choice.
        settings = settings.with_ports(
            {name: port for name, port in _read(settings.ports_file).items() if name not in settings.configured_ports}
        )
    return settings


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _make_storage(home: Path) -> None:
    """Have one process make the instance's tables.

    Two that do it at once (webserver and daemon of a new home) each record the schema's revision in SQLite, and no
    process can open the instance again: "more than one head present".
    """
    done = home / "storage.made"
    with (home / "storage.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.is_file():
            return
        environment = child_environment({"DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"})
        made = subprocess.run(
            [sys.executable, "-c", _MAKE_STORAGE], env=environment, capture_output=True, text=True, check=False
        )
        if made.returncode:
            reason = (made.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise ValueError(f"Dagster cannot use {home / 'dagster.yaml'}: {reason}")
        done.touch()


def _free_port(host: str, first: int, taken: set[int]) -> int:
    for port in range(first, min(first + _PORT_STEP * _PORT_TRIES, 65536), _PORT_STEP):
        if port not in taken and is_free(host, port):
            return port
    raise OSError(f"no free port on {host} among {first}, {first + _PORT_STEP}, … ({_PORT_TRIES} tried)")


def _read(file: Path) -> dict[str, int]:
    with suppress(FileNotFoundError):
        return dict(json.loads(file.read_text()))
    return {}


def _keep(file: Path, ports: Mapping[str, int], *, first: bool) -> bool:
    """Write the ports; false if ``first`` and another process was faster."""
    content = (json.dumps(ports) + "\n").encode()
    if not first:
        write_whole(file, content)
        return True
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    draft.write_bytes(content)
    try:
        os.link(draft, file)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True
