"""What assets say about models in words: markdown for people who open an asset's page.

Dagster's UI shows markdown of fewer than :data:`SHOWN_IN_PLACE` characters in place and anything longer behind a
click, so what people come for is kept short, and tables of everything are texts of their own.
"""

import dagster as dg
import polars as pl

from ml_platform.assets.metadata import markdown_table
from ml_platform.core.bootstrap import Figure
from ml_platform.core.drift_calibration import PROMISED_SHIFT
from ml_platform.core.durations import format_duration
from ml_platform.core.evaluation_report import EvaluationReport
from ml_platform.core.metrics import metrics_for
from ml_platform.core.model_spec import WITHIN, ModelSpec
from ml_platform.core.performance import PerformanceReport
from ml_platform.core.retraining import RetrainVerdict
from ml_platform.settings import Settings
from ml_platform.stores.ledger import LedgerEntry
from ml_platform.stores.models import ModelVersion
from ml_platform.stores.reports import Reports

SHOWN_IN_PLACE = 1000

NO_CHAMPION = "**There is no champion:** no version was promoted yet, and nothing predicts."


def explanation(champion: ModelVersion, promotion: LedgerEntry, settings: Settings) -> str:
    """Who is champion, since when, why, and what it was trained on; where to see how it does.

    Args:
        champion: the version that predicts.
        promotion: the decision that made it champion.
        settings: where pages are.
    """
    made, name = champion.provenance, champion.name
    assets, reports = f"{settings.dagster_url}/assets/{name}", Reports(settings)
    card, evaluation = (reports.url(name, kind, f"version_{champion.version}") for kind in ("model_card", "evaluation"))
    return (
        f"**Version {champion.version} is champion since {promotion.decided_at_watermark:%Y-%m-%d %H:%M} UTC** "
        f"({promotion.rule.replace('_', ' ')}, by {promotion.decided_by}).\n\n"
        f"**Why:** {promotion.reason}\n\n"
        f"**Trained on** {made.training_rows:,} rows with labels known up to "
        f"{champion.trained_through:%Y-%m-%d %H:%M} UTC: [training set]({assets}/training_set) version "
        f"{made.training_set_version}, features of {made.service}.\n\n"
        f"**Since then:** [performance]({assets}/performance_report), [drift]({assets}/drift_report). "
        f"**More:** [model card]({card}), [evaluation]({evaluation})."
    )


def retraining(verdict: RetrainVerdict) -> str:
    """Every part of the verdict on whether to train, the holding triggers first."""
    parts = sorted(verdict.conditions, key=lambda part: (part.role == "guard", not part.holds))
    rows = [
        {"part": part.name, "role": part.role, "holds": "yes" if part.holds else "no", "because": part.explanation}
        for part in parts
    ]
    return f"{verdict.reason}\n\n{markdown_table(rows)}"


def mlflow_links(version: ModelVersion) -> dg.MarkdownMetadataValue:
    """A version and its run in the MLflow UI, by name: their addresses would be wider than the page."""
    return dg.MetadataValue.md(f"[version {version.version}]({version.url}), [its run]({version.run_url})")


def decision(entry: LedgerEntry) -> str:
    """A decision and its reason."""
    verdict = "promoted" if entry.promoted else "not promoted"
    waits = (
        f"\n\n`ml-platform promote {entry.model} {entry.version} --reason …` lets it through, `ml-platform reject` "
        f"refuses it; the jobs `{entry.model}_promote` and `{entry.model}_reject` do the same."
        if entry.rule == "awaits_approval"
        else ""
    )
    return (
        f"Version {entry.version} **{verdict}** ({entry.rule.replace('_', ' ')}) by {entry.decided_by}, on data up to "
        f"{entry.decided_at_watermark:%Y-%m-%d %H:%M} UTC.\n\n{entry.reason}{waits}"
    )


