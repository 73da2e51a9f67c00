"""Feast's own data quality monitoring on the offline store: computed by Feast, kept here."""

from datetime import timedelta
from pathlib import Path

import pytest
from feast import FeatureStore
from feast.monitoring.monitoring_service import MonitoringService

from ml_platform_tests.stores.test_asof_store import DAY, DRIVER, FORMATS, STATS, T0, project, stats_view, stored

pytestmark = [pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(params=FORMATS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FeatureStore:
    made = project(tmp_path)
    made.apply([DRIVER, stats_view(stored(STATS, tmp_path / "stats", request.param))])
    return made


def test_metrics_are_computed_kept_and_found_by_feature_and_day(store: FeatureStore) -> None:
    service, first = MonitoringService(store), T0.date()
    for end in (first, first, first + timedelta(days=3)):
        service.compute_metrics("plain", "stats", start_date=first, end_date=end, granularity="daily")
    (rate,) = service.get_feature_metrics("plain", feature_name="rate", granularity="daily")
    assert (rate["metric_date"], rate["row_count"], rate["null_count"]) == (first.isoformat(), 6, 1)
    assert rate["mean"] == pytest.approx(0.35)
    assert sum(rate["histogram"]["counts"]) == 5
    assert service.get_feature_metrics("plain", start_date=first + timedelta(days=9)) == []
    assert service.get_feature_metrics("another") == []
    assert service.get_feature_view_metrics("plain", feature_view_name="stats")[0]["total_features"] == 2


def test_a_baseline_is_computed_once_and_can_be_cleared(store: FeatureStore, tmp_path: Path) -> None:
    service = MonitoringService(store)
    assert service.compute_baseline("plain")["computed_features"] == 2
    assert service.compute_baseline("plain")["computed_features"] == 0
    (rate,) = service.get_baseline("plain", feature_name="rate")
    assert (rate["row_count"], rate["null_count"], rate["is_baseline"]) == (6, 1, True)
    assert rate["max_event_timestamp"] == (T0 + 3 * DAY).isoformat()
    store.provider.offline_store.clear_monitoring_baseline(store.config, "plain", feature_name="rate")
    assert service.get_baseline("plain", feature_name="rate") == []
    assert len(service.get_baseline("plain")) == 1
    assert service.compute_baseline("plain")["computed_features"] == 1
    assert (tmp_path / "feast_monitoring").is_dir()


def test_a_job_of_feast_s_monitoring_is_followed(store: FeatureStore) -> None:
    service = MonitoringService(store)
    number = service.job_manager.submit("plain", "auto_compute", "stats", {"of": 1})
    assert service.get_job(number)["status"] == "pending"
    service.job_manager.update_status(number, "running")
    service.job_manager.update_status(number, "completed", result_summary={"features": 2})
    done = service.get_job(number)
    assert (done["status"], done["parameters"], done["result_summary"]) == ("completed", {"of": 1}, {"features": 2})
    assert done["started_at"] <= done["completed_at"]
