"""What `make run` leaves: a quarter learned from, two weeks predicted, and figures that hold when computed anew.

AUC, calibration and the baseline are recomputed here by plain Python, and scores by LightGBM alone.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.core.training import FittedModel
from ml_platform.settings import load
from ml_platform.stores.models import ModelStore, ModelVersion
from ml_platform_tests.loop.homes import FLIGHTS, Home
from ml_platform_tests.loop.test_brute_force import Files, recomputed, same

pytestmark = pytest.mark.slow

MODEL = "flight_delay"
MIDNIGHT_BEFORE_APRIL = datetime(2013, 4, 1, tzinfo=UTC)
HOLDOUT_FROM = datetime(2013, 3, 17, tzinfo=UTC)
UNTIL = datetime(2013, 4, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def quarter(finished_home: Path) -> Home:
    return Home(load({"ML_PLATFORM_HOME": str(finished_home)}))


@pytest.fixture(scope="module")
def champion(quarter: Home) -> ModelVersion:
    found = ModelStore(quarter.settings).champion(MODEL)
    assert found is not None, quarter.lake.read("ledger/promotions")["reason"].to_list()
    return found


@pytest.fixture(scope="module")
def fitted(quarter: Home, champion: ModelVersion) -> FittedModel:
    return ModelStore(quarter.settings).load(MODEL, champion.version)


@pytest.fixture(scope="module")
def training_set(quarter: Home, champion: ModelVersion) -> pl.DataFrame:
    return quarter.lake.read(f"{MODEL}/training_set", version=champion.provenance.training_set_version)


@pytest.fixture(scope="module")
def judged(training_set: pl.DataFrame) -> pl.DataFrame:
    """The rest of March: what was neither tuned nor fitted on."""
    moment, known = pl.col("prediction_time"), pl.col("label_time")
    return training_set.filter(moment > HOLDOUT_FROM, known <= MIDNIGHT_BEFORE_APRIL)


def scores(model: FittedModel, rows: pl.DataFrame) -> list[float]:
    """What LightGBM alone answers to the model's text."""
    import lightgbm
    import numpy as np

    columns = []
    for name in model.features:
        values = rows[name].to_list()
        if name in model.categories:
            codes = {value: code for code, value in enumerate(model.categories[name])}
            values = [codes.get(value) for value in values]
        columns.append([math.nan if value is None else float(value) for value in values])
    return list(lightgbm.Booster(model_str=model.model_text).predict(np.array(columns).T))


def auc(labels: Sequence[float], given: Sequence[float]) -> float:
    """The share of pairs of a positive and a negative that are in the right order, ties counting half."""
    order = sorted(range(len(given)), key=lambda index: given[index])
    rank_sum, index = 0.0, 0
    while index < len(order):
        last = index
        while last + 1 < len(order) and given[order[last + 1]] == given[order[index]]:
            last += 1
        rank_sum += sum((index + last) / 2 + 1 for tied in order[index : last + 1] if labels[tied])
        index = last + 1
    positives = sum(1 for label in labels if label)
    return (rank_sum - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))


def calibration_error(labels: Sequence[float], given: Sequence[float]) -> float:
    """The mean distance of mean label and mean score over ten bins of equally many rows."""
    order = sorted(range(len(given)), key=lambda index: given[index])
    edges = [round(part * len(order) / 10) for part in range(11)]
    bins = [order[first:last] for first, last in pairwise(edges)]
    return sum(abs(sum(labels[i] - given[i] for i in each)) for each in bins) / len(order)


def figure(quarter: Home, champion: ModelVersion, name: str, subject: str) -> Mapping[str, Any]:
    report = quarter.lake.read(f"{MODEL}/evaluation_report")
    of = (pl.col("section") == "metric") & (pl.col("name") == name) & (pl.col("subject") == subject)
    return report.filter(of, pl.col("model_version") == champion.version).row(0, named=True)


def test_the_champion_beats_the_baseline_by_far_and_is_calibrated(quarter: Home, champion: ModelVersion) -> None:
    model, baseline = (figure(quarter, champion, "auc", subject) for subject in ("candidate", "baseline"))
    assert model["value"] - baseline["value"] >= 0.08
    assert model["low"] > baseline["high"]
    assert figure(quarter, champion, "calibration_error", "candidate")["value"] <= 0.05


def test_the_reported_figures_are_those_of_plain_python(
    quarter: Home, champion: ModelVersion, fitted: FittedModel, training_set: pl.DataFrame, judged: pl.DataFrame
) -> None:
    assert judged.height > 12_000
    labels, given = judged["label"].to_list(), scores(fitted, judged)
    reported = figure(quarter, champion, "auc", "candidate")
    assert reported["rows"] == judged.height
    assert auc(labels, given) == pytest.approx(reported["value"], abs=1e-9)
    assert calibration_error(labels, given) == pytest.approx(
        figure(quarter, champion, "calibration_error", "candidate")["value"], abs=2e-3
    )

    learned = training_set.filter(pl.col("label_time") <= HOLDOUT_FROM)
    assert learned.height == champion.provenance.training_rows
    assert champion.trained_through == learned["label_time"].max() <= HOLDOUT_FROM
    rates: dict[tuple[str, int], list[int]] = {}
    for carrier, hour, label in learned.select("flight_carrier", "local_hour", "label").iter_rows():
        rates.setdefault((carrier, hour), []).append(label)
    overall = learned["label"].cast(pl.Float64).mean()
    naive = [
        sum(rates[key]) / len(rates[key]) if key in rates else overall
        for key in judged.select("flight_carrier", "local_hour").iter_rows()
    ]
    assert auc(labels, naive) == pytest.approx(  # type: ignore[arg-type]
        figure(quarter, champion, "auc", "baseline")["value"], abs=1e-9
    )


