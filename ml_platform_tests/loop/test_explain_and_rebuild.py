"""Two versions from real runs, with data landed and a file corrected in between: why each is, and each made again."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from ml_platform import cli
from ml_platform.assets.steps.training import why
from ml_platform.core.content import content_hash
from ml_platform.core.model_spec import Baseline
from ml_platform.settings import Settings, load
from ml_platform.stores.catalog import CATALOG
from ml_platform.stores.explanations import explain
from ml_platform.stores.lake import Lake
from ml_platform.stores.ledger import Ledger
from ml_platform.stores.maintenance import pinned_versions
from ml_platform.stores.models import ModelStore
from ml_platform.stores.rebuilding import CannotRebuildError, rebuild
from ml_platform.stores.source import libraries
from ml_platform_tests.loop.homes import FLIGHTS, Home, small
from ml_platform_tests.loop.test_rejected_candidate import LENIENT, MODEL

EVIDENCE = [{"name": "stale", "role": "trigger", "holds": True, "value": 31.0, "bound": 30.0, "explanation": "It is."}]
TAGS = {
    "ml_platform/reason": "The champion is 31 days old; 30 call for training.",
    f"ml_platform/trigger/{MODEL}": "stale, drift persists",
    f"ml_platform/evidence/{MODEL}": json.dumps(EVIDENCE),
}
TODAY = FLIGHTS.model(MODEL)
FIRST, SECOND = (small(TODAY, gate=LENIENT, seed=seed, baseline=Baseline(by=("aircraft_engines",))) for seed in (1, 2))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, manifests: Path) -> Iterator[Home]:
    """Version 1 of thirteen days, version 2 of fifteen with a restated file and by another declaration."""
    home = Home.at(tmp_path_factory.mktemp("trained") / "home", manifests)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in home.environment.items():
            patch.setenv(name, value)
        first, second = home.with_models(FIRST), home.with_models(SECOND)
        home.land(until="2013-01-13")
        first.catch_up()
        assert first.run(None, job=f"{MODEL}_training").success
        file = home.landed / "arrivals" / "2013-01-05.csv"
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-5]))
        home.land(until="2013-01-15")
        second.catch_up()
        assert second.run(None, job=f"{MODEL}_training", tags=TAGS).success
        yield home


@pytest.fixture
def other_lake(trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The same home with a copy of its lake, to be spoilt."""
    shutil.copytree(trained.settings.lake_uri, tmp_path / "lake")
    monkeypatch.setenv("ML_PLATFORM_LAKE_URI", str(tmp_path / "lake"))
    return load()


def said(*arguments: str) -> tuple[int, str]:
    answer = CliRunner().invoke(cli.app, list(arguments))
    return answer.exit_code, answer.stdout


def a_file_of(settings: Settings, table: str) -> Path:
    """A data file of the version of a table that version 1 pins: that of the third of January."""
    pinned = ModelStore(settings).describe(MODEL, 1).provenance.inputs[table]
    return next(Path(uri) for uri in Lake.of(settings)._open(table, pinned).file_uris() if "day=2013-01-03" in uri)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", [1, 2])
def test_each_version_is_rebuilt_with_the_same_bytes_whatever_is_declared_and_has_landed_since(
    trained: Home, version: int
) -> None:
    """The YAML of today declares other windows, another seed and another search than trained either."""
    before = everything(trained.settings.home)
    code, answer = said("rebuild", MODEL, str(version), "--json")
    made = json.loads(answer)
    assert (code, made["equal"], made["searched"], made["first_difference"]) == (0, True, True, None)
    compared = {each["what"]: each["rebuilt"] for each in made["comparisons"]}
    recorded = ModelStore(trained.settings).describe(MODEL, version)
    assert compared["bytes of the model"] == recorded.model_hash
    assert compared["training set"] == recorded.provenance.training_set_hash
    assert everything(trained.settings.home) == before, "a rebuild writes nothing"


