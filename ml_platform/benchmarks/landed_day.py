"""One more day lands in a home that is up to date: taken in by the asset graph, or by the same functions alone.

``python -m ml_platform.benchmarks.landed_day graph|plain`` brings the platform's home up to date if it is not, lands
the next day, has a fresh process take it in, tells that process's figures and puts the home back as it was.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from ml_platform.benchmarks.measuring import run, tell
from ml_platform.defs import datasets
from ml_platform.defs.nyc_flights.replay import replay
from ml_platform.settings import load
from ml_platform.stores.landing import Landing

_CLI = [sys.executable, "-W", "ignore", "-c", "from ml_platform.cli import main; main()", "run"]
_SIDES = {
    "graph": [*_CLI, "--as-landed"],
    "plain": [sys.executable, "-W", "ignore", "-m", "ml_platform.benchmarks.plain_loop", "day"],
}


def main(side: str) -> None:
    """As the module says."""
    here = load()
    (dataset,) = (each for each in datasets() if each.spec.rehearsal)
    ready = here.home / "ready"
    if not ready.exists():
        subprocess.run(_CLI, check=True, stdout=subprocess.DEVNULL)
        ready.touch()
    watermark = dataset.watermark(Landing(here.landing))
    if watermark is None:
        raise RuntimeError(f"nothing has landed in {here.landing}")
    with _as_it_was(here.home):
        list(replay(here.landing, until=watermark + timedelta(days=1)))
        environment = {**os.environ, "ML_PLATFORM_LANDING_SETTLE_SECONDS": "0"}
        tell(run(_SIDES[side], environment, tells=False, at_most_seconds=600, at_most_gigabytes=8))


@contextmanager
def _as_it_was(home: Path) -> Iterator[None]:
    """Afterwards the home is what it was before, at its place: what is in it names its path."""
    before = Path(shutil.copytree(home, home.with_name(f"{home.name}.before"), symlinks=True))
    try:
        yield
    finally:
        shutil.rmtree(home)
        before.rename(home)


if __name__ == "__main__":
    main(*sys.argv[1:])
