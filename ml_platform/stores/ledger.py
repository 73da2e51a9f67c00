"""The ledger: every decision on a model version, appended and never changed; it says who is champion.

Belongs here: the order of decisions, and that of two made at once on the same champion one is refused.

The champion is the version of the newest promoting entry. MLflow's alias follows the ledger
(:mod:`ml_platform.stores.models`), because MLflow can set an alias but not compare before it sets. Delta
can: a commit names the decision it continues (an application transaction, one per model), and the log
refuses a second commit that continues the same one, on a local disk as on object storage.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import polars as pl

from ml_platform.stores.lake import Lake
from ml_platform.stores.table_names import PROMOTIONS

if TYPE_CHECKING:
    from ml_platform.core.promotion import Decision, GateResult

TABLE = PROMOTIONS

SCHEMA: Mapping[str, pl.DataType] = {
    "model": pl.String(),
    "version": pl.Int64(),
    "previous_version": pl.Int64(),
    "promoted": pl.Boolean(),
    "rule": pl.String(),
    "reason": pl.String(),
    "gates": pl.String(),
    "decided_at_watermark": pl.Datetime("us", "UTC"),
    "decided_at": pl.Datetime("us", "UTC"),
    "decided_by": pl.String(),
    "run_id": pl.String(),
    "sequence": pl.Int64(),
}


RESTORED: Final = "restored_by_person"
"""The rule of a rollback."""


class PromotionConflictError(RuntimeError):
    """The champion is not the one the decision was made against."""


@dataclass(frozen=True)
class ManualDecision:
    """A person's decision; ``rule`` says of what kind, ``gates`` what held when the version was judged."""

    promote: bool
    rule: Literal["promoted_by_person", "rejected_by_person", "restored_by_person"]
    reason: str
    gates: "tuple[GateResult, ...]" = ()


@dataclass(frozen=True)
class LedgerEntry:
    """One decision.

    ``previous_version`` is the champion before it (None: there was none), ``gates`` the gate results as
    JSON, ``decided_at_watermark`` the event time it speaks of and ``decided_at`` the wall time, ``decided_by`` a
    person or ``automation``, ``run_id`` the Dagster run, ``sequence`` its number (from 1) in the model's
    history.
    """

    model: str
    version: int
    previous_version: int | None
    promoted: bool
    rule: str
    reason: str
    gates: str
    decided_at_watermark: datetime
    decided_at: datetime
    decided_by: str
    run_id: str
    sequence: int

    @property
    def gate_results(self) -> list[dict[str, Any]]:
        """The gates: name, passed, value, bound and explanation of each."""
        found: list[dict[str, Any]] = json.loads(self.gates)
        return found


class Ledger:
    """The decisions table: one Delta table for all models."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def history(self, model: str | None = None) -> pl.DataFrame:
        """Decisions on one model, or on all, oldest first; columns as :data:`SCHEMA`."""
        if not self._lake.exists(TABLE):
            return pl.DataFrame(schema=dict(SCHEMA))
        return self._read(model)

    def latest(self, model: str) -> LedgerEntry | None:
        """The newest decision, promoting or not; None if there is none."""
        return _last(self.history(model))

    def decision_on(self, model: str, version: int) -> LedgerEntry | None:
        """The newest decision on a version; None if there is none."""
        return _last(self.history(model).filter(pl.col("version") == version))

    def by_run(self, model: str, run_id: str) -> LedgerEntry | None:
        """The decision on a model that a Dagster run recorded; None if it recorded none."""
        return _last(self.history(model).filter(pl.col("run_id") == run_id))

    def judgement_on(self, model: str, version: int) -> LedgerEntry | None:
        """The newest decision on a version that its gates made, not a person; None if there is none."""
        return _last(self.judgements(model).filter(pl.col("version") == version))

    def judgements(self, model: str) -> pl.DataFrame:
        """Decisions that gates made, oldest first: one for every candidate, at the watermark of its training set."""
        return self.history(model).filter(~pl.col("rule").str.ends_with("_by_person"))

    def served(self, model: str) -> pl.DataFrame:
        """The champions in the order of their decisions, by the event time that each decision spoke of.

        Columns ``version``, ``served_from``, ``served_until`` (null: still), ``rule``, ``decided_by`` and ``reason``. A
        candidate is decided on as of the data it was made from, a person decides as of the watermark.
        """
        promotions = self.history(model).filter("promoted")
        return promotions.select(
            "version",
            pl.col("decided_at_watermark").alias("served_from"),
            pl.col("decided_at_watermark").shift(-1).alias("served_until"),
            "rule",
            "decided_by",
            "reason",
        )

    def champion(self, model: str) -> LedgerEntry | None:
        """The entry that made the present champion; None if no version ever was."""
        return _last(self.history(model).filter("promoted"))

    def record(
        self,
        model: str,
        version: int,
        decision: "Decision | ManualDecision",
        *,
        expected_current: int | None,
        watermark: datetime,
        by: str,
        run_id: str,
    ) -> LedgerEntry:
        """Append a decision; of several promotions that expect the same champion, one is appended.

        A promotion repeated by the same run (a step retried after a crash) answers with its first entry. A
        rejection by the gates changes no champion and is recorded whichever it is now.

        Args:
            model: name of the model.
            version: the version decided on.
            decision: its outcome, rule, reason and gates.
            expected_current: the champion the decision was made against; None for none.
            watermark: event time of the decision (UTC).
            by: who decided.
            run_id: the Dagster run.

        Raises:
            PromotionConflictError: the champion is another than ``expected_current``.
        """
        self._lake.create(TABLE, SCHEMA)
        while True:
            seen = self._lake.version(TABLE)
            history = self._read(model, seen)
            champion = _last(history.filter("promoted"))
            current = None if champion is None else champion.version
            if decision.promote and champion is not None and (champion.version, champion.run_id) == (version, run_id):
                return champion
            if decision.rule != "rejected" and (current != expected_current or current == version):
                raise PromotionConflictError(
                    f"{model} version {version} was judged beside {named_version(expected_current)}, but the champion "
                    f"is {named_version(current)}: decide again beside that"
                )
            entry = LedgerEntry(
                model=model,
                version=version,
                previous_version=current,
                promoted=decision.promote,
                rule=decision.rule,
                reason=decision.reason,
                gates=json.dumps([asdict(gate) for gate in decision.gates]),
                decided_at_watermark=watermark,
                decided_at=datetime.now(UTC),
                decided_by=by,
                run_id=run_id,
                sequence=history.height + 1,
            )
            row = pl.DataFrame([asdict(entry)], schema=dict(SCHEMA))
            # Refused if another decision on this model came first: judge again on what that left.
            if self._lake.append_claimed(TABLE, row, claim=f"decisions/{model}", sequence=entry.sequence, onto=seen):
                return entry

    def _read(self, model: str | None, version: int | None = None) -> pl.DataFrame:
        entries = self._lake.read(TABLE, columns=list(SCHEMA), version=version).sort("model", "sequence")
        return entries if model is None else entries.filter(pl.col("model") == model)


def _last(history: pl.DataFrame) -> LedgerEntry | None:
    if history.is_empty():
        return None
    row: dict[str, Any] = history.row(-1, named=True)
    return LedgerEntry(**row)


def named_version(version: int | None) -> str:
    """A version, or that there is none, within a sentence."""
    return "no champion" if version is None else f"version {version}"
