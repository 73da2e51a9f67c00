"""A run of the flights' graph on a cluster: each step a Job with what it needs, tuning by two, one of them killed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg
import optuna
import pytest
from optuna.trial import TrialState

from ml_platform.automation.runs import range_tags
from ml_platform.core.shared_study import PLACE, SEED, WORKER
from ml_platform.settings import load
from ml_platform.stores.models import ModelStore
from ml_platform_tests.kubernetes.cluster import Job
from ml_platform_tests.kubernetes.conftest import LOCATION, Platform
from ml_platform_tests.kubernetes.project import TRIALS

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

MODEL = "flight_delay"
FIRST, LAST = "2012-12-31", "2013-01-20"


@dataclass(frozen=True)
class Made:
    """The run, the step of the worker that was killed, the number of its trial, and the study's trials in the end."""

    run_id: str
    run: dg.DagsterRun
    victim: str
    killed: int
    trials: list[optuna.trial.FrozenTrial]


def running_trial_of(platform: Platform, worker: str) -> int | None:
    """The number of the trial that a worker is making; asked of the database, which is faster than Optuna."""
    with platform.stores.postgres.connection("optuna") as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT number FROM trials JOIN trial_user_attributes USING (trial_id) "
            "WHERE state = 'RUNNING' AND key = %s AND value_json LIKE %s",
            (WORKER, f'%{worker}"'),
        )
        found = cursor.fetchone()
    return None if found is None else int(found[0])


def trials_of(platform: Platform, model: str) -> list[optuna.trial.FrozenTrial]:
    url = platform.environment["ML_PLATFORM_OPTUNA_URL"]
    [name] = [name for name in optuna.get_all_study_names(url) if name.startswith(model)]
    return optuna.load_study(study_name=name, storage=url).get_trials()


@pytest.fixture(scope="module")
def made(platform: Platform) -> Made:
    repository = (
        platform.workspace.create_request_context().get_code_location(LOCATION).get_repository("__repository__")
    )
    keys = [node.asset_key for node in repository.get_asset_node_snaps()]
    selected = [key for key in keys if key.path[0] in ("raw", "features", "online_features", MODEL)]
    run_id = platform.launch("nyc_flights_loop", selected, range_tags(FIRST, LAST))
    platform.until("the workers", lambda: len(_workers(platform, run_id)) == 2, 900, run_id)
    jobs = _workers(platform, run_id)
    # The first to be in a trial waits there until the other is in one too.
    first = platform.until("a trial", lambda: next(filter(partial(_caught, platform, jobs), jobs), None), 400, run_id)
    victim = next(name for name in jobs if name != first)
    platform.until("the other's trial", lambda: _caught(platform, jobs, victim), 50, run_id)
    number = running_trial_of(platform, victim)
    platform.cluster.kill(jobs[victim])
    platform.cluster.go_on(jobs[first])
    assert number is not None
    run = platform.end_of(run_id, 900)
    return Made(run_id, run, f"{MODEL}__tuned_model.{victim}", number, trials_of(platform, MODEL))


def _workers(platform: Platform, run_id: str) -> dict[str, Job]:
    steps = {job.step: job for job in platform.cluster.jobs_of(run_id)}
    return {name: steps[step] for name in ("worker_1", "worker_2") if (step := f"{MODEL}__tuned_model.{name}") in steps}


def _caught(platform: Platform, jobs: Mapping[str, Job], worker: str) -> bool:
    """Whether the worker is in a trial, and stopped in it."""
    if not _has_tables(platform) or running_trial_of(platform, worker) is None:
        return False
    platform.cluster.pause(jobs[worker])
    if running_trial_of(platform, worker) is None:
        platform.cluster.go_on(jobs[worker])
        return False
    return True


def _has_tables(platform: Platform) -> bool:
    with platform.stores.postgres.connection("optuna") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('trial_user_attributes') IS NOT NULL")
        return bool(cursor.fetchone()[0])


def test_the_run_succeeds_and_every_step_is_a_job_of_its_own(platform: Platform, made: Made) -> None:
    assert made.run.status is dg.DagsterRunStatus.SUCCESS, platform.story(made.run_id)
    steps = Counter(job.step for job in platform.cluster.jobs_of(made.run_id))
    again = {step for step, jobs in steps.items() if jobs > 1}
    assert again == {made.victim}, "no step but the killed one was made twice"
    assert {f"{MODEL}__tuned_model.fit", f"{MODEL}__champion", "raw__arrivals", "online_features"} <= set(steps)
    failed = {job.step for job in platform.cluster.jobs_of(made.run_id) if job.pod.exit_code not in (0, None)}
    assert failed == {made.victim}
    stats = platform.instance.get_run_step_stats(made.run_id)
    assert {step.status.value for step in stats} == {"SUCCESS"}


