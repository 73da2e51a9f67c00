"""The columns of an entity frame are learned once for each version of the code."""

from dataclasses import replace
from pathlib import Path

import pytest

from ml_platform import defs
from ml_platform.core.table_spec import TableSpec
from ml_platform.settings import load
from ml_platform.stores import entity_columns as module
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.entity_columns import entity_columns


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was learned rather than read, by its source."""
    found: list[str] = []
    learn = module._learned

    def counted(transform, tables, start):
        found.append(transform.label)
        return learn(transform, tables, start)

    monkeypatch.setattr(module, "_learned", counted)
    return found


def with_another_column(dataset: Dataset, table: str) -> Dataset:
    """The data set as it would be if a table had one more column."""

    def changed(spec: TableSpec) -> TableSpec:
        more = spec.contract.columns[-1].model_copy(update={"name": "one_more"})
        contract = spec.contract.model_copy(update={"columns": (*spec.contract.columns, more)})
        return spec.model_copy(update={"contract": contract})

    return replace(dataset, tables=[changed(each) if each.name == table else each for each in dataset.tables])


def test_columns_are_learned_once_and_anew_when_a_table_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learned: list[str]
) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    here, (dataset, spec) = load(), defs.model("flight_delay")
    columns = entity_columns(here, spec, dataset)
    assert columns["prediction_time"] == "timestamp"
    assert set(spec.keys) <= set(columns)
    assert entity_columns(here, spec, dataset) == columns
    assert len(learned) == 1
    entity_columns(here, spec, with_another_column(dataset, spec.entities.inputs[0]))
    assert len(learned) == 2
