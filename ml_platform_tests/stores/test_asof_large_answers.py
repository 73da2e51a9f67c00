"""Answers larger than they may be in memory: the same rows, out of a temporary file and a part at a time."""

import gc
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from feast import FeatureStore, FeatureView, Field, FileSource, RequestSource
from feast.data_format import DeltaFormat, ParquetFormat
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

from ml_platform_tests.stores.test_asof_store import DAY, DRIVER, STATS, T0, project, stats_view, stored

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]

ROWS, FEATURES = 1_000_000, 20


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def entities(rows: int) -> pl.DataFrame:
    """Drivers at moments in no order."""
    random = np.random.default_rng(0)
    moments = pl.Series(random.integers(0, 10 * 24 * 3600, rows)) * 1_000_000
    known = pl.lit(T0) + pl.duration(microseconds=pl.Series(moments))
    return pl.DataFrame({"driver": random.integers(1, 5, rows)}).with_columns(
        event_timestamp=known.cast(pl.Datetime("us", "UTC")), note=pl.Series(["x", None] * (rows // 2))
    )


@pytest.mark.parametrize("form", ["file", "folder", "delta"])
def test_a_large_answer_is_the_same_and_its_file_goes_with_it(tmp_path: Path, temporary: Path, form: str) -> None:
    source = stored(STATS, tmp_path / "stats", "file")
    frame = entities(35_000).with_columns(factor=pl.int_range(pl.len()))
    answers, saved = [], []
    for name, more in (("small", {}), ("large", {"answer_bytes": 100_000})):
        (tmp_path / name).mkdir()
        store = project(tmp_path / name, **more)
        view = stats_view(source)

        @on_demand_feature_view(
            sources=[view, RequestSource(name="asking", schema=[Field(name="factor", dtype=Int64)])],
            schema=[Field(name="scaled", dtype=Float64)],
            mode="pandas",
        )
        def scaled(inputs: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"scaled": inputs["rate"] * inputs["factor"]})

        store.apply([DRIVER, view, scaled])
        job = store.get_historical_features(frame, ["stats:rate", "stats:trips", "scaled:scaled"])
        answers.append(job.to_arrow())
        assert len(list(temporary.iterdir())) == (name == "large")
        place = tmp_path / name / ("set.parquet" if form == "file" else "set")
        job.persist(
            SavedDatasetFileStorage(path=str(place), file_format=DeltaFormat() if form == "delta" else ParquetFormat())
        )
        saved.append(pl.read_delta(str(place)) if form == "delta" else pl.read_parquet(place))
        del job
        gc.collect()
        assert list(temporary.iterdir()) == []
    assert answers[1].num_rows == 35_000
    assert answers[1].column("rate").num_chunks > 1
    assert answers[0].equals(answers[1])
    assert saved[0].equals(pl.DataFrame(answers[0]))
    # Rows of a Delta table have no order.
    assert saved[1].sort("factor").equals(saved[0])
    assert form == "delta" or saved[1].equals(saved[0])


def test_rows_that_are_pulled_are_the_same_in_one_batch_however_many_they_are(tmp_path: Path, temporary: Path) -> None:
    rows = entities(50_000).rename({"event_timestamp": "ts"}).with_columns(rate=pl.lit(0.5), trips=pl.int_range(50_000))
    source = stored(rows, tmp_path / "stats", "file", created_timestamp_column="")
    found: list[pa.Table] = []
    for name, more in (("small", {}), ("large", {"answer_bytes": 100_000})):
        (tmp_path / name).mkdir()
        store = project(tmp_path / name, **more)
        for pull in ("pull_all_from_table_or_query", "pull_latest_from_table_or_query"):
            job = getattr(store.provider.offline_store, pull)(
                store.config, source, ["driver"], ["rate", "trips"], "ts", None, T0, T0 + 9 * DAY
            )
            found.append(job.to_arrow())
            assert len(found[-1].to_batches()) == 1
            assert len(list(temporary.iterdir())) == (name == "large" and pull.startswith("pull_all"))
            del job
            gc.collect()
    assert found[0].equals(found[2])
    assert found[1].equals(found[3])
    assert found[0].num_rows == rows.filter(pl.col("ts") <= T0 + 9 * DAY).height


def wide_store(folder: Path, history: int, **offline: Any) -> FeatureStore:
    """A view of twenty features and so many rows in ``folder``, which is made if it is not there."""
    names = [f"value{number}" for number in range(FEATURES)]
    file = folder / "wide.parquet"
    if not file.exists():
        rows = entities(history).select("driver", ts="event_timestamp")
        rows.with_columns(pl.int_range(pl.len()).cast(pl.Float64).alias(name) for name in names).write_parquet(file)
    store = project(folder, **offline)
    schema = [Field(name="driver", dtype=Int64), *(Field(name=name, dtype=Float64) for name in names)]
    source = FileSource(path=str(file), timestamp_field="ts")
    store.apply([DRIVER, FeatureView(name="wide", entities=[DRIVER], schema=schema, source=source)])
    return store


def grown(what: str, folder: str, answer_bytes: str) -> None:
    """Print by how many bytes this process grows while it saves an answer."""
    store = wide_store(Path(folder), 0, answer_bytes=int(answer_bytes))
    view = store.get_feature_view("wide")
    frame = entities(ROWS if what == "retrieval" else 2)
    names = [field.name for field in view.features]
    # Its own peak from here on; what getrusage says is that of the process that started it, too.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    if what == "retrieval":
        job = store.get_historical_features(frame, [f"wide:{name}" for name in names])
    else:
        job = store.provider.offline_store.pull_all_from_table_or_query(
            store.config, view.batch_source, ["driver"], names, "ts"
        )
    job.persist(SavedDatasetFileStorage(path=f"{folder}/{what}-{answer_bytes}.parquet"))
    sys.stdout.write(f"{peak() - before}\n")


def peak() -> int:
    """The most bytes that this process held."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@pytest.mark.parametrize("what", ["retrieval", "pull"])
def test_memory_follows_the_limit_and_not_the_answer(tmp_path: Path, what: str) -> None:
    wide_store(tmp_path, ROWS if what == "pull" else 20_000)
    grew = []
    for limit in (32 << 20, 16 << 30):
        code = f"from {grown.__module__} import grown; grown({what!r}, {str(tmp_path)!r}, {str(limit)!r})"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
        grew.append(int(done.stdout.splitlines()[-1]))
    answer = ROWS * (FEATURES + 2) * 8
    shown = [f"{size / 1e6:.0f} MB" for size in grew]
    assert grew[1] > answer / 2, shown
    assert grew[0] < grew[1] * 0.7, shown
    assert pl.scan_parquet(tmp_path / f"{what}-{32 << 20}.parquet").select(pl.len()).collect().item() == ROWS
