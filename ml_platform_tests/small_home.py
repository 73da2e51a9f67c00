"""A small home with everything in it, made in seconds: six real days, a champion, its predictions and their reports."""

from datetime import UTC, datetime, timedelta

from ml_platform.core.evaluation import evaluate
from ml_platform.core.model_spec import ModelSpec, Windows
from ml_platform.core.promotion import Decision
from ml_platform.core.splits import split
from ml_platform.core.training import fit
from ml_platform.defs import datasets
from ml_platform.defs.nyc_flights.replay import replay
from ml_platform.settings import Settings
from ml_platform.stores.declarations import Dataset
from ml_platform.stores.derivation import days_between
from ml_platform.stores.evaluations import store_evaluation
from ml_platform.stores.features import FeatureClient
from ml_platform.stores.incremental import derive, derive_whole
from ml_platform.stores.ingest import ingest
from ml_platform.stores.labels import labels_derivation
from ml_platform.stores.lake import Lake
from ml_platform.stores.landing import Landing
from ml_platform.stores.model_tables import build_training_set, predict
from ml_platform.stores.models import ModelStore, Provenance
from ml_platform.stores.monitoring import calibrate_drift, drift_reference, report_drift, report_performance
from ml_platform.stores.transforms import bind
from ml_platform.stores.view_tables import view_derivation

WATERMARK = datetime(2013, 1, 6, tzinfo=UTC)
AS_OF = datetime(2013, 1, 4, tzinfo=UTC)
DAYS = days_between(datetime(2012, 12, 31).date(), datetime(2013, 1, 5).date())
MODEL = "flight_delay"


def build_home(settings: Settings) -> None:
    """What `ml-platform run` does, of six days and without tuning."""
    dataset = datasets()[0]
    lake, landing, features = Lake.of(settings), Landing(settings.landing), FeatureClient(settings)
    list(replay(settings.landing, until="2013-01-06"))
    for table in dataset.tables:
        list(ingest(lake, landing, table, list(landing.periods(table))))
    for view, transform in dataset.views.items():
        derivation = view_derivation(features.manifest().view(view), bind(transform, dataset.folder))
        if any(dataset.table(name).known_at for name in transform.inputs):
            list(derive(lake, derivation, DAYS, WATERMARK))
        else:
            derive_whole(lake, derivation)
    features.push_online("weather_at_origin", as_of=WATERMARK)
    spec = dataset.model(MODEL)
    list(derive(lake, labels_derivation(spec, dataset), DAYS, WATERMARK))
    _train_and_predict(settings, dataset, spec, lake, features)


def _train_and_predict(
    settings: Settings, dataset: Dataset, spec: ModelSpec, lake: Lake, features: FeatureClient
) -> None:
    windows = Windows(training=timedelta(days=2), holdout=timedelta(days=1), minimum_rows=100)
    spec = spec.model_copy(update={"windows": windows})
    training, _ = build_training_set(lake, features, spec, AS_OF)
    rows = split(training.frame, windows, AS_OF)
    model = fit(spec, rows.train, training.service.features, {"num_leaves": 7}, 10)
    store = ModelStore(settings)
    provenance = Provenance(
        training_set_version=training.state.delta_version,
        training_set_hash=training.state.content_hash,
        training_rows=rows.train.height,
        as_of=AS_OF,
        inputs=training.state.inputs,
        service=spec.service,
        service_hash=training.service.hash,
        code_version="1",
        dagster_run_id="",
    )
    with store.training_run(spec.name) as run:
        version = store.log_candidate(
            run, spec.name, model, provenance, spec=spec, example=rows.train.head(5), metrics={}
        )
    store_evaluation(lake, spec, version, AS_OF, evaluate(spec, model, rows.train, rows.holdout))
    decision = Decision(promote=True, rule="first_champion", reason="every gate holds", gates=())
    store.promote(spec.name, version, decision, expected_current=None, watermark=AS_OF, by="automation", run_id="run")
    list(predict(lake, features, spec, dataset, version, model, DAYS, WATERMARK))
    report_performance(lake, spec, DAYS, WATERMARK)
    champion = store.champion(spec.name)
    assert champion is not None
    reference = drift_reference(lake, spec, champion, model)
    calibrate_drift(lake, spec, version, reference)
    report_drift(lake, spec, version, lambda: reference, DAYS, WATERMARK)
