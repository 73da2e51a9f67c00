"""Passwords and keys are rotated while a run is under way: it ends well, and so do those after it."""

import time
from collections.abc import Collection

import dagster as dg
import pytest

from ml_platform.automation.runs import range_tags
from ml_platform.defs.nyc_flights.replay import replay
from ml_platform.settings import load
from ml_platform_tests.kubernetes.conftest import LOCATION, Platform, admit, shut_out

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1800)]

FIRST = "2012-12-31"


EVERY_STORE = ("raw", "online_features")


def begun(platform: Platform, day: str, made: Collection[str]) -> str:
    """A run of all days to this one, in its first steps."""
    context = platform.workspace.create_request_context()
    repository = context.get_code_location(LOCATION).get_repository("__repository__")
    keys = [node.asset_key for node in repository.get_asset_node_snaps()]
    selected = [key for key in keys if key.path[0] in made]
    run_id = platform.launch("nyc_flights_loop", selected, range_tags(FIRST, day))
    platform.until("a step", lambda: len(platform.cluster.jobs_of(run_id)) > 1, 300, run_id)
    return run_id


def test_a_run_ends_well_while_all_that_opens_the_stores_is_replaced(platform: Platform) -> None:
    old = platform.credentials
    list(replay(load().landing, until="2013-01-23"))
    run_id = begun(platform, "2013-01-21", (*EVERY_STORE, "features"))
    new = admit(platform.stores, "b")
    platform.rotate(new)
    assert platform.end_of(run_id).status is dg.DagsterRunStatus.SUCCESS, platform.story(run_id)
    shown = {job.pod.environment["AWS_ACCESS_KEY_ID"] for job in platform.cluster.jobs_of(run_id)}
    assert shown == {old.key_id, new.key_id}, "its steps came before and after"

    shut_out(platform.stores, old)
    time.sleep(1)  # the store's servers tell one another of keys
    later = begun(platform, "2013-01-22", EVERY_STORE)
    assert platform.end_of(later).status is dg.DagsterRunStatus.SUCCESS, platform.story(later)
    assert {job.pod.environment["AWS_ACCESS_KEY_ID"] for job in platform.cluster.jobs_of(later)} == {new.key_id}
    assert "2013-01-22" in platform.instance.get_materialized_partitions(dg.AssetKey(["raw", "arrivals"]))
    logs = [job.pod.log.read_text() for run in (run_id, later) for job in platform.cluster.jobs_of(run)]
    written = [*platform.cluster.posted, *logs, platform.said(run_id), platform.said(later)]
    assert not [text for text in written for word in (*old.words, *new.words) if word in text]