def champions(served: pl.DataFrame) -> str:
    """The champions of a model, newest first, and on whose word; ``served`` as the ledger gives it."""
    lines = [
        f"- version {row['version']} from {row['served_from']:%Y-%m-%d %H:%M} "
        + (f"to {row['served_until']:%Y-%m-%d %H:%M}" if row["served_until"] else "on")
        + f": {row['rule'].replace('_', ' ')}, by {row['decided_by']}"
        for row in reversed(served.to_dicts())
    ]
    return "\n".join(lines) or "none yet"


def gates_table(entry: LedgerEntry) -> str:
    """Every gate of a decision, failed ones first."""
    gates = sorted(entry.gate_results, key=lambda gate: bool(gate["passed"]))
    return markdown_table(
        [
            {"gate": gate["name"], "holds": "yes" if gate["passed"] else "**no**", "explanation": gate["explanation"]}
            for gate in gates
        ]
    )


def evaluation_summary(report: EvaluationReport, version: int) -> str:
    """The gate's metric of a version, beside its rivals on the same rows."""
    found = report[report.gate_metric]
    lines = [f"Version {version}: **{found.metric} {found.candidate}** on {report.rows:,} rows that it never saw."]
    for rival, own, gain, rows in (
        ("baseline", found.baseline, found.over_baseline, report.rows),
        ("champion", found.champion, found.over_champion, report.champion_rows),
    ):
        if own is not None and gain is not None:
            lines.append(f"The {rival}: {own}. On the same {rows:,} rows this version is better by {gain}.")
    return "\n\n".join(lines)


def metrics_table(report: EvaluationReport) -> str:
    """Every metric of candidate, baseline and champion."""
    return markdown_table(
        [
            {
                "metric": result.metric,
                "candidate": result.candidate,
                "baseline": result.baseline or "",
                "champion": result.champion or "",
                "over baseline": result.over_baseline or "",
                "over champion": result.over_champion or "",
                "unit": result.unit,
            }
            for result in report.metrics
        ]
    )


def performance_summary(spec: ModelSpec, report: PerformanceReport) -> str:
    """How good the newest version was over the trailing window and the day, by every metric; empty without labels."""
    trailing, day = report.of("trailing"), report.of("day")
    if trailing is None:
        return ""
    lead = (
        f"Version {trailing.model_version}, trailing {format_duration(trailing.end - trailing.start)}: "
        f"**{trailing.rows:,} labels** known from {trailing.start:%Y-%m-%d} to {trailing.end:%Y-%m-%d}."
    )
    names = sorted(metrics_for(spec.task), key=lambda name: name != spec.gate.metric)
    rows = [
        {
            "metric": name,
            "trailing": trailing.figures[name],
            "day": "" if day is None else Figure(value=day.figures[name].value),
        }
        for name in names
    ]
    return f"{lead}\n\n{markdown_table(rows)}"


def calibration_summary(spec: ModelSpec, chosen: pl.DataFrame) -> str:
    """The limit of drift and what it does, from its rows of the calibration.

    Args:
        spec: the declaration.
        chosen: the rows of ``<model>/drift_calibration`` that are ``chosen``.
    """
    first = chosen.row(0, named=True)
    lead = (
        f"An effect stronger than **{first['alarm_limit']:.2f}** is an alarm: so are **{first['false_alarms']:,} of "
        f"{first['windows']:,} windows without change** ({first['false_alarms_per_100_windows']:.2g} in 100; promised: "
        f"{spec.drift.false_alarms_per_100_windows:g}), each {first['window_days']} of the {first['reference_days']} "
        f"days that version {first['model_version']} learned from. Of {first['trials']:,} trials with one feature "
        f"shifted by {PROMISED_SHIFT:g}σ, found:"
    )
    rows = [
        {
            "feature": row["feature"],
            "in the first window": f"{row['found_at_once']:.0%}",
            f"within {WITHIN}": f"{row['found']:.0%}",
            "mean windows": f"{row['delay_windows']:.2f}",
        }
        for row in chosen.filter(pl.col("shift") == PROMISED_SHIFT).iter_rows(named=True)
    ]
    return f"{lead}\n\n{markdown_table(rows)}"
