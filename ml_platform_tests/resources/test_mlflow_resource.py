"""The MLflow run of a training ends as the training ends, under every executor."""

from pathlib import Path

import dagster as dg
import pytest

from ml_platform import settings
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.stores.models import DAGSTER_RUN_TAG, ModelStore

pytestmark = pytest.mark.timeout(240)


@dg.asset
def finished(context: dg.AssetExecutionContext, mlflow: MlflowResource) -> dg.MaterializeResult:
    with mlflow.training_run(context, "finished") as run:
        mlflow.store().log_metrics(run.run_id, {"auc": 0.7})
    return dg.MaterializeResult(metadata={"mlflow_run": dg.MetadataValue.url(run.url)})


@dg.asset
def failed(context: dg.AssetExecutionContext, mlflow: MlflowResource) -> None:
    with mlflow.training_run(context, "failed"):
        raise ValueError("no rows to train on")


def executed(executor: dg.ExecutorDefinition) -> dg.JobDefinition:
    definitions = dg.Definitions(
        assets=[finished, failed],
        resources={"mlflow": MlflowResource()},
        executor=executor,
        jobs=[dg.define_asset_job("all")],
    )
    return definitions.resolve_job_def("all")


def in_process() -> dg.JobDefinition:
    return executed(dg.in_process_executor)


def multiprocess() -> dg.JobDefinition:
    return executed(dg.multiprocess_executor)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("job", [in_process, multiprocess])
def test_a_run_is_finished_or_failed_as_its_step_was_and_the_links_go_both_ways(
    job: object, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(home))
    store = ModelStore(settings.load())
    with dg.instance_for_test() as instance, dg.execute_job(dg.reconstructable(job), instance) as result:
        assert not result.success
        tags = instance.get_run_by_id(result.run_id).tags
        shown = result.asset_materializations_for_node("finished")[0].metadata["mlflow_run"].value
    runs = {
        model: next(
            run
            for run in store._client.search_runs([store.experiment(model)])
            if run.data.tags[DAGSTER_RUN_TAG] == result.run_id
        )
        for model in ("finished", "failed")
    }
    assert {model: run.info.status for model, run in runs.items()} == {"finished": "FINISHED", "failed": "FAILED"}
    assert runs["finished"].data.metrics == {"auc": 0.7}
    for model, run in runs.items():
        assert run.data.tags["dagster_run_url"].endswith(f"/runs/{result.run_id}")
        assert tags[f"mlflow_run/{model}"].endswith(run.info.run_id)
    assert shown.endswith(f"/runs/{runs['finished'].info.run_id}")


def test_a_run_whose_process_was_killed_is_failed_by_the_next_training(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(home))
    store = ModelStore(settings.load())
    killed = store._client.create_run(store.experiment("finished"), tags={DAGSTER_RUN_TAG: "a-run-long-gone"})
    assert dg.materialize([finished], resources={"mlflow": MlflowResource()}).success
    assert store._client.get_run(killed.info.run_id).info.status == "FAILED"
