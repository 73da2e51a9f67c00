"""A tiny model, and how tests register versions of it."""

from datetime import UTC, datetime

import lightgbm as lgb
import numpy as np
import polars as pl

from ml_platform.core.model_spec import Task
from ml_platform.core.training import FittedModel, encode, learn_categories
from ml_platform.defs import datasets
from ml_platform.stores.models import ModelStore, Provenance

SPEC = datasets()[0].models[0]
WATERMARK = datetime(2013, 4, 1, tzinfo=UTC)
PROVENANCE = Provenance(
    training_set_version=3,
    training_set_hash="abc",
    training_rows=400,
    as_of=WATERMARK,
    inputs={"raw/arrivals": 7},
    service="svc",
    service_hash="def",
    code_version="1",
    dagster_run_id="run",
)


def rows(count: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"x": rng.normal(size=count), "kind": rng.choice(["a", "b", None], count), "flag": rng.random(count) < 0.5}
    )
    return frame.with_columns(pl.when(pl.col("x") > 1).then(None).otherwise("x").alias("x"))


def fitted(seed: int = 1) -> FittedModel:
    frame, features = rows(), ["x", "kind", "flag"]
    categories = learn_categories(frame, features)
    label = (frame["x"].fill_null(0).to_numpy() > 0).astype(float)
    data = lgb.Dataset(encode(frame, features, categories), label=label, categorical_feature=list(categories))
    booster = lgb.train({"objective": "binary", "verbosity": -1, "seed": seed, "deterministic": True}, data, 10)
    return FittedModel(
        task=Task.BINARY,
        features=tuple(features),
        categories=categories,
        model_text=booster.model_to_string(num_iteration=-1),
        params={"learning_rate": 0.1},
        rounds=10,
        threshold=0.3,
        trained_through=datetime(2013, 3, 15, tzinfo=UTC),
        seed=seed,
    )


def log(store: ModelStore, name: str, model: FittedModel | None = None) -> int:
    with store.training_run(name) as run:
        return store.log_candidate(
            run,
            name,
            model or fitted(),
            PROVENANCE,
            spec=SPEC,
            example=rows(5),
            metrics={"auc": 0.7},
            plots={"study": b"png"},
        )
