"""Pages open without a network, and every figure on them is its source's."""

import html
import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ml_platform.core.drift import DriftReport, compare, learned
from ml_platform.core.evaluation import evaluate
from ml_platform.core.evaluation_report import EvaluationReport
from ml_platform.core.model_card import CardSources
from ml_platform.core.model_spec import DriftPolicy, ModelSpec
from ml_platform.core.page import shown
from ml_platform.core.plots import report_plots
from ml_platform.core.training import fit
from ml_platform.settings import Settings, load
from ml_platform.stores.reports import Reports

SPEC = ModelSpec.model_validate(
    {
        "name": "late",
        "task": "binary",
        "description": "Is it <late>?",
        "intended_use": "To be tested & read.",
        "limits": ["Knows nothing of Mondays."],
        "owners": ["team:x"],
        "group": "g",
        "service": "svc",
        "keys": ["id"],
        "entities": {"python": "m:f", "inputs": ["t"]},
        "labels": {"python": "m:f", "inputs": ["t"]},
        "label_unit": "late or not",
        "entity_look_back": "3d",
        "denied": ["label"],
        "baseline": {"by": ["kind"]},
        "slices": ["kind"],
        "protected": ["kind"],
        "windows": {"training": "30d", "holdout": "7d"},
        "tuning": {"trials": 1, "search": {"learning_rate": {"low": 0.1, "high": 0.1}}},
        "costs": {"false_positive": 1, "false_negative": 2},
        "gate": {
            "metric": "auc",
            "floor": {"auc": 0.6},
            "slice_minimum_rows": 50,
            "cases": [{"name": "more x", "shift": {"x": 1.0}, "expect": "not_lower"}],
        },
    }
)
START = datetime(2020, 1, 1, tzinfo=UTC)


