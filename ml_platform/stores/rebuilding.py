"""A registered version made again from what it names, and compared with what is registered.

Belongs here: which facts a rebuild needs, whether they can still be had, and the first thing that comes out otherwise.
It reads the lake, Feast and MLflow and writes to none: the study is searched anew in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import polars as pl

from ml_platform.core.content import content_hash, sort_rows
from ml_platform.core.digests import digest
from ml_platform.core.learning import learn
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.recipe import as_declared, code_version
from ml_platform.core.splits import split
from ml_platform.core.training import DECLARATION_FILE, MODEL_FILE, FittedModel, fit
from ml_platform.core.tuning import TrialSummary
from ml_platform.settings import Settings
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.model_tables import training_rows
from ml_platform.stores.models import ModelStore, ModelVersion
from ml_platform.stores.source import commit, libraries
from ml_platform.stores.sql import UnknownTableError


class CannotRebuildError(RuntimeError):
    """What the version was made from is not to be had; the message says what, and what to check out."""


@dataclass(frozen=True)
class Comparison:
    """One thing made again beside what is recorded or stored of it."""

    what: str
    recorded: str
    rebuilt: str

    @property
    def equal(self) -> bool:
        """Whether they are the same."""
        return self.recorded == self.rebuilt


@dataclass(frozen=True)
class Rebuild:
    """A version made again: what was compared, in the order of its making.

    ``searched`` is false if the recorded parameters were taken instead of a new study; ``libraries`` are those whose
    version is another than when it was trained, each with both versions.
    """

    model: str
    version: int
    searched: bool
    comparisons: tuple[Comparison, ...]
    libraries: dict[str, tuple[str, str]]

    @property
    def equal(self) -> bool:
        """Whether all came out the same."""
        return self.difference is None

    @property
    def difference(self) -> Comparison | None:
        """The first that came out otherwise; what follows may only follow from it."""
        return next((each for each in self.comparisons if not each.equal), None)


def rebuild(
    settings: Settings,
    spec: ModelSpec,
    version: int,
    *,
    search: bool = True,
    on_trial: Callable[[TrialSummary], None] = lambda _: None,
) -> Rebuild:
    """Make a version again: training set from the pinned Delta versions, study, fit.

    Args:
        settings: the home; nothing is written to it (but Feast's registry, as by any command, if its files changed).
        spec: today's declaration; what decided the training is taken as it was declared then.
        version: which version.
        search: whether to search the parameters anew; otherwise, and if several workers had searched them, the fit
            takes the recorded ones.
        on_trial: called after every trial.

    Raises:
        UnknownModelError: there is no such version.
        CannotRebuildError: data, features or code are not what they were.
    """
    lake, features, models = Lake.of(settings), FeatureClient(settings), ModelStore(settings)
    made = models.describe(spec.name, version)
    declared = declared_then(models, made, spec)
    service = features.manifest().service(declared.service)
    came_from = made.provenance
    checkout = _checkout(settings, made)
    if service.hash != came_from.service_hash:
        raise CannotRebuildError(
            f"the feature service {service.name} means something else now: its hash was {came_from.service_hash} and "
            f"is {service.hash}; {checkout}"
        )
    if code_version(declared, service.hash) != came_from.code_version:
        raise CannotRebuildError(
            f"the code version was {came_from.code_version} and is {code_version(declared, service.hash)}: what is "
            f"learned, or how, is declared otherwise now; {checkout}"
        )
    _require_inputs(lake, made)
    try:
        rows = training_rows(lake, features, declared, came_from.as_of, came_from.inputs)
    except pl.exceptions.PolarsError as error:
        raise CannotRebuildError(f"a file of a pinned version cannot be read: {error}") from error
    frame = sort_rows(rows, declared.keys)
    train = split(frame, declared.windows, came_from.as_of).train
    stored = models.load(spec.name, version)
    comparisons = [
        Comparison("training set", came_from.training_set_hash, content_hash(frame, declared.keys)),
        Comparison("training rows", str(came_from.training_rows), str(train.height)),
    ]
    # What several workers found depends on who of them was how fast.
    search = search and declared.tuning.workers == 1
    # Other rows make another model: a study of theirs would prove nothing and take its time.
    if all(each.equal for each in comparisons):
        if search:
            model = learn(declared, train, service, on_trial=on_trial).model
        else:
            model = fit(declared, train, service.features, stored.params, stored.rounds)
        comparisons += _compare(made, stored, model)
    now = libraries()
    others = {name: (then, now.get(name, "none")) for name, then in came_from.libraries.items()}
    moved = {name: pair for name, pair in others.items() if pair[0] != pair[1]}
    return Rebuild(spec.name, version, search, tuple(comparisons), moved)


def declared_then(models: ModelStore, made: ModelVersion, spec: ModelSpec) -> ModelSpec:
    """The declaration that trained a version; today's, if the version was made before declarations were stored.

    Raises:
        CannotRebuildError: today's code does not know what was declared then.
    """
    try:
        kept = models.declared(made)
    except LookupError:
        return spec
    try:
        return as_declared(spec, kept)
    except ValueError as error:
        raise CannotRebuildError(f"this code cannot read the declaration stored with the version: {error}") from error


def _require_inputs(lake: Lake, made: ModelVersion) -> None:
    for table, version in sorted(made.provenance.inputs.items()):
        try:
            lost = lake.lost_files(table, version)
        except UnknownTableError as error:
            raise CannotRebuildError(f"a pinned table is gone: {error}") from error
        if lost:
            raise CannotRebuildError(
                f"{len(lost)} files of the pinned version {version} of {table} are gone or changed, as {lost[0]}"
            )


def _compare(made: ModelVersion, stored: FittedModel, model: FittedModel) -> Iterator[Comparison]:
    """What is stored and what was made, from the causes to the bytes."""
    yield Comparison("stored model", made.model_hash, digest(stored.model_text))
    for name in sorted({*stored.params, *model.params}):
        yield Comparison(f"parameter {name}", repr(stored.params.get(name)), repr(model.params.get(name)))
    yield Comparison("rounds", str(stored.rounds), str(model.rounds))
    was, now = stored.to_files(), model.to_files()
    yield Comparison("bytes of the model", digest(was[MODEL_FILE]), digest(now[MODEL_FILE]))
    yield Comparison("its features, categories and threshold", was[DECLARATION_FILE], now[DECLARATION_FILE])


def _checkout(settings: Settings, made: ModelVersion) -> str:
    then, now = made.provenance.commit, commit(settings)
    if not then:
        return f"check out the source of {made.made_at:%Y-%m-%d %H:%M}, when it was made; its commit was not recorded"
    return f"check out commit {then} (this is {now or 'not a clone'})"
