"""MLflow in the asset graph: the model store, and a training's MLflow run that ends as its step ends.

dagster-mlflow's ``mlflow_tracking`` opens the run and tags it, but ends it in a process-exit hook that
MLflow no longer lets it remove: under the multiprocess executor failed trainings were recorded as
FINISHED. So it is used here for the length of a block inside the training asset, not of a Dagster run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from ml_platform import settings
from ml_platform.resources.run_tags import add_run_tags

if TYPE_CHECKING:
    from ml_platform.stores.models import ModelStore, TrainingRun


class MlflowResource(dg.ConfigurableResource):
    """Runs and registered models of the platform's MLflow."""

    def store(self) -> "ModelStore":
        """The model store of this process's settings."""
        from ml_platform.stores.models import ModelStore

        return ModelStore(settings.load())

    @contextmanager
    def training_run(
        self, context: dg.AssetExecutionContext | dg.OpExecutionContext, model: str
    ) -> "Iterator[TrainingRun]":
        """An MLflow run of the model's experiment, joined to the Dagster run by tags on either side.

        It ends as FINISHED, or as FAILED if the block raises. A step retried in the same Dagster run goes on
        with the same MLflow run.

        Raises:
            RuntimeError: an MLflow run is already active here, so what is logged would go to that.
        """
        import mlflow
        from dagster_mlflow import mlflow_tracking

        store = self.store()
        experiment_id = store.experiment(model)
        if active := mlflow.active_run():
            raise RuntimeError(f"MLflow run {active.info.run_id} is still active: a training opens its own")
        store.end_abandoned(model, lambda run_id: _is_over(context.instance, run_id))
        init = dg.InitResourceContext(
            resource_config={
                "experiment_name": model,
                "mlflow_tracking_uri": mlflow.get_tracking_uri(),
                "extra_tags": {
                    "dagster_run_url": store.dagster_run_url(context.run_id),
                    "dagster_asset": context.asset_key.to_user_string(),
                },
            },
            resources=context.resources,
            resource_def=mlflow_tracking,
            all_resource_defs={},
            instance=context.instance,
            dagster_run=context.run,
            log_manager=context.log,
        )
        tracking = next(mlflow_tracking.resource_fn(init))
        with store.closing(tracking.mlflow_run_id or tracking.active_run().info.run_id, experiment_id) as run:
            add_run_tags(context.instance, context.run_id, {f"mlflow_run/{model}": run.url})
            yield run


def _is_over(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id) if run_id else None
    return run is None or run.is_finished
