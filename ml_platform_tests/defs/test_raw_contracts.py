"""The flights' own contracts against what 2013's upstream really delivers."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml

import ml_platform.defs.nyc_flights as example
from ml_platform.core.contracts import Delivery, FileRefused, Validated, accept
from ml_platform.core.quality import consistent_share
from ml_platform.core.table_spec import TableKind, TableSpec
from ml_platform.defs.nyc_flights.replay import Awkward, Fault, replay
from ml_platform.stores.landing import Landing, watermark

DOCUMENTS = yaml.safe_load_all((Path(example.__path__[0]) / "defs.yaml").read_text())
TABLES = {
    spec.name: spec
    for document in DOCUMENTS
    if document["type"].endswith(".TableComponent")
    for spec in [TableSpec.model_validate(document["attributes"])]
}


def delivered(root: Path, start: str, until: str, awkward: Awkward | None = None) -> Landing:
    for _ in replay(root, start=start, until=until, awkward=awkward or Awkward()):
        pass
    return Landing(root)


def outcomes(landing: Landing, name: str) -> dict[str, Validated | FileRefused]:
    spec = TABLES[name]
    return accept(spec, {partition: delivery(landing, spec, partition) for partition in landing.periods(spec)})


def delivery(landing: Landing, spec: TableSpec, partition: str) -> Delivery:
    if spec.kind is TableKind.REFERENCE:
        return Delivery(landing.read(spec, partition))
    start = datetime.combine(date.fromisoformat(partition), datetime.min.time(), UTC)
    return Delivery(landing.read(spec, partition), start, start + timedelta(days=1))


def test_every_row_of_ordinary_days_and_of_the_reference_tables_is_valid(tmp_path: Path) -> None:
    landing = delivered(tmp_path, "2013-01-01", "2013-01-03")

    assert watermark(landing, TABLES.values()) == datetime(2013, 1, 3, tzinfo=UTC)
    for name, spec in TABLES.items():
        assert landing.strangers(spec) == ()
        for outcome in outcomes(landing, name).values():
            assert isinstance(outcome, Validated), outcome
            assert outcome.valid.height > 0
            assert outcome.quarantined.rows() == []
            assert outcome.quality.timeliness == 1.0


def test_the_wind_of_1048_miles_per_hour_is_quarantined(tmp_path: Path) -> None:
    outcome = outcomes(delivered(tmp_path, "2013-02-12", "2013-02-13"), "weather")["2013-02-12"]

    assert isinstance(outcome, Validated)
    assert outcome.quarantined["reasons"].to_list() == ["wind_speed_mph = '1048.36058' is above the maximum 250"]


def test_arrivals_are_consistent_with_departures(tmp_path: Path) -> None:
    landing = delivered(tmp_path, "2013-01-03", "2013-01-05")
    departed, landed = outcomes(landing, "departures"), outcomes(landing, "arrivals")
    declared = TABLES["arrivals"].consistent_with
    known = [outcome.valid for outcome in departed.values() if isinstance(outcome, Validated)]
    rows = landed["2013-01-04"]

    assert declared is not None
    assert isinstance(rows, Validated)
    assert consistent_share(declared, rows.valid, known[0].vstack(known[1])) == 1.0
    assert 0.5 < consistent_share(declared, rows.valid, known[1]) < 1.0, "those that left before midnight are not known"


def test_the_new_weather_export_keeps_the_names_downstream(tmp_path: Path) -> None:
    landing = delivered(tmp_path, "2013-01-03", "2013-01-05", Awkward(schema_change_from="2013-01-04"))
    old, new = outcomes(landing, "weather").values()

    assert isinstance(old, Validated)
    assert isinstance(new, Validated)
    assert old.valid.schema == new.valid.schema
    assert old.valid["station"].null_count() == old.valid.height
    assert set(new.valid["station"]) == {"KEWR", "KJFK", "KLGA"}
    assert new.valid["visibility_miles"].null_count() == 0


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.OUT_OF_BOUNDS])
def test_a_broken_file_costs_its_own_day_alone(tmp_path: Path, fault: Fault) -> None:
    awkward = Awkward(corrupt={("departures", "2013-01-03"): fault})
    found = outcomes(delivered(tmp_path, "2013-01-03", "2013-01-05", awkward), "departures")

    assert isinstance(found["2013-01-03"], FileRefused)
    assert "departures/2013-01-03.csv" in str(found["2013-01-03"])
    assert isinstance(found["2013-01-04"], Validated)


def test_repeated_rows_and_pieces_change_nothing(tmp_path: Path) -> None:
    once = outcomes(delivered(tmp_path / "once", "2013-01-03", "2013-01-04"), "arrivals")["2013-01-03"]
    repeated = Awkward(duplicates=[("arrivals", "2013-01-03")])
    twice = outcomes(delivered(tmp_path / "twice", "2013-01-03", "2013-01-04", repeated), "arrivals")["2013-01-03"]

    assert isinstance(once, Validated)
    assert isinstance(twice, Validated)
    assert twice.valid.equals(once.valid)
    assert twice.quality.duplicate_rows > 100
