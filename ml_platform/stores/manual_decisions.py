"""What a person decides on a model's versions: promote, reject, roll back; recorded as every decision is.

Belongs here: which of these the model's history allows. A person lets a waiting candidate through or refuses it, and
may go back to a version that has served; nobody promotes what its gates refused.
"""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from ml_platform.core.promotion import GateResult
from ml_platform.stores.ledger import RESTORED, Ledger, LedgerEntry, ManualDecision, named_version
from ml_platform.stores.models import ModelStore


class NotAllowedError(ValueError):
    """The model's history does not allow what was asked; the message says why, and what it allows."""


@dataclass(frozen=True)
class Instruction:
    """Who asks and why, in their own words.

    ``watermark`` is the event time it speaks of (UTC), ``run_id`` the Dagster run that carries it out, and
    ``service_hash`` what the model's feature service means now.

    Raises:
        ValueError: person or reason is empty.
    """

    person: str
    reason: str
    watermark: datetime
    run_id: str
    service_hash: str

    def __post_init__(self) -> None:
        """Refuse what the ledger could not answer for: a decision without a person or a reason."""
        for name, said in (("person", self.person), ("reason", self.reason)):
            if not said.strip():
                raise ValueError(f"a decision on a model needs a {name}, not {said!r}")


def promote(store: ModelStore, model: str, version: int | None, by: Instruction) -> LedgerEntry:
    """Make a version (by default the newest that waits for approval) champion.

    Its gates must have held, judged against the version that is champion now.

    Raises:
        UnknownModelError: there is no such version.
        NotAllowedError: it is champion, was never judged, failed a gate, was judged against another champion, or
            learned from features that mean something else now.
        PromotionConflictError: another decision came first.
    """
    candidate, current = _candidate(store, model, version), _champion(store.ledger, model)
    judged = _judgement(store.ledger, model, candidate)
    if candidate == current:
        raise NotAllowedError(f"{model} version {candidate} is champion already")
    if judged.rule == "rejected":
        raise NotAllowedError(
            f"{model} version {candidate} failed its gates, and what failed never predicts: {judged.reason}"
        )
    if judged.previous_version != current:
        raise NotAllowedError(
            f"{model} version {candidate} was judged beside {named_version(judged.previous_version)}, and champion is "
            f"now {named_version(current)}: train a new candidate to compare with that"
        )
    _require_features(store, model, candidate, by)
    gates = tuple(GateResult(**gate) for gate in judged.gate_results)
    decision = ManualDecision(True, "promoted_by_person", by.reason.strip(), gates)
    return _record(store, model, candidate, decision, current, by)


def reject(store: ModelStore, model: str, version: int | None, by: Instruction) -> LedgerEntry:
    """Refuse a version (by default the newest that does) that waits for approval: the champion stays.

    Raises:
        UnknownModelError: there is no such version.
        NotAllowedError: it does not wait for approval.
    """
    candidate = _candidate(store, model, version)
    latest = store.ledger.decision_on(model, candidate)
    if latest is None or latest.rule != "awaits_approval":
        known = "has no decision" if latest is None else f"is {latest.rule.replace('_', ' ')}"
        hint = "; `rollback` replaces a champion" if candidate == _champion(store.ledger, model) else ""
        raise NotAllowedError(f"{model} version {candidate} {known}: only one that awaits approval is rejected{hint}")
    decision = ManualDecision(False, "rejected_by_person", by.reason.strip())
    return _record(store, model, candidate, decision, _champion(store.ledger, model), by)


def rollback(store: ModelStore, model: str, version: int | None, by: Instruction) -> LedgerEntry:
    """Make a version champion again that was champion before, by default the one that the present one replaced.

    Predictions are its own from the next run on. The version rolled back from is not promoted again by itself: only a
    new candidate that beats the champion is.

    Raises:
        UnknownModelError: there is no such version.
        NotAllowedError: there is no earlier champion, this version is champion now or never was, or it learned from
            features that mean something else now.
        PromotionConflictError: another decision came first.
    """
    history = store.ledger.history(model).filter("promoted")
    current = _champion(store.ledger, model)
    if current is None:
        raise NotAllowedError(f"{model} has no champion to roll back from")
    served = history["version"].unique(maintain_order=True).to_list()
    # A rollback's own entry names the version it left, which is no earlier champion but the one nobody wants.
    earned = history.filter(pl.col("version") == current, pl.col("rule") != RESTORED)
    target = version if version is not None else earned["previous_version"].to_list()[-1]
    if target is None:
        raise NotAllowedError(f"{model} version {current} is its first champion: there is none to go back to")
    if target == current:
        raise NotAllowedError(f"{model} version {current} is champion already; have been champion: {served}")
    if target not in served:
        store.describe(model, target)
        raise NotAllowedError(f"{model} version {target} never was champion; have been: {served}")
    _require_features(store, model, target, by)
    return _record(store, model, target, ManualDecision(True, RESTORED, by.reason.strip()), current, by)


def _record(
    store: ModelStore, model: str, version: int, decision: ManualDecision, current: int | None, by: Instruction
) -> LedgerEntry:
    return store.promote(
        model,
        version,
        decision,
        expected_current=current,
        watermark=by.watermark,
        by=by.person.strip(),
        run_id=by.run_id,
    )


def _candidate(store: ModelStore, model: str, version: int | None) -> int:
    """The version that is meant: the one named, else the newest that waits, else the newest."""
    if version is not None:
        return store.describe(model, version).version
    versions = store.versions(model)
    if not versions:
        raise NotAllowedError(f"{model} has no version yet")
    decided = {known: store.ledger.decision_on(model, known) for known in reversed(versions)}
    waiting = [known for known, entry in decided.items() if entry is not None and entry.rule == "awaits_approval"]
    return (waiting or [versions[-1]])[0]


def _require_features(store: ModelStore, model: str, version: int, by: Instruction) -> None:
    """A version predicts from the features it learned from: under another definition it would fail or mislead."""
    learned = store.describe(model, version).provenance.service_hash
    if learned == by.service_hash:
        return
    hashes = {known: store.describe(model, known).provenance.service_hash for known in store.versions(model)}
    able = [known for known, service_hash in hashes.items() if service_hash == by.service_hash]
    raise NotAllowedError(
        f"{model} version {version} learned from features of hash {learned}, and its service is now {by.service_hash}: "
        f"bring the features back first. Of that hash are versions {able or 'none'}"
    )


def _judgement(ledger: Ledger, model: str, version: int) -> LedgerEntry:
    judged = ledger.judgement_on(model, version)
    if judged is None:
        raise NotAllowedError(f"{model} version {version} was never judged: materialise {model}/champion first")
    return judged


def _champion(ledger: Ledger, model: str) -> int | None:
    entry = ledger.champion(model)
    return None if entry is None else entry.version
