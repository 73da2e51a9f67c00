"""The training set of the flights beside what Feast's own DuckDB store makes of the same rows as Parquet."""

from pathlib import Path

import polars as pl
import pytest
from feast import FeatureStore, FileSource
from feast.repo_config import RepoConfig

from ml_platform.core.feature_manifest import EVENT_TIME
from ml_platform.defs import model
from ml_platform.settings import load
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.lake import Lake
from ml_platform.stores.model_tables import stored_training_set
from ml_platform.stores.table_names import labels_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

ASKED, AT_ONCE = 1_000, 100
"""The stock store pairs each row with every older one of its key before it looks for the newest: millions for each."""


def stock(ours: FeatureStore, lake: Lake, folder: Path) -> FeatureStore:
    """Everything that is registered, on Parquet files of the same rows, with Feast's own stores."""
    config = RepoConfig(
        project=ours.project,
        provider="local",
        registry=str(folder / "registry.db"),
        online_store={"type": "sqlite", "path": str(folder / "online.db")},
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )
    store = FeatureStore(config=config)
    views = ours.list_feature_views()
    for view in views:
        file = folder / f"{view.name}.parquet"
        lake.scan(f"features/{view.name}").drop("day", strict=False).sink_parquet(file)
        view.batch_source = FileSource(name=view.batch_source.name, path=str(file), timestamp_field=EVENT_TIME)
    store.apply([*ours.list_entities(), *views, *ours.list_on_demand_feature_views(), *ours.list_feature_services()])
    return store


@pytest.mark.parametrize("name", ["flight_delay"])
def test_feast_s_own_store_gives_the_same_training_set(finished_home: Path, tmp_path: Path, name: str) -> None:
    here = load({"ML_PLATFORM_HOME": str(finished_home)})
    lake, features, (_, spec) = Lake.of(here), FeatureClient(here), model(name)
    features.apply()
    trained = stored_training_set(lake, spec).frame.sort(spec.keys)
    service = features.manifest().service(spec.service)
    labels = lake.read(labels_table(spec)).join(trained.select(spec.keys), on=spec.keys).sort(spec.keys)
    chosen = pl.Series(range(0, labels.height, -(-labels.height // ASKED)))
    asked = labels[chosen].select(*service.entity_columns, pl.col("prediction_time").alias(EVENT_TIME))
    ours = FeatureStore(repo_path=str(here.feature_repo), fs_yaml_file=here.feast_home / "feature_store.yaml")
    store = stock(ours, lake, tmp_path)
    found = pl.concat(
        pl.DataFrame(
            store.get_historical_features(part.to_pandas(), store.get_feature_service(spec.service)).to_arrow()
        )
        .sort("__row")
        .drop("__row")
        for part in asked.with_row_index("__row").iter_slices(AT_ONCE)
    )
    expected = trained[chosen].select(service.features)
    assert expected.height >= ASKED * 0.9
    for feature in service.features:
        assert found[feature].cast(expected.schema[feature]).equals(expected[feature], null_equal=True), feature
