"""A rollback says who predicts from now on, also to a step that is scoring just then."""

import polars as pl
import pytest

from ml_platform.core.promotion import Decision
from ml_platform.stores import model_tables
from ml_platform.stores.ledger import LedgerEntry
from ml_platform.stores.manual_decisions import Instruction, rollback
from ml_platform.stores.models import ModelStore
from ml_platform_tests.loop.homes import Home
from ml_platform_tests.small_home import MODEL, WATERMARK, build_home


def add_better_champion(home: Home) -> None:
    """A second version, of the first one's bytes."""
    store, spec = ModelStore(home.settings), home.dataset.model(MODEL)
    first = store.champion(MODEL)
    assert first is not None
    example = home.lake.read(f"{MODEL}/training_set").head(5)
    with store.training_run(MODEL) as run:
        version = store.log_candidate(
            run, MODEL, store.load(MODEL, first.version), first.provenance, spec=spec, example=example, metrics={}
        )
    better = Decision(promote=True, rule="better_than_champion", reason="every gate holds", gates=())
    store.promote(MODEL, version, better, expected_current=1, watermark=WATERMARK, by="automation", run_id="second")


def test_a_version_that_is_rolled_back_from_while_it_scores_leaves_no_row(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_home(home.settings)
    add_better_champion(home)
    home.land(until="2013-01-07")
    days = home.plan().days
    assert days is not None
    home.catch_up()
    score, said = model_tables.score, list[LedgerEntry]()

    def rolled_back_meanwhile(*given: object) -> pl.DataFrame:
        if not said:
            service = home.features.manifest().service(home.dataset.model(MODEL).service)
            ann = Instruction("ann", "odd scores", WATERMARK, "hers", service.hash)
            said.append(rollback(ModelStore(home.settings), MODEL, None, ann))
        return score(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(model_tables, "score", rolled_back_meanwhile)
    result = home.run([f"{MODEL}/predictions"], days)
    assert result.success
    assert [entry.version for entry in said] == [1]
    made = home.lake.read(f"{MODEL}/predictions").filter(pl.col("prediction_time") >= WATERMARK)
    assert made.height > 500
    assert set(made["model_version"]) == {1}
    (scored,) = (
        each
        for each in result.asset_materializations_for_node(f"{MODEL}__predictions")
        if each.partition == "2013-01-06"
    )
    assert scored.metadata["champion"].value == 1
