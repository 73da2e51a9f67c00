"""Making and judging a candidate: study, fit, evaluation, model card."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import dagster as dg
import polars as pl

from ml_platform.assets import wording
from ml_platform.assets.events import report_whole
from ml_platform.assets.metadata import markdown_table, picture
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.training import WORKER_LIVES
from ml_platform.automation.runs import EVIDENCE_TAG, REASON_TAG, TRIGGER_TAG, of_model
from ml_platform.core import plots
from ml_platform.core.digests import digest
from ml_platform.core.evaluation import evaluate
from ml_platform.core.evaluation_report import EvaluationReport
from ml_platform.core.learning import learn, study_name
from ml_platform.core.model_card import CardSources
from ml_platform.core.recipe import code_version
from ml_platform.core.splits import split
from ml_platform.core.tuning import TrialSummary, storage_errors, tune, work
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.stores.evaluations import store_evaluation
from ml_platform.stores.model_tables import StoredTrainingSet, stored_training_set
from ml_platform.stores.models import ModelVersion, Provenance
from ml_platform.stores.source import commit, libraries


def report_evaluation(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Evaluate the newest candidate and report it."""
    key = model.key("evaluation_report")
    data_version, metadata = evaluate_candidate(context, platform, model, newest_candidate(platform, model))
    yield from report_whole(context, key, data_version, metadata)


def write_card(context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity) -> Iterator[Any]:
    """Write the newest candidate's page."""
    spec, key = model.spec, model.key("model_card")
    candidate = newest_candidate(platform, model)
    sources = card_sources(platform, model, candidate)
    url = platform.reports.model_card(spec, sources)
    written = platform.reports.file(spec.name, "model_card", f"version_{candidate.version}")
    platform.models.attach(candidate.run_id, {"model_card.html": written.read_text(encoding="utf-8")})
    metadata = {"version": candidate.version, "card": dg.MetadataValue.url(url)}
    yield from report_whole(context, key, digest(str(sources.as_mapping())), metadata)


def work_on_study(context: dg.OpExecutionContext, platform: Platform, model: ModelIdentity) -> None:
    """Be a worker of the study.

    Dagster gives up what comes after a failed step, and the others could still finish the study: so a worker that was
    killed is started again some times, and one that was killed every time, or whose code failed, leaves its trials to
    the others. The fit makes what is left in the end, and fails if that cannot be made.
    """
    spec = model.spec
    if context.retry_number >= WORKER_LIVES:
        context.log.error("this worker ended %s times before: it leaves its trials to the others", WORKER_LIVES)
        return
    stored = stored_training_set(platform.lake, spec)
    candidate = platform.models.candidate(spec.name)
    if candidate is not None and _same_recipe(candidate, stored, model):
        context.log.info("version %s was made from exactly this: nothing to search", candidate.version)
        return
    rows = split(stored.frame, spec.windows, stored.as_of)
    study = _study(context, platform, model, stored.state.content_hash, stored.as_of)
    # A step that is started again has the same name: it knows that what went before it is gone.
    name = f"{context.run_id}/{context.op_handle.name}"
    try:
        made = work(spec, rows.train, model.service.features, worker=name, **study)
    except storage_errors():
        raise  # The step is tried again: the database may be back by then.
    except Exception as error:
        context.log.exception("this worker stops, and leaves its trials to the others: %s", error)
        return
    context.add_output_metadata({"trials": made, "worker": name})


