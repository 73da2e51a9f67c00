"""Pictures of what was found: PNG bytes from frozen results and frames.

Belongs here: drawing. Every picture has a title, axes with units, and colours that colour-blind people
can tell apart (Okabe and Ito's), and is readable at 800 pixels.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ml_platform.core.bootstrap import Figure
from ml_platform.core.evaluation_report import EvaluationReport
from ml_platform.core.model_spec import Task
from ml_platform.core.story import Story

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"
WIDTH_PIXELS = 800
_DPI = 100
_SHOWN_FEATURES = 20
_SHOWN_GROUPS = 40
_DRAWN_SHARE = 20
"""The largest month has at most so many times the rows of one that is drawn."""

_MARGINS = {"left": 0.1, "right": 0.97, "bottom": 0.12, "top": 0.9}


def calibration(report: EvaluationReport) -> bytes:
    """Mean label against mean score by bin, with intervals, beside the diagonal of a calibrated model."""
    score = "predicted probability" if report.task is Task.BINARY else "predicted label (its unit)"
    label = "observed share of positives" if report.task is Task.BINARY else "observed label (its unit)"

    def draw(axes: "Axes") -> None:
        x = [each.mean_score for each in report.calibration]
        figures = [each.mean_label for each in report.calibration]
        ends = [*x, *(_defined(figure.value) for figure in figures)]
        axes.plot([min(ends), max(ends)], [min(ends), max(ends)], "--", color=GREY, label="perfectly calibrated")
        _error_bars(axes, x, figures, BLUE, "candidate")
        axes.set(xlabel=f"mean {score}", ylabel=label)
        axes.legend(loc="upper left")

    error = report["calibration_error"].candidate
    return _png(f"{report.model}: calibration, error {error}", draw)


def roc_and_precision_recall(report: EvaluationReport) -> bytes:
    """Both curves of a binary model side by side, with what chance would give.

    Raises:
        ValueError: the report has no curves (a regression, or one class only).
    """
    curves = report.curves
    if curves is None:
        raise ValueError(f"the report of {report.model!r} has no curves: it is a regression, or has one class only")

    def roc(axes: "Axes") -> None:
        axes.plot(*zip(*curves.roc, strict=True), color=BLUE, label=f"AUC {report['auc'].candidate}")
        axes.plot([0, 1], [0, 1], "--", color=GREY, label="chance")
        axes.set(xlabel="false positive rate (share of negatives)", ylabel="recall (share of positives)")
        axes.legend(loc="lower right")

    def precision_recall(axes: "Axes") -> None:
        value = report["average_precision"].candidate
        axes.plot(*zip(*curves.precision_recall, strict=True), color=ORANGE, label=f"average precision\n{value}")
        axes.axhline(report.label_mean, linestyle="--", color=GREY, label="chance")
        axes.set(xlabel="recall (share of positives)", ylabel="precision (share of positive decisions)", ylim=(0, 1.02))
        axes.legend(loc="upper right")

    return _png(f"{report.model}: ROC and precision/recall", roc, precision_recall)


def confusion(report: EvaluationReport) -> bytes:
    """Decisions against labels in rows, and as a share of their label.

    Raises:
        ValueError: the model makes no decisions.
    """
    cells = report.confusion
    if cells is None:
        raise ValueError(f"the report of {report.model!r} has no confusion matrix: the model makes no decisions")
    counts = np.array(
        [[cells.true_negative, cells.false_positive], [cells.false_negative, cells.true_positive]], dtype=float
    )
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(axes: "Axes") -> None:
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(2, 2):
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = f"{counts[row, column]:,.0f}\n{shares[row, column]:.1%}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=14)
        axes.set(
            xticks=[0, 1], xticklabels=["decided 0", "decided 1"], yticks=[0, 1], yticklabels=["label 0", "label 1"]
        )
        axes.set(xlabel="decision", ylabel="what happened")
        axes.grid(visible=False)

    return _png(f"{report.model}: decisions at threshold {cells.threshold:.3g} (rows, share of the label)", draw)


def residuals(report: EvaluationReport) -> bytes:
    """Distribution of label minus score; the outermost bars hold what lies beyond them."""
    edges, counts = report.residuals.edges, report.residuals.counts

    def draw(axes: "Axes") -> None:
        axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
        axes.axvline(0, linestyle="--", color=GREY)
        unit = "probability" if report.task is Task.BINARY else "unit of the label"
        axes.set(xlabel=f"label minus score ({unit})", ylabel="held-out rows")

    return _png(f"{report.model}: residuals on {report.rows:,} rows", draw)


def importance(report: EvaluationReport) -> bytes:
    """The features that matter most, by TreeSHAP contribution and by training gain."""
    shown = report.importance[:_SHOWN_FEATURES][::-1]
    names = [each.feature for each in shown]
    unit = "log-odds" if report.task is Task.BINARY else "unit of the label"

    def contributions(axes: "Axes") -> None:
        axes.barh(names, [each.contribution for each in shown], color=BLUE)
        axes.set(xlabel=f"mean |TreeSHAP contribution| ({unit})")

    def gains(axes: "Axes") -> None:
        total = sum(each.gain for each in report.importance) or 1.0
        axes.barh(names, [100 * each.gain / total for each in shown], color=ORANGE)
        axes.set(xlabel="share of total gain in training (%)", yticks=[])

    height = 2 + 0.25 * len(shown)
    return _png(f"{report.model}: the {len(shown)} most important features", contributions, gains, height=height)


def score_distribution(
    training: Sequence[float] | pl.Series, predictions: Sequence[float] | pl.Series, *, title: str, unit: str = "score"
) -> bytes:
    """Scores of the training rows beside those of other rows, as shares on the same edges."""
    both = [np.asarray(training, dtype=float), np.asarray(predictions, dtype=float)]
    pooled = np.concatenate(both)
    edges = np.histogram_bin_edges(pooled[np.isfinite(pooled)], bins=40)

    def draw(axes: "Axes") -> None:
        for values, colour, name in zip(both, (BLUE, ORANGE), ("training", "predictions"), strict=True):
            shares = np.histogram(values, edges)[0] / max(1, len(values))
            axes.stairs(100 * shares, edges, color=colour, fill=True, alpha=0.35)
            axes.stairs(100 * shares, edges, color=colour, linewidth=2, label=f"{name} ({len(values):,} rows)")
        axes.set(xlabel=unit, ylabel="share of rows (%)")
        axes.legend()

    return _png(title, draw, margins=_MARGINS)


def study_history(trials: pl.DataFrame, *, title: str, metric: str) -> bytes:
    """Every trial of a study (``trial``, ``state``, ``value``, ``best_value``): loss and best so far.

    With a column ``rung`` those given up are shown by what they had on it, which is not the mean over folds.
    """
    seen = "pruned at a rung" if "rung" in trials.columns else "pruned"

    def draw(axes: "Axes") -> None:
        complete, pruned = (trials.filter(pl.col("state") == state) for state in ("complete", "pruned"))
        axes.scatter(complete["trial"], complete["value"], color=BLUE, label=f"complete ({complete.height})", zorder=3)
        axes.scatter(
            pruned["trial"], pruned["value"], color=ORANGE, marker="x", label=f"{seen} ({pruned.height})", zorder=3
        )
        axes.step(trials["trial"], trials["best_value"], where="post", color=GREEN, label="best so far")
        axes.set(xlabel="trial", ylabel=f"mean validation {metric} over folds")
        axes.legend()

    return _png(title, draw)


def slices(report: EvaluationReport) -> bytes:
    """The gate's metric in every slice with a defined figure, intervals included, beside the overall value."""
    shown = [each for each in report.slices if each.figure.value is not None][:_SHOWN_GROUPS][::-1]

    def draw(axes: "Axes") -> None:
        places = list(range(len(shown)))
        _error_bars(axes, places, [each.figure for each in shown], BLUE, "slice with interval", across=True)
        overall = report[report.gate_metric].candidate.value
        if overall is not None:
            axes.axvline(overall, linestyle="--", color=RED, label="overall")
        axes.set_yticks(places, [f"{each.column} = {each.group} ({each.rows:,} rows)" for each in shown], fontsize=8)
        axes.set(xlabel=f"{report.gate_metric} ({report[report.gate_metric].unit})")
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)

    return _png(f"{report.model}: {report.gate_metric} by slice", draw, height=2 + 0.22 * len(shown))


