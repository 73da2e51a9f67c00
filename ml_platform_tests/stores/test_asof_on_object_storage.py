"""The offline store on a real S3 server: Parquet and Delta, read, written, saved and logged as on a disk."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import polars as pl
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.credentials import ConnectionRef, CredentialProvider, register_credential_provider
from feast.data_format import DeltaFormat, ParquetFormat
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64
from feast.value_type import ValueType

from ml_platform_tests.servers.object_storage import Bucket, object_storage
from ml_platform_tests.stores.test_asof_store import ASKED, DAY, RATES, STATS, T0, project, stats_view

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]

FORMATS = ("file", "folder", "delta")
DRIVER = Entity(name="driver", join_keys=["driver"], value_type=ValueType.INT64)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with object_storage(tmp_path_factory.mktemp("object_storage")) as made:
        yield made


@pytest.fixture(params=FORMATS)
def store(request: pytest.FixtureRequest, tmp_path: Path, bucket: Bucket) -> FeatureStore:
    """A Feast project whose one view is stored in the bucket, alone in a folder of its own."""
    place, form = f"{bucket.url}/{tmp_path.name}/stats", request.param
    options = bucket.storage_options
    if form == "delta":
        write_deltalake(place, STATS.to_arrow(), storage_options=options)
    elif form == "folder":
        for number, part in enumerate(STATS.iter_slices(2)):
            part.write_parquet(f"{place}/{number}.parquet", storage_options=options)
    else:
        place += ".parquet"
        STATS.write_parquet(place, storage_options=options)
    config = RepoConfig(
        project="away",
        provider="local",
        registry=str(tmp_path / "registry.db"),
        online_store={"type": "sqlite", "path": str(tmp_path / "online.db")},
        offline_store={"type": "ml_platform.stores.asof_store.AsOfOfflineStore", "storage_options": options},
        entity_key_serialization_version=3,
        repo_path=tmp_path,
    )
    made = FeatureStore(config=config)
    view = FeatureView(
        name="stats",
        entities=[DRIVER],
        ttl=timedelta(days=3),
        schema=[Field(name="driver", dtype=Int64), Field(name="rate", dtype=Float64), Field(name="trips", dtype=Int64)],
        source=FileSource(
            path=place,
            timestamp_field="ts",
            created_timestamp_column="made",
            file_format=DeltaFormat() if form == "delta" else ParquetFormat(),
        ),
    )
    made.apply([DRIVER, view])
    return made


def rates(store: FeatureStore, frame: pd.DataFrame = ASKED) -> list[float | None]:
    found = store.get_historical_features(frame, ["stats:rate"]).to_df()
    return [None if pd.isna(rate) else rate for rate in found["rate"]]


def test_features_are_joined_as_from_a_disk(store: FeatureStore) -> None:
    assert rates(store) == RATES


def test_written_rows_are_read_and_others_stay(store: FeatureStore) -> None:
    added = STATS.head(1).with_columns(ts=pl.lit(T0 + 10 * DAY), made=pl.lit(T0 + 10 * DAY), rate=pl.lit(0.99))
    store.write_to_offline_store("stats", added.select(STATS.columns).to_pandas())
    later = pd.DataFrame({"driver": [1], "event_timestamp": [T0 + 11 * DAY]})
    assert rates(store, later) == [0.99]
    assert rates(store) == RATES


@pytest.mark.parametrize("saved", ["set.parquet", "set", "delta"])
def test_a_saved_data_set_is_read_back(store: FeatureStore, bucket: Bucket, tmp_path: Path, saved: str) -> None:
    form = DeltaFormat() if saved == "delta" else ParquetFormat()
    storage = SavedDatasetFileStorage(f"{bucket.url}/{tmp_path.name}/saved/{saved}", file_format=form)
    job = store.get_historical_features(ASKED, ["stats:rate"])
    made = store.create_saved_dataset(job, "kept", storage).to_df()
    assert sorted(made["rate"].dropna()) == sorted(rate for rate in RATES if rate is not None)


def test_what_is_not_there_is_named(store: FeatureStore, bucket: Bucket) -> None:
    view = store.get_feature_view("stats")
    form = view.batch_source.file_format
    nowhere = FileSource(path=f"{bucket.url}/nowhere/at-all.parquet", timestamp_field="ts", file_format=form)
    view.batch_source = nowhere
    store.apply([view])
    with pytest.raises(Exception, match="at-all"):
        rates(store)


def test_a_wrong_key_is_refused_and_not_told(store: FeatureStore) -> None:
    options = dict(store.config.offline_store.storage_options)
    store.config.offline_store.storage_options = {**options, "AWS_SECRET_ACCESS_KEY": "wrong-secret"}
    with pytest.raises(Exception, match=r"(?i)signature|forbidden|403|denied") as refused:
        rates(store)
    assert "wrong-secret" not in str(refused.value)


@pytest.mark.parametrize("form", ["file", "delta"])
def test_a_source_may_say_itself_where_its_server_is_and_whence_its_keys_come(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    place, options = f"{bucket.url}/{tmp_path.name}/own", bucket.storage_options
    if form == "delta":
        write_deltalake(place, STATS.to_arrow(), storage_options=options)
    else:
        place += ".parquet"
        STATS.write_parquet(place, storage_options=options)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "of-somebody-else")

    class OfTests(CredentialProvider):
        def provider_type(self) -> str:
            return "tests"

        def resolve(self, ref: ConnectionRef) -> dict[str, str]:
            return {name: options[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")}

    register_credential_provider(OfTests())
    source = FileSource(
        path=place,
        timestamp_field="ts",
        created_timestamp_column="made",
        file_format=DeltaFormat() if form == "delta" else ParquetFormat(),
        s3_endpoint_override=bucket.endpoint,
        connection_ref=ConnectionRef(provider="tests", name="bucket"),
    )
    store = project(tmp_path)
    store.apply([DRIVER, stats_view(source)])
    assert rates(store) == RATES
    added = STATS.head(1).with_columns(ts=pl.lit(T0 + 10 * DAY), made=pl.lit(T0 + 10 * DAY), rate=pl.lit(0.99))
    store.write_to_offline_store("stats", added.select(STATS.columns).to_pandas())
    assert rates(store, pd.DataFrame({"driver": [1], "event_timestamp": [T0 + 11 * DAY]})) == [0.99]
