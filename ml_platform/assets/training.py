"""The assets that make a candidate and tell of it: tuned model, evaluation report, model card."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from ml_platform.assets.metadata import Column, table_definition
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.pods import TRAINING_POOL, pool
from ml_platform.core.recipe import code_version
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.stores.table_names import EVALUATION_COLUMNS, evaluation_table

WORKER_LIVES = 3
"""How often a worker of a study is started again; the last time it only says that it gave up."""

_REST_SECONDS = 5.0


def tuned_model_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/tuned_model``: study, final fit and registered candidate.

    With several declared workers it is a graph of steps, each of which has a process of its own where the executor
    gives it one (docs/adr/0011): the workers share the study, and the last step fits.
    """
    spec = model.spec
    name = f"{spec.name}__tuned_model"
    declared = model.asset(
        "tuned_model",
        f"LightGBM tuned by Optuna ({spec.tuning.trials} trials) on time-ordered folds, fitted on all rows "
        "before the holdout and registered as a candidate.",
        {"lightgbm", "optuna", "mlflow"},
        [model.key("training_set")],
        code_version=code_version(spec, model.service.hash),
        automation_condition=model.follows(),
    )
    if spec.tuning.workers > 1:
        return _shared_tuning(model, name, declared)

    @dg.multi_asset(
        name=name,
        specs=[declared],
        can_subset=True,
        op_tags=model.op_tags("tuned_model"),
        pool=pool(TRAINING_POOL),
    )
    def tuned_model(context: dg.AssetExecutionContext, platform: Platform, mlflow: MlflowResource) -> Iterator[Any]:
        from ml_platform.assets.steps.training import train

        yield from train(context, platform, mlflow, model)

    return tuned_model


def _shared_tuning(model: ModelIdentity, name: str, declared: dg.AssetSpec) -> dg.AssetsDefinition:
    """The asset as a graph: workers that know nothing of each other, and the fit when all have ended."""
    spec = model.spec
    tags = model.op_tags("tuned_model")

    @dg.op(
        name=f"{name}__worker",
        description="Makes trials of the study until all are made, beside the other workers.",
        ins={"training_set": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        tags=tags,
        retry_policy=dg.RetryPolicy(max_retries=WORKER_LIVES, delay=_REST_SECONDS),
    )
    def worker(context: dg.OpExecutionContext, platform: Platform) -> None:
        from ml_platform.assets.steps.training import work_on_study

        work_on_study(context, platform, model)

    @dg.op(
        name=f"{name}__fit",
        description="Makes what trials the workers left, fits with the best and registers the candidate.",
        ins={"trials": dg.In(dg.Nothing)},
        tags=tags,
        pool=pool(TRAINING_POOL),
    )
    def fit(context: dg.OpExecutionContext, platform: Platform, mlflow: MlflowResource) -> Iterator[Any]:
        from ml_platform.assets.steps.training import train

        yield from train(context, platform, mlflow, model)

    @dg.graph(name=name, ins={"training_set": dg.GraphIn()}, out=dg.GraphOut())
    def tuning(training_set: Any) -> Any:
        return fit.alias("fit")(
            [worker.alias(f"worker_{number}")(training_set) for number in range(1, spec.tuning.workers + 1)]
        )

    return dg.AssetsDefinition(
        node_def=tuning,
        keys_by_input_name={"training_set": model.key("training_set")},
        keys_by_output_name={"result": declared.key},
        specs=[declared],
    )


def evaluation_report_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/evaluation_report``: the candidate on rows it never saw, beside baseline and champion."""
    spec = model.spec
    columns = [Column(name, kind, text) for name, (kind, text) in EVALUATION_COLUMNS.items()]

    @dg.multi_asset(
        name=f"{spec.name}__evaluation_report",
        specs=[
            model.asset(
                "evaluation_report",
                "The candidate on the newest window that neither tuning nor fitting saw, with intervals, against the "
                "naive baseline and the champion on the same rows.",
                {"delta", "lightgbm"},
                [model.key("tuned_model")],
                table_definition(evaluation_table(spec), columns),
                automation_condition=model.follows(),
            )
        ],
        can_subset=True,
        op_tags=model.op_tags("evaluation_report"),
    )
    def evaluation_report(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.training import report_evaluation

        yield from report_evaluation(context, platform, model)

    return evaluation_report


def model_card_asset(model: ModelIdentity) -> dg.AssetsDefinition:
    """``<model>/model_card``: one page for each version, every figure read from its source."""
    spec = model.spec

    @dg.multi_asset(
        name=f"{spec.name}__model_card",
        specs=[
            model.asset(
                "model_card",
                "What the newest candidate is for, what it learned from, how good it is and where it fails, and every "
                "decision on this model; figures read from their source assets.",
                {"html", "mlflow"},
                [model.key("champion"), model.key("training_set")],
                automation_condition=model.follows(),
            )
        ],
        can_subset=True,
        op_tags=model.op_tags("model_card"),
    )
    def card(context: dg.AssetExecutionContext, platform: Platform) -> Iterator[Any]:
        from ml_platform.assets.steps.training import write_card

        yield from write_card(context, platform, model)

    return card
