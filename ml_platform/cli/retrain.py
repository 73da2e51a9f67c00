"""``ml-platform retrain``: ask automation for a training that its policy does not call for."""

from ml_platform import settings
from ml_platform.cli.console import console, write_json
from ml_platform.cli.decide import AsJson, Model, Person, Reason, user


def retrain(model: Model, reason: Reason, by: Person = None, as_json: AsJson = False) -> None:
    """Ask for training: the next evaluation of the conditions grants it, without waiting for new labels or cooldown.

    A training that fails is not tried again by itself: ask again.
    """
    from dataclasses import asdict

    from ml_platform import defs as declared
    from ml_platform.stores.lake import Lake
    from ml_platform.stores.training_requests import TrainingRequests

    declared.model(model)
    asked = TrainingRequests(Lake.of(settings.load())).ask(model, by or user(), reason)
    if as_json:
        write_json(asdict(asked))
        return
    console().print(
        f"[bold]{model}[/bold]  asked by {asked.person}. The daemons of `ml-platform up` train it soon, "
        "within its daily budget; `ml-platform plan` says whether anything holds it back.",
        highlight=False,
        soft_wrap=True,
    )