def labelled(days: range, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    count = 40 * len(days)
    due = [START + timedelta(days=days[i // 40], minutes=i % 40) for i in range(count)]
    x = rng.normal(size=count)
    return pl.DataFrame(
        {
            "id": np.arange(count) + 100_000 * seed,
            "prediction_time": pl.Series(due, dtype=pl.Datetime("us", "UTC")),
            "label_time": pl.Series([time + timedelta(hours=3) for time in due], dtype=pl.Datetime("us", "UTC")),
            "label": (x + rng.normal(size=count) > 0).astype(float),
            "x": x,
            "kind": rng.choice(["a", "b"], count),
        }
    )


@pytest.fixture(scope="module")
def evaluation() -> EvaluationReport:
    train, holdout = labelled(range(20), 1), labelled(range(21, 30), 2)
    return evaluate(SPEC, fit(SPEC, train, ["x", "kind"], {}, 10), train, holdout)


@pytest.fixture(scope="module")
def sources(evaluation: EvaluationReport) -> CardSources:
    entry = {
        "sequence": 1,
        "version": 4,
        "promoted": True,
        "rule": "first_champion",
        "reason": "every gate holds",
        "decided_by": "automation",
        "decided_at_watermark": datetime(2020, 2, 1, tzinfo=UTC),
    }
    return CardSources(
        training_set={
            "rows": 123_456,
            "label_mean": 0.2345678,
            "start": "2020-01-01T00:00:00+00:00",
            "end": "2020-01-20T00:00:00+00:00",
            "delta_version": 17,
            "content_hash": "abc",
            "service": "svc",
            "service_hash": "def",
            "inputs": {"raw/arrivals": 31, "features/weather": 5},
        },
        tuned_model={
            "version": 4,
            "trained_through": datetime(2020, 1, 20, tzinfo=UTC),
            "seed": 0,
            "model_hash": "123",
            "code_version": "1",
            "dagster_run_id": "run",
            "run_id": "mlrun",
            "parameters": {"learning_rate": "0.05"},
        },
        evaluation_report=evaluation,
        champion=[entry],
    )


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return load({"ML_PLATFORM_HOME": str(tmp_path), "ML_PLATFORM_REPORTS_URL": "http://reports"})


def page_at(config: Settings, url: str) -> str:
    return (config.reports / url.removeprefix("http://reports/")).read_text(encoding="utf-8")


class CitedFigures(HTMLParser):
    """Every cited figure of a page: (source, value, words shown)."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, Any, str]] = []
        self._open: tuple[str, Any] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-source" in given:
            self._open = (given["data-source"], json.loads(given["data-value"]))

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found.append((*self._open, data))
            self._open = None


def at(source: str, values: Any) -> Any:
    """What stands at a JSON pointer, told independently of the code under test."""
    for part in source.split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        values = values[int(key)] if isinstance(values, list) else values[key]
    return values


def test_every_number_of_a_card_is_its_sources(config: Settings, sources: CardSources) -> None:
    page = page_at(config, Reports(config).model_card(SPEC, sources))
    plain = json.loads(
        json.dumps(
            {
                "training_set": sources.training_set,
                "tuned_model": sources.tuned_model,
                "champion": sources.champion,
                "evaluation_report": json.loads(sources.evaluation_report.to_json()),
            },
            default=str,
        )
    )
    cited = CitedFigures(page).found
    for source, value, words in cited:
        assert value == at(source, plain), source
        assert words == shown(value), source
    shown_values = {source: words for source, _, words in cited}
    assert shown_values["training_set/rows"] == "123,456"
    assert shown_values["training_set/label_mean"] == "0.2346"
    assert shown_values["training_set/inputs/raw~1arrivals"] == "31"
    assert shown_values["tuned_model/version"] == "4"
    auc = [result.metric for result in sources.evaluation_report.metrics].index("auc")
    assert shown_values[f"evaluation_report/metrics/{auc}/candidate/value"] == shown(
        sources.evaluation_report["auc"].candidate.value
    )
    assert {source.split("/")[0] for source in shown_values} == {
        "training_set",
        "tuned_model",
        "champion",
        "evaluation_report",
    }


def test_no_number_stands_in_a_card_without_its_source(config: Settings, sources: CardSources) -> None:
    page = page_at(config, Reports(config).model_card(SPEC, sources))
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    uncited = re.sub(r"<span data-source.*?</span>", "", body)
    cells = [cell for cell in re.findall(r"<(?:td|dd)>(.*?)</(?:td|dd)>", uncited) if re.search(r"\b\d", cell)]
    assert cells == []


def test_a_card_with_a_figure_its_source_lacks_is_an_error_that_names_it(
    config: Settings, sources: CardSources
) -> None:
    lacking = CardSources(
        training_set={key: value for key, value in sources.training_set.items() if key != "rows"},
        tuned_model=sources.tuned_model,
        evaluation_report=sources.evaluation_report,
        champion=[],
    )
    with pytest.raises(KeyError, match="training_set/rows has no 'rows'"):
        Reports(config).model_card(SPEC, lacking)


def test_a_page_is_whole_by_itself_and_what_people_wrote_stays_text(
    config: Settings, sources: CardSources, evaluation: EvaluationReport
) -> None:
    reports = Reports(config)
    card = page_at(config, reports.model_card(SPEC, sources))
    whole = page_at(config, reports.evaluation(evaluation, 4, report_plots(evaluation)))
    assert "Is it &lt;late&gt;?" in card
    assert "Knows nothing of Mondays." in card
    assert whole.count('src="data:image/png;base64,') == len(report_plots(evaluation))
    for page in (card, whole):
        assert remote(page) == []
        assert "<script" not in page


def remote(page: str) -> list[str]:
    """Everything that a browser would fetch from elsewhere on opening the page."""
    tags = re.findall(
        r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)\s*=\s*[\"']?((?:https?:)?//[^\"'>\s]+)", page
    )
    return (
        tags
        + re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)", page)
        + re.findall(r"@import\s+[\"'](?:https?:)?//[^\"']+", page)
    )


def drift_of(policy: DriftPolicy, reference: pl.DataFrame, current: pl.DataFrame) -> DriftReport:
    features = [name for name in reference.columns if name not in ("score", "prediction_time")]
    return compare(policy, learned(policy, reference, dict.fromkeys(features, 1.0), 3.0), current)


def predicted(frame: pl.DataFrame) -> pl.DataFrame:
    """With what every row of predictions has: a score, and its time on one of ten days."""
    time = pl.datetime(2020, 1, 1, time_zone="UTC") + pl.duration(days=pl.int_range(pl.len()) % 10)
    return frame.with_columns(score=pl.int_range(pl.len()) / pl.len(), prediction_time=time)


def test_evidentlys_page_shows_the_verdict_and_needs_no_network(config: Settings) -> None:
    policy = DriftPolicy(sample_rows=200)
    rng = np.random.default_rng(0)
    reference = pl.DataFrame(
        {
            "x": rng.normal(size=1000),
            "kind": rng.choice(["a", "b"], 1000),
            "flag": rng.random(1000) < 0.5,
            "empty": pl.Series([None] * 1000, dtype=pl.Float64),
        }
    ).pipe(predicted)
    current = reference.with_columns(pl.col("x") + 2).head(900)
    report = drift_of(policy, reference, current)
    reports = Reports(config)
    url = reports.drift("late", "2020-02-01", policy, report, reference, current)
    assert url == "http://reports/late/drift/2020-02-01.html"
    page = page_at(config, url)
    assert html.escape(report.reason) in page
    assert "Decided on all 900 rows against 1,000" in page
    assert "sample of 200 and 200" in page
    assert remote(page) == []
    again = reports.drift("late", "2020-02-02", policy, report, reference, current)
    assert len(page_at(config, again)) == pytest.approx(len(page), rel=0.01)


def test_evidently_draws_what_the_policy_ignores_last(config: Settings) -> None:
    load = np.random.default_rng(0).normal(size=1000)
    reference = pl.DataFrame({"days_to_holiday": range(1000), "load_kg": load}).pipe(predicted)
    current = reference.with_columns(pl.col("days_to_holiday") + 900)
    for ignored, drawn, left_out in (
        ((), "days_to_holiday", "load_kg"),
        (("days_to_holiday",), "load_kg", "days_to_holiday"),
    ):
        policy = DriftPolicy(report_columns=1, ignored_columns=ignored)
        report = drift_of(policy, reference, current)
        page = page_at(config, Reports(config).drift("late", "2020-02-01", policy, report, reference, current))
        pictures = re.sub(r'<p id="verdict".*?</p>', "", page, flags=re.DOTALL)
        assert (drawn in pictures, left_out in pictures) == (True, False)


def test_nothing_to_draw_still_gives_a_page(config: Settings) -> None:
    frame = pl.DataFrame({"x": pl.Series([None] * 10, dtype=pl.Float64)})
    rows = predicted(frame)
    report = drift_of(DriftPolicy(), rows, rows)
    assert "No column has values" in page_at(
        config, Reports(config).drift("late", "2020-02-01", DriftPolicy(), report, frame, frame)
    )


def test_the_index_links_every_page_there_is(
    config: Settings, evaluation: EvaluationReport, sources: CardSources
) -> None:
    reports = Reports(config)
    reports.write_index()
    assert "No report was written yet" in (config.reports / "index.html").read_text()
    reports.evaluation(evaluation, 3)
    reports.evaluation(evaluation, 4)
    reports.model_card(SPEC, sources)
    links = re.findall(r'href="([^"]+)"', (config.reports / "index.html").read_text())
    assert sorted(links) == [
        "late/evaluation/version_3.html",
        "late/evaluation/version_4.html",
        "late/model_card/version_4.html",
    ]
    for link in links:
        page = (config.reports / link).read_text()
        assert (
            (config.reports / link).parent / re.search(r'href="([^"#]+)"', page)[1]
        ).resolve() == config.reports / "index.html"
    assert [path.name for path in config.reports.rglob(".*")] == []
