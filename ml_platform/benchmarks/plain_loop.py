"""The loop without Dagster: the same functions in one plain script, over what has landed in the home's landing folder.

The asset graph is measured beside it. It does all that the graph does, in the graph's order.
"""

import sys
from datetime import datetime, timedelta

from ml_platform import settings
from ml_platform.core import plots
from ml_platform.core.evaluation import evaluate
from ml_platform.core.model_card import CardSources
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.promotion import decide
from ml_platform.core.scoring import raw_scores
from ml_platform.core.splits import split
from ml_platform.core.training import fit
from ml_platform.core.tuning import study_name, tune
from ml_platform.defs import datasets
from ml_platform.stores.catalog import WHOLE
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import day_bounds, days_between
from ml_platform.stores.evaluations import store_evaluation
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import derive, derive_whole
from ml_platform.stores.ingest import ingest
from ml_platform.stores.labels import labels_derivation
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.model_tables import build_training_set, predict
from ml_platform.stores.models import ModelStore, Provenance
from ml_platform.stores.monitoring import (
    DriftReference,
    calibrate_drift,
    drift_current,
    drift_reference,
    report_drift,
    report_performance,
)
from ml_platform.stores.planning import days_between_names, plan
from ml_platform.stores.reports import Reports
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation


def main(what: str = "loop") -> None:
    """Everything of every data set; or ``day``: what landed since a version of each model was promoted."""
    settings.prepare_environment()
    settings.take_files_at_once()
    here = settings.load()
    for dataset in datasets():
        {"loop": loop, "day": day}[what](here, dataset)


def loop(here: settings.Settings, dataset: Dataset) -> None:
    """One data set, from landed files to reports."""
    lake, features = Lake.of(here), FeatureClient(here)
    watermark = _watermark(here, dataset)
    days = days_between(dataset.spec.start, (watermark - timedelta(microseconds=1)).date())
    take_in(here, dataset, features, days)
    for spec in dataset.models:
        list(derive(lake, labels_derivation(spec, dataset), days, watermark))
        reference = train(here, dataset, spec, lake, features)
        watch(here, dataset, spec, features, days, reference)


def day(here: settings.Settings, dataset: Dataset) -> None:
    """What is out of date of one data set, with the champions there are."""
    lake, features = Lake.of(here), FeatureClient(here)
    found = plan(here, dataset)
    if found.days is None:
        return
    days = days_between_names(*found.days)
    take_in(here, dataset, features, days)
    for spec in dataset.models:
        list(derive(lake, labels_derivation(spec, dataset), days, _watermark(here, dataset)))
        watch(here, dataset, spec, features, days)


def take_in(here: settings.Settings, dataset: Dataset, features: FeatureClient, days: list[str]) -> None:
    """Raw tables and features, and the newest of these online."""
    lake, landing, watermark = Lake.of(here), Landing(here.landing), _watermark(here, dataset)
    for table in dataset.tables:
        landed = landing.periods(table)
        list(ingest(lake, landing, table, [name for name in landed if name == WHOLE or name in set(days)]))
    manifest = features.manifest()
    for name, transform in dataset.views.items():
        derivation = view_derivation(manifest.view(name), bind(transform, dataset.folder))
        if any(dataset.table(table).known_at for table in transform.inputs):
            list(derive(lake, derivation, days, watermark))
        else:
            derive_whole(lake, derivation)
    features.apply()
    for name in dataset.views:
        features.push_online(name)


def _watermark(here: settings.Settings, dataset: Dataset) -> datetime:
    watermark = dataset.watermark(Landing(here.landing))
    if watermark is None:
        raise RuntimeError(f"nothing has landed in {here.landing}")
    return watermark


