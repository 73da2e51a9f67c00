"""What people see: five questions answered in at most three clicks each, on pages that say what the platform knows."""

from datetime import datetime
from typing import Any

import pytest

from ml_platform_tests.browser.conftest import Reader

MODEL = "flight_delay"
CLICKS = 3

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def model(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = status["models"][MODEL]
    return found


def day(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d}"


def test_which_version_is_champion_since_when_and_why(reader: Reader, model: dict[str, Any]) -> None:
    reader.open_asset(f"{MODEL}/champion")
    reader.sees(f"Version {model['champion_version']} is champion since {day(model['champion_since'])}")
    assert model["last_decision"]["promoted"], "the first decision of a finished home promotes"
    reader.sees(model["last_decision"]["reason"])
    assert reader.clicks <= CLICKS
    reader.shoot("champion")


def test_every_gate_of_the_last_decision_is_one_click_from_the_champion(reader: Reader, model: dict[str, Any]) -> None:
    reader.open_asset(f"{MODEL}/champion")
    row = reader.page.locator("tr", has=reader.page.get_by_text("gates", exact=True))
    reader.click(row.get_by_text("[Show Markdown]"))
    for gate in ("floor:auc", "baseline", "calibration", "latency"):
        reader.sees(gate)
    assert reader.clicks <= CLICKS
    reader.shoot("gates")


def test_what_the_champion_was_trained_on(reader: Reader, model: dict[str, Any]) -> None:
    reader.open_asset(f"{MODEL}/champion")
    version = model["data_versions"][f"{MODEL}/training_set"]
    reader.sees(f"Trained on {model['training_rows']:,} rows")
    reader.sees(f"training set version {version}")
    reader.click(reader.page.get_by_role("link", name="training set", exact=True))
    reader.page.wait_for_url("**/training_set")
    for name, read in model["data_versions"].items():
        if name != f"{MODEL}/training_set":
            reader.sees(f'"{name}": {read}')
    assert reader.clicks <= CLICKS
    reader.shoot("training_set")


def test_how_good_it_was_in_the_last_week(reader: Reader, model: dict[str, Any]) -> None:
    reader.open_asset(f"{MODEL}/performance_report")
    week, auc = model["performance"], model["performance"]["metric_intervals"]["auc"]
    assert (datetime.fromisoformat(week["end"]) - datetime.fromisoformat(week["start"])).days == 7
    reader.sees(f"{week['rows']:,} labels known from {day(week['start'])} to {day(week['end'])}")
    reader.sees(f"{week['metrics']['auc']:.4g} [{auc['low']:.4g}, {auc['high']:.4g}]")
    reader.click(reader.page.get_by_text("[Show Markdown]"))
    assert drawn(reader) > 600
    assert reader.clicks <= CLICKS
    reader.shoot("performance")


def test_a_plot_stands_in_the_metadata_of_an_evaluation(reader: Reader, model: dict[str, Any]) -> None:
    reader.open_asset(f"{MODEL}/evaluation_report")
    interval = model["metric_intervals"]["auc"]
    reader.sees(f"auc {model['metrics']['auc']:.4g} [{interval['low']:.4g}, {interval['high']:.4g}]")
    row = reader.page.locator("tr", has=reader.page.get_by_text("roc_and_precision_recall", exact=True))
    reader.click(row.get_by_text("[Show Markdown]"))
    assert drawn(reader) > 600
    reader.shoot("evaluation")


def test_numbers_that_people_follow_are_plotted(reader: Reader) -> None:
    reader.open_asset(f"{MODEL}/evaluation_report")
    reader.click(reader.page.get_by_role("button", name="Plots"))
    reader.page.locator("canvas").first.wait_for()
    reader.sees("auc_over_baseline")
    assert reader.clicks <= CLICKS


def test_a_table_shows_its_columns_with_units_sample_rows_and_a_query(reader: Reader) -> None:
    reader.open_asset("raw/arrivals")
    for text in ("flight-data", "unit: minutes", "Arrival after the planned time", "from raw.arrivals limit 10"):
        reader.sees(text)
    row = reader.page.locator("tr", has=reader.page.get_by_text("sample", exact=True))
    reader.click(row.get_by_text("[Show Markdown]"))
    reader.page.get_by_role("dialog").get_by_text("arr_delay_minutes").wait_for()
    assert reader.clicks <= CLICKS
    reader.shoot("sample_rows")


def test_the_lineage_leads_from_raw_tables_to_reports(reader: Reader) -> None:
    # By its address: the icon of Jobs is called column_lineage.
    reader.click(reader.page.locator("a[href$='/asset-groups']"))
    for group in ("raw", "features", "delay_minutes"):
        reader.page.get_by_text(group, exact=True).last.wait_for()
    reader.click(reader.page.get_by_text(MODEL, exact=True).last)
    reader.page.wait_for_timeout(2000)
    stages = ("training_set", "tuned_model", "evaluation_report", "champion", "predictions", "drift_report")
    assets = [reader.page.get_by_text(stage, exact=True).first for stage in stages]
    for _ in range(12):
        if all(asset.is_visible() for asset in assets):
            break
        reader.page.locator("button:has([aria-label='zoom_out'])").click()
        reader.page.wait_for_timeout(500)
    for asset in assets:
        asset.wait_for()
    reader.shoot("lineage")


def test_the_evidently_report_opens_by_its_link(reader: Reader, model: dict[str, Any]) -> None:
    reader.open_asset(f"{MODEL}/drift_report")
    drift = model["drift"]
    reader.sees(drift["reason"])
    page = reader.follow(reader.page.locator(f"a[href$='/drift/{day(drift['day'])}.html']"))
    assert page.url == model["links"]["drift"]
    Reader.wait_for(page, drift["reason"])
    Reader.wait_for(page, "Data Drift Summary")
    Reader.wait_for(page, next(name for name, column in drift["columns"].items() if not column["ignored"]))
    assert reader.clicks <= CLICKS
    reader.shoot("evidently", page)


def test_the_model_card_and_the_registry_are_one_click_from_the_champion(reader: Reader, model: dict[str, Any]) -> None:
    reader.open_asset(f"{MODEL}/champion")
    card, registry = model["links"]["model_card"], model["links"]["registry"]
    for name, link in (("model card", card), (f"version {model['champion_version']}", registry)):
        assert reader.page.get_by_role("link", name=name, exact=True).first.get_attribute("href") == link
    reader.page.goto(card)
    reader.sees(f"{model['metrics']['auc']:.4g}")
    reader.shoot("model_card")
    reader.page.goto(registry)
    reader.sees("@ champion")
    reader.shoot("registry")


def test_every_part_of_what_calls_for_a_training_is_explained(reader: Reader) -> None:
    reader.open_asset(f"{MODEL}/training_set")
    reader.click(reader.page.locator("a#automation"))
    # The daemon of `up` evaluates every ten seconds and keeps what changed.
    reader.page.get_by_text("Not requested").first.wait_for()
    reader.click(reader.page.locator("text=/\\d+:\\d\\d:\\d\\d/"))
    for part in (
        "evidence calls for training",
        "nothing holds it back",
        "a person asked",
        "all data that landed is taken in",
    ):
        reader.sees(part)
    reader.shoot("automation")


def drawn(reader: Reader) -> int:
    """Width in pixels of the picture in the open dialog, once it is drawn."""
    picture = reader.page.get_by_role("dialog").locator("img")
    picture.wait_for()
    width: int = picture.evaluate("image => image.decode().then(() => image.naturalWidth)")
    return width
