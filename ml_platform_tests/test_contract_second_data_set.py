"""The platform's promises on a data set nothing like the flights, declared by YAML, views and transforms alone.

And that each promise is noticed when it is broken.
"""

import sys
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ml_platform.stores.on_request import entity_rows
from ml_platform.testing import ModelContract

PROJECT = Path(__file__).parent / "second_data_set"
sys.path.insert(0, str(PROJECT))

import deliveries  # noqa: E402
from energy_demand.defs.meters import transforms  # noqa: E402

broken = partial(pytest.raises, AssertionError)


class TestDemand(ModelContract):
    """Hourly demand by site and meter, two key columns, six hours ahead."""

    package = PROJECT / "energy_demand"
    feature_repo = PROJECT / "feature_repo"
    model = "demand"
    trained_at = datetime(2024, 3, 6, tzinfo=UTC)
    predicted_until = datetime(2024, 3, 8, tzinfo=UTC)

    def land(self, landing: Path, until: datetime) -> None:
        deliveries.land(landing, until)

    def pretend(self, monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
        """Let the home show something else than what is there."""
        for name, value in found.items():
            if isinstance(getattr(type(self._home), name), cached_property):
                monkeypatch.setitem(vars(self._home), name, value)
            else:
                monkeypatch.setattr(type(self._home), name, value)

    def test_a_row_is_found_by_all_its_key_columns(self) -> None:
        home = self._home
        asked = {"site": "hill", "meter": "2", "hour_at": "2024-03-07T12:00"}
        lake = home.lake_after_predictions
        found = entity_rows(lake, home.dataset, home.spec, asked, watermark=self.predicted_until)
        assert found["prediction_time"].to_list() == [datetime(2024, 3, 7, 6, tzinfo=UTC)]

    # Broken promises -------------------------------------------------------------------------------

    def test_a_view_that_reads_the_future_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = transforms.recent_demand

        def foresighted(readings: pl.DataFrame, **given: Any) -> pl.DataFrame:
            return honest(readings.with_columns(pl.col("known_at") - timedelta(hours=2)), **given)

        monkeypatch.setattr(transforms, "recent_demand", foresighted)
        self.pretend(
            monkeypatch,
            tables_after_training=self._home.tables_built(),
            tables_of_nonsense=self._home.tables_built(nonsense_after=self._home.middle_of_holdout),
        )
        with broken(match="features/recent_demand up to .* depends on what became known later"):
            self.test_nothing_depends_on_what_became_known_later()

    def test_a_label_that_changes_with_its_batch_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def of_the_batch(readings: pl.DataFrame, **given: Any) -> pl.DataFrame:
            return honest(readings, **given).with_columns(pl.col("label") - pl.col("label").mean())

        honest = transforms.used_energy
        monkeypatch.setattr(transforms, "used_energy", of_the_batch)
        self.pretend(monkeypatch, hashes_in_pieces=type(self._home).hashes_in_pieces.func(self._home))
        with broken(match="content depends on how it landed: .*demand/labels"):
            self.test_any_arrival_gives_the_same_tables()

    def test_a_feature_of_another_row_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = self._home.training_set
        shifted = rows.with_columns(pl.col("temperature_c").shift(1))
        self.pretend(monkeypatch, training_set=shifted)
        with broken(match="site_weather at .* was known"):
            self.test_features_are_what_was_known_at_each_prediction_time()

    def test_a_label_known_before_its_prediction_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = self._home.training_set
        early = pl.when(pl.int_range(pl.len()) == 3).then(pl.col("prediction_time")).otherwise("label_time")
        self.pretend(monkeypatch, training_set=rows.with_columns(early.alias("label_time")))
        with broken(match="1 rows of the training set are out of order"):
            self.test_every_training_row_was_predicted_before_its_label_was_known()

    def test_another_figure_on_the_card_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        figures = self._home.card_figures
        rounded = [(source, value, "1" if source == "training_set/rows" else text) for source, value, text in figures]
        self.pretend(monkeypatch, card_figures=rounded)
        with broken(match="training_set/rows: card says '1'"):
            self.test_every_figure_on_the_card_is_its_source_s()

    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            (pl.lit(2).alias("model_version"), "versions .* predicted"),
            (pl.lit("another").alias("feature_service_hash"), "feature services"),
            (pl.col("score") * 1.0001, "scores are not those of version"),
            (pl.col("prediction_time") - timedelta(days=9), "of what it may have learned"),
        ],
    )
    def test_a_prediction_that_is_not_the_champion_s_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch, change: pl.Expr, complaint: str
    ) -> None:
        rows = self._home.predictions
        one = rows.head(1).with_columns(change).cast(rows.schema)
        self.pretend(monkeypatch, predictions=pl.concat([one, rows.tail(-1)]))
        with broken(match=complaint):
            self.test_predictions_come_from_the_champion_and_name_it()

    @pytest.mark.parametrize("repeated", [0, 2])
    def test_a_row_predicted_twice_or_never_is_noticed(self, monkeypatch: pytest.MonkeyPatch, repeated: int) -> None:
        rows = self._home.predictions
        self.pretend(monkeypatch, predictions=pl.concat([rows.head(1)] * repeated + [rows.tail(-1)]))
        with broken(match="what was due and what was predicted are not the same"):
            self.test_everything_due_is_predicted_once()

    def test_a_prediction_that_was_changed_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self._home.predictions_after_training
        self.pretend(monkeypatch, predictions_after_training=before.with_columns(pl.col("score") + 1))
        with broken(match="predictions changed after they were made"):
            self.test_a_prediction_is_never_changed()
