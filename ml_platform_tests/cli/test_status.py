"""One page of the truth: every number is what the stores say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import Result

from ml_platform.defs import datasets
from ml_platform.settings import Settings
from ml_platform.stores.ingest import ingest
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.models import ModelStore

Run = Callable[..., Result]


@pytest.fixture
def found(run: Run) -> dict[str, Any]:
    result = run("status", "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_watermark_and_every_raw_table_are_there(found: dict[str, Any], finished: Settings) -> None:
    assert found["watermark"] == "2013-01-06T00:00:00Z"
    lake = Lake.of(finished)
    for name in ("arrivals", "weather", "planes"):
        assert found["tables"][name]["rows"] == lake.read(f"raw/{name}").height
    assert found["tables"]["arrivals"]["partitions"] == 6
    assert found["tables"]["planes"]["partitions"] == 1
    assert found["tables"]["weather"]["quarantined"] == 0
    assert found["tables"]["arrivals"]["blocked"] == {}


def test_the_champion_is_shown_with_what_it_was_made_from(found: dict[str, Any], finished: Settings) -> None:
    model = found["models"]["flight_delay"]
    champion = ModelStore(finished).champion("flight_delay")
    assert champion is not None
    assert model["champion_version"] == champion.version == 1
    assert model["training_rows"] == champion.provenance.training_rows
    assert model["data_versions"] == {
        **champion.provenance.inputs,
        "flight_delay/training_set": champion.provenance.training_set_version,
    }
    assert model["champion_since"] == "2013-01-04T00:00:00Z"
    assert model["last_decision"]["reason"] == "every gate holds"
    assert model["last_decision"]["promoted"]


def test_figures_have_intervals_and_stand_beside_the_baseline(found: dict[str, Any]) -> None:
    model = found["models"]["flight_delay"]
    for metric in ("auc", "log_loss"):
        interval = model["metric_intervals"][metric]
        assert interval["low"] <= model["metrics"][metric] <= interval["high"]
        assert model["baseline_metrics"][metric] is not None
    assert model["evaluated_rows"] > 100


def test_predictions_performance_and_drift_are_those_of_the_reports(found: dict[str, Any], finished: Settings) -> None:
    model, lake = found["models"]["flight_delay"], Lake.of(finished)
    predictions = lake.read("flight_delay/predictions")
    assert model["predictions_rows"] == model["champion_predictions_rows"] == predictions.height > 100
    drift = lake.read("flight_delay/drift_report").filter(pl.col("reported_day") == pl.col("reported_day").max())
    assert model["drift"]["strength"] == drift["strength"].max()
    assert len(model["drift"]["columns"]) == drift.height - 1
    assert model["performance"]["rows"] > 100
    assert model["performance"]["model_version"] == 1


def test_a_model_without_a_champion_says_so(found: dict[str, Any], run: Run) -> None:
    model = found["models"]["delay_minutes"]
    assert model["champion_version"] is None
    assert model["metrics"] == {}
    assert "delay_minutes  no champion yet" in run("status").stdout


def test_the_page_for_people_names_the_same_things(run: Run, found: dict[str, Any]) -> None:
    page = run("status").stdout
    for part in (
        "2013-01-06 00:00 UTC",
        "champion is version 1",
        "every gate holds",
        "arrivals",
        found["links"]["mlflow"],
    ):
        assert part in page


def test_what_a_model_was_trained_on_and_its_drift_are_a_line_each_that_can_be_read(
    run: Run, found: dict[str, Any]
) -> None:
    model = found["models"]["flight_delay"]
    versions, drift = model["data_versions"], model["drift"]
    page = run("status").stdout
    own = [f"{name}@{versions[f'flight_delay/{name}']}" for name in ("training_set", "labels")]
    assert f"  trained on   {', '.join(own)} and {len(versions) - 2} feature views\n" in page
    assert f"  drift        {drift['day'][:10]}  {drift['reason']}\n" in page
    assert sum(column in page for column, each in drift["columns"].items() if each["drifted"]) <= 5


def test_a_blocked_partition_and_a_gap_are_named_with_their_reason(spoilt: Path, command: Run) -> None:
    (spoilt / "landing" / "arrivals" / "2013-01-03.csv").write_text("flight_id\nnothing\n")
    (spoilt / "landing" / "weather" / "2013-01-02.csv").unlink()
    table = datasets()[0].table("arrivals")
    list(ingest(Lake(str(spoilt / "lake")), Landing(spoilt / "landing"), table, ["2013-01-03"]))
    found = json.loads(command("status", "--json").stdout)
    assert "arrivals/2013-01-03.csv" in found["tables"]["arrivals"]["blocked"]["2013-01-03"]
    assert found["tables"]["weather"]["gaps"] == ["2013-01-02"]
    page = command("status").stdout
    assert "blocked raw/arrivals 2013-01-03" in page
    assert "arrivals/2013-01-03.csv" in page


def test_an_empty_home_is_no_error(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ML_PLATFORM_HOME", str(tmp_path))
    result = command("status")
    assert result.exit_code == 0, result.output
    assert "nothing has landed: run `ml-platform replay`" in result.stdout
    assert json.loads(command("status", "--json").stdout)["watermark"] is None
