"""What a model version is for, what it learned from, how good it is, where it fails, and what was decided on it.

Belongs here: which figures a model card and an evaluation page show. Each is cited from its source asset's
values, so that a page cannot say another number than its source.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ml_platform.core.durations import format_duration
from ml_platform.core.evaluation_report import EvaluationReport
from ml_platform.core.model_spec import ModelSpec
from ml_platform.core.page import Cell, Page, Section, Sources, Table

_SHOWN_FEATURES = 20


@dataclass(frozen=True)
class CardSources:
    """What a card is made from, JSON-able, each from the asset it is named for.

    Attributes:
        training_set: ``rows``, ``label_mean``, ``start``, ``end`` (ISO times), ``delta_version``,
            ``content_hash``, ``service``, ``service_hash`` and ``inputs`` (Delta version by table).
        tuned_model: ``version``, ``trained_through``, ``seed``, ``model_hash``, ``code_version``,
            ``dagster_run_id``, ``run_id`` and ``parameters`` (by name).
        evaluation_report: the evaluation of this version.
        champion: the ledger's entries of the model, oldest first.
    """

    training_set: Mapping[str, Any]
    tuned_model: Mapping[str, Any]
    evaluation_report: EvaluationReport
    champion: Sequence[Mapping[str, Any]]

    def as_mapping(self) -> dict[str, Any]:
        """The sources by asset name, of JSON types only."""
        values = {
            "training_set": self.training_set,
            "tuned_model": self.tuned_model,
            "evaluation_report": self.evaluation_report.model_dump(mode="json"),
            "champion": self.champion,
        }
        plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
        return plain


def model_card(spec: ModelSpec, sources: CardSources) -> Page:
    """The card of one version.

    Raises:
        KeyError: a source lacks a value the card shows.
    """
    cited = Sources(sources.as_mapping())
    return Page(
        title=f"{spec.name} version {cited.cite('tuned_model', 'version')}",
        lead=spec.description,
        sections=(
            _purpose(spec),
            _decisions(cited, len(sources.champion)),
            _data(cited, sources.training_set["inputs"]),
            *_evaluation(cited, sources.evaluation_report),
            Section("Limits", text=_limits(spec)),
            _rebuild(cited, sources.tuned_model["parameters"]),
        ),
    )


def evaluation_page(report: EvaluationReport, version: int) -> Page:
    """The whole evaluation of one version."""
    cited = Sources({"evaluation_report": report.model_dump(mode="json")})
    return Page(
        title=f"Evaluation of {report.model} version {version}",
        lead="Measured on the newest rows that neither tuning nor fitting saw.",
        sections=_evaluation(cited, report),
    )


def _purpose(spec: ModelSpec) -> Section:
    return Section(
        "Purpose",
        text=(spec.intended_use,),
        facts=(
            ("Predicts", spec.label_unit),
            ("Task", spec.task.value),
            ("Owners", ", ".join(spec.owners)),
            ("Feature service", spec.service),
        ),
    )


def _decisions(cited: Sources, entries: int) -> Section:
    fields = ("sequence", "version", "promoted", "rule", "reason", "decided_by", "decided_at_watermark")
    rows = tuple(tuple(cited.cite("champion", i, name) for name in fields) for i in reversed(range(entries)))
    columns = ("No.", "Version", "Promoted", "Rule", "Reason", "By", "As of (event time)")
    return Section("Decisions", text=() if rows else ("No decision was made yet.",), tables=_table(columns, rows))


def _data(cited: Sources, inputs: Mapping[str, int]) -> Section:
    names = {
        "Rows": "rows",
        "Mean label": "label_mean",
        "First prediction time": "start",
        "Last prediction time": "end",
        "Delta version of the training set": "delta_version",
        "Content hash": "content_hash",
        "Feature service": "service",
        "Feature service hash": "service_hash",
    }
    rows = tuple((table, cited.cite("training_set", "inputs", table)) for table in sorted(inputs))
    return Section(
        "Data",
        facts=tuple((label, cited.cite("training_set", name)) for label, name in names.items()),
        tables=_table(("Table read", "Delta version"), rows),
    )


def _evaluation(cited: Sources, report: EvaluationReport) -> tuple[Section, ...]:
    return tuple(
        section
        for section in (
            _figures(cited, report),
            _slices(cited, report),
            _gaps(cited, report),
            _cases(cited, report),
            _calibration(cited, report),
            _importance(cited, report),
        )
        if section.tables
    )


def _figures(cited: Sources, report: EvaluationReport) -> Section:
    name = "evaluation_report"
    sides = ("candidate", "baseline", "champion", "over_baseline", "over_champion")
    rows = tuple(
        (result.metric, *(cited.cite_figure(name, "metrics", i, side) for side in sides), result.unit)
        for i, result in enumerate(report.metrics)
    )
    facts: list[tuple[str, Cell]] = [
        ("Held-out rows", cited.cite(name, "rows")),
        ("Of them compared with the champion", cited.cite(name, "champion_rows")),
        ("First held-out prediction time", cited.cite(name, "holdout_start")),
        ("Last held-out prediction time", cited.cite(name, "holdout_end")),
        ("Mean held-out label", cited.cite(name, "label_mean")),
        ("Confidence of the intervals", cited.cite(name, "confidence")),
    ]
    if report.confusion is not None:
        facts += [
            (field.replace("_", " ").capitalize(), cited.cite(name, "confusion", field))
            for field in type(report.confusion).model_fields
        ]
    if report.folds is not None:
        facts += [
            (f"Mean {report.folds.metric} over the tuning folds", cited.cite(name, "folds", "mean")),
            ("Its standard deviation", cited.cite(name, "folds", "standard_deviation")),
        ]
    columns = (
        "Metric",
        "This version",
        "Baseline",
        "Champion",
        "Better than baseline by",
        "Better than champion by",
        "Unit",
    )
    caption = (
        f"In brackets the {report.confidence:.0%} interval over {report.resamples} resamples by {report.resampled_by}. "
        f"The baseline is the training mean by {', '.join(report.baseline_by)}."
    )
    return Section("Figures", facts=tuple(facts), tables=_table(columns, rows, caption))


def _slices(cited: Sources, report: EvaluationReport) -> Section:
    rows = tuple(
        (
            part.column,
            part.group,
            cited.cite("evaluation_report", "slices", i, "rows"),
            cited.cite_figure("evaluation_report", "slices", i, "figure"),
            cited.cite_figure("evaluation_report", "slices", i, "drop"),
        )
        for i, part in enumerate(report.slices)
    )
    columns = ("By", "Group", "Rows", report.gate_metric, "Worse than overall by")
    return Section("Slices", tables=_table(columns, rows))


def _gaps(cited: Sources, report: EvaluationReport) -> Section:
    rows = tuple(
        (gap.column, gap.rate, cited.cite_figure("evaluation_report", "gaps", i, "gap"))
        for i, gap in enumerate(report.gaps)
    )
    caption = "The largest difference in an error rate between groups of a protected column."
    return Section("Protected columns", tables=_table(("Column", "Rate", "Gap"), rows, caption))


def _cases(cited: Sources, report: EvaluationReport) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            case.name,
            case.expect.replace("_", " "),
            *(cited.cite("evaluation_report", "cases", i, name) for name in ("before", "after", "held")),
        )
        for i, case in enumerate(report.cases)
    )
    return Section("Behaviour", tables=_table(("Case", "Expected", "Mean score before", "After", "Held"), rows))


def _calibration(cited: Sources, report: EvaluationReport) -> Section:
    path = ("evaluation_report", "calibration")
    rows = tuple(
        (cited.cite(*path, i, "rows"), cited.cite(*path, i, "mean_score"), cited.cite_figure(*path, i, "mean_label"))
        for i in range(len(report.calibration))
    )
    return Section("Calibration", tables=_table(("Rows", "Mean score", "Mean label"), rows))


def _importance(cited: Sources, report: EvaluationReport) -> Section:
    order = sorted(range(len(report.importance)), key=lambda i: -report.importance[i].contribution)[:_SHOWN_FEATURES]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            report.importance[i].feature,
            *(cited.cite("evaluation_report", "importance", i, name) for name in ("contribution", "gain")),
        )
        for i in order
    )
    caption = "Mean absolute TreeSHAP contribution on held-out rows, and gain in training."
    return Section("Importance", tables=_table(("Feature", "Contribution", "Gain"), rows, caption))


def _limits(spec: ModelSpec) -> tuple[str, ...]:
    return (
        *spec.limits,
        f"It is not to predict anything due before its newest training label was known, and counts as stale "
        f"{format_duration(spec.gate.stale_after)} after that.",
        f"Never among its features: {', '.join(spec.denied)}.",
    )


def _rebuild(cited: Sources, parameters: Mapping[str, Any]) -> Section:
    names = {
        "Version": "version",
        "Trained through (newest label)": "trained_through",
        "Seed": "seed",
        "Code version": "code_version",
        "Hash of the model's bytes": "model_hash",
        "Dagster run": "dagster_run_id",
        "MLflow run": "run_id",
    }
    rows = tuple((name, cited.cite("tuned_model", "parameters", name)) for name in sorted(parameters))
    return Section(
        "How to make it again",
        facts=tuple((label, cited.cite("tuned_model", name)) for label, name in names.items()),
        tables=_table(("Parameter", "Value"), rows),
    )


def _table(columns: tuple[str, ...], rows: tuple[tuple[Cell, ...], ...], caption: str = "") -> tuple[Table, ...]:
    return (Table(columns, rows, caption),) if rows else ()
