"""The registry gives back what it was given, and its champion is the ledger's, whatever was killed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ml_platform.core.promotion import Decision
from ml_platform.core.scoring import raw_scores
from ml_platform.settings import load
from ml_platform.stores.ledger import PromotionConflictError
from ml_platform.stores.models import CHAMPION, ModelStore, UnknownModelError
from ml_platform_tests.stores.model_examples import PROVENANCE, WATERMARK, fitted, log, rows

pytestmark = pytest.mark.timeout(240)

PROMOTED = Decision(promote=True, rule="first_champion", reason="every gate holds", gates=())


def promote(store: ModelStore, name: str, version: int, expected: int | None) -> None:
    store.promote(
        name,
        version,
        PROMOTED,
        expected_current=expected,
        watermark=WATERMARK,
        by="automation",
        run_id=f"run-{version}",
    )


def alias(store: ModelStore, name: str) -> int | None:
    found = store._client.get_registered_model(name).aliases.get(CHAMPION)
    return None if found is None else int(found)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def store(home: Path) -> ModelStore:
    return ModelStore(load({"ML_PLATFORM_HOME": str(home)}))


def test_nothing_is_registered_at_first(store: ModelStore) -> None:
    assert store.candidate("nothing") is None
    assert store.champion("nothing") is None
    with pytest.raises(UnknownModelError, match="has no version 1; it has none"):
        store.load("nothing", 1)


def test_a_model_comes_back_bit_for_bit_with_all_it_was_made_from(store: ModelStore) -> None:
    model = fitted()
    version = log(store, "same", model)
    assert store.load("same", version) == model
    np.testing.assert_array_equal(raw_scores(store.load("same", version), rows()), raw_scores(model, rows()))
    candidate = store.candidate("same")
    assert candidate.version == version == 1
    assert candidate.provenance == PROVENANCE
    assert candidate.trained_through == model.trained_through
    assert candidate.metrics["auc"] == 0.7
    assert candidate.parameters["rounds"] == "10"
    assert candidate.run_url.endswith(f"/runs/{candidate.run_id}")


def test_a_text_attached_to_a_run_is_read_again_and_one_never_attached_is_named(store: ModelStore) -> None:
    with store.training_run("attached") as run:
        store.attach(run.run_id, {"note.json": "{}"}, folder="notes")
    assert store.artifact_text(run.run_id, "notes/note.json") == "{}"
    with pytest.raises(LookupError, match="no artifact 'notes/other"):
        store.artifact_text(run.run_id, "notes/other.json")


def test_nothing_stored_can_execute_code(store: ModelStore, home: Path) -> None:
    log(store, "textual")
    artifacts = [path for path in (home / "mlflow" / "artifacts" / "textual").rglob("*") if path.is_file()]
    assert {"model.lgb", "model.json", "MLmodel", "input_example.json", "study.png"} <= {
        path.name for path in artifacts
    }
    for path in artifacts:
        content = path.read_bytes()
        assert path.suffix not in {".pkl", ".pickle", ".joblib", ".skops"}
        assert not content.startswith(b"\x80"), f"{path} begins as a pickle does"
        assert b"pickle" not in content, f"{path} speaks of pickle"
    assert "signature:" in next(path for path in artifacts if path.name == "MLmodel").read_text()


def test_a_failed_training_is_failed_and_an_interrupted_one_killed(store: ModelStore) -> None:
    with pytest.raises(ValueError, match="no rows"), store.training_run("broken"):
        raise ValueError("no rows")
    with pytest.raises(KeyboardInterrupt), store.training_run("broken"):
        raise KeyboardInterrupt
    found = store._client.search_runs([store.experiment("broken")], order_by=["attributes.start_time"])
    assert [run.info.status for run in found] == ["FAILED", "KILLED"]
    assert store.versions("broken") == []


def test_a_clean_process_gives_the_same_scores_within_milliseconds(store: ModelStore) -> None:
    version = log(store, "clean")
    sample = rows(50).with_columns(pl.when(pl.col("x") < -1).then(pl.lit("never seen")).otherwise("kind").alias("kind"))
    expected = raw_scores(fitted(), sample).tolist()
    check = store.check_clean_process("clean", version, sample, expected)
    assert check.ok, check.error
    assert 0 < check.median_ms < 50
    wrong = store.check_clean_process("clean", version, sample, [score + 1e-12 for score in expected])
    assert (wrong.ok, wrong.equal) == (False, False)
    assert "other scores" in wrong.error


def test_a_model_file_that_does_not_load_is_an_answer_not_a_crash(store: ModelStore) -> None:
    version = log(store, "corrupt")
    native, _ = store._files("corrupt", version)
    native.write_text("not a model")
    check = store.check_clean_process("corrupt", version, rows(5), [0.0] * 5)
    assert not check.ok
    assert "Error" in check.error
    assert check.median_ms == float("inf")


def test_the_champion_is_the_promoted_version_and_a_newer_candidate_is_not(store: ModelStore) -> None:
    for _ in range(3):
        log(store, "steps")
    promote(store, "steps", 1, None)
    promote(store, "steps", 2, 1)
    assert store.champion("steps").version == 2
    assert store.candidate("steps").version == 3
    assert alias(store, "steps") == 2
    assert store._client.get_model_version("steps", "2").description == "First champion by automation: every gate holds"
    with pytest.raises(PromotionConflictError):
        promote(store, "steps", 3, 1)
    with pytest.raises(UnknownModelError, match="has no version 9; it has \\[1, 2, 3\\]"):
        promote(store, "steps", 9, 2)
    assert alias(store, "steps") == 2


def test_a_promotion_killed_before_the_alias_moved_is_completed_by_the_next_reader(store: ModelStore) -> None:
    log(store, "killed")
    log(store, "killed")
    promote(store, "killed", 1, None)
    store.ledger.record(
        "killed", 2, PROMOTED, expected_current=1, watermark=WATERMARK, by="automation", run_id="killed-run"
    )
    assert alias(store, "killed") == 1
    assert store.champion("killed").version == 2
    assert alias(store, "killed") == 2


def test_an_alias_set_past_the_ledger_is_taken_back(store: ModelStore) -> None:
    log(store, "sneaked")
    store._client.set_registered_model_alias("sneaked", CHAMPION, "1")
    assert store.champion("sneaked") is None
    assert alias(store, "sneaked") is None


RACER = """
import sys
from datetime import UTC, datetime
from ml_platform.core.promotion import Decision
from ml_platform.settings import load
from ml_platform.stores.ledger import PromotionConflictError
from ml_platform.stores.models import ModelStore
home, name, version = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = ModelStore(load({"ML_PLATFORM_HOME": home}))
store.versions(name)
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
try:
    store.promote(name, version, Decision(promote=True, rule="first_champion", reason="race", gates=()),
                  expected_current=None, watermark=datetime(2013, 4, 1, tzinfo=UTC), by="test", run_id=f"run-{version}")
    sys.stdout.write("won")
except PromotionConflictError:
    sys.stdout.write("lost")
"""


def test_of_two_processes_that_promote_at_once_one_wins_and_the_alias_is_its(store: ModelStore, home: Path) -> None:
    log(store, "raced")
    log(store, "raced")
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(home), "raced", version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in ("1", "2")
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=300)[0] for racer in racers]
    assert sorted(answers) == ["lost", "won"]
    winner = answers.index("won") + 1
    assert alias(store, "raced") == winner
    assert store.champion("raced").version == winner
    assert json.loads(store.ledger.champion("raced").gates) == []
