"""What is measured, and what is said of it. How fast anything is, is not asked here."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ml_platform.benchmarks import report
from ml_platform.benchmarks.benchmark import Benchmark, Bound, Measured
from ml_platform.benchmarks.measuring import WorkFailedError, measured, run
from ml_platform.benchmarks.runner import choose, measure
from ml_platform.benchmarks.suite import suite
from ml_platform.cli import app

AT_MOST = Bound("seconds", at_most=2.0)


def python(code: str, **limits: Any) -> dict[str, Any]:
    given = {"tells": False, "at_most_seconds": 60.0, "at_most_gigabytes": 4.0, **limits}
    return run([sys.executable, "-c", code], os.environ, **given)


def of(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], *bounds: Bound, **more: Any) -> Measured:
    return Measured(Benchmark("one", "some work", ["ours"], "theirs", ["theirs"], bounds, **more), ours, theirs)


def test_a_ratio_is_of_medians_and_may_be_just_as_large_as_its_bound():
    ours, theirs = [{"seconds": s} for s in (2.0, 100.0, 1.0)], [{"seconds": s} for s in (1.0, 1.0, 50.0)]
    (verdict,) = of(ours, theirs, AT_MOST).verdicts()
    assert (verdict.value, verdict.holds) == (2.0, True)
    (verdict,) = of([{"seconds": 2.1}], theirs, AT_MOST).verdicts()
    assert not verdict.holds


def test_a_bound_may_be_of_the_figure_itself_or_from_below():
    ours, theirs = [{"trials": 16.0, "gigabytes": 3.0}], [{"trials": 2.0, "gigabytes": 9.0}]
    verdicts = of(ours, theirs, Bound("trials", at_least=8.0), Bound("gigabytes", at_most=2.0, ratio=False)).verdicts()
    assert [(verdict.value, verdict.holds) for verdict in verdicts] == [(8.0, True), (3.0, False)]


def test_who_finishes_where_the_reference_died_keeps_the_bound_and_not_the_other_way_round():
    died, done = [{"died": "its time was over"}], [{"seconds": 500.0}]
    assert of(done, died, AT_MOST).holds
    assert not of(died, done, AT_MOST).holds
    assert not of(died, died, AT_MOST).holds


def test_other_answers_keep_no_bound():
    ours, theirs = [{"seconds": 1.0, "answer": "a"}], [{"seconds": 1.0, "answer": "b"}]
    assert of(ours, theirs, AT_MOST).holds
    assert not of(ours, theirs, AT_MOST, same_answer=True).holds
    assert of(ours, [{"died": "x"}], AT_MOST, same_answer=True).holds


def test_figures_of_a_process_are_those_of_its_work():
    slept = python("x = bytearray(300_000_000); import time; time.sleep(1)")
    assert slept["seconds"] >= 1
    assert 0.28 < slept["gigabytes"] < 1.0
    assert slept["cpu_seconds"] <= slept["seconds"] - 0.9, "who sleeps takes no processor"
    busy = python("import time\nwhile time.process_time() < 1: pass")
    assert busy["cpu_seconds"] >= 1
    told = python('print(\'{"seconds": 7, "rows": 3}\')', tells=True)
    assert (told["seconds"], told["rows"]) == (7, 3)


def test_memory_of_a_call_is_above_what_was_held():
    held = bytearray(300_000_000)

    def work() -> int:
        made = bytearray(200_000_000)
        time.sleep(0.3)
        return len(made)

    made, figures = measured(work)
    assert made == 200_000_000
    assert 0.18 < figures["gigabytes"] < 0.28
    assert len(held) == 300_000_000


@pytest.mark.parametrize(
    ("code", "limits", "reason"),
    [
        ("import time; time.sleep(60)", {"at_most_seconds": 1.0}, "its time was over"),
        ("x = bytearray(600_000_000); import time; time.sleep(60)", {"at_most_gigabytes": 0.3}, "more than 0.3 GB"),
        (
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(10**9); input()'])",
            {"at_most_gigabytes": 0.5},
            "more than 0.5 GB",
        ),
    ],
)
def test_a_process_beyond_its_limits_is_ended_and_said_to_have_died(code: str, limits: dict[str, float], reason: str):
    assert reason in python(code, **limits)["died"]


def test_a_process_that_the_system_killed_has_died() -> None:
    found = python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "the system killed it" in found["died"]


def test_a_side_that_fails_stops_the_benchmark_with_what_it_said():
    with pytest.raises(WorkFailedError, match="no such thing"):
        python("raise ValueError('no such thing')")


def test_rounds_are_in_turn_and_homes_are_fresh_or_shared(tmp_path: Path):
    log = tmp_path / "log"
    note = (
        "import os, pathlib; home = pathlib.Path(os.environ['ML_PLATFORM_HOME']); home.mkdir(exist_ok=True); "
        f"open({str(log)!r}, 'a').write('{{}} ' + str((home / 'been').exists()) + '\\n'); (home / 'been').touch()"
    )
    sides = [[sys.executable, "-c", note.replace("{}", side)] for side in ("ours", "theirs")]
    shared = Benchmark("shared", "w", sides[0], "x", sides[1], rounds=2, warm=False)
    list(measure([shared], lambda _: None))
    assert log.read_text().split("\n")[:-1] == ["ours False", "theirs True", "ours True", "theirs True"]


def test_a_name_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(LookupError, match="called lunch; there are training_set, training_set_stock"):
        choose(suite(), ["lunch", "drift"])
    assert [each.name for each in choose(suite(), ["drift", "training_set"])] == ["training_set", "drift"]


def test_every_benchmark_has_a_name_of_its_own_and_rows_scale():
    names = [each.name for each in suite()]
    assert len(set(names)) == len(names)
    assert [each.work for each in suite(0.1) if each.name == "drift"] == [
        "drift, 300,000 rows x 20 columns, all of them"
    ]
    quick = suite(quick=True)
    assert {each.rounds for each in quick} == {1}
    assert not any(each.slow for each in quick)


def test_the_page_says_all_that_was_kept(tmp_path: Path):
    fast = of([{"seconds": 1.0}, {"seconds": 3.0}], [{"seconds": 4.0}], AT_MOST)
    slow = Measured(
        Benchmark("two", "more work", ["x"], bounds=[Bound("seconds", at_most=1, ratio=False)]), [{"seconds": 9.0}]
    )
    entries = [report.entry(each, rows=1.0, commit="abc") for each in (fast, slow)]
    assert report.keep(tmp_path, entries[:1]) == entries[:1]
    kept = report.keep(tmp_path, entries[1:])
    assert [each["name"] for each in kept] == ["one", "two"]
    page = report.write_page(tmp_path, kept).read_text()
    assert "| some work | 2 [1, 3] s | theirs | 4 s | 0.5 | at most 2x | yes | `ml-platform bench one` |" in page
    assert "| more work | 9 s |  |  |  | at most 1 s | **no** | `ml-platform bench two` |" in page
    assert f"{os.cpu_count()} cores" in page
    assert (tmp_path / "images" / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


OF_THE_STORES = [
    "training_set",
    "training_set_stock",
    "online_write",
    "drift",
    "drift_engines",
    "windows",
    "windows_grid",
]
EVERY = [each.name for each in suite(quick=True)]


@pytest.mark.parametrize(
    "names", [pytest.param(OF_THE_STORES, id="stores"), pytest.param(EVERY, id="every", marks=pytest.mark.slow)]
)
def test_the_benchmarks_of_a_quick_run_run_and_both_sides_answer_alike(names: list[str], tmp_path: Path):
    done = CliRunner().invoke(app, ["bench", *names, "--quick", "--rows", "0.003", "--json", "--write", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [each["name"] for each in found] == names
    assert not any(each["answers_differ"] for each in found)
    for each in found:
        figures = (*each["command"], *each["reference"])
        assert not any("died" in rounds for rounds in figures), each["name"]
        assert all(rounds["seconds"] > 0 for rounds in figures if "seconds" in rounds)
    assert (tmp_path / "benchmarks.md").is_file()