def metric_over_time(history: pl.DataFrame, *, metric: str, unit: str, title: str) -> bytes:
    """A figure against event time, one line per group.

    Args:
        history: ``time`` (date or datetime), ``value`` and optionally ``low``, ``high`` and ``group``.
        metric: what ``value`` is.
        unit: its unit.
        title: the picture's title.
    """
    named = history if "group" in history.columns else history.with_columns(pl.lit(metric).alias("group"))

    def draw(axes: "Axes") -> None:
        parts = named.sort("time").partition_by("group", maintain_order=True)
        for part, colour in zip(parts, _colours(len(parts)), strict=True):
            axes.plot(part["time"], part["value"], marker="o", color=colour, label=str(part["group"][0]))
            if {"low", "high"} <= set(part.columns):
                low, high = part["low"].cast(pl.Float64).to_numpy(), part["high"].cast(pl.Float64).to_numpy()
                if part.height == 1:
                    axes.vlines(part["time"].to_numpy(), low, high, color=colour)
                axes.fill_between(part["time"].to_numpy(), low, high, color=colour, alpha=0.2)
        axes.set(ylabel=f"{metric} ({unit})")
        if named["time"].n_unique() == 1:
            moment = named["time"].to_numpy()[0]
            axes.set_xlim(moment - np.timedelta64(7, "D"), moment + np.timedelta64(7, "D"))
        _event_time(axes)
        axes.legend()

    return _png(title, draw, margins=_MARGINS)


