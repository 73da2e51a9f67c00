"""The table of evaluations: every version's figures, long, kept for ever."""

from datetime import datetime

import polars as pl

from ml_platform.core.evaluation_report import EvaluationReport
from ml_platform.core.model_spec import ModelSpec
from ml_platform.stores.catalog import PartitionState
from ml_platform.stores.lake import Lake
from ml_platform.stores.table_names import evaluation_table


def store_evaluation(
    lake: Lake, spec: ModelSpec, version: int, as_of: datetime, report: EvaluationReport
) -> PartitionState:
    """Add a version's figures, in place of those it had."""
    table = evaluation_table(spec)
    rows = report.to_frame().select(
        pl.lit(version, dtype=pl.Int64).alias("model_version"),
        pl.lit(as_of).cast(pl.Datetime("us", "UTC")).alias("evaluated_at_watermark"),
        pl.all(),
    )
    if lake.exists(table):
        rows = pl.concat([lake.read(table).filter(pl.col("model_version") != version), rows])
    return lake.write(table, rows, sort_by=["model_version", "section", "name", "subject"])
