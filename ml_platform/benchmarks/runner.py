"""Runs benchmarks, each side in turn as fresh processes, in homes that are made for it and removed again."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ml_platform.benchmarks.benchmark import Benchmark, Measured
from ml_platform.benchmarks.measuring import Figures, run
from ml_platform.benchmarks.suite import LAND_A_QUARTER


def choose(benchmarks: Sequence[Benchmark], names: Sequence[str]) -> list[Benchmark]:
    """The benchmarks of these names, or all of them, in their own order.

    Raises:
        LookupError: a name is none of theirs; the message names those there are.
    """
    known = [each.name for each in benchmarks]
    if unknown := sorted(set(names) - set(known)):
        raise LookupError(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [each for each in benchmarks if not names or each.name in names]


def measure(benchmarks: Sequence[Benchmark], starting: Callable[[Benchmark], None]) -> Iterator[Measured]:
    """Every benchmark's figures, as they come.

    Args:
        benchmarks: what to measure.
        starting: told of each before it begins.

    Raises:
        WorkFailedError: a side ended with an error.
    """
    with tempfile.TemporaryDirectory(prefix="ml_platform_bench_") as folder:
        homes = _Homes(Path(folder))
        for benchmark in benchmarks:
            starting(benchmark)
            yield _measured(benchmark, homes)


class _Homes:
    """The homes of one run of benchmarks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def of(self, benchmark: Benchmark) -> Iterator[dict[str, str]]:
        """The environment of a process of a benchmark."""
        environment = self._environment()
        if not benchmark.fresh_home:
            yield {**environment, "ML_PLATFORM_HOME": str(self._folder / benchmark.home)}
            return
        with tempfile.TemporaryDirectory(dir=self._folder) as home:
            yield {**environment, "ML_PLATFORM_HOME": home, "ML_PLATFORM_LANDING": str(self._landed() / "landing")}

    def _environment(self) -> dict[str, str]:
        """This process's, with bytecode kept in a place that every process finds, as an installation has it."""
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "PYTHONPYCACHEPREFIX": str(self._folder / "bytecode"), "PYTHONWARNINGS": "ignore"}

    def _landed(self) -> Path:
        """A home in which a quarter has landed, and nothing else happened."""
        home = self._folder / "landed"
        if not home.exists():
            environment = {**self._environment(), "ML_PLATFORM_HOME": str(home)}
            run(LAND_A_QUARTER, environment, tells=False, at_most_seconds=600, at_most_gigabytes=4)
        return home


def _measured(benchmark: Benchmark, homes: _Homes) -> Measured:
    command: list[Figures] = []
    reference: list[Figures] = []
    sides = [(benchmark.command, command), (benchmark.reference, reference)]
    sides = [(side, found) for side, found in sides if side]
    for number in range(benchmark.rounds + benchmark.warm):
        for side, found in sides:
            with homes.of(benchmark) as environment:
                figures = run(
                    side,
                    environment,
                    tells=benchmark.tells,
                    at_most_seconds=benchmark.at_most_seconds,
                    at_most_gigabytes=benchmark.at_most_gigabytes,
                )
            if number or not benchmark.warm:
                found.append(figures)
    return Measured(benchmark, command, reference)