def test_the_model_was_tuned_by_two_and_the_killed_one_s_trial_is_made_once(platform: Platform, made: Made) -> None:
    finished = [t for t in made.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert Counter(t.user_attrs[PLACE] for t in finished) == dict.fromkeys(range(TRIALS), 1)
    assert not [t for t in made.trials if not t.state.is_finished()]
    assert len({t.user_attrs[SEED] for t in finished}) == TRIALS
    [killed] = [t for t in made.trials if t.number == made.killed]
    assert killed.state is TrialState.FAIL
    workers = {t.user_attrs[WORKER].rpartition(".")[2].rpartition("/")[2] for t in made.trials}
    assert {"worker_1", "worker_2"} <= workers
    assert all(t.user_attrs[WORKER].startswith(made.run_id) for t in made.trials)


def test_what_came_out_is_registered_with_the_run_that_made_it(platform: Platform, made: Made) -> None:
    version = ModelStore(load()).candidate(MODEL)
    assert version is not None
    assert version.provenance.dagster_run_id == made.run_id
    event = platform.instance.get_latest_materialization_event(dg.AssetKey([MODEL, "tuned_model"]))
    assert event is not None
    assert event.run_id == made.run_id
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    assert metadata["trials"].value == TRIALS
    assert metadata["version"].value == version.version
    days = platform.instance.get_materialized_partitions(dg.AssetKey(["raw", "arrivals"]))
    assert len(days) == 21
    champion = platform.instance.get_run_by_id(made.run_id)
    assert champion is not None
    assert f"mlflow_run/{MODEL}" in champion.tags


@pytest.mark.parametrize(
    ("step", "resources", "node_selector", "tolerations"),
    [
        (
            f"{MODEL}__tuned_model.worker_1",
            {
                "requests": {"cpu": "2", "memory": "2Gi", "nvidia.com/gpu": "1"},
                "limits": {"cpu": "2", "memory": "3Gi", "nvidia.com/gpu": "1"},
            },
            {"pool": "training"},
            [{"key": "training", "operator": "Equal", "value": "yes", "effect": "NoSchedule"}],
        ),
        (
            f"{MODEL}__labels",
            {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "250m", "memory": "512Mi"}},
            {"pool": "small"},
            None,
        ),
        (
            "raw__weather",
            {"requests": {"cpu": "100m", "memory": "768Mi"}, "limits": {"cpu": "100m", "memory": "768Mi"}},
            None,
            None,
        ),
        (
            "raw__arrivals",
            {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "100m", "memory": "256Mi"}},
            None,
            None,
        ),
        ("features__aircraft_facts", {"requests": {"memory": "300Mi"}, "limits": {"memory": "300Mi"}}, None, None),
        ("online_features", {"requests": {"cpu": "200m"}, "limits": {"cpu": "200m"}}, None, None),
    ],
)
def test_what_is_declared_arrives_at_the_step_s_pod(
    platform: Platform, made: Made, step: str, resources: Any, node_selector: Any, tolerations: Any
) -> None:
    spec = platform.cluster.jobs_of(made.run_id, step)[0].manifest["spec"]["template"]["spec"]
    found = spec["containers"][0]["resources"]
    for kind, values in resources.items():
        # What the cluster gives every pod is kept where nothing else is declared.
        assert found[kind].items() >= values.items()
    assert (spec.get("nodeSelector") or {}).items() >= (node_selector or {}).items()
    assert spec.get("tolerations") == tolerations


def test_a_step_that_declares_nothing_asks_for_nothing_of_its_own(platform: Platform, made: Made) -> None:
    views = platform.cluster.jobs_of(made.run_id, "features__scheduled_flight")
    runs = platform.cluster.jobs_of(made.run_id, "")
    resources = [job.pod.container.get("resources") for job in (*views, runs[0])]
    assert resources[0] == resources[1]


def test_both_workers_were_at_work_at_once(made: Made) -> None:
    [killed] = [t for t in made.trials if t.number == made.killed]
    assert killed.datetime_start is not None
    other = {"worker_1", "worker_2"} - {made.victim.rpartition(".")[2]}
    beside = [t for t in made.trials if t.user_attrs[WORKER].rpartition("/")[2] in other and t.datetime_complete]
    assert any(
        t.datetime_start < killed.datetime_complete and killed.datetime_start < t.datetime_complete for t in beside
    )
