"""``make bench``: the platform beside its references, measured in one run.

A benchmark is two commands, run in turn as fresh processes so that a busy machine slows both; what counts is the ratio
of their medians. Another benchmark is another entry of :func:`benchmarks`. Exit code 1 if a bound is exceeded.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROUNDS = 5


@dataclass(frozen=True)
class Benchmark:
    """A command, the command it is measured against, and how many times longer it may take."""

    name: str
    subject: Sequence[str]
    reference: Sequence[str]
    bound: float


def benchmarks() -> list[Benchmark]:
    """All benchmarks."""
    python = [sys.executable, "-W", "ignore", "-c"]
    empty = "import dagster; dagster.Definitions().get_repository_def()"
    return [
        Benchmark(
            name="load the code location / an empty Dagster project",
            subject=[*python, "from ml_platform.definitions import defs; defs.get_repository_def()"],
            reference=[*python, empty],
            bound=1.5,
        )
    ]


def measure(command: Sequence[str], home: Path) -> float:
    """Wall-clock seconds of a fresh process with a platform home."""
    started = time.perf_counter()
    env = {**os.environ, "ML_PLATFORM_HOME": str(home)}
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> int:
    """Run every benchmark and show medians beside their references."""
    table = Table("benchmark", "median s", "reference s", "ratio", "bound", title=f"medians of {ROUNDS}")
    exceeded = 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for bench in benchmarks():
            for command in (
                bench.subject,
                bench.reference,
            ):  # caches of bytecode and of manifests are not what is measured
                measure(command, home)
            rounds = track(range(ROUNDS), description=bench.name, console=Console(stderr=True))
            pairs = [(measure(bench.subject, home), measure(bench.reference, home)) for _ in rounds]
            subject, reference = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = subject / reference
            exceeded += ratio > bench.bound
            row = (bench.name, f"{subject:.2f}", f"{reference:.2f}", f"{ratio:.2f}", f"{bench.bound:.2f}")
            table.add_row(*row, style="red" if ratio > bench.bound else "")
    Console().print(table)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
