"""``ml-platform explain``: where a model version came from, why it was trained, and what became of it."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from ml_platform import settings
from ml_platform.cli.console import console, shown, table, write_json

if TYPE_CHECKING:
    from ml_platform.stores.explanations import Explanation, SourceTable, Why

_CONDITION = ("name", "role", "holds", "value", "bound")


def explain(
    model: Annotated[str, typer.Argument(help="Which model.")],
    version: Annotated[int | None, typer.Argument(help="Which version; by default the champion.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Say where a version came from: why it was trained, on what, by what code, what was decided and when it served."""
    from dataclasses import asdict

    from ml_platform import defs as declared
    from ml_platform.stores.explanations import explain as find

    _, spec = declared.model(model)
    found = find(settings.load(), spec, version)
    if as_json:
        write_json(asdict(found))
        return
    out = console()
    for part in _page(found):
        out.print(part)


def _page(found: "Explanation") -> Iterator[object]:
    yield f"[bold]{found.model} version {found.version}[/bold]  {_standing(found)}"
    yield f"  {escape(found.description)}"
    yield (
        f"  Made {shown(found.made_at)} (wall time) as of the watermark {shown(found.training_set.as_of)}; "
        f"it learned from labels up to {shown(found.trained_through)}.\n"
    )
    yield "[bold]Why it was trained[/bold]"
    yield from _why(found.why)
    yield "\n[bold]What was decided[/bold]"
    yield from _decisions(found)
    data = found.training_set
    yield "\n[bold]What it learned from[/bold]"
    yield (
        f"  {data.table} version {data.delta_version}, content {data.content_hash}: {data.rows:,} rows predicted "
        f"after {shown(data.start)} and labelled by {shown(data.as_of)}; {data.training_rows:,} of them, labelled by "
        f"{shown(data.cutoff)}, trained."
    )
    yield f"  Features: {len(found.features)} of {found.service} (hash {found.service_hash})"
    yield _tables(found.inputs, "Read by the training set")
    yield _tables(found.parents, "Which were computed from")
    yield "[bold]How it was made[/bold]"
    yield from _making(found)
    yield "\n[bold]Champions before it[/bold]"
    if found.lineage:
        rows = [(each.version, each.served_from, each.served_until, _words(each.rule)) for each in found.lineage]
        yield table(("version", "served from", "until", "by the rule"), rows)
    else:
        yield "  none\n"
    yield from (f"  [dim]{_words(title):<15} {url}[/dim]" for title, url in found.links.items())


def _standing(found: "Explanation") -> str:
    if not found.served:
        return "has never served"
    times = "; ".join(
        f"from {shown(each.served_from)} {f'until {shown(each.served_until)}' if each.served_until else 'on'}"
        for each in found.served
    )
    return f"{'is champion' if found.version == found.champion_version else 'was champion'} {times} (event time)"


def _why(why: "Why") -> "Iterator[object]":
    if not why.recorded:
        yield (
            "  Not recorded: its run gave no reason, or it was made before reasons were kept with versions. "
            "Its Dagster run may still say."
        )
        return
    yield f"  {escape(why.reason) or 'The run gave no reason.'}"
    if why.trigger:
        yield f"  Triggers that held: {escape(', '.join(why.trigger))}"
    yield from _evidence(why.evidence)


def _evidence(evidence: Any) -> Iterator[object]:
    if evidence is None:
        return
    if isinstance(evidence, list) and all(isinstance(each, dict) and "name" in each for each in evidence):
        yield table(_CONDITION, [[each.get(column) for column in _CONDITION] for each in evidence])
    else:
        yield f"  Evidence: {escape(json.dumps(evidence))}"


def _decisions(found: "Explanation") -> Iterator[object]:
    if not found.decisions:
        yield "  Nothing yet."
    for each in found.decisions:
        when, by = shown(each["decided_at_watermark"]), escape(each["decided_by"])
        gates = each["gates"]
        yield f"  {when}, {by}: [bold]{_words(each['rule'])}[/bold]. {escape(each['reason'])}"
        if gates:
            failed = [gate["name"] for gate in gates if not gate["passed"]]
            which = f"; failed: {', '.join(failed)}" if failed else ""
            yield escape(f"    {len(gates) - len(failed)} of {len(gates)} gates held{which}")


def _tables(sources: "Sequence[SourceTable]", title: str) -> object:
    rows = [
        (
            each.table,
            "-".join(str(version) for version in dict.fromkeys((each.delta_versions[0], each.delta_versions[-1]))),
            each.rows,
            each.partitions,
            each.first,
            each.last,
            each.content_hash,
        )
        for each in sources
    ]
    return table(("table", "version", "rows", "partitions", "first", "last", "content"), rows, title=title)


def _making(found: "Explanation") -> Iterator[object]:
    study = ", ".join(f"{name} {shown(value)}" for name, value in sorted(found.study.items()))
    yield f"  Study: {study or 'none'}"
    yield f"  Parameters: {escape(', '.join(f'{name}={value}' for name, value in found.parameters.items()))}"
    yield f"  Seed {found.seed}, code version {found.code_version}, commit {found.commit or 'not recorded'}"
    libraries = ", ".join(f"{name} {version}" for name, version in found.libraries.items())
    yield f"  Libraries: {libraries or 'not recorded'}"
    if not found.declaration_stored:
        yield "  Its declaration was not stored; windows are those of today."
    elif found.declared_otherwise_today:
        yield f"  Declared otherwise today: {', '.join(found.declared_otherwise_today)}"
    else:
        yield "  What decides a training is declared today as it was then."
    check = f"ml-platform rebuild {found.model} {found.version}"
    yield f"  Hash of the model {found.model_hash}; [bold]{check}[/bold] makes it again"


def _words(name: str) -> str:
    return name.replace("_", " ")
