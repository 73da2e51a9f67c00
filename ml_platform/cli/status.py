"""``ml-platform status``: the whole platform on one page."""

from datetime import UTC
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ml_platform import settings
from ml_platform.cli.console import console, shown, table, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ml_platform.stores.status import Interval, ModelStatus, PlatformStatus

_GAPS_SHOWN = 5
_VIEWS = "features/"


def status(
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Show how far the data go, what is blocked, and for each model its champion, figures, decision and drift."""
    if as_json:
        write_json(_status().model_dump(mode="json"))
    else:
        show_status()


def show_status() -> None:
    """Print the page for people."""
    _show(_status())


def _status() -> "PlatformStatus":
    from ml_platform.defs import datasets
    from ml_platform.stores.status import platform_status

    return platform_status(settings.load(), datasets())


def _show(found: "PlatformStatus") -> None:
    out = console()
    until = "nothing has landed: run `ml-platform replay`"
    if found.watermark is not None:
        until = f"{found.watermark.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    out.print(f"[bold]Watermark[/bold]  {until}   [dim]home {found.home}[/dim]\n")
    rows = [
        (name, t.rows, t.quarantined, t.partitions, len(t.blocked), t.newest_partition, _gaps(t.gaps))
        for name, t in found.tables.items()
    ]
    columns = ("raw table", "rows", "quarantined", "partitions", "blocked", "newest", "gaps")
    out.print(table(columns, rows))
    views = [(name, t.rows, t.partitions, len(t.blocked), t.newest_partition) for name, t in found.features.items()]
    out.print(table(("feature view", "rows", "partitions", "blocked", "newest"), views))
    blocked = [
        f"  [red]blocked[/red] {name} {partition}: {reason}"
        for name, each in [
            *((f"raw/{name}", raw) for name, raw in found.tables.items()),
            *((f"features/{name}", view) for name, view in found.features.items()),
        ]
        for partition, reason in each.blocked.items()
    ]
    out.print(*blocked, sep="\n", end="\n\n" if blocked else "")
    for name, model in found.models.items():
        out.print(*_model(name, model), sep="\n", end="\n\n")
    where = "   ".join(f"{title} {url}" for title, url in found.links.items())
    out.print(f"[bold]Where to look[/bold]  {where}   [dim](ml-platform up serves them)[/dim]")


def _model(name: str, model: "ModelStatus") -> "Iterator[object]":
    if model.champion_version is None:
        yield f"[bold]{name}[/bold]  no champion yet"
    else:
        yield (
            f"[bold]{name}[/bold]  champion is version {model.champion_version} since {shown(model.champion_since)}, "
            f"learned from {shown(model.training_rows)} rows, judged on {shown(model.evaluated_rows)} it never saw"
        )
        live = model.performance
        rows = [
            (
                metric,
                _figure(value, model.metric_intervals.get(metric)),
                _figure(model.baseline_metrics.get(metric), model.baseline_metric_intervals.get(metric)),
                _figure(live.metrics.get(metric), live.metric_intervals.get(metric)) if live else "-",
            )
            for metric, value in model.metrics.items()
        ]
        recent = f"on labels of {live.start:%m-%d} to {live.end:%m-%d}" if live else "since then"
        yield table(("metric", "champion", "baseline", recent), rows)
        if live:
            yield f"  performance: version {live.model_version} on {live.rows:,} labelled rows"
        yield f"  trained on   {_pinned(name, model.data_versions)}"
    if model.last_decision is not None:
        last = model.last_decision
        what, when = last.rule.replace("_", " "), shown(last.decided_at_watermark)
        yield f"  last decision on version {last.version} ({when}, {escape(last.by)}): {what}. {escape(last.reason)}"
    if model.drift is None:
        yield "  drift        not reported yet"
    else:
        verdict = f"[red]{model.drift.reason}[/red]" if model.drift.alarm else model.drift.reason
        yield f"  drift        {model.drift.day:%Y-%m-%d}  {verdict}"
    yield f"  predictions  {model.predictions_rows:,} rows, {model.champion_predictions_rows:,} by the champion"
    yield from (f"  [dim]{title:<12} {url}[/dim]" for title, url in model.links.items())


def _pinned(name: str, versions: "Mapping[str, int]") -> str:
    """The model's own tables at their Delta versions, and how many feature views were read beside them."""
    named = [
        f"{table.removeprefix(f'{name}/')}@{version}"
        for table, version in sorted(versions.items(), reverse=True)
        if not table.startswith(_VIEWS)
    ]
    views = len(versions) - len(named)
    if views:
        named.append(f"{views} feature view{'' if views == 1 else 's'}")
    *most, last = named
    return f"{', '.join(most)} and {last}" if most else last


def _figure(value: float | None, interval: "Interval | None") -> str:
    if value is None or interval is None:
        return shown(value)
    return f"{shown(value)} ({shown(interval.low)} to {shown(interval.high)})"


def _gaps(gaps: tuple[str, ...]) -> str:
    more = f" and {len(gaps) - _GAPS_SHOWN} more" if len(gaps) > _GAPS_SHOWN else ""
    return ", ".join(gaps[:_GAPS_SHOWN]) + more
