"""``ml-platform up``: everything people look at, until Ctrl-C."""

import signal
import sys
import threading

from ml_platform import settings
from ml_platform.cli.console import console


def up() -> None:
    """Serve the Dagster UI with its sensors, the MLflow UI and the reports, until Ctrl-C.

    Ports are the home's own (home/ports.json), chosen once so that links stay valid; ML_PLATFORM_DAGSTER_PORT,
    ML_PLATFORM_MLFLOW_PORT and ML_PLATFORM_REPORTS_PORT set them. Logs are in the home's logs folder. Exit code 1 if
    a server ends by itself.
    """
    from ml_platform.serving.servers import ServerFailedError, Servers, only_one, servers
    from ml_platform.stores.instance import prepare_dagster_home

    stop = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, lambda *_: stop.set())
    out = console()
    config = settings.load()
    with only_one(config):
        config = prepare_dagster_home(config)
        try:
            with Servers(config, servers(config)) as running:
                out.print(f"Starting in {config.home}")
                for server in running.wait_until_ready(stop):
                    out.print(f"  [green]✓[/green] {server.title:<15} {server.url}")
                if not stop.is_set():
                    out.print(f"Logs: {config.logs}\nCtrl-C stops everything.")
                while not stop.wait(1):
                    running.check()
                out.print("Stopping …")
        except ServerFailedError as error:
            sys.stderr.write(f"ml-platform: {error}\n")
            sys.exit(1)
    out.print("Stopped.")
