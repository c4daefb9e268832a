"""The figure of a comparison: the gain of each method over the baseline, the best method on top."""

from raykd.report import wording
from raykd.report.figures.axes import Drawing, add_dots, rows_axes
from raykd.report.figures.svg import INK, STAGE_COLORS, inline_svg, page_style
from raykd.report.stats.comparison import Comparison


def draw_comparison(comparison: Comparison, key: str) -> Drawing | None:
    """Draw a dot per seed, the mean and its 95 % interval; None while no method has a gain. key: start of its ids."""
    gains = {method.name: method.gain for method in comparison.methods if method.gain is not None}
    if not gains:
        return None
    with page_style():
        figure, axes = rows_axes(list(gains))
        axes.axvline(0, color=INK, linewidth=1.0)
        seeds = [pair.gain for gain in gains.values() for pair in gain.pairs]
        margin = 0.25 * (max(*seeds, 0) - min(*seeds, 0)) or 1.0
        axes.set_xlim(min(*seeds, 0) - margin, max(*seeds, 0) + margin)
        left, right = axes.get_xlim()
        is_cut = False
        for row, gain in enumerate(gains.values()):
            if gain.interval is not None:  # with few seeds it may be many times as wide as all gains
                low, high = max(gain.interval[0], left), min(gain.interval[1], right)
                axes.plot([low, high], [row, row], color=INK, linewidth=1.2, zorder=1)
                is_cut = is_cut or (low, high) != gain.interval
            add_dots(axes, [pair.gain for pair in gain.pairs], [row] * len(gain.pairs), STAGE_COLORS["distilled"], "D")
            axes.plot([gain.spread.mean] * 2, [row - 0.3, row + 0.3], color=INK, linewidth=1.4)
        axes.set_xlabel("distilled - baseline (percentage points)".replace("-", "\N{MINUS SIGN}"))
        described = "; ".join(
            f"{name} {wording.signed(gain.spread.mean)} {wording.interval(gain)}".rstrip()
            for name, gain in gains.items()
        )
        svg = inline_svg(figure, key, "Gain of each method over the baseline", f"{described}.")
    cut = " Bars that reach an edge extend beyond it." if is_cut else ""
    return Drawing(svg, f"A dot is a seed, the stroke their mean, the bar its 95 % interval.{cut}")
