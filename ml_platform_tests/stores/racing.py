"""Promotions made at once, by processes that do not know of one another."""

import subprocess
import sys

from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger

VERSIONS = (1, 2, 3)

_RACER = """
import sys, time
from datetime import UTC, datetime
from ml_platform.core.promotion import Decision
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger, PromotionConflictError
ledger, version, rounds = Ledger(Lake(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
decision = Decision(promote=True, rule="first_champion", reason=f"racer {version}", gates=())
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
for number in range(rounds):
    try:
        ledger.record(f"model-{number}", version, decision, expected_current=None,
                      watermark=datetime(2013, 4, 1, tzinfo=UTC), by="test", run_id=f"run-{version}")
        sys.stdout.write(f"{number} won\\n")
    except PromotionConflictError:
        sys.stdout.write(f"{number} lost\\n")
"""


def race(uri: str, rounds: int) -> None:
    """Have each version promoted in every round by a process of its own: one is, and the ledger says which."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, uri, str(version), str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in VERSIONS
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    outputs = [racer.communicate(timeout=300)[0].split("\n")[:-1] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    ledger = Ledger(Lake(uri))
    for number in range(rounds):
        winners = [version for version, output in zip(VERSIONS, outputs, strict=True) if f"{number} won" in output]
        assert winners == ledger.history(f"model-{number}")["version"].to_list()
        assert len(winners) == 1
