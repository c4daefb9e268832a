"""Figures of a family: test top-1, gain of each seed, validation curves, loss terms.

A stage has the same color and marker everywhere, and a loss term the same dash pattern, so that color alone carries no
information. A figure without data is None.
"""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from raykd.errors import flattened
from raykd.report import wording
from raykd.report.figures.axes import Drawing, add_dots, add_interval, add_legend, curves_axes, rows_axes, use_log
from raykd.report.figures.svg import INK, STAGE_COLORS, Medium, figure_style
from raykd.report.read.run_results import ENDED
from raykd.report.stats.curves import Curve, comparable_histories, curve_of
from raykd.report.stats.summary import FamilySummary
from raykd.spec.stages import STAGES, Stage

GAIN = "distilled \N{MINUS SIGN} baseline (percentage points)"
MARKERS: dict[Stage, str] = {"teacher": "s", "baseline": "o", "distilled": "D"}
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.6), (1.2, 1.4), (6, 1.6, 1.2, 1.6), (9, 2.5), (2.5, 2.5))


def draw_stages(summary: FamilySummary, key: str, medium: Medium = "page") -> dict[str, Drawing | None]:
    """Return the figures by their headings. key: start of their ids, unique on the page."""
    with figure_style(medium):
        return {
            "Test top-1": _draw_top1(summary, f"{key}-top1"),
            "Gain of each seed": _draw_gain(summary, f"{key}-gain"),
            "Validation top-1": _draw_validation(summary, f"{key}-val"),
            "Loss terms": _draw_loss_terms(summary, f"{key}-loss"),
        }