def story(told: Story) -> bytes:
    """Each metric by month and habit of retraining, with the trainings that were promoted and refused.

    A month of a few rows (the last, of which one day may be there) would stretch the scale for all: it is not drawn.
    """
    from matplotlib.dates import date2num

    drawn = told.months.filter(pl.col("rows") >= pl.col("rows").max() / _DRAWN_SHARE)
    colours = {"automated": BLUE, "frozen": GREY, "monthly": ORANGE}

    def panel(metric: str) -> Callable[["Axes"], None]:
        def draw(axes: "Axes") -> None:
            for habit, colour in colours.items():
                rows = drawn.filter(pl.col("habit") == habit)
                middle = (rows["month"] + "-15").str.to_date().to_numpy()
                axes.plot(middle, rows[metric], "o-", color=colour, label=habit)
            for outcome, style in (("promoted", "-"), ("refused", ":")):
                times = [each.as_of for each in told.trainings if each.promoted == (outcome == "promoted")]
                for number, moment in enumerate(times):
                    axes.axvline(
                        date2num(moment),
                        color=GREEN,
                        linestyle=style,
                        alpha=0.7,
                        label=None if number else f"{outcome} candidate",
                    )
            axes.set(ylabel=metric)
            axes.legend(fontsize=8, ncols=5)
            _event_time(axes)

        return draw

    title = f"{told.model}: what automation did, beside its rivals"
    return _png(title, *(panel(metric) for metric in told.metrics), height=4.0 * len(told.metrics), stacked=True)


def quality_over_time(days: pl.DataFrame, *, title: str) -> bytes:
    """Rows and shares of quality by day of delivery, one above the other.

    Args:
        days: ``day`` (date) and numbers by day: those named ``*_rows`` are counts, the others shares between 0 and 1.
        title: the picture's title.
    """
    ordered = days.sort("day")
    counts = [name for name in ordered.columns if name.endswith("_rows")]
    shares = [name for name in ordered.columns if name != "day" and name not in counts]

    def draw_lines(names: Sequence[str], label: str) -> "Callable[[Axes], None]":
        def draw(axes: "Axes") -> None:
            for name, colour in zip(names, _colours(len(names)), strict=True):
                said = name.removesuffix("_rows").replace("_", " ")
                axes.plot(ordered["day"], ordered[name], marker=".", color=colour, label=said)
            axes.set(ylabel=label)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=9)
            _event_time(axes)
            axes.label_outer()

        return draw

    margins = {**_MARGINS, "right": 0.78, "hspace": 0.12}
    return _png(title, draw_lines(counts, "rows"), draw_lines(shares, "share"), stacked=True, margins=margins)