def test_no_outcome_is_a_feature(fitted: FittedModel) -> None:
    assert not set(fitted.features) & set(FLIGHTS.model(MODEL).denied)
    assert len(fitted.features) > 100


def test_every_flight_due_since_is_predicted_once_by_the_champion(quarter: Home, champion: ModelVersion) -> None:
    schedule = quarter.lake.read("raw/schedule")
    moment = pl.col("scheduled_departure_at") - pl.duration(hours=2)
    due = schedule.filter(moment > champion.trained_through, moment < UNTIL)
    predictions = quarter.lake.read(f"{MODEL}/predictions")
    assert set(predictions["model_version"]) == {champion.version}
    assert predictions["flight_id"].is_unique().all()
    assert set(predictions["flight_id"]) == set(due["flight_id"])
    april = predictions.filter(pl.col("prediction_time") >= MIDNIGHT_BEFORE_APRIL)
    assert april.height > 12_000


def test_scores_are_what_the_registered_model_answers(quarter: Home, fitted: FittedModel) -> None:
    predictions = quarter.lake.read(f"{MODEL}/predictions").sort("flight_id").gather_every(10)
    assert predictions["score"].to_list() == pytest.approx(scores(fitted, predictions), abs=1e-12)


def test_predicted_rows_have_the_features_that_plain_python_makes_of_the_files(
    quarter: Home, fitted: FittedModel
) -> None:
    files = Files(quarter.landed)
    landed = [row["flight_id"] for row in files.arrivals]
    april = quarter.lake.read(f"{MODEL}/predictions").filter(
        pl.col("prediction_time") >= MIDNIGHT_BEFORE_APRIL, pl.col("flight_id").is_in(landed)
    )
    for row in april.sample(40, seed=1).iter_rows(named=True):
        expected = recomputed(files, row["flight_id"])
        for name in fitted.features:
            assert same(row[name], expected[name]), f"{row['flight_id']}: {name}"


def test_performance_is_what_the_labels_say(quarter: Home) -> None:
    predictions, labels = quarter.lake.read(f"{MODEL}/predictions"), quarter.lake.read(f"{MODEL}/labels")
    reported = quarter.lake.read(f"{MODEL}/performance_report").filter(
        pl.col("metric") == "auc", pl.col("period") == "trailing"
    )
    days = reported["reported_day"].dt.date().cast(pl.String).to_list()
    assert {f"2013-04-{day:02}" for day in range(1, 15)} <= set(days)
    newest = reported.sort("reported_day").row(-1, named=True)
    known = labels.filter(pl.col("label_time") >= newest["period_start"], pl.col("label_time") < newest["period_end"])
    rows = predictions.join(known.select("flight_id", "label"), on="flight_id")
    assert rows.height == newest["rows"] > 5000
    assert auc(rows["label"].to_list(), rows["score"].to_list()) == pytest.approx(newest["value"], abs=1e-9)
    assert newest["value"] > 0.68


def test_drift_speaks_of_every_feature_on_every_day(quarter: Home, fitted: FittedModel) -> None:
    drift = quarter.lake.read(f"{MODEL}/drift_report").filter(pl.col("reported_day") >= MIDNIGHT_BEFORE_APRIL)
    assert drift["reported_day"].n_unique() == 14
    for _, day in drift.group_by("reported_day"):
        assert set(day["column_name"]) == {*fitted.features, "score"}
        assert set(day.filter("ignored")["column_name"]) == set(FLIGHTS.model(MODEL).drift.ignored_columns)
        assert day["strongest"].unique().to_list() == [day["strength"].max()]
        assert day["alarm"].unique().to_list() == [day["drifted"].any()]


def test_running_again_with_nothing_new_changes_nothing(quarter: Home) -> None:
    command = str(Path(sys.executable).with_name("ml-platform"))
    env = {**os.environ, **quarter.environment}
    versions, models = quarter.versions(), ModelStore(quarter.settings).versions(MODEL)
    subprocess.run([command, "run"], env=env, check=True, capture_output=True)
    assert quarter.versions() == versions
    assert ModelStore(quarter.settings).versions(MODEL) == models
    status = json.loads(subprocess.run([command, "status", "--json"], env=env, check=True, capture_output=True).stdout)
    assert status["models"][MODEL]["predictions_rows"] == quarter.lake.read(f"{MODEL}/predictions").height
