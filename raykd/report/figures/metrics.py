"""Figures of test metrics: reliability diagram, top-1 of each class, confusion matrix.

A figure is left out if no run has its data.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.figures.axes import ROW_HEIGHT, Drawing, add_dots, add_legend, plain_axes, rows_axes
from raykd.report.figures.stages import MARKERS
from raykd.report.figures.svg import BAD, GRID, INK, STAGE_COLORS, page_style
from raykd.report.stats.metrics import METRICS
from raykd.report.stats.summary import FamilySummary, StageSummary

MIN_IMAGES = 10  # per bin: with fewer, one or two images decide its accuracy
MAX_CLASSES = 12  # more are not legible on a phone


def draw_metrics(summary: FamilySummary, key: str) -> dict[str, Drawing]:
    """Return the figures by their headings. key: start of their ids, unique on the page."""
    with page_style():
        drawings = {
            "Reliability diagram": _draw_reliability(summary, f"{key}-reliability"),
            "Top-1 of each class": _draw_classes(summary, f"{key}-classes"),
            "Confusion": _draw_confusion(summary, f"{key}-confusion"),
        }
    return {heading: drawing for heading, drawing in drawings.items() if drawing}


def _draw_reliability(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw accuracy over confidence in the bins of the calibration error, a line per stage."""
    figure, axes = plain_axes()
    axes.plot([0, 100], [0, 100], color=GRID, linewidth=1.4, zorder=1)
    shown = []
    for stage in summary.stages:
        points = _bins(stage)
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=STAGE_COLORS[stage.stage], marker=MARKERS[stage.stage], label=stage.stage)
            shown.append(stage)
    if not shown:
        return None
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 102)
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("accuracy (%)")
    add_legend(figure, num_columns=3)
    errors = [
        f"{stage.stage} {wording.mean_std(stage.metrics['ece'], METRICS['ece'].decimals)}"
        for stage in shown
        if "ece" in stage.metrics
    ]
    described = "; ".join(errors) or ", ".join(stage.stage for stage in shown)
    caption = (
        "On the diagonal, accuracy equals confidence; below it, the model is overconfident. Images of all seeds, in "
        f"the bins of the calibration error; bins with fewer than {MIN_IMAGES} images are left out."
    )
    return Drawing(figure, key, "Accuracy by confidence, both in percent", f"Calibration error: {described}.", caption)


def _bins(stage: StageSummary) -> list[tuple[float, float]]:
    """Return (confidence, accuracy) in percent of each bin with enough images."""
    if stage.reliability is None:
        return []
    bins = zip(stage.reliability.count, stage.reliability.confidence, stage.reliability.accuracy, strict=True)
    return [
        (100 * confidence, 100 * accuracy)
        for count, confidence, accuracy in bins
        if count >= MIN_IMAGES and confidence is not None and accuracy is not None
    ]


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
    figure.set_figheight(1.1 + 0.85 * ROW_HEIGHT * max(len(classes), 3))
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
    if share >= 0.005:
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=INK)


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
