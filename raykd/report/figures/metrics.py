"""Figures of test metrics: reliability diagram, top-1 of each class, confusion matrix.

A figure is left out if no run has its data.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.figures.axes import ROW_HEIGHT, Drawing, add_dots, add_legend, inches, plain_axes, rows_axes
from raykd.report.figures.stages import MARKERS
from raykd.report.figures.svg import BAD, INK, QUIET, STAGE_COLORS, Medium, figure_style
from raykd.report.stats.metrics import METRICS
from raykd.report.stats.summary import FamilySummary, StageSummary
from raykd.spec.stages import Stage
from raykd.store.records import Reliability

MIN_IMAGES = 10  # per bin: with fewer, one or two images decide its accuracy
MAX_CLASSES = 12  # more are not legible on a phone


def draw_metrics(summary: FamilySummary, key: str, medium: Medium = "page") -> dict[str, Drawing]:
    """Return the figures by their headings. key: start of their ids, unique on the page."""
    with figure_style(medium):
        drawings = {
            "Reliability diagram": _draw_reliability(summary, f"{key}-reliability"),
            "Top-1 of each class": _draw_classes(summary, f"{key}-classes"),
            "Confusion": _draw_confusion(summary, f"{key}-confusion"),
        }
    return {heading: drawing for heading, drawing in drawings.items() if drawing}


def _draw_reliability(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw accuracy over confidence in the bins of the calibration error: lines of stages, bands of seeds."""
    figure, axes = plain_axes(num_legend_rows=2)
    shown, has_band = [], False
    for stage in summary.stages:
        bins = _large_bins(stage.reliability)
        if bins:
            x, y = zip(*bins.values(), strict=True)
            color = STAGE_COLORS[stage.stage]
            axes.plot(x, y, color=color, marker=MARKERS[stage.stage], markersize=5, label=stage.stage)
            low, high = _range_over_seeds(summary, stage.stage, bins)
            if low != high:
                axes.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
                has_band = True
            shown.append(stage)
    if not shown:
        return None
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=1.0, dashes=(4, 3), zorder=1, label="accuracy = confidence")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("accuracy (%)")
    add_legend(figure, num_columns=2)
    errors = [
        f"{stage.stage} {wording.mean_std(stage.metrics['ece'], METRICS['ece'].decimals)}"
        for stage in shown
        if "ece" in stage.metrics
    ]
    described = "; ".join(errors) or ", ".join(stage.stage for stage in shown)
    band = "; band: lowest to highest seed" if has_band else ""
    caption = (
        "Below the dashed diagonal, the model is overconfident. Line: images of all seeds, in the bins of the "
        f"calibration error{band}. Bins with fewer than {MIN_IMAGES} images are left out."
    )
    return Drawing(figure, key, "Accuracy by confidence, both in percent", f"Calibration error: {described}.", caption)


def _large_bins(reliability: Reliability | None) -> dict[int, tuple[float, float]]:
    """Return {number: (confidence, accuracy)}, both in percent, of each bin with enough images."""
    if reliability is None:
        return {}
    bins = zip(reliability.count, reliability.confidence, reliability.accuracy, strict=True)
    return {
        number: (100 * confidence, 100 * accuracy)
        for number, (count, confidence, accuracy) in enumerate(bins)
        if count >= MIN_IMAGES and confidence is not None and accuracy is not None
    }