def train(
    here: settings.Settings, dataset: Dataset, spec: ModelSpec, lake: Lake, features: FeatureClient
) -> DriftReference:
    """One model, from its labels to its card; what drift from it is measured by."""
    watermark = _watermark(here, dataset)
    models, reports = ModelStore(here), Reports(here)
    service = features.manifest().service(spec.service)
    built, _ = build_training_set(lake, features, spec, watermark)
    rows = split(built.frame, spec.windows, built.as_of)
    with models.training_run(spec.name) as run:
        name = study_name(spec, built.state.content_hash)
        tuning = tune(spec, rows.train, service.features, storage_url=here.optuna_storage_url, study_name=name)
        fitted = fit(spec, rows.train, service.features, tuning.params, tuning.rounds)
        provenance = Provenance(
            training_set_version=built.state.delta_version,
            training_set_hash=built.state.content_hash,
            training_rows=rows.train.height,
            as_of=built.as_of,
            inputs=built.state.inputs,
            service=spec.service,
            service_hash=service.hash,
            code_version="plain",
            dagster_run_id="",
        )
        history = plots.study_history(tuning.trials, title=spec.name, metric=tuning.metric)
        version = models.log_candidate(
            run,
            spec.name,
            fitted,
            provenance,
            spec=spec,
            example=rows.train.head(5),
            metrics={},
            plots={"study": history},
        )
    report = evaluate(spec, fitted, rows.train, rows.holdout, tuning=tuning)
    images = plots.report_plots(report)
    store_evaluation(lake, spec, version, built.as_of, report)
    models.attach(run.run_id, {"evaluation.json": report.to_json(), **{f"{k}.png": v for k, v in images.items()}})
    reports.evaluation(report, version, images)
    sample = rows.holdout.head(20)
    check = models.check_clean_process(spec.name, version, sample, raw_scores(fitted, sample).tolist())
    decision = decide(spec, report, champion_age=None, latency_ms=check.median_ms, loads_cleanly=check.ok)
    models.promote(spec.name, version, decision, expected_current=None, watermark=built.as_of, by="script", run_id="")
    champion = models.champion(spec.name)
    if champion is None:
        raise RuntimeError(decision.reason)
    reports.model_card(
        spec,
        CardSources(
            training_set={
                "rows": built.frame.height,
                "label_mean": built.label_rate,
                "start": built.frame["prediction_time"].min(),
                "end": built.frame["prediction_time"].max(),
                "delta_version": built.state.delta_version,
                "content_hash": built.state.content_hash,
                "service": service.name,
                "service_hash": service.hash,
                "inputs": built.state.inputs,
            },
            tuned_model={
                "version": version,
                "trained_through": champion.trained_through,
                "seed": champion.seed,
                "model_hash": champion.model_hash,
                "code_version": "plain",
                "dagster_run_id": "",
                "run_id": champion.run_id,
                "parameters": dict(champion.parameters),
            },
            evaluation_report=report,
            champion=models.ledger.history(spec.name).to_dicts(),
        ),
    )
    reference = drift_reference(lake, spec, champion, fitted)
    calibrate_drift(lake, spec, version, reference)
    return reference


def watch(
    here: settings.Settings,
    dataset: Dataset,
    spec: ModelSpec,
    features: FeatureClient,
    days: list[str],
    reference: DriftReference | None = None,
) -> None:
    """Predictions of the champion, and what is said of them."""
    lake, models, reports, watermark = Lake.of(here), ModelStore(here), Reports(here), _watermark(here, dataset)
    champion = models.champion(spec.name)
    if champion is None:
        raise RuntimeError(f"{spec.name} has no champion")
    fitted = models.load(spec.name, champion.version)
    list(predict(lake, features, spec, dataset, champion.version, fitted, days, watermark))
    report_performance(lake, spec, days, watermark)
    reference = reference or drift_reference(lake, spec, champion, fitted)
    drift = report_drift(lake, spec, champion.version, lambda: reference, days, watermark)
    newest = max(drift.made)
    current = drift_current(lake, spec, champion.version, day_bounds(newest)[1])
    reports.drift(spec.name, newest, spec.drift, drift.made[newest], reference.rows, current)


if __name__ == "__main__":
    main(*sys.argv[1:])
