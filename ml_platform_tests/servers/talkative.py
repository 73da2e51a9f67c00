"""A process with a home of its own whose run prints, waits for a file, and prints again: what a pod does."""

import os
import sys
import time
from pathlib import Path

import dagster as dg

from ml_platform.settings import load
from ml_platform.stores.instance import prepare_dagster_home

GO_ON = "TALKATIVE_GO_ON"
"""The variable that names the file which is waited for."""


@dg.op
def talk() -> None:
    sys.stdout.write("said before\n")
    sys.stderr.write("complained\n")
    sys.stdout.flush()
    while not Path(os.environ[GO_ON]).exists():
        time.sleep(0.1)
    sys.stdout.write("said after\n")


@dg.job
def talkative() -> None:
    talk()


if __name__ == "__main__":
    prepare_dagster_home(load())
    with dg.DagsterInstance.get() as instance:
        sys.exit(0 if talkative.execute_in_process(instance=instance, run_id=sys.argv[1]).success else 1)