def drift_bars(strengths: Mapping[str, float], *, limit: float, title: str) -> bytes:
    """Strength of effect of the columns that moved most, largest first, beside the limit."""
    shown = sorted(strengths.items(), key=lambda item: item[1])[-_SHOWN_FEATURES:]

    def draw(axes: "Axes") -> None:
        colours = [RED if value > limit else BLUE for _, value in shown]
        axes.barh([name for name, _ in shown], [value for _, value in shown], color=colours)
        axes.axvline(limit, linestyle="--", color=GREY, label=f"alarm above {limit:.3g}")
        axes.set(xlabel="effect, in times of its chance, weighted by importance")
        axes.legend(loc="lower right")

    height, longest = 2 + 0.22 * len(shown), max(len(name) for name, _ in shown)
    inches = {"left": 0.3 + 0.085 * longest, "bottom": 0.6, "top": height - 0.45}
    margins = {name: inch / (WIDTH_PIXELS / _DPI if name == "left" else height) for name, inch in inches.items()}
    return _png(title, draw, height=height, margins={**_MARGINS, **margins})


def drift_curve(points: pl.DataFrame, *, title: str) -> bytes:
    """False alarms against detection delay, one line per ``line`` over its limits.

    Args:
        points: ``line``, ``false_alarms_per_100_windows``, ``delay_windows`` and ``chosen``, the limit that holds.
        title: the picture's title.
    """
    lines = points.sort("line", "false_alarms_per_100_windows").partition_by("line", maintain_order=True)

    def draw(axes: "Axes") -> None:
        for line, colour in zip(lines, _colours(len(lines)), strict=True):
            places = line["false_alarms_per_100_windows"], line["delay_windows"]
            axes.plot(*places, marker=".", color=colour, label=str(line["line"][0]))
            axes.plot(*(place.filter(line["chosen"]) for place in places), "o", color=colour, markersize=10)
        axes.axvline(1, linestyle="--", color=GREY, label="1 in 100")
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xticks([0, 0.1, 1, 10, 100], ["0", "0.1", "1", "10", "100"])
        axes.set(xlabel="false alarms per 100 windows without change", ylabel="mean windows up to the first alarm")
        axes.set(xlim=(-0.01, 110), ylim=(0, None))
        axes.legend(loc="upper right", fontsize=9)

    return _png(title, draw)


def habits(found: pl.DataFrame, *, metric: str, unit: str, title: str) -> bytes:
    """What each habit of retraining was worth against how often it trained again.

    Args:
        found: ``habit``, ``retrainings`` (their mean), ``value``, ``low`` and ``high``.
        metric: what ``value`` is.
        unit: its unit.
        title: the picture's title.
    """

    def draw(axes: "Axes") -> None:
        for row, colour in zip(found.iter_rows(named=True), _colours(found.height), strict=True):
            figure = Figure(value=row["value"], low=row["low"], high=row["high"])
            _error_bars(axes, [row["retrainings"]], [figure], colour, f"{row['habit']} ({row['retrainings']:g})")
        # As many again matter less: the root keeps few and many on one picture.
        axes.set_xscale("function", functions=(np.sqrt, np.square))
        often = sorted(set(found["retrainings"].to_list()))
        axes.set_xticks(often, [f"{count:g}" for count in often])
        axes.set(xlabel="retrainings after the first training", ylabel=f"{metric} ({unit})")
        axes.legend()

    return _png(title, draw)