def train(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    platform: Platform,
    mlflow: MlflowResource,
    model: ModelIdentity,
) -> Iterator[Any]:
    """Search what is not searched yet, fit, register."""
    spec = model.spec
    key = model.key("tuned_model")
    stored = stored_training_set(platform.lake, spec)
    candidate = platform.models.candidate(spec.name)
    if candidate is not None and _same_recipe(candidate, stored, model):
        context.log.info("version %s was made from exactly this: nothing to train", candidate.version)
        yield from report_whole(context, key, candidate.model_hash, _version_metadata(candidate))
        return
    rows = split(stored.frame, spec.windows, stored.as_of)
    with mlflow.training_run(context, spec.name) as run:
        study = _study(context, platform, model, stored.state.content_hash, stored.as_of)
        learned = learn(spec, rows.train, model.service, **study)
        tuning, fitted = learned.tuning, learned.model
        history = plots.study_history(
            tuning.trials, title=f"{spec.name}: {tuning.trials.height} trials", metric=tuning.metric
        )
        version = platform.models.log_candidate(
            run,
            spec.name,
            fitted,
            Provenance(
                training_set_version=stored.state.delta_version,
                training_set_hash=stored.state.content_hash,
                training_rows=rows.train.height,
                as_of=stored.as_of,
                inputs=stored.state.inputs,
                service=spec.service,
                service_hash=model.service.hash,
                code_version=code_version(spec, model.service.hash),
                dagster_run_id=context.run_id,
                **why(context, spec.name),
                commit=commit(platform.settings),
                libraries=libraries(),
            ),
            spec=spec,
            example=rows.train.head(5),
            metrics={f"study_{tuning.metric}": tuning.best_value, "trials": tuning.trials.height},
            plots={"study_history": history},
        )
    made = platform.models.describe(spec.name, version)
    metadata = {
        "study": picture(history, "study history"),
        **_version_metadata(made),
        f"study_{tuning.metric}": tuning.best_value,
        "trials": tuning.trials.height,
        "trials_pruned": tuning.pruned,
        "rounds": tuning.rounds,
        "parameters": dg.MetadataValue.md(
            markdown_table([{"parameter": name, "value": value} for name, value in fitted.params.items()])
        ),
    }
    yield from report_whole(context, key, made.model_hash, metadata)


def evaluate_candidate(
    context: dg.AssetExecutionContext, platform: Platform, model: ModelIdentity, candidate: ModelVersion
) -> tuple[str, dict[str, Any]]:
    """Evaluate a candidate and keep the report wherever it is read; data version and metadata of the asset."""
    spec = model.spec
    stored = stored_training_set(platform.lake, spec, candidate.provenance.training_set_version)
    rows = split(stored.frame, spec.windows, candidate.provenance.as_of)
    rival = _rival(platform, model, candidate)
    report = evaluate(
        spec,
        platform.models.load(spec.name, candidate.version),
        rows.train,
        rows.holdout,
        champion=None if rival is None else platform.models.load(spec.name, rival.version),
        champion_version=None if rival is None else rival.version,
        tuning=tune(
            spec,
            rows.train,
            model.service.features,
            **_study(context, platform, model, candidate.provenance.training_set_hash, candidate.provenance.as_of),
        ),
    )
    images = plots.report_plots(report)
    state = store_evaluation(platform.lake, spec, candidate.version, candidate.provenance.as_of, report)
    platform.models.attach(candidate.run_id, {"evaluation.json": report.to_json()}, folder="evaluation")
    platform.models.attach(candidate.run_id, {f"{name}.png": image for name, image in images.items()}, "evaluation")
    figures = report.as_metadata()
    platform.models.log_metrics(candidate.run_id, {f"holdout_{name}": value for name, value in figures.items()})
    url = platform.reports.evaluation(report, candidate.version, images)
    metadata = {
        "summary": dg.MetadataValue.md(wording.evaluation_summary(report, candidate.version)),
        "report": dg.MetadataValue.md(f"[evaluation of version {candidate.version}]({url})"),
        "metrics": dg.MetadataValue.md(wording.metrics_table(report)),
        **{name: picture(image, name.replace("_", " ")) for name, image in images.items()},
        "version": candidate.version,
        "compared_with_champion": rival.version if rival else "none",
        "mlflow": wording.mlflow_links(candidate),
        **figures,
    }
    return digest(state.content_hash, str(candidate.version)), metadata