def _draw_top1(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw a row per stage: a dot for each seed's test top-1, a stroke for the mean."""
    stages = [stage for stage in summary.stages if stage.top1]
    if not stages:
        return None
    figure, axes = rows_axes([stage.stage for stage in stages])
    for row, stage in enumerate(stages):
        top1 = [run.test.top1 for run in summary.family.stage(stage.stage) if run.test]
        _add_stage_dots(axes, top1, [row] * len(top1), stage.stage)
        if stage.top1 and stage.top1.num_runs > 1:
            axes.plot([stage.top1.mean] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=1.4)
    axes.set_xlabel("test top-1 (%)")
    means = "; ".join(f"{stage.stage} {wording.mean_std(stage.top1)}" for stage in stages)
    caption = "A dot is a seed, the stroke their mean."
    return Drawing(figure, key, "Test top-1 by stage, in percent", f"{means}.", caption)


def _draw_gain(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw distilled minus baseline: a dot for each seed, and the mean with its 95 % interval."""
    gain = summary.gain
    if gain is None:
        return None
    figure, axes = rows_axes([*(f"seed {pair.seed}" for pair in gain.pairs), "mean"])
    axes.axvline(0, color=INK, linewidth=1.0)
    _add_stage_dots(axes, [pair.gain for pair in gain.pairs], range(len(gain.pairs)), "distilled")
    row = len(gain.pairs)
    if gain.interval:
        add_interval(axes, gain.interval, row)
    axes.plot([gain.spread.mean], [row], "D", color=INK, markersize=6)
    axes.set_xlabel(GAIN)
    seeds = "; ".join(f"seed {pair.seed} {wording.signed(pair.gain)}" for pair in gain.pairs)
    description = f"{seeds}; mean {wording.gain(gain)}; {gain.verdict}."
    caption = "Right of 0 the distilled student is better. The bar is the 95 % interval of the mean."
    if gain.interval is None:
        caption = f"Right of 0 the distilled student is better. {wording.capital(gain.verdict)}."
    return Drawing(figure, key, "Gain of distillation by seed", description, caption)


def _draw_validation(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw validation top-1 over epochs, a line per stage."""
    shown: list[tuple[Stage, Curve]] = [
        (stage, curve) for stage in STAGES if (curve := _stage_curve(summary, stage, "val_top1"))
    ]
    if not shown:
        return None
    figure, axes = curves_axes()
    for stage, curve in shown:
        _draw_curve(axes, curve, stage, stage, ())
    axes.set_ylabel("validation top-1 (%)")
    # The first fifth of the epochs starts at chance and would flatten the rest.
    lowest = min(min(curve.low[len(curve.low) // 5 :]) for _, curve in shown)
    highest = max(max(curve.high) for _, curve in shown)
    bottom = lowest - 0.03 * (highest - lowest + 1)
    axes.set_ylim(bottom=bottom)
    is_cut = any(min(curve.low) < bottom for _, curve in shown)
    note = f" The first epochs are below the axis, which starts at {bottom:.0f} %." if is_cut else ""
    add_legend(figure, num_columns=3)
    ends = "; ".join(f"{stage} {curve.mean[-1]:.2f} at epoch {curve.epochs[-1]}" for stage, curve in shown)
    caption = f"{_curve_caption(summary)}{note}"
    return Drawing(figure, key, "Validation top-1 by epoch, in percent", f"Last epoch: {ends}.", caption)


def _draw_loss_terms(summary: FamilySummary, key: str) -> Drawing | None:
    """Draw each stage's unweighted loss terms over epochs, on a log axis if they span more than a factor of 30."""
    histories = [run.history for run in summary.family.runs if run.history]
    terms = list(dict.fromkeys(term for history in histories for term in history.loss_terms))
    shown: list[tuple[Stage, str, Curve]] = [
        (stage, term, curve) for stage in STAGES for term in terms if (curve := _stage_curve(summary, stage, term))
    ]
    if not shown:
        return None
    figure, axes = curves_axes(num_legend_rows=math.ceil(len(shown) / 2))
    for stage, term, curve in shown:
        dashes = DASHES[terms.index(term) % len(DASHES)]
        _draw_curve(axes, curve, stage, f"{stage}: {flattened(term, 24)}", dashes)
    values = [value for _, _, curve in shown for value in curve.mean]
    if min(values) > 0 and max(values) > 30 * min(values):
        use_log(axes, "y")
    axes.set_ylabel("loss term, unweighted")
    add_legend(figure, num_columns=2)
    ends = "; ".join(f"{stage} {term} {curve.mean[-1]:.3g}" for stage, term, curve in shown)
    return Drawing(
        figure,
        key,
        "Loss terms by epoch, unweighted",
        f"Last epoch: {ends}.",
        f"Averaged over the training batches of an epoch, before the terms are weighted.{_ends_caption(summary)}",
    )


def _stage_curve(summary: FamilySummary, stage: Stage, column: str) -> Curve | None:
    return curve_of(comparable_histories(summary.family.stage(stage)), column)


def _add_stage_dots(axes: Axes, values: Sequence[float], rows: Sequence[int], stage: Stage) -> None:
    add_dots(axes, values, rows, STAGE_COLORS[stage], MARKERS[stage])


def _draw_curve(axes: Axes, curve: Curve, stage: Stage, label: str, dashes: tuple[float, ...]) -> None:
    color = STAGE_COLORS[stage]
    line = axes.plot(
        curve.epochs,
        curve.mean,
        color=color,
        label=label,
        marker=MARKERS[stage],
        markersize=4.5,
        markevery=(0, max(1, len(curve.epochs) // 6)),
    )[0]
    if dashes:
        line.set_dashes(dashes)
    axes.fill_between(curve.epochs, curve.low, curve.high, color=color, alpha=0.18, linewidth=0)


def _curve_caption(summary: FamilySummary) -> str:
    """Return the caption of the validation curves, with the number of runs in each."""
    counts = {stage: comparable_histories(summary.family.stage(stage)) for stage in STAGES}
    runs = ", ".join(f"{stage} {len(histories)}" for stage, histories in counts.items() if histories)
    unfinished = [
        stage
        for stage in STAGES
        if counts[stage] and not any(run.state in ENDED for run in summary.family.stage(stage))
    ]
    note = f" Not finished yet: {', '.join(unfinished)}." if unfinished else ""
    return f"Line: mean over seeds; band: lowest to highest seed. Runs: {runs}.{note}{_ends_caption(summary)}"


def _ends_caption(summary: FamilySummary) -> str:
    """Return a sentence on the stages whose runs have different numbers of epochs, or ''."""
    counts = {
        stage: {len(history.epochs) for history in comparable_histories(summary.family.stage(stage))}
        for stage in STAGES
    }
    ranges = [f"{stage} {min(epochs)} to {max(epochs)}" for stage, epochs in counts.items() if len(epochs) > 1]
    return f" A line ends with its shortest run; epochs of the runs: {', '.join(ranges)}." if ranges else ""
