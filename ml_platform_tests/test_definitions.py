"""The code location as people meet it: what exists, and that every asset says what it is."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from ml_platform import settings
from ml_platform.assets.model import model_assets
from ml_platform.core.model_spec import DriftPolicy
from ml_platform.core.table_frames import quarantine_schema
from ml_platform.definitions import defs as load_definitions
from ml_platform.defs import datasets
from ml_platform.stores import ledger
from ml_platform.stores.catalog import CATALOG
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake

MODELS = ("delay_minutes", "flight_delay")
STAGES = (
    "labels",
    "training_set",
    "tuned_model",
    "evaluation_report",
    "champion",
    "model_card",
    "predictions",
    "performance_report",
    "drift_calibration",
    "drift_report",
)
TABLES = ("airlines", "airports", "arrivals", "departures", "planes", "schedule", "weather")
VIEWS = (
    "aircraft_facts",
    "aircraft_last_flight",
    "arrival_delays_by_carrier",
    "arrival_delays_by_origin",
    "arrival_delays_by_route",
    "departure_delays_by_carrier",
    "departure_delays_by_origin",
    "departure_delays_by_route",
    "scheduled_flight",
    "weather_at_origin",
)
WITHOUT_TABLE = {
    "online_features",
    "ledger/backups",
    *(f"{m}/{s}" for m in MODELS for s in ("tuned_model", "champion", "model_card")),
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return load_definitions()


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_the_graph_has_exactly_the_declared_assets(specs: dict[str, dg.AssetSpec]) -> None:
    expected = {
        "online_features",
        "ledger/promotions",
        "ledger/alerts",
        "ledger/alert_events",
        "ledger/backups",
        *(f"raw/{table}" for table in TABLES),
        *(f"features/{view}" for view in VIEWS),
        *(f"{model}/{stage}" for model in MODELS for stage in STAGES),
    }
    assert set(specs) == expected


def test_every_asset_has_owner_kinds_description_group_and_tags(specs: dict[str, dg.AssetSpec]) -> None:
    bare = {
        key
        for key, spec in specs.items()
        if not (spec.owners and spec.kinds and spec.description and spec.tags.get("stage"))
        or spec.group_name in (None, "default")
    }
    assert bare == set()


def test_every_table_has_described_columns_and_a_query(specs: dict[str, dg.AssetSpec]) -> None:
    for key, spec in specs.items():
        if key in WITHOUT_TABLE:
            continue
        schema = spec.metadata["dagster/column_schema"]
        assert isinstance(schema, dg.TableSchema), key
        assert schema.columns, key
        assert [column.name for column in schema.columns if not column.description] == [], key
        assert "ml-platform sql" in spec.metadata["query"].md_str, key


def test_no_column_of_any_table_needs_quotes_in_sql(specs: dict[str, dg.AssetSpec], tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.create(ledger.TABLE, ledger.SCHEMA)
    columns = {
        key: {column.name for column in spec.metadata["dagster/column_schema"].columns}
        for key, spec in specs.items()
        if key not in WITHOUT_TABLE
    }
    columns |= {table: set(lake.read(table).columns) for table in (ledger.TABLE, CATALOG)}
    columns |= {f"quarantine/{t.name}": set(quarantine_schema(t)) for found in datasets() for t in found.tables}
    # Keywords of these two categories DuckDB takes for no column's name; `by` and `at` are of the second.
    found = duckdb.sql(
        "select keyword_name from duckdb_keywords() where keyword_category in ('reserved', 'type_function')"
    ).fetchall()
    reserved = {name for (name,) in found}
    assert {"group", "window", "column", "end"} <= reserved
    assert {table: names & reserved for table, names in columns.items() if names & reserved} == {}


def test_a_drift_policy_that_ignores_no_feature_stops_the_definitions_from_loading() -> None:
    (dataset,) = datasets()
    spec = dataset.model("flight_delay")
    typo = spec.model_copy(update={"drift": DriftPolicy(ignored_columns=("days_to_holiday", "days_to_holidays"))})
    manifest = FeatureClient(settings.load()).manifest()
    with pytest.raises(ValueError, match=r"`drift.ignored_columns` has \['days_to_holidays'\], which are no features"):
        model_assets(typo, dataset, manifest)


def test_raw_tables_and_views_have_blocking_checks(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    blocking = {key.asset_key.to_user_string() for key in graph.asset_check_keys if graph.get(key).blocking}
    assert blocking == {*(f"raw/{table}" for table in TABLES), *(f"features/{view}" for view in VIEWS)}


def test_jobs_and_sensors(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    by_model = {f"{model}_{what}" for model in MODELS for what in ("training", "promote", "reject", "rollback")}
    assert jobs == {"nyc_flights_daily", "nyc_flights_loop", "maintenance", *by_model}
    assert repository.get_schedule_def("maintenance").default_status is dg.DefaultScheduleStatus.RUNNING
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert set(sensors) == {"nyc_flights_landing", "alerts", "automation"}
    schedules = {schedule.name: schedule for schedule in repository.schedule_defs}
    assert {"nyc_flights_nightly_scoring", *(f"{model}_weekly_review" for model in MODELS)} <= set(schedules)
    assert {each.default_status for each in sensors.values()} == {dg.DefaultSensorStatus.RUNNING}
    assert {each.default_status for each in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}


def test_every_asset_that_a_step_makes_has_a_condition_whose_every_part_is_named(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    conditions = {key: graph.get(key).automation_condition for key in graph.materializable_asset_keys}
    assert [key for key, condition in conditions.items() if condition is None] == []

    def parts(condition: dg.AutomationCondition) -> Iterator[dg.AutomationCondition]:
        yield condition
        for child in condition.children:
            yield from parts(child)

    for key, condition in conditions.items():
        assert condition is not None
        assert condition.get_label(), key
        boolean = ("AND", "OR", "NOT")
        bare = [
            part for part in parts(condition) if part.children and part.name not in boolean and not part.get_label()
        ]
        assert bare == [], key


def test_what_has_days_and_what_models_are_made_by_must_be_fresh(definitions: dg.Definitions) -> None:
    (dataset,) = datasets()
    declared = dataset.spec.freshness
    expected = {f"raw/{table.name}": declared.raw for table in dataset.tables if table.known_at}
    expected |= {f"features/{view}": declared.features for view in VIEWS if view != "aircraft_facts"}
    for model in MODELS:
        expected |= {f"{model}/predictions": declared.predictions}
        expected |= dict.fromkeys((f"{model}/tuned_model", f"{model}/champion"), declared.models)
    nodes = definitions.resolve_asset_graph().asset_nodes
    found = {node.key.to_user_string(): node.freshness_policy for node in nodes if node.freshness_policy}
    assert {key: policy.fail_window.to_timedelta() for key, policy in found.items()} == expected


def test_the_daily_chain_trains_nothing(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def("nyc_flights_daily")
    stages = {key.path[-1] for key in job.asset_layer.selected_asset_keys}
    assert stages.isdisjoint({"training_set", "tuned_model", "evaluation_report", "champion", "model_card"})
    assert {"predictions", "performance_report", "drift_calibration", "drift_report", "labels", "arrivals"} <= stages


@pytest.mark.parametrize("model", MODELS)
def test_a_new_champion_is_calibrated_in_the_job_that_made_it(definitions: dg.Definitions, model: str) -> None:
    keys = definitions.resolve_job_def(f"{model}_training").asset_layer.selected_asset_keys
    assert dg.AssetKey([model, "drift_calibration"]) in keys
    graph = definitions.resolve_asset_graph()
    assert graph.get(dg.AssetKey([model, "drift_calibration"])).parent_keys == {dg.AssetKey([model, "champion"])}
    assert dg.AssetKey([model, "drift_calibration"]) in graph.get(dg.AssetKey([model, "drift_report"])).parent_keys
