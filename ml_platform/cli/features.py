"""``ml-platform features``: what views there are, and their values at a moment."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ml_platform import settings
from ml_platform.cli import arguments
from ml_platform.cli.console import console, table, write_json

if TYPE_CHECKING:
    import polars as pl

    from ml_platform.core.feature_manifest import FeatureManifest, ViewSpec

_ROWS_SHOWN = 50


def features(
    view: Annotated[
        str | None, typer.Argument(help="A view, to see its values; all views are listed if absent.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Only this key, as origin=JFK; repeatable.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="Moment in event time; default the watermark.")
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the online store, as a service does; needs --key.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """List the feature views and services, or show a view's values as known at a moment."""
    from ml_platform.stores.features import FeatureClient

    client = FeatureClient(settings.load())
    manifest = client.manifest()
    if view is None:
        if as_json:
            write_json(manifest.model_dump(mode="json"))
        else:
            _list(manifest)
        return
    spec = manifest.view(view)
    moment = arguments.moment(as_of) if as_of else _watermark()
    keys = _cast(spec, arguments.pairs(key or []))
    if not online:
        found = client.stored(view, as_of=moment)
        rows = found.join(keys, on=keys.columns, how="semi") if keys.width else found
    elif set(keys.columns) == {column.name for column in spec.join_keys}:
        rows = client.online_view(view, keys, as_of=moment)
    else:
        raise ValueError(f"--online needs --key for each of {[column.name for column in spec.join_keys]}")
    if as_json:
        write_json({"view": view, "as_of": moment, "online": online, "rows": rows.to_dicts()})
        return
    _show(spec, rows, moment)


def _list(manifest: "FeatureManifest") -> None:
    from ml_platform.core.durations import format_duration

    out = console()
    views = [
        (
            v.name,
            v.kind,
            ", ".join(k.name for k in v.join_keys),
            len(v.features),
            format_duration(v.ttl) if v.ttl else "never",
            v.owner,
            v.description,
        )
        for v in manifest.views
    ]
    out.print(table(("view", "kind", "keys", "features", "expires", "owner", "description"), views))
    services = [(s.name, len(s.features), len(s.views), s.owner, s.description) for s in manifest.services]
    out.print(table(("service", "features", "views", "owner", "description"), services))


def _show(spec: "ViewSpec", rows: "pl.DataFrame", moment: datetime) -> None:
    out = console()
    more = f", the first {_ROWS_SHOWN} shown" if rows.height > _ROWS_SHOWN else ""
    out.print(f"[bold]{spec.name}[/bold] as known at {moment:%Y-%m-%d %H:%M} UTC: {rows.height:,} keys{more}")
    if rows.height != 1:
        out.print(table(rows.columns, rows.head(_ROWS_SHOWN).iter_rows()))
        return
    units = {column.name: column.unit for column in spec.columns}
    lines = [(name, value, units.get(name, "")) for name, value in rows.row(0, named=True).items()]
    out.print(table(("column", "value", "unit"), lines))


def _cast(spec: "ViewSpec", keys: dict[str, str]) -> "pl.DataFrame":
    import polars as pl

    from ml_platform.core.view_frames import polars_dtype

    dtypes = {column.name: polars_dtype(column) for column in spec.join_keys}
    if unknown := sorted(set(keys) - set(dtypes)):
        raise ValueError(f"view {spec.name!r} has no key {unknown}; its keys are {list(dtypes)}")
    return pl.DataFrame([pl.Series(name, [value]).cast(dtypes[name]) for name, value in keys.items()])


def _watermark() -> datetime:
    from ml_platform.defs import datasets
    from ml_platform.stores.landing import Landing

    landing = Landing(settings.load().landing)
    known = [found for dataset in datasets() if (found := dataset.watermark(landing)) is not None]
    if not known:
        raise ValueError("nothing has landed yet: run `ml-platform replay`, or give --as-of")
    return max(known).astimezone(UTC)