def _range_over_seeds(
    summary: FamilySummary, stage: Stage, bins: Mapping[int, tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Return the lowest and the highest accuracy in each bin, over the seeds that have enough images in it."""
    tested = [run.test for run in summary.family.stage(stage) if run.state == "evaluated" and run.test]
    by_seed = [_large_bins(metrics.reliability) for metrics in tested]
    ranges = [
        [seed[number][1] for seed in by_seed if number in seed] or [accuracy] for number, (_, accuracy) in bins.items()
    ]
    return [min(values) for values in ranges], [max(values) for values in ranges]


def _draw_classes(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw a row per class and a dot per stage: the mean over seeds."""
    stages = [stage for stage in summary.stages if stage.class_top1]
    if not stages or len({len(stage.class_top1) for stage in stages}) > 1:
        return None
    classes = _hardest(stages[-1])
    names = _class_names(stages[-1])
    figure, axes = rows_axes([names[label] for label in classes])
    for stage in stages:
        spreads = [(stage.class_top1[label], row) for row, label in enumerate(classes)]
        values = [(spread.mean, row) for spread, row in spreads if spread]
        x, rows = zip(*values, strict=True) if values else ((), ())
        add_dots(axes, x, rows, STAGE_COLORS[stage.stage], MARKERS[stage.stage])
        axes.lines[-1].set_label(stage.stage)
    axes.set_xlabel("test top-1 of the class (%)")
    add_legend(figure, num_columns=3)
    described = "; ".join(
        f"{names[label]} " + ", ".join(f"{stage.stage} {wording.mean_std(stage.class_top1[label])}" for stage in stages)
        for label in classes
    )
    order = f"Classes are in ascending order of their accuracy in the stage '{stages[-1].stage}'."
    caption = f"Means over seeds. {order}{_left_out(stages[-1])}"
    return Drawing(figure, key, "Test top-1 of each class, in percent", f"{described}.", caption)


def _draw_confusion(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw the last stage's matrix: the percentage of each class (row) that was predicted as each class (column)."""
    stages = [stage for stage in summary.stages if stage.confusion]
    if not stages:
        return None
    stage = stages[-1]
    classes = sorted(_hardest(stage))
    all_names = _class_names(stage)
    names = [all_names[label] for label in classes]
    figure, axes = plain_axes()
    figure.set_figheight(inches(1.1 + 0.85 * ROW_HEIGHT * max(len(classes), 3)))
    for row, label in enumerate(classes):
        total = sum(stage.confusion[label])
        for column, predicted in enumerate(classes):
            share = stage.confusion[label][predicted] / total if total else 0.0
            _add_cell(axes, column, row, share, is_right=label == predicted)
    mistakes = [
        (count / sum(row), f"{all_names[label]} as {all_names[predicted]} {100 * count / sum(row):.1f} %")
        for label, row in enumerate(stage.confusion)
        for predicted, count in enumerate(row)
        if count and predicted != label
    ]
    _name_both_axes(axes, names)
    worst = "; ".join(text for _, text in sorted(mistakes, key=lambda mistake: -mistake[0])[:3]) or "none"
    largest = f"Largest wrong shares of a class: {worst}."
    caption = f"{stage.stage.capitalize()}, all seeds: percent of the class on the left. {largest}"
    return Drawing(
        figure,
        key,
        f"Confusion matrix of the stage '{stage.stage}', in percent of each class",
        largest,
        caption + _left_out(stage),
    )


def _add_cell(axes: Axes, column: int, row: int, share: float, is_right: bool) -> None:
    """Draw a cell; mistakes have another color, on a scale that makes small shares visible."""
    alpha = 0.5 * share if is_right else 0.6 * share**0.5
    color = STAGE_COLORS["distilled"] if is_right else BAD
    if share:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=round(alpha, 3), linewidth=0))
    if round(100 * share):
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=INK)


def _name_both_axes(axes: Axes, names: Sequence[str]) -> None:
    places = range(len(names))
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(places, names)
    is_long = max(map(len, names)) > 3
    axes.set_xticks(places, names, rotation=45 if is_long else 0, ha="right" if is_long else "center")
    axes.set_xlabel("predicted")
    axes.set_ylabel("class")
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _hardest(stage: StageSummary) -> list[int]:
    """Return up to MAX_CLASSES classes with the lowest top-1, the lowest first."""
    top1 = {label: spread.mean if spread else float("inf") for label, spread in enumerate(stage.class_top1)}
    return sorted(top1 or range(len(stage.confusion)), key=lambda label: (top1.get(label, 0.0), label))[:MAX_CLASSES]


def _class_names(stage: StageSummary) -> list[str]:
    count = len(stage.class_top1) or len(stage.confusion)
    return [flattened(name, 12) for name in stage.classes] or [str(label) for label in range(count)]


def _left_out(stage: StageSummary) -> str:
    """Return the caption's sentence about classes that are left out, or ''."""
    count = len(stage.class_top1) or len(stage.confusion)
    if count <= MAX_CLASSES:
        return ""
    return (
        f" {MAX_CLASSES} of {count} classes, those with the lowest top-1; all are in summary.json and "
        "confusion.parquet."
    )