def card_sources(platform: Platform, model: ModelIdentity, version: ModelVersion) -> CardSources:
    """What a version's card is made from, read from the store of each source asset."""
    stored = stored_training_set(platform.lake, model.spec, version.provenance.training_set_version)
    frame = stored.frame
    return CardSources(
        training_set={
            "rows": frame.height,
            "label_mean": frame.select(pl.col("label").cast(pl.Float64).mean()).item(),
            "start": frame["prediction_time"].min(),
            "end": frame["prediction_time"].max(),
            "delta_version": version.provenance.training_set_version,
            "content_hash": version.provenance.training_set_hash,
            "service": version.provenance.service,
            "service_hash": version.provenance.service_hash,
            "inputs": version.provenance.inputs,
        },
        tuned_model={
            "version": version.version,
            "trained_through": version.trained_through,
            "seed": version.seed,
            "model_hash": version.model_hash,
            "code_version": version.provenance.code_version,
            "dagster_run_id": version.provenance.dagster_run_id,
            "run_id": version.run_id,
            "parameters": dict(version.parameters),
        },
        evaluation_report=evaluation_of(platform, version),
        champion=platform.models.ledger.history(model.spec.name).to_dicts(),
    )


def why(context: dg.AssetExecutionContext | dg.OpExecutionContext, model: str) -> dict[str, str]:
    """Why this run trains the model: its tags, as they stand now, because earlier steps of a run add some."""
    run = context.instance.get_run_by_id(context.run_id)
    tags = {} if run is None else run.tags
    return {
        "reason": tags.get(of_model(REASON_TAG, model), tags.get(REASON_TAG, "")),
        "trigger": tags.get(of_model(TRIGGER_TAG, model), ""),
        "evidence": tags.get(of_model(EVIDENCE_TAG, model), ""),
    }


def _study(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    platform: Platform,
    model: ModelIdentity,
    training_set_hash: str,
    as_of: datetime,
) -> dict[str, Any]:
    """Where the study on a training set's rows is kept; one whose budget is spent is read, not run."""

    def progress(trial: TrialSummary) -> None:
        best = "" if trial.best_value is None else f", best so far {trial.best_value:.5f}"
        context.log.info(
            "trial %s of %s %s: %.5f in %s rounds%s",
            trial.number + 1,
            trial.budget,
            trial.state,
            trial.value,
            trial.rounds,
            best,
        )

    return {
        "storage_url": platform.study_storage(),
        "study_name": study_name(model.spec, training_set_hash, as_of),
        "on_trial": progress,
    }


def evaluation_of(platform: Platform, version: ModelVersion) -> EvaluationReport:
    """The report on a version, as it was made.

    Raises:
        LookupError: the version was not evaluated.
    """
    return EvaluationReport.from_json(platform.models.artifact_text(version.run_id, "evaluation/evaluation.json"))


def newest_candidate(platform: Platform, model: ModelIdentity) -> ModelVersion:
    """The newest version.

    Raises:
        dagster.Failure: there is none.
    """
    candidate = platform.models.candidate(model.spec.name)
    if candidate is None:
        raise dg.Failure(f"{model.spec.name} has no candidate: materialise {model.spec.name}/tuned_model first")
    return candidate


def _rival(platform: Platform, model: ModelIdentity, candidate: ModelVersion) -> ModelVersion | None:
    """The champion a candidate is evaluated beside: once it was judged, the one it was judged beside.

    A report that is made again still says what the decision was made on, also if the candidate is champion by now.
    """
    models, name = platform.models, model.spec.name
    judged = models.ledger.judgement_on(name, candidate.version)
    if judged is None:
        return models.champion(name)
    return None if judged.previous_version is None else models.describe(name, judged.previous_version)


def _same_recipe(candidate: ModelVersion, stored: StoredTrainingSet, model: ModelIdentity) -> bool:
    made = candidate.provenance
    recipe = (stored.state.content_hash, stored.as_of, code_version(model.spec, model.service.hash))
    return (made.training_set_hash, made.as_of, made.code_version) == recipe


def _version_metadata(version: ModelVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "training_rows": version.provenance.training_rows,
        "trained_through": dg.MetadataValue.timestamp(version.trained_through),
        "model_hash": version.model_hash,
        "training_set_delta_version": version.provenance.training_set_version,
        "mlflow": wording.mlflow_links(version),
    }
