"""What is measured: every claim of speed that the project makes, beside its reference, with what it must reach."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ml_platform.benchmarks.benchmark import Benchmark, Bound

_PYTHON = [sys.executable, "-W", "ignore"]
_CLI = [*_PYTHON, "-c", "from ml_platform.cli import main; main()"]
LAND_A_QUARTER = [*_CLI, "replay", "--until", "2013-04-01"]
"""What lands before a benchmark with a fresh home begins."""

# Until it is loaded: a code server does not end there, so neither side's shutdown counts.
_LOAD = "import os; from ml_platform.definitions import defs; defs().get_repository_def(); os._exit(0)"

Scaled = Callable[[int], int]

_MILLION, _TEN_MINUTES = 1_000_000, 600.0


def _workload(name: str, *arguments: object) -> list[str]:
    return [*_PYTHON, "-m", f"ml_platform.benchmarks.{name}", *map(str, arguments)]


def suite(rows: float = 1.0, *, quick: bool = False) -> list[Benchmark]:
    """All benchmarks, in an order in which each finds what it needs.

    Args:
        rows: every number of rows is multiplied by it.
        quick: leave out what takes minutes whatever its rows are, and measure once.
    """

    def scaled(number: int) -> int:
        return max(1000, int(number * rows))

    found = [*_training_sets(scaled), *_tables(scaled), *_the_loop(), *_automation()]
    if not quick:
        return found
    return [replace(each, rounds=1, warm=False) for each in found if not each.slow]


def _training_sets(scaled: Scaled) -> Sequence[Benchmark]:
    few, more, many = scaled(337_000), scaled(3 * _MILLION), scaled(10 * _MILLION)
    shape = "4 views x 5 features"
    return [
        Benchmark(
            name="training_set",
            work=f"training set, {few:,} rows x {shape}",
            command=_workload("retrieval", "ours", few),
            beside="polars join_asof by hand",
            reference=_workload("retrieval", "by_hand", few),
            bounds=[Bound("seconds", at_most=1.3), Bound("gigabytes", at_most=1.5)],
            tells=True,
            same_answer=True,
        ),
        Benchmark(
            name="training_set_stock",
            work=f"training set, {few:,} rows x {shape}",
            command=_workload("retrieval", "ours", few),
            beside="Feast's DuckDB store",
            reference=_workload("retrieval", "stock", few),
            rounds=3,
            tells=True,
            same_answer=True,
        ),
        Benchmark(
            name="training_set_3m",
            work=f"training set, {more:,} rows x {shape}",
            command=_workload("retrieval", "ours", more),
            beside="Feast's DuckDB store, at most 10 minutes and 20 GB",
            reference=_workload("retrieval", "stock", more),
            bounds=[Bound("seconds", at_most=1 / 50)],
            rounds=1,
            tells=True,
            same_answer=True,
            warm=False,
            at_most_seconds=_TEN_MINUTES,
        ),
        Benchmark(
            name="training_set_10m",
            work=f"training set, {many:,} rows x {shape}, seconds a million rows",
            command=_workload("retrieval", "ours", many),
            beside="a tenth as many rows",
            reference=_workload("retrieval", "ours", many // 10),
            bounds=[
                Bound("seconds_per_million", at_most=1.3),
                Bound("process_gigabytes", at_most=8.0, ratio=False),
            ],
            rounds=3,
            tells=True,
            warm=False,
        ),
        Benchmark(
            name="training_set_history",
            work=f"training set, {few:,} rows x {shape}, ten times the history",
            command=_workload("retrieval", "ours", few, 10),
            beside="the history",
            reference=_workload("retrieval", "ours", few),
            bounds=[Bound("seconds", at_most=3.0)],
            rounds=3,
            tells=True,
        ),
    ]


def _tables(scaled: Scaled) -> Sequence[Benchmark]:
    searched = f"tuning, {scaled(300_000):,} rows x 20 features, five seeds, the same CPU each"
    return [
        Benchmark(
            name="online_write",
            work=f"online write, {scaled(300_000):,} keys x 5 features, each read back",
            command=_workload("online_write", "ours", scaled(300_000)),
            beside="Feast's materialize, DuckDB to SQLite",
            reference=_workload("online_write", "stock", scaled(300_000)),
            bounds=[Bound("rows_per_cpu_second", at_least=5.0)],
            rounds=3,
            tells=True,
            same_answer=True,
        ),
        Benchmark(
            name="drift",
            work=f"drift, {scaled(3 * _MILLION):,} rows x 20 columns, all of them",
            command=_workload("drift", "ours", scaled(3 * _MILLION)),
            beside="PSI in NumPy",
            reference=_workload("drift", "numpy", scaled(3 * _MILLION)),
            bounds=[Bound("cpu_seconds", at_most=1.0)],
            tells=True,
            same_answer=True,
        ),
        Benchmark(
            name="drift_engines",
            work=f"drift, {scaled(3 * _MILLION):,} rows x 20 columns, all of them",
            command=_workload("drift", "ours", scaled(3 * _MILLION)),
            beside="PSI in DuckDB",
            reference=_workload("drift", "duckdb", scaled(3 * _MILLION)),
            bounds=[Bound("cpu_seconds", at_most=1.0)],
            tells=True,
            same_answer=True,
        ),
        Benchmark(
            name="windows",
            work=f"rolling windows, {scaled(600_000):,} arrivals by route: 12 statistics at each event and expiry",
            command=_workload("windows", "ours", scaled(600_000), "route"),
            beside="DuckDB",
            reference=_workload("windows", "duckdb", scaled(600_000), "route"),
            bounds=[Bound("cpu_seconds", at_most=1.0)],
            rounds=3,
            tells=True,
            same_answer=True,
        ),
        Benchmark(
            name="windows_grid",
            work=f"rolling windows, {scaled(3 * _MILLION):,} arrivals by origin: 12 statistics every 15 minutes",
            command=_workload("windows", "ours", scaled(3 * _MILLION), "origin"),
            beside="DuckDB",
            reference=_workload("windows", "duckdb", scaled(3 * _MILLION), "origin"),
            bounds=[Bound("cpu_seconds", at_most=1.0)],
            rounds=3,
            tells=True,
            same_answer=True,
        ),
        Benchmark(
            name="tuning",
            work=f"{searched}, `pruning: halving`",
            command=_workload("tuning", "halving", scaled(300_000)),
            beside="an objective that cross-validates each trial",
            reference=_workload("tuning", "naive", scaled(300_000)),
            bounds=[Bound("trials", at_least=8.0), Bound("auc", at_least=1.0)],
            rounds=1,
            tells=True,
            warm=False,
            at_most_seconds=3600.0,
        ),
        Benchmark(
            name="tuning_median",
            work=f"{searched}, the default pruner",
            command=_workload("tuning", "median", scaled(300_000)),
            beside="an objective that cross-validates each trial",
            reference=_workload("tuning", "naive", scaled(300_000)),
            shows=("trials", "auc"),
            rounds=1,
            tells=True,
            warm=False,
            at_most_seconds=3600.0,
        ),
    ]


def _the_loop() -> Sequence[Benchmark]:
    return [
        Benchmark(
            name="code_location",
            work="load the code location",
            command=[*_PYTHON, "-c", _LOAD],
            beside="an empty Dagster project, as scaffolded",
            reference=[*_PYTHON, str(Path(__file__).parent / "empty_project" / "load.py")],
            bounds=[Bound("seconds", at_most=1.3)],
        ),
        Benchmark(
            name="run",
            work="`ml-platform run` in an empty home: a quarter, two models",
            command=[*_CLI, "run"],
            bounds=[Bound("seconds", at_most=240.0, ratio=False), Bound("gigabytes", at_most=4.0, ratio=False)],
            rounds=1,
            warm=False,
            slow=True,
        ),
        Benchmark(
            name="run_again",
            work="`ml-platform run` with nothing new",
            command=[*_CLI, "run"],
            bounds=[Bound("seconds", at_most=30.0, ratio=False)],
            rounds=3,
            warm=False,
            slow=True,
        ),
        Benchmark(
            name="landed_day",
            work="one landed day through the graph, both models",
            command=_workload("landed_day", "graph"),
            beside="the same functions in a plain script",
            reference=_workload("landed_day", "plain"),
            bounds=[Bound("seconds", at_most=1.5)],
            tells=True,
            slow=True,
        ),
        Benchmark(
            name="quarter",
            work="a quarter through the graph, from nothing to reports",
            command=[*_CLI, "run", "--as-landed"],
            beside="the same functions in a plain script",
            reference=_workload("plain_loop"),
            bounds=[Bound("seconds", at_most=1.5)],
            rounds=3,
            warm=False,
            fresh_home=True,
            slow=True,
        ),
    ]


def _automation() -> Sequence[Benchmark]:
    return [
        Benchmark(
            name="landed_to_started",
            work="a day's files landed to its run started, 95th percentile of 40, with the daemons of `ml-platform up`",
            command=_workload("automation", "latency"),
            bounds=[Bound("seconds", at_most=10.0, ratio=False)],
            rounds=1,
            tells=True,
            home="watched",
            warm=False,
            at_most_seconds=3600.0,
            slow=True,
        ),
        Benchmark(
            name="year",
            work="the year, driven",
            command=[*_CLI, "replay", "--until", "2014-01-02", "--drive"],
            bounds=[Bound("seconds", at_most=2700.0, ratio=False), Bound("gigabytes", at_most=6.0, ratio=False)],
            rounds=1,
            home="year",
            warm=False,
            at_most_seconds=7200.0,
            slow=True,
        ),
        Benchmark(
            name="conditions",
            work="an evaluation of every automation condition after the year, 365 partitions",
            command=_workload("automation", "evaluation"),
            bounds=[Bound("seconds", at_most=1.0, ratio=False)],
            rounds=1,
            tells=True,
            home="year",
            warm=False,
            slow=True,
        ),
    ]
