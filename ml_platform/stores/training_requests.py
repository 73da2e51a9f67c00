"""What people ask automation to train, and every training that was begun: appended, never changed.

Belongs here: one request that waits for each model at most, the newest, and how many trainings were begun. Whether one
is granted is judged with all other evidence (:mod:`ml_platform.core.retraining`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import polars as pl

from ml_platform.stores.lake import Lake

TABLE = "ledger/training_requests"

SCHEMA: Mapping[str, pl.DataType] = {
    "model": pl.String(),
    "person": pl.String(),
    "reason": pl.String(),
    "recorded_at": pl.Datetime("us", "UTC"),
    "taken_by_run": pl.String(),
    "as_of": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True)
class TrainingRequest:
    """A person asks, or (``taken_by_run``) a run begins to train and takes up what was asked, if anything was.

    ``as_of`` is the end of the data that the run learns from (None: none does yet); ``recorded_at`` is wall time (UTC).
    """

    model: str
    person: str
    reason: str
    recorded_at: datetime
    taken_by_run: str = ""
    as_of: datetime | None = None

    def __str__(self) -> str:
        return f"{self.person}: {self.reason}"


class TrainingRequests:
    """The requests of all models."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    def ask(self, model: str, person: str, reason: str) -> TrainingRequest:
        """Ask for training; where a request waits already, this one takes its place, and is tried anew.

        Raises:
            ValueError: no person or reason is named.
        """
        if missing := [name for name, said in (("person", person), ("reason", reason)) if not said.strip()]:
            raise ValueError(f"training is asked for with a person and a reason: {' and '.join(missing)} missing")
        asked = TrainingRequest(model, person, reason, datetime.now(UTC))
        self._append(asked)
        return asked

    def take(self, model: str, run_id: str, as_of: datetime) -> TrainingRequest | None:
        """A run begins to train on data up to ``as_of``; what was asked and is taken up, or None if nothing was."""
        waiting = self.waiting(model)
        asked = (waiting.person, waiting.reason) if waiting else ("", "")
        self._append(TrainingRequest(model, *asked, datetime.now(UTC), run_id, as_of))
        return waiting

    def begun(self, model: str, since: datetime) -> int:
        """Trainings of a model on data that ended after ``since``, whatever became of them; a run counts once."""
        if not self._lake.exists(TABLE):
            return 0
        rows = self._lake.read(TABLE, columns=["model", "taken_by_run", "as_of"])
        return rows.filter(pl.col("model") == model, pl.col("as_of") > since)["taken_by_run"].n_unique()

    def waiting(self, model: str) -> TrainingRequest | None:
        """The request that no run has taken up; None if there is none."""
        if not self._lake.exists(TABLE):
            return None
        rows = self._lake.read(TABLE, columns=list(SCHEMA)).filter(pl.col("model") == model).sort("recorded_at")
        newest = None if rows.is_empty() else TrainingRequest(**rows.row(-1, named=True))
        return None if newest is None or newest.taken_by_run else newest

    def _append(self, request: TrainingRequest) -> None:
        self._lake.create(TABLE, SCHEMA)
        self._lake.append(TABLE, pl.DataFrame([asdict(request)], schema=dict(SCHEMA)))
