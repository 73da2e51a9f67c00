"""Tags that several steps add to their run at once."""

import multiprocessing

import dagster as dg
from dagster._core.instance.ref import InstanceRef

from ml_platform.resources.run_tags import add_run_tags

WRITERS, TAGS = 4, 15


def test_no_tag_is_lost_of_steps_that_add_theirs_at_once() -> None:
    with dg.instance_for_test() as instance:
        run = instance.create_run_for_job(nothing)
        spawned = multiprocessing.get_context("spawn")
        writers = [
            spawned.Process(target=write, args=(instance.get_ref(), run.run_id, each)) for each in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        kept = instance.get_run_by_id(run.run_id).tags
    assert {name for name in kept if name.startswith("step/")} == {
        f"step/{writer}/{tag}" for writer in range(WRITERS) for tag in range(TAGS)
    }


@dg.job
def nothing() -> None:
    """No step at all."""


def write(ref: InstanceRef, run_id: str, writer: int) -> None:
    with dg.DagsterInstance.from_ref(ref) as instance:
        for tag in range(TAGS):
            add_run_tags(instance, run_id, {f"step/{writer}/{tag}": "kept"})
