"""``make bench``: the platform beside its references and bounds, measured in one run.

A comparison is two commands, run in turn as fresh processes so that a busy machine slows both; what counts is the
ratio of their medians. A limit is one command with bounds on its seconds and its memory. Exit code 1 if a bound is
exceeded. ``python -m ml_platform_tests.bench NAME`` measures those whose name contains NAME.
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
from rich.table import Table

_QUARTER = "2013-04-01"


@dataclass(frozen=True)
class Measured:
    """One fresh process: wall-clock seconds, and peak memory of the process in GB."""

    seconds: float
    gigabytes: float


@dataclass(frozen=True)
class Benchmark:
    """A command, and the command it is measured against or the seconds and memory it may take.

    With ``fresh_home`` every process starts without any state but the landed quarter; others share the home of the name
    ``home``. A command that ``prints_seconds`` says itself what counts, as its last line.
    """

    name: str
    subject: Sequence[str]
    reference: Sequence[str] = ()
    bound: float = 1.5
    gigabytes: float = 4.0
    rounds: int = 5
    fresh_home: bool = False
    home: str = "home"
    prints_seconds: bool = False


def benchmarks() -> list[Benchmark]:
    """All benchmarks, in an order in which each finds what it needs."""
    python = [sys.executable, "-W", "ignore"]
    # Until it is loaded: a code server does not end there, so neither side's shutdown counts.
    load = "import os; from ml_platform.definitions import defs; defs().get_repository_def(); os._exit(0)"
    command = [*python, "-c", "from ml_platform.cli import main; main()"]
    run, automation = [*command, "run"], [*python, "-m", "ml_platform_tests.automation_bench"]
    retrieval = [*python, "-m", "ml_platform_tests.asof_bench"]
    year = {"home": "year", "rounds": 1}
    return [
        Benchmark(
            name="load the code location / an empty Dagster project, as scaffolded",
            subject=[*python, "-c", load],
            reference=[*python, str(Path(__file__).parent / "empty_project" / "load.py")],
        ),
        Benchmark(
            name="a training set, 337,000 rows x 4 views x 5 features / polars by hand",
            subject=[*retrieval, "ours", "337000"],
            reference=[*retrieval, "by_hand", "337000"],
            bound=1.3,
            prints_seconds=True,
        ),
        Benchmark(
            name="a training set, 337,000 rows / Feast's DuckDB store",
            subject=[*retrieval, "ours", "337000"],
            reference=[*retrieval, "stock", "337000"],
            bound=0.2,
            rounds=3,
            prints_seconds=True,
        ),
        Benchmark(
            name="a training set, 10,000,000 rows x 4 views x 5 features (seconds)",
            subject=[*retrieval, "ours", "10000000"],
            bound=600,
            gigabytes=8.0,
            rounds=1,
            prints_seconds=True,
        ),
        Benchmark(
            name="a training set, 337,000 rows, history x 10 / history x 1",
            subject=[*retrieval, "ours", "337000", "10"],
            reference=[*retrieval, "ours", "337000"],
            bound=3,
            rounds=3,
            prints_seconds=True,
        ),
        Benchmark(
            name="the loop over a quarter in Dagster / in a plain script",
            subject=[*run, "--as-landed"],
            reference=[*python, "-m", "ml_platform_tests.plain_loop"],
            rounds=3,
            fresh_home=True,
        ),
        Benchmark(name="make run on a fresh home (seconds)", subject=run, bound=240, rounds=1),
        Benchmark(name="make run with nothing new (seconds)", subject=run, bound=30, rounds=3),
        Benchmark(
            name="a day's files landed to its run started, 95th percentile of 20 (seconds)",
            subject=[*automation, "latency"],
            bound=10,
            rounds=1,
            home="watched",
            prints_seconds=True,
        ),
        Benchmark(
            name="the year, driven (seconds)",
            subject=[*command, "replay", "--until", "2014-01-02", "--drive"],
            bound=2700,
            gigabytes=6.0,
            **year,
        ),
        Benchmark(
            name="an evaluation of every condition after the year (seconds)",
            subject=[*automation, "evaluation"],
            bound=1,
            prints_seconds=True,
            **year,
        ),
    ]


def measure(
    command: Sequence[str], home: Path, landing: Path | None = None, *, prints_seconds: bool = False
) -> Measured:
    """A fresh process with a platform home, and a landing folder of its own if one is given."""
    extra = {} if landing is None else {"ML_PLATFORM_LANDING": str(landing)}
    env = {**os.environ, "ML_PLATFORM_HOME": str(home), **extra}
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        printed = process.stdout.read().splitlines()
        errors.seek(0)
        said = errors.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{said[-2000:]}")
    if prints_seconds:
        seconds = float(printed[-1])
    return Measured(seconds, usage.ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6))


def rounds_of(bench: Benchmark, folder: Path, landing: Path) -> tuple[list[Measured], list[Measured]]:
    """Every round of the subject and of its reference, in turn."""
    subject, reference = [], []
    for number in range(bench.rounds):
        for command, found in ((bench.subject, subject), (bench.reference, reference)):
            if not command:
                continue
            if bench.fresh_home:
                with tempfile.TemporaryDirectory(dir=folder) as home:
                    found.append(measure(command, Path(home), landing))
            else:
                if not number and bench.reference:
                    measure(command, folder / "home")  # caches of bytecode and of manifests are not what is measured
                found.append(measure(command, folder / bench.home, prints_seconds=bench.prints_seconds))
    return subject, reference


def main() -> int:
    """Run the benchmarks and show medians beside their references and bounds."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    table = Table("benchmark", "rounds", "median s", "reference s", "ratio", "bound", "peak GB", title="medians")
    exceeded, shown = 0, Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        landing = folder / "landed" / "landing"
        replay = [sys.executable, "-c", "from ml_platform.cli import main; main()", "replay", "--until", _QUARTER]
        measure(replay, folder / "landed")
        for bench in benchmarks():
            if wanted not in bench.name:
                continue
            shown.print(bench.name, style="dim")
            subject, reference = rounds_of(bench, folder, landing)
            seconds = statistics.median(each.seconds for each in subject)
            memory = max(each.gigabytes for each in subject)
            rival = statistics.median(each.seconds for each in reference) if reference else None
            judged = seconds if rival is None else seconds / rival
            over = judged > bench.bound or memory > bench.gigabytes
            exceeded += over
            table.add_row(
                bench.name,
                str(bench.rounds),
                f"{seconds:.2f}",
                "" if rival is None else f"{rival:.2f}",
                "" if rival is None else f"{judged:.2f}",
                f"{bench.bound:g}",
                f"{memory:.2f}",
                style="red" if over else "",
            )
    Console().print(table)
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
