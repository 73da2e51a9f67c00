"""``ml-platform backup`` and ``restore``: a copy of every store elsewhere, and back."""

from typing import Annotated

import typer

from ml_platform import settings
from ml_platform.cli.console import console, write_json


def backup(
    target: Annotated[str, typer.Argument(help="A folder or s3://bucket/prefix outside what is backed up.")],
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many finished backups stay there; what began a day ago but never finished goes. Default: all.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Copy every store into a new folder of TARGET, while the platform may be at work."""
    import dagster as dg

    from ml_platform.assets.backups import backup_event
    from ml_platform.stores.backup import back_up
    from ml_platform.stores.instance import prepare_dagster_home

    here = settings.load()
    with console(stderr=True).status("Backing up …"):
        made = back_up(here, target, keep=keep)
    if as_json:
        write_json({"backup": str(made.root), "files": len(made.files), "bytes": made.size})
    else:
        console().print(f"{made.root}: {len(made.files):,} files, {made.size / 1e6:,.1f} MB", soft_wrap=True)
    prepare_dagster_home(here)
    with dg.DagsterInstance.get() as instance:
        instance.report_runless_asset_event(backup_event(made))


def restore(
    source: Annotated[str, typer.Argument(help="A backup, or a place with backups: the newest finished one.")],
    replace: Annotated[bool, typer.Option("--replace", help="Give up what the stores hold now.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same for machines; see docs/cli.md.")] = False,
) -> None:
    """Have every store hold what a backup does; end what serves the home first."""
    from ml_platform.serving.servers import is_served
    from ml_platform.stores.backup import backups, occupied
    from ml_platform.stores.backup import restore as bring_back
    from ml_platform.stores.features import FeatureClient

    config = settings.load()
    found = backups(source)
    if not found:
        raise ValueError(f"{source} holds no finished backup")
    if is_served(config):
        raise ValueError(f"{config.home} is being served: end ml-platform up first")
    if not replace and (full := occupied(config)):
        raise ValueError(f"there is something in {', '.join(full)}: --replace gives it up")
    with console(stderr=True).status("Checking the backup …") as progress:
        bring_back(config, found[-1], on_part=lambda part: progress.update(f"Restoring {part} …"))
        progress.update("Filling the online store …")
        pushed = FeatureClient(config).refill_online() if config.redis_url else {}
    if as_json:
        write_json({"backup": str(found[-1].root), "files": len(found[-1].files), "online": pushed})
    else:
        console().print(f"{found[-1].root} of {found[-1].begun_at:%Y-%m-%d %H:%M} UTC is in force.", soft_wrap=True)