def test_the_two_versions_learned_from_other_rows(trained: Home) -> None:
    """Otherwise rebuilding both would show little."""
    store = ModelStore(trained.settings)
    first, second = (store.describe(MODEL, version) for version in (1, 2))
    assert first.provenance.training_set_hash != second.provenance.training_set_hash
    assert (
        first.provenance.inputs["features/arrival_delays_by_route"]
        < second.provenance.inputs["features/arrival_delays_by_route"]
    )
    assert first.model_hash != second.model_hash


def test_the_recorded_parameters_are_enough_without_a_search(trained: Home) -> None:
    code, answer = said("rebuild", MODEL, "1", "--parameters-only")
    assert code == 0, answer
    assert "rebuilt with the recorded parameters: the same bytes" in answer


def test_another_label_in_a_pinned_version_is_found(trained: Home, other_lake: Settings) -> None:
    """One file is written anew with one flight late that was not, and the log believes it."""
    file = a_file_of(other_lake, f"{MODEL}/labels")
    rows = pl.read_parquet(file, hive_partitioning=False).with_row_index()
    label = pl.when(pl.col("index") == 0).then(1 - pl.col("label")).otherwise("label")
    rows.with_columns(label.alias("label")).drop("index").write_parquet(file)
    for log in (Path(other_lake.lake_uri) / MODEL / "labels" / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            if "add" in action and action["add"]["path"].endswith(file.name):
                action["add"] |= {"size": file.stat().st_size, "stats": None}
        log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    code, answer = said("rebuild", MODEL, "1", "--parameters-only")
    assert code == 1
    assert "differs, first in training set" in answer


def test_a_file_that_cannot_be_read_is_no_difference_but_a_failure(trained: Home, other_lake: Settings) -> None:
    file = a_file_of(other_lake, f"{MODEL}/labels")
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(CannotRebuildError, match="a file of a pinned version cannot be read"):
        rebuild(other_lake, TODAY, 1)


def test_a_model_that_was_changed_where_it_is_stored_is_found(trained: Home) -> None:
    file, _ = ModelStore(trained.settings)._files(MODEL, 1)
    text = file.read_text()
    try:
        file.write_text(text.replace("Tree=1\n", "Tree=1 \n", 1))
        made = rebuild(trained.settings, TODAY, 1, search=False)
    finally:
        file.write_text(text)
    assert made.difference is not None
    assert made.difference.what == "stored model"


def test_a_pinned_version_that_is_gone_is_named(trained: Home, other_lake: Settings) -> None:
    table = "features/weather_at_origin"
    file = a_file_of(other_lake, table)
    file.write_bytes(b"cut short")
    with pytest.raises(CannotRebuildError, match=rf"1 files of the pinned version \d+ of {table} are gone or changed"):
        rebuild(other_lake, TODAY, 1)
    file.unlink()
    with pytest.raises(CannotRebuildError, match=rf"1 files of the pinned version \d+ of {table} are gone or changed"):
        rebuild(other_lake, TODAY, 1)
    shutil.rmtree(Path(other_lake.lake_uri) / table / "_delta_log")
    with pytest.raises(CannotRebuildError, match=f"a pinned table is gone: the lake has no table '{table}'"):
        rebuild(other_lake, TODAY, 1)


def test_features_that_mean_something_else_now_are_named(
    trained: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The feature repository of today has another time to live; a home of its own keeps Feast's registry apart."""
    repo = Path(shutil.copytree(trained.settings.feature_repo, tmp_path / "repo"))
    views = repo / "views" / "nyc_flights.py"
    text = views.read_text()
    assert "timedelta(days=7)" in text
    views.write_text(text.replace("timedelta(days=7)", "timedelta(days=6)"))
    changed = replace(trained.settings, feature_repo=repo, feast_home=tmp_path / "feast")
    recorded = ModelStore(changed).describe(MODEL, 1).provenance
    with pytest.raises(CannotRebuildError, match="means something else now") as refused:
        rebuild(changed, TODAY, 1)
    assert recorded.service_hash in str(refused.value)
    assert f"check out commit {recorded.commit}" in str(refused.value)


def test_a_version_without_its_declaration_is_rebuilt_only_by_the_one_that_trained_it(
    trained: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(store: ModelStore, version: object) -> str:
        raise LookupError("made before declarations were stored")

    monkeypatch.setattr(ModelStore, "declared", nothing)
    with pytest.raises(CannotRebuildError, match="the code version was"):
        rebuild(trained.settings, TODAY, 1, search=False)
    assert rebuild(trained.settings, FIRST, 1, search=False).equal


def test_a_champion_is_explained_by_what_its_sources_say(trained: Home) -> None:
    code, answer = said("explain", MODEL, "--json")
    assert code == 0
    told = json.loads(answer)
    lake, store = trained.lake, ModelStore(trained.settings)
    champion = Ledger(lake).champion(MODEL)
    assert champion is not None
    assert (told["version"], told["champion_version"]) == (champion.version, champion.version)
    version = champion.version
    recorded = store.describe(MODEL, version)
    # Decisions and service: the ledger's.
    assert [each["reason"] for each in told["decisions"]] == [
        row["reason"] for row in Ledger(lake).history(MODEL).to_dicts() if row["version"] == version
    ]
    assert told["decisions"][-1]["gates"] == champion.gate_results
    assert told["served"][-1]["served_until"] is None
    # The training set and its inputs: the catalog's and the tables'.
    rows = lake.read(f"{MODEL}/training_set", version=told["training_set"]["delta_version"])
    assert told["training_set"]["rows"] == rows.height
    assert rows["prediction_time"].min() > recorded.provenance.as_of - (  # type: ignore[operator]
        FIRST.windows.training + FIRST.windows.holdout
    )
    assert told["training_set"]["start"] == _z(
        recorded.provenance.as_of - FIRST.windows.training - FIRST.windows.holdout
    )
    for source in told["inputs"]:
        (pinned,) = source["delta_versions"]
        assert pinned == recorded.provenance.inputs[source["table"]]
        assert source["rows"] == lake.read(source["table"], version=pinned).height, source["table"]
    assert {source["table"] for source in told["inputs"]} == set(recorded.provenance.inputs)
    # What they follow from: what landed.
    parents = {source["table"]: source for source in told["parents"]}
    assert set(parents) == {"raw/arrivals", "raw/departures", "raw/schedule", "raw/weather", "raw/planes"}
    newest = parents["raw/arrivals"]
    assert newest["rows"] == lake.read("raw/arrivals", version=newest["delta_versions"][-1]).height
    assert "features/arrival_delays_by_route" in newest["read_by"]
    # The model: MLflow's.
    run = store._client.get_run(recorded.run_id)
    assert told["parameters"] == run.data.params
    assert told["model_hash"] == store._client.get_model_version(MODEL, str(version)).tags["model_hash"]
    assert told["features"] == list(store.load(MODEL, version).features)
    assert told["libraries"] == libraries()
    assert told["links"]["dagster_run"].endswith(recorded.provenance.dagster_run_id)


def test_why_a_version_was_trained_outlives_the_run_that_knew(trained: Home) -> None:
    run_id = ModelStore(trained.settings).describe(MODEL, 2).provenance.dagster_run_id
    with trained.instance() as instance:
        assert instance.get_run_by_id(run_id) is not None
        instance.delete_run(run_id)
        assert instance.get_run_by_id(run_id) is None
    found = explain(trained.settings, TODAY, 2)
    assert asdict(found.why) == {
        "recorded": True,
        "reason": TAGS["ml_platform/reason"],
        "trigger": ("stale", "drift persists"),
        "evidence": EVIDENCE,
    }
    code, page = said("explain", MODEL, "2")
    assert code == 0
    assert TAGS["ml_platform/reason"] in page
    assert "Triggers that held: stale, drift persists" in page


def test_a_version_that_was_made_when_nothing_predicted_says_so(trained: Home) -> None:
    code, page = said("explain", MODEL, "1")
    assert code == 0
    assert "Triggers that held: no champion" in page


def test_what_is_declared_otherwise_today_is_named(trained: Home) -> None:
    assert explain(trained.settings, FIRST, 1).declared_otherwise_today == ()
    assert explain(trained.settings, FIRST, 2).declared_otherwise_today == ("seed",)
    assert "windows.holdout" in explain(trained.settings, TODAY, 1).declared_otherwise_today


def test_tags_that_a_run_is_given_on_its_way_count_for_the_model_they_name() -> None:
    seen: dict[str, str] = {}

    @dg.asset
    def late(context: dg.AssetExecutionContext) -> None:
        mine, other = {"ml_platform/trigger/mine": "stale"}, {"ml_platform/trigger/other": "drift persists"}
        context.instance.add_run_tags(context.run_id, {**mine, **other, "ml_platform/reason/other": "It drifted."})
        seen.update(why(context, "mine"))

    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize([late], instance=instance, tags={"ml_platform/reason": "It is time."}).success
    assert seen == {"reason": "It is time.", "trigger": "stale", "evidence": ""}


MAINTAIN = """
from datetime import timedelta
from ml_platform.settings import load
from ml_platform.stores.lake import Lake
from ml_platform.stores.maintenance import maintain_tables
from ml_platform.stores.models import ModelStore
here = load()
for done in maintain_tables(Lake.of(here), ModelStore(here), older_than=timedelta(0)):
    print(done.table, done.removed, flush=True)
"""


def test_killed_in_the_middle_and_run_again_maintenance_keeps_all_that_registered_versions_need(
    trained: Home, other_lake: Settings
) -> None:
    """Everything of no use goes at once; each version is made again, and nothing more is out of date."""
    lake, models = Lake.of(other_lake), ModelStore(other_lake)
    spoilt = Home(other_lake, trained.with_models(SECOND).dataset)
    pinned = pinned_versions(lake, models)
    unpinned = unneeded_files(lake, pinned)
    before = (spoilt.contents(), spoilt.plan().stale, stored_bytes(lake, pinned))
    process = subprocess.Popen([sys.executable, "-c", MAINTAIN], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    removed = 0
    while not removed:
        line = process.stdout.readline()
        assert line, "it ended before it had removed anything"
        removed = int(line.split()[1])
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert unneeded_files(lake, pinned), "it was killed before it had done all"
    assert subprocess.run([sys.executable, "-c", MAINTAIN], check=True, stdout=subprocess.DEVNULL).returncode == 0

    assert any("raw/arrivals/day=2013-01-05" in path for path in unpinned), "a raw day before its correction"
    assert unneeded_files(lake, pinned) == set()
    assert (spoilt.contents(), spoilt.plan().stale, stored_bytes(lake, pinned)) == before
    assert set(before[1]) <= {"flight_delay/predictions"}, "nothing was out of date but what nobody has scored yet"
    for version in (1, 2):
        assert rebuild(other_lake, TODAY, version, search=False).equal
        assert explain(other_lake, TODAY, version).inputs == explain(trained.settings, TODAY, version).inputs


def unneeded_files(lake: Lake, pinned: Mapping[str, Collection[int]]) -> set[str]:
    """Data files of no version that is pinned or newest."""
    found = set()
    for table in [*lake.tables(), CATALOG]:
        needed = {
            uri
            for version in [*pinned.get(table, ()), lake.version(table)]
            for uri in lake._open(table, version).file_uris()
        }
        names = {Path(uri).name for uri in needed}
        found |= {str(path) for path in Path(lake.uri(table)).rglob("part-*.parquet") if path.name not in names}
    return found


def stored_bytes(lake: Lake, pinned: Mapping[str, Collection[int]]) -> dict[str, str]:
    """By pinned table and version, the hash of its rows."""
    return {
        f"{table}@{version}": content_hash(lake.read(table, version=version), [])
        for table, versions in sorted(pinned.items())
        for version in sorted(versions)
    }


def _z(moment: object) -> str:
    return str(moment).replace(" ", "T").replace("+00:00", "Z")
