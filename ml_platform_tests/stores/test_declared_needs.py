"""What is declared of pods is in no hash and of no view that is not there."""

import shutil
from pathlib import Path

import pytest

from ml_platform.core.compute import Compute
from ml_platform.settings import PROJECT_ROOT, load
from ml_platform.stores.declarations import load_dataset
from ml_platform.stores.ingest import identities
from ml_platform.stores.landing import Landing

FLIGHTS = PROJECT_ROOT / "ml_platform" / "defs" / "nyc_flights"


def test_needs_of_a_view_that_is_not_declared_are_told_with_those_that_are(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FLIGHTS, tmp_path / "flights"))
    with (folder / "dataset.yaml").open("a") as file:
        file.write("resources: {views: {wether_at_origin: {memory: 2Gi}}}\n")
    with pytest.raises(LookupError, match=r"speaks of \['wether_at_origin'\]; declared are scheduled_flight, weather_"):
        load_dataset(folder)


def test_a_table_s_needs_make_none_of_its_days_stale(tmp_path: Path) -> None:
    settings = load({"ML_PLATFORM_HOME": str(tmp_path), "ML_PLATFORM_LANDING_SETTLE_SECONDS": "0"})
    table = load_dataset(FLIGHTS).table("airlines")
    (settings.landing / "airlines").mkdir(parents=True)
    (settings.landing / "airlines" / "airlines.csv").write_text("carrier,name\nUA,United\n")
    landing = Landing(settings.landing, settings.landing_settle)
    larger = table.model_copy(update={"resources": Compute(memory="8Gi")})
    assert identities(landing, table) == identities(landing, larger) != {}