def beside_reference(rounds: pl.DataFrame, *, title: str) -> bytes:
    """Rounds of measurements as multiples of the reference's median, one row for each piece of work.

    Args:
        rounds: ``work``, ``side`` (``command`` or ``reference``) and ``ratio``.
        title: the picture's title.
    """
    works = list(reversed(rounds["work"].unique(maintain_order=True).to_list()))
    sides = {"reference": GREY, "command": BLUE}

    def draw(axes: "Axes") -> None:
        for side, colour in sides.items():
            rows = rounds.filter(pl.col("side") == side)
            places = [works.index(work) for work in rows["work"]]
            label = "the reference" if side == "reference" else "the platform"
            axes.plot(rows["ratio"], places, "o", color=colour, alpha=0.6, label=label)
        axes.axvline(1, color=GREY, linewidth=1)
        axes.set_xscale("log")
        axes.set_yticks(range(len(works)), works)
        axes.set(xlabel="multiple of the reference's median")
        axes.legend(fontsize=9)

    return _png(title, draw, height=1.5 + 0.4 * len(works))


def report_plots(report: EvaluationReport) -> dict[str, bytes]:
    """Every picture that a report has, by name."""
    drawn: dict[str, Callable[[EvaluationReport], bytes]] = {"calibration": calibration}
    if report.curves is not None:
        drawn["roc_and_precision_recall"] = roc_and_precision_recall
    if report.confusion is not None:
        drawn["confusion"] = confusion
    drawn |= {"residuals": residuals, "importance": importance, "slices": slices}
    return {name: draw(report) for name, draw in drawn.items()}


def _png(
    title: str,
    *draws: "Callable[[Axes], None]",
    height: float = 5.0,
    stacked: bool = False,
    margins: Mapping[str, float] | None = None,
) -> bytes:
    """One panel per drawing function, side by side or one above the other.

    ``margins`` are shares of the canvas for a picture whose labels are known to fit: to find them takes as long as to
    draw, and the pictures of every day are many.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas
    from PIL import Image

    style: dict[Any, Any] = {"font.size": 11, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}
    with rc_context(style):
        # A Figure of its own, not pyplot's: nothing global, so threads and assets cannot draw into each other.
        canvas: Canvas = Canvas(
            figsize=(WIDTH_PIXELS / _DPI, height), dpi=_DPI, layout=None if margins else "constrained"
        )
        painter = FigureCanvasAgg(canvas)
        for number, draw in enumerate(draws, start=1):
            axes = canvas.add_subplot(*((len(draws), 1) if stacked else (1, len(draws))), number)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            draw(axes)
        if margins:
            canvas.subplots_adjust(**margins)
        canvas.suptitle(title, fontsize=12, fontweight="bold", wrap=True)
        painter.draw()
    drawn = Image.fromarray(np.asarray(painter.buffer_rgba())).convert("RGB")
    png = io.BytesIO()
    # 256 colours of its own look the same in a third of the bytes, and the event log keeps each picture twice.
    drawn.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(png, format="PNG")
    return png.getvalue()


def _error_bars(
    axes: "Axes", places: Sequence[float], figures: Sequence[Figure], colour: str, label: str, *, across: bool = False
) -> None:
    values = np.array([_defined(figure.value) for figure in figures])
    low = values - np.array([_defined(figure.low) for figure in figures])
    high = np.array([_defined(figure.high) for figure in figures]) - values
    ends = np.nan_to_num(np.maximum([low, high], 0))
    style: dict[str, Any] = {"fmt": "o", "color": colour, "capsize": 3, "label": label}
    if across:
        axes.errorbar(values, places, xerr=ends, **style)
    else:
        axes.errorbar(places, values, yerr=ends, **style)


def _event_time(axes: "Axes") -> None:
    """Label the x axis with as few dates as say which days these are."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    ticks = AutoDateLocator(minticks=2, maxticks=8)
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(ticks))
    axes.set(xlabel="event time (UTC)")


def _defined(value: float | None) -> float:
    return float("nan") if value is None else value


def _colours(count: int) -> list[str]:
    palette = [BLUE, ORANGE, GREEN, RED, PURPLE, GREY]
    return [palette[number % len(palette)] for number in range(count)]
