"""Shared parts of the figures: sizes, axes, dots, legends, and the `Drawing` that a page includes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from raykd.report.figures.svg import inline_svg

WIDTH, HEIGHT = 4.6, 3.0  # inches; 331 x 216 SVG units keep text legible on a page 400 px wide
ROW_HEIGHT = 0.32  # inches per row of dots
LEGEND_ROW = 0.17  # inches
FLAT = 1e-9  # an axis that spans less, absolutely or relative to its values, shows rounding


@dataclass(frozen=True)
class Drawing:
    """A finished figure and its caption. key: its id. title, description: for screen readers."""

    figure: Figure
    key: str
    title: str
    description: str
    caption: str

    def __post_init__(self) -> None:
        for axes in self.figure.axes:
            _widen_flat(axes)

    @cached_property
    def svg(self) -> str:
        """The <svg> element of the page."""
        return inline_svg(self.figure, self.key, self.title, self.description)


def rows_axes(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """Return axes with one row per label, the first on top."""
    figure = Figure(figsize=(WIDTH, 0.75 + ROW_HEIGHT * max(len(labels), 3)))
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    return figure, axes


def plain_axes(num_legend_rows: int = 1) -> tuple[Figure, Axes]:
    """Return axes with space for a legend above them."""
    figure = Figure(figsize=(WIDTH, HEIGHT + LEGEND_ROW * (num_legend_rows - 1)))
    return figure, figure.add_subplot()


def curves_axes(num_legend_rows: int = 1) -> tuple[Figure, Axes]:
    """Return axes whose x is the epoch."""
    figure, axes = plain_axes(num_legend_rows)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    return figure, axes


def add_dots(axes: Axes, values: Sequence[float], rows: Sequence[float], color: str, marker: str) -> None:
    """Draw one dot per value; equal values appear as one darker dot."""
    axes.plot(values, rows, color=color, marker=marker, markersize=6.5, markeredgewidth=0, linestyle="none", alpha=0.85)


def add_legend(figure: Figure, num_columns: int, entries: Sequence[Line2D] | None = None) -> None:
    """Add a legend above the axes. entries: None for everything that has a label."""
    figure.legend(handles=entries, loc="outside upper left", ncols=num_columns, borderpad=0, columnspacing=1.2)


def use_log(axes: Axes, axis: str) -> None:
    """Set a log scale on 'x' or 'y' with plain numbers; powers of ten would need mathtext, which the page lacks."""
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    scaled = axes.xaxis if axis == "x" else axes.yaxis
    scaled.set_major_locator(LogLocator(subs=(1, 2, 5)))
    scaled.set_major_formatter("{x:g}")
    scaled.set_minor_locator(NullLocator())


def _widen_flat(axes: Axes) -> None:
    """Widen an axis whose values are equal up to rounding. Its labels would show the rounding, such as 1e-17."""
    for axis, set_limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        low, high = axis.get_view_interval()
        if axis.get_scale() == "linear" and abs(high - low) <= FLAT * max(1.0, abs(low), abs(high)):
            middle = (low + high) / 2
            set_limits(middle - 0.5, middle + 0.5)
