"""The facts of a model's story, each read from where it stands: lake, ledger, registry."""

from collections.abc import Mapping
from datetime import datetime

import polars as pl

from ml_platform.core.model_spec import ModelSpec, Task
from ml_platform.core.rivals import by_month, paired_difference
from ml_platform.core.story import AUTOMATED, FROZEN, MONTHLY, Accounts, Story, Training
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import LedgerEntry
from ml_platform.stores.model_tables import due_in_quarantine, due_rows, training_times
from ml_platform.stores.models import ModelStore
from ml_platform.stores.retraining import falls
from ml_platform.stores.rivals import automated, first_champion, frozen, labelled_rows, monthly_on_all_past
from ml_platform.stores.table_names import REPORTED_DAY, drift_table, labels_table, predictions_table, quarantine_table

TOLD_METRICS: Mapping[Task, tuple[str, ...]] = {Task.BINARY: ("auc", "log_loss"), Task.REGRESSION: ("rmse", "mae")}


def tell(
    lake: Lake,
    features: FeatureClient,
    models: ModelStore,
    dataset: Dataset,
    spec: ModelSpec,
    watermark: datetime,
    triggers: Mapping[str, str],
) -> Story:
    """The story of a model since its first champion.

    Args:
        lake: the home's tables.
        features: its feature store.
        models: its registry and ledger.
        dataset: the data set's declarations.
        spec: the model's.
        watermark: until when it is told.
        triggers: what called for a training, by its Dagster run.

    Raises:
        LookupError: the model never had a champion.
    """
    first = first_champion(lake, spec)
    rows = labelled_rows(lake, features, spec)
    scores = {
        AUTOMATED: automated(lake, spec, rows, watermark),
        FROZEN: frozen(lake, models, spec, rows, watermark),
        MONTHLY: monthly_on_all_past(lake, models, spec, rows, watermark),
    }
    keys = list(spec.keys)
    ours = scores[AUTOMATED]
    rivals = {name: scores[name].join(ours, on=keys, how="semi") for name in (FROZEN, MONTHLY)}
    names = TOLD_METRICS[spec.task]
    return Story(
        model=spec.name,
        first_champion=first.decided_at_watermark,
        until=watermark,
        trainings=_trainings(lake, models, spec, triggers),
        months=by_month(spec, scores, names),
        scored=_scored_by_month(lake, spec),
        alarms=_alarms_by_month(lake, spec),
        falls=_counted(
            pl.Series("day", falls(lake, spec, watermark), dtype=pl.Datetime("us", "UTC")).dt.offset_by("-1d")
        ),
        differences={
            (name, rival): paired_difference(spec, name, [(ours, theirs)])
            for name in names
            for rival, theirs in rivals.items()
        },
        accounts=_accounts(lake, dataset, spec, first, watermark),
    )


def _trainings(lake: Lake, models: ModelStore, spec: ModelSpec, triggers: Mapping[str, str]) -> list[Training]:
    judged = {row["decided_at_watermark"]: row for row in models.ledger.judgements(spec.name).iter_rows(named=True)}
    found = []
    for as_of in dict.fromkeys(training_times(lake, spec)):
        decision = judged.get(as_of)
        found.append(
            Training(as_of, "", None, False, "", "no decision was reached")
            if decision is None
            else Training(
                as_of,
                triggers.get(decision["run_id"], ""),
                decision["version"],
                decision["promoted"],
                decision["rule"],
                decision["reason"],
            )
        )
    return found


def _scored_by_month(lake: Lake, spec: ModelSpec) -> dict[str, int]:
    rows = lake.read(predictions_table(spec), columns=[*spec.keys, "prediction_time"]).unique(spec.keys)
    return _counted(rows["prediction_time"])


def _alarms_by_month(lake: Lake, spec: ModelSpec) -> dict[str, int]:
    if not lake.exists(drift_table(spec)):
        return {}
    days = lake.read(drift_table(spec), columns=[REPORTED_DAY, "alarm"]).filter("alarm")
    return _counted(days[REPORTED_DAY].unique())


def _counted(times: pl.Series) -> dict[str, int]:
    return dict(times.dt.strftime("%Y-%m").value_counts().sort(times.name).iter_rows())


def _accounts(lake: Lake, dataset: Dataset, spec: ModelSpec, first: LedgerEntry, watermark: datetime) -> Accounts:
    since = first.decided_at_watermark - spec.windows.holdout
    due = due_rows(lake, dataset, spec, since, watermark)
    made = lake.read(predictions_table(spec), columns=[*spec.keys, "model_version"])
    labels = lake.read(labels_table(spec), columns=list(spec.keys))
    quarantines = [quarantine_table(dataset.table(name)) for name in spec.entities.inputs]
    return Accounts(
        since=since,
        until=watermark,
        due=due.height,
        scored=due.join(made.unique(spec.keys), on=list(spec.keys), how="semi").height,
        doubly_scored=made.height - made.unique([*spec.keys, "model_version"]).height,
        labelled=due.join(labels, on=list(spec.keys), how="semi").height,
        quarantined=due_in_quarantine(lake, dataset, spec, since, watermark).height,
        in_quarantine=sum(lake.read(table).height for table in quarantines if lake.exists(table)),
    )
