"""Tuning by several workers is one asset like any other, and one worker's failure is not the tuning's."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import optuna
import pytest

from ml_platform.assets.model import model_assets
from ml_platform.assets.model_identity import ModelIdentity
from ml_platform.assets.training import tuned_model_asset
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.shared_study import PLACE, WORKER
from ml_platform.resources.mlflow import MlflowResource
from ml_platform.resources.platform import Platform
from ml_platform.stores.rebuilding import rebuild
from ml_platform.testing import ModelContract
from ml_platform.testing.home import ContractHome

PROJECT = Path(__file__).parents[1] / "second_data_set"
sys.path.insert(0, str(PROJECT))

import deliveries  # noqa: E402

TRIALS = 4


class SharedDemand(ModelContract):
    """The meters' model, tuned by two workers."""

    __test__ = False
    package = PROJECT / "energy_demand"
    feature_repo = PROJECT / "feature_repo"
    model = "demand"
    trained_at = datetime(2024, 3, 6, tzinfo=UTC)
    predicted_until = datetime(2024, 3, 8, tzinfo=UTC)

    def land(self, landing: Path, until: datetime) -> None:
        deliveries.land(landing, until)

    def adjust(self, spec: ModelSpec) -> ModelSpec:
        return spec.model_copy(update={"tuning": spec.tuning.model_copy(update={"workers": 2, "trials": TRIALS})})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> ContractHome:
    return ContractHome(SharedDemand(), tmp_path_factory.mktemp("shared") / "home")


def study_trials(home: ContractHome) -> list[optuna.trial.FrozenTrial]:
    url = home.settings.optuna_storage_url
    [name] = optuna.get_all_study_names(url)
    return optuna.load_study(study_name=name, storage=url).get_trials()


def test_the_asset_is_declared_as_with_one_worker(home: ContractHome) -> None:
    def declared(spec: ModelSpec) -> dg.AssetSpec:
        [asset] = [a for a in model_assets(spec, home.dataset, home.manifest) if a.key.path[-1] == "tuned_model"]
        assert asset.keys == {dg.AssetKey([spec.name, "tuned_model"])}
        [found] = asset.specs
        return found

    one = home.declared.model("demand")
    alone = declared(one.model_copy(update={"tuning": one.tuning.model_copy(update={"trials": TRIALS})}))
    shared = declared(home.spec)
    assert shared.code_version != alone.code_version
    for name in ("deps", "description", "metadata", "group_name", "owners", "tags", "kinds", "freshness_policy"):
        assert getattr(shared, name) == getattr(alone, name), name
    assert shared.automation_condition is not None


def test_a_model_tuned_by_two_is_registered_judged_and_rebuilt_from_its_parameters(home: ContractHome) -> None:
    champion = home.champion
    trials = study_trials(home)
    assert sorted(t.user_attrs[PLACE] for t in trials if t.state.is_finished() and t.state.name != "FAIL") == [
        0,
        1,
        2,
        3,
    ]
    run = champion.provenance.dagster_run_id
    assert {t.user_attrs[WORKER] for t in trials} <= {f"{run}/worker_1", f"{run}/worker_2"}
    made = rebuild(home.settings, home.spec, champion.version)
    assert made.difference is None
    assert not made.searched


def test_a_worker_whose_code_fails_leaves_its_trials_to_the_fit(
    home: ContractHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = home.champion
    changed = home.spec.model_copy(update={"seed": home.spec.seed + 1})

    def broken(*args: Any, **kwargs: Any) -> int:
        raise RuntimeError("no such device")

    monkeypatch.setattr("ml_platform.assets.steps.training.work", broken)
    said = _tune(home, changed)
    assert said.count("this worker stops, and leaves its trials to the others: no such device") == 2
    assert home.models.candidate(changed.name).seed == changed.seed


def test_a_worker_that_ends_again_and_again_gives_up_and_the_tuning_does_not(
    home: ContractHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ = home.champion
    changed = home.spec.model_copy(update={"seed": home.spec.seed + 2})
    tried = []

    def unreachable(*args: Any, worker: str, **kwargs: Any) -> int:
        tried.append(worker.rpartition("/")[2])
        raise optuna.exceptions.StorageInternalError("the database is being moved")

    monkeypatch.setattr("ml_platform.assets.steps.training.work", unreachable)
    monkeypatch.setattr("ml_platform.assets.training._REST_SECONDS", 0)
    said = _tune(home, changed)
    assert sorted(tried) == ["worker_1"] * 3 + ["worker_2"] * 3
    assert said.count("this worker ended 3 times before") == 2
    assert home.models.candidate(changed.name).seed == changed.seed


def _tune(home: ContractHome, spec: ModelSpec) -> str:
    """Materialise the tuned model of a declaration; what its steps logged."""
    asset = tuned_model_asset(ModelIdentity(spec, replace(home.dataset, models=[spec]), home.manifest))
    with home._as_environment(), dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [asset], instance=instance, resources={"platform": Platform(), "mlflow": MlflowResource()}
        )
        return "\n".join(entry.user_message for entry in instance.all_logs(done.run_id))
