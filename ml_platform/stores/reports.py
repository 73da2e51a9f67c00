"""HTML pages that people open from a link: model cards, evaluations, drift.

Belongs here: rendering pages and where they are. What they say is decided in ``core``; a page needs no
network: styles, scripts and pictures are inside it.
"""

import base64
import html
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from ml_platform.core.drift import DriftReport
from ml_platform.core.drift_effects import SCORE
from ml_platform.core.evaluation_report import EvaluationReport
from ml_platform.core.model_card import CardSources, evaluation_page, model_card
from ml_platform.core.model_spec import DriftPolicy, ModelSpec
from ml_platform.core.page import Page
from ml_platform.settings import Settings, prepare_environment
from ml_platform.stores.files import write_whole

if TYPE_CHECKING:
    from jinja2 import Environment

_SAMPLE_SEED = 0
_LARGE_PSI = 0.2
_NOTHING = "<html><body><p>No column has values to compare.</p></body></html>"
_BANNER = (
    '<p id="verdict" style="margin:0;padding:1rem 1.5rem;font:15px/1.5 system-ui,sans-serif;background:#f5f7fa;'
    'color:#1d2433">{note} <a href="../../index.html">All reports</a></p>'
)


class Reports:
    """Pages under ``settings.reports``, one folder per model and kind, listed in ``index.html``."""

    def __init__(self, settings: Settings) -> None:
        # Evidently reads its telemetry switch when it is first imported.
        prepare_environment()
        self._settings = settings

    def model_card(self, spec: ModelSpec, sources: CardSources, plots: Mapping[str, bytes] | None = None) -> str:
        """Write the card of the version that ``sources`` speak of; its address.

        Args:
            spec: the declaration.
            sources: what every figure is read from.
            plots: PNG bytes by name.
        """
        name = f"version_{sources.tuned_model['version']}"
        return self._write(spec.name, "model_card", name, self._render(model_card(spec, sources), plots))

    def evaluation(self, report: EvaluationReport, version: int, plots: Mapping[str, bytes] | None = None) -> str:
        """Write the whole evaluation of a version with its pictures; its address."""
        page = self._render(evaluation_page(report, version), plots)
        return self._write(report.model, "evaluation", f"version_{version}", page)

    def drift(
        self,
        model: str,
        day: str,
        policy: DriftPolicy,
        report: DriftReport,
        reference: pl.DataFrame,
        current: pl.DataFrame,
    ) -> str:
        """Write Evidently's comparison of a fixed-seed sample, under the verdict made on full data; its address.

        It draws the scores and the ``policy.report_columns`` features that moved most (about 5 s for 40), those that
        the policy ignores last. Columns without any value on a side cannot be drawn and are left out.

        Args:
            model: whose features these are.
            day: ISO day that the page is for.
            policy: how many features are drawn, and the size of the sample.
            report: the verdict on full data, shown on top.
            reference: the champion's training rows: the report's columns and, if known, ``score``.
            current: the rows of the present, alike.
        """
        ignored = [column for column in report.columns if column.ignored]
        moved = [column for column in (*report.judged, *ignored) if column.name != SCORE][: policy.report_columns]
        shown = [
            name
            for name in (*(column.name for column in moved), SCORE)
            if all(name in side.columns and _values(side[name]) for side in (reference, current))
        ]
        sampled = [
            side.sample(min(side.height, policy.sample_rows), seed=_SAMPLE_SEED).select(shown)
            for side in (reference, current)
        ]
        page = _evidently(*sampled) if shown else _NOTHING
        drawn = " and ".join(f"{min(side.height, policy.sample_rows):,}" for side in (current, reference))
        note = (
            f"{model}, {day}. {report.reason}. Decided on all {report.rows_current:,} rows against "
            f"{report.rows_reference:,}; the pictures are of the {len(moved)} of {len(report.columns)} features that "
            f"moved most, on a sample of {drawn} rows."
        )
        banner = _BANNER.format(note=html.escape(note))
        head, body, rest = page.partition("<body>")
        return self._write(model, "drift", day, f"{head}{body}{banner}{rest}")

    def url(self, model: str, kind: str, name: str) -> str:
        """The address of a page, written or not."""
        return f"{self._settings.reports_url}/{model}/{kind}/{name}.html"

    def file(self, model: str, kind: str, name: str) -> Path:
        """Where a page is kept, written or not."""
        return self._settings.reports / model / kind / f"{name}.html"

    def last(self, model: str, kind: str, before: str) -> str | None:
        """The name of the newest page whose name comes before another; None if there is none."""
        pages = self.file(model, kind, "any").parent.glob("*.html")
        return max((page.stem for page in pages if page.stem < before), default=None)

    def write_index(self) -> None:
        """List every page there is in ``index.html``."""
        write_whole(self._settings.reports / "index.html", self.index().encode())

    def index(self) -> str:
        """A page that lists every page there is."""
        root = self._settings.reports
        models: dict[str, dict[str, list[str]]] = {}
        for page in sorted(root.glob("*/*/*.html"), reverse=True):
            model, kind, _ = page.relative_to(root).parts
            models.setdefault(model, {}).setdefault(kind, []).append(page.stem)
        listing = {model: dict(sorted(kinds.items())) for model, kinds in sorted(models.items())}
        return self._templates.get_template("index.html").render(models=listing)

    # Inside ----------------------------------------------------------------------------------------

    def _write(self, model: str, kind: str, name: str, page: str) -> str:
        write_whole(self.file(model, kind, name), page.encode())
        self.write_index()
        return self.url(model, kind, name)

    def _render(self, page: Page, plots: Mapping[str, bytes] | None) -> str:
        pictures = {
            name.replace("_", " "): f"data:image/png;base64,{base64.b64encode(image).decode()}"
            for name, image in (plots or {}).items()
        }
        return self._templates.get_template("page.html").render(page=page, pictures=pictures, home="../../index.html")

    @cached_property
    def _templates(self) -> "Environment":
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        return Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
        )


def _evidently(reference: pl.DataFrame, current: pl.DataFrame) -> str:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name, dtype in reference.schema.items() if dtype.is_numeric()]
    texts = [name for name in reference.columns if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    old, new = (
        Dataset.from_pandas(
            side.with_columns(pl.col(numbers).cast(pl.Float64), pl.col(texts).cast(pl.String)).to_pandas(), definition
        )
        for side in (reference, current)
    )
    # The measure of the report's tables, so that page and tables differ by sampling alone.
    preset = DataDriftPreset(method="psi", threshold=_LARGE_PSI)
    page: str = Report([preset], include_tests=False).run(new, old).get_html_str(as_iframe=False)
    return page


def _values(column: pl.Series) -> bool:
    if column.dtype.is_float():
        column = column.fill_nan(None)
    return column.null_count() < column.len()
