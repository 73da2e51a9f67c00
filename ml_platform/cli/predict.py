"""``ml-platform predict``: ask the champion."""

import json
import sys
from typing import Annotated, Any

import typer

from ml_platform import settings
from ml_platform.cli import arguments
from ml_platform.cli.console import console, table, write_json


def predict(
    model: Annotated[str, typer.Argument(help="Which model, as flight_delay.")],
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V", help="Score landed rows with this value, as origin=JFK; repeatable."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Use nothing that became known later; default each row's own time."),
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Features from the online store instead of the lake.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Score rows by the champion and name its version. Nothing is recorded.

    Rows are those landed with the --key values, or JSON on standard input: an object or a list of objects with the
    columns of the model's feature service, and prediction_time if it is not now.
    """
    from ml_platform.defs import model as declared
    from ml_platform.stores.features import FeatureClient
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.landing import Landing
    from ml_platform.stores.on_request import entity_rows, given_rows, score_rows

    dataset, spec = declared(model)
    config = settings.load()
    watermark = dataset.watermark(Landing(config.landing))
    if watermark is None:
        raise ValueError("nothing has landed yet: run `ml-platform replay`")
    if key:
        rows = entity_rows(Lake.of(config), dataset, spec, arguments.pairs(key), watermark=watermark)
    else:
        rows = given_rows(FeatureClient(config).manifest(), spec, _from_stdin())
    moment = arguments.moment(until) if until else None
    scored = score_rows(config, spec, rows, watermark=watermark, until=moment, online=online)
    seen = [] if "prediction_time" not in rows.columns else rows["prediction_time"].to_list()
    learned = sum(due <= scored.version.trained_through for due in seen)
    if as_json:
        write_json(
            {
                "model": model,
                "version": scored.version.version,
                "trained_through": scored.version.trained_through,
                "rows_before_trained_through": learned,
                "predictions": scored.rows.to_dicts(),
            }
        )
        return
    out = console()
    out.print(table(scored.rows.columns, scored.rows.iter_rows()))
    out.print(f"score: {spec.label_unit}   by version {scored.version.version}, the champion   {scored.version.url}")
    if learned:
        end = f"{scored.version.trained_through:%Y-%m-%d %H:%M} UTC"
        out.print(
            f"[yellow]{learned} of these rows were due before {end}, the end of what this version learned from: "
            "it may have seen how they ended.[/yellow]"
        )


def _from_stdin() -> list[dict[str, Any]]:
    if sys.stdin.isatty():
        raise ValueError("give --key name=value, or rows as JSON on standard input")
    try:
        found = json.load(sys.stdin)
    except json.JSONDecodeError as error:
        raise ValueError(f"standard input is no JSON: {error}") from None
    rows = [found] if isinstance(found, dict) else found
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("standard input must be a JSON object, or a list of at least one")
    return rows
