"""The champions of a home beside rivals computed from its lake: two versions that predicted three weeks of flights."""

import shutil
from datetime import UTC, datetime

import polars as pl
import pytest

from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.promotion import Decision
from ml_platform.core.rivals import SERVED_SINCE, Tenure, known, serve
from ml_platform.core.training import FittedModel, fit
from ml_platform.settings import load
from ml_platform.stores.derivation import days_between
from ml_platform.stores.model_tables import predict
from ml_platform.stores.models import ModelStore
from ml_platform.stores.rivals import automated, first_champion, frozen, labelled_rows, monthly_on_all_past
from ml_platform_tests.loop.homes import FLIGHTS, Home, small
from ml_platform_tests.stores.model_examples import PROVENANCE

FIRST, SECOND, WATERMARK = (datetime(2013, 1, day, tzinfo=UTC) for day in (12, 17, 22))
SPEC = small(FLIGHTS.model("flight_delay"))
PARAMS, ROUNDS = {"learning_rate": 0.1, "num_leaves": 15}, 20


@pytest.fixture(scope="module")
def rows(three_weeks: Home) -> pl.DataFrame:
    return labelled_rows(three_weeks.lake, three_weeks.features, SPEC)


@pytest.fixture(scope="module")
def served(rows: pl.DataFrame) -> list[Tenure]:
    """Two champions, the second made from more and with another seed."""
    return [Tenure(since, learned(rows, since, seed)) for since, seed in ((FIRST, 1), (SECOND, 2))]


@pytest.fixture(scope="module")
def home(three_weeks: Home, served: list[Tenure], tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A copy in which both were champion in turn and predicted; the second also scored days of the first."""
    folder = tmp_path_factory.mktemp("rivals") / "home"
    shutil.copytree(three_weeks.settings.home, folder)
    copy = Home(load({"ML_PLATFORM_HOME": str(folder)}))
    models, before = ModelStore(copy.settings), None
    for tenure in served:
        with models.training_run(SPEC.name) as run:
            version = models.log_candidate(
                run,
                SPEC.name,
                tenure.model,
                PROVENANCE,
                spec=SPEC,
                example=copy.rows("flight_delay/training_set").head(3),
                metrics={},
            )
        decision = Decision(True, "first_champion", "every gate holds", ())
        models.promote(
            SPEC.name, version, decision, expected_current=before, watermark=tenure.since, by="automation", run_id=""
        )
        before = version
        days = days_between(datetime(2013, 1, 11, tzinfo=UTC).date(), datetime(2013, 1, 21, tzinfo=UTC).date())
        for _ in predict(copy.lake, copy.features, SPEC, copy.dataset, version, tenure.model, days, WATERMARK):
            pass
    return copy


def learned(rows: pl.DataFrame, through: datetime, seed: int) -> FittedModel:
    spec: ModelSpec = SPEC.model_copy(update={"seed": seed})
    features = [name for name in rows.columns if name not in ("flight_id", "prediction_time", "label", "label_time")]
    return fit(spec, known(rows, through), features, PARAMS, ROUNDS)


def scores_of(frame: pl.DataFrame) -> dict[str, tuple[float, datetime]]:
    """Score and beginning of service by flight."""
    return {row["flight_id"]: (row["score"], row[SERVED_SINCE]) for row in frame.iter_rows(named=True)}


def test_the_champions_score_of_a_flight_is_that_of_the_version_that_served_when_it_was_due(
    home: Home, rows: pl.DataFrame, served: list[Tenure]
) -> None:
    twice = home.rows("flight_delay/predictions").group_by("flight_id").len().filter(pl.col("len") == 2)
    assert twice.height > 0
    found = automated(home.lake, SPEC, rows, WATERMARK)
    assert scores_of(found) == scores_of(serve(served, rows, WATERMARK))


def test_rivals_begin_with_the_first_champion_and_score_the_same_flights(
    home: Home, rows: pl.DataFrame, served: list[Tenure]
) -> None:
    models = ModelStore(home.settings)
    assert first_champion(home.lake, SPEC).decided_at_watermark == FIRST
    alone = frozen(home.lake, models, SPEC, rows, WATERMARK)
    assert scores_of(alone) == scores_of(serve(served[:1], rows, WATERMARK))
    monthly = monthly_on_all_past(home.lake, models, SPEC, rows, WATERMARK)
    # Fitted on what the first champion was fitted on, with its parameters and seed: the same model until February.
    assert scores_of(monthly) == scores_of(alone)


def test_a_home_without_a_champion_has_no_rivals(three_weeks: Home) -> None:
    with pytest.raises(LookupError, match="never had a champion"):
        first_champion(three_weeks.lake, SPEC)
