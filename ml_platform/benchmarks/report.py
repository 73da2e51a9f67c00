"""What was measured, for people and for programs: a table, a picture, a page of documentation, JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from ml_platform.benchmarks.benchmark import Bound, Measured, middle
from ml_platform.benchmarks.measuring import Figures
from ml_platform.core import plots

_LIBRARIES = ("dagster", "feast", "polars", "duckdb", "deltalake", "lightgbm", "optuna", "mlflow")
_UNITS = {
    "seconds": "s",
    "cpu_seconds": "CPU s",
    "gigabytes": "GB",
    "process_gigabytes": "GB in all",
    "seconds_per_million": "s/million",
    "rows_per_cpu_second": "rows/CPU s",
    "trials": "trials",
    "auc": "AUC",
}


@dataclass(frozen=True)
class Line:
    """One figure of a benchmark on both sides, and what it must be.

    ``value`` and ``beside`` have the median and its spread in words; ``ratio`` is of the medians; ``holds`` is None
    where nothing is asked for.
    """

    figure: str
    work: str
    reference: str
    value: str
    beside: str
    ratio: float | None
    bound: str
    holds: bool | None
    name: str


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "gigabytes": round(psutil.virtual_memory().total / 1024**3),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def machine_in_words() -> str:
    """The machine within a sentence."""
    here = machine()
    return f"{here['processor']} ({here['cores']} cores, {here['gigabytes']} GB, Python {here['python']})"


def entry(measured: Measured, *, rows: float, commit: str, note: str = "") -> dict[str, Any]:
    """Everything that was measured of a benchmark, where, when, and what is to be said of it, as JSON has it."""
    benchmark = measured.benchmark
    return {
        "name": benchmark.name,
        "work": benchmark.work,
        "beside": benchmark.beside,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "rows": rows,
        "machine": machine(),
        "command": list(measured.command),
        "reference": list(measured.reference),
        "lines": [asdict(line) for line in lines(measured)],
        "note": note,
        "answers_differ": measured.answers_differ,
        "holds": measured.holds,
    }


def lines(measured: Measured) -> list[Line]:
    """The figures of a benchmark that are judged; where none is, those it shows."""
    benchmark = measured.benchmark
    asked: list[tuple[Bound, bool | None]] = [(verdict.bound, verdict.holds) for verdict in measured.verdicts()]
    found = []
    for bound, holds in asked or [(Bound(figure), None) for figure in benchmark.shows]:
        value, beside = middle(measured.command, bound.figure), middle(measured.reference, bound.figure)
        found.append(
            Line(
                figure=bound.figure,
                work=benchmark.work,
                reference=benchmark.beside,
                value=_spread(measured.command, bound.figure),
                beside=_spread(measured.reference, bound.figure),
                ratio=None if value is None or not beside or not bound.ratio else value / beside,
                bound=_in_words(bound),
                holds=holds if holds is None else holds and not measured.answers_differ,
                name=benchmark.name,
            )
        )
    return found


def keep(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Put these in ``benchmarks.json`` of a folder, beside what it has of other benchmarks; all that it then has."""
    file = folder / "benchmarks.json"
    known = {each["name"]: each for each in json.loads(file.read_text())} if file.is_file() else {}
    known |= {each["name"]: each for each in entries}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{json.dumps(list(known.values()), indent=1)}\n")
    return list(known.values())


def write_page(folder: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """``benchmarks.md`` with its picture, of everything that was ever kept; where it is."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    (images / "benchmarks.png").write_bytes(picture(entries))
    page = folder / "benchmarks.md"
    page.write_text(_PAGE.format(table=_table(entries), notes=_notes(entries), machines=_machines(entries)))
    return page


def picture(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """Every round of every benchmark that has a reference, as a multiple of the reference's median."""
    rows = []
    for each in entries:
        for line in each["lines"]:
            figure = line["figure"]
            beside = middle(each["reference"], figure)
            if line["ratio"] is None or not beside:
                continue
            label = f"{each['name'].replace('_', ' ')}, {_UNITS[figure]}"
            for side in ("command", "reference"):
                rows += [
                    {"work": label, "side": side, "ratio": float(found[figure]) / beside, "bound": line["bound"]}
                    for found in each[side]
                ]
    return plots.beside_reference(pl.DataFrame(rows), title="Each round, as a multiple of the reference's median")


def _table(entries: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        "| work | measured | beside | | ratio | must be | | again |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in entries:
        for line in each["lines"]:
            ratio = "" if line["ratio"] is None else f"{line['ratio']:.3g}"
            holds = {None: "", True: "yes", False: "**no**"}[line["holds"]]
            if each["answers_differ"]:
                holds = "**answers differ**"
            rows.append(
                f"| {line['work']} | {line['value']} | {line['reference']} | {line['beside']} | {ratio} "
                f"| {line['bound']} | {holds} | `ml-platform bench {each['name']}` |"
            )
    return "\n".join(rows)


def _notes(entries: Sequence[Mapping[str, Any]]) -> str:
    told = [f"- `{each['name']}`: {each['note']}" for each in entries if each["note"]]
    return "\n".join(told) or "None."


def _machines(entries: Sequence[Mapping[str, Any]]) -> str:
    told: dict[str, list[str]] = {}
    for each in entries:
        had = each["machine"]
        libraries = ", ".join(f"{name} {number}" for name, number in had["versions"].items())
        where = (
            f"{had['processor']}, {had['cores']} cores, {had['gigabytes']} GB, {had['system']}, "
            f"Python {had['python']}; {libraries}"
        )
        when = f"{each['name']} on {each['measured_at'][:10]} at {each['commit'][:12] or 'no commit'}"
        told.setdefault(where, []).append(when)
    return "\n".join(f"- {where}: {'; '.join(what)}." for where, what in told.items())


def _spread(rounds: Sequence[Figures], figure: str) -> str:
    """The median, and the least and most where there are several."""
    if not rounds:
        return ""
    if died := next((each["died"] for each in rounds if "died" in each), None):
        return f"died: {died}"
    found = [float(each[figure]) for each in rounds]
    value = middle(rounds, figure)
    told = _number(value) if len(found) == 1 else f"{_number(value)} [{_number(min(found))}, {_number(max(found))}]"
    return f"{told} {_UNITS[figure]}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _in_words(bound: Bound) -> str:
    of = "x" if bound.ratio else f" {_UNITS[bound.figure]}"
    if bound.at_most is not None:
        return f"at most {bound.at_most:.3g}{of}"
    return f"at least {bound.at_least:.3g}{of}" if bound.at_least is not None else ""


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    if file.is_file():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


_PAGE = """# Benchmarks

What the project claims of its speed, measured: each piece of work beside its reference, in turn, as fresh processes in
one run. A figure is the median of its rounds, with the least and the most in brackets; a ratio is of medians; memory is
above what the process held once its libraries were imported, where it is of a call. Written by

```
ml-platform bench --write docs
```

which also writes every round to [benchmarks.json](benchmarks.json). One benchmark alone, on fewer rows or only to see
that it runs: `ml-platform bench NAME`, `--rows 0.1`, `--quick`.

{table}

![Every round of both sides](images/benchmarks.png)

## Notes

{notes}

## Where

{machines}
"""
