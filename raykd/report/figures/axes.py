"""Shared parts of the figures: sizes, axes, dots, legends, and the `Drawing` that a page includes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf, log10

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from raykd.report.figures.svg import INK, MEDIA, inline_svg

# Inches in a figure of the page, see `inches`.
HEIGHT = 3.0
ROW_HEIGHT = 0.32  # per row of dots
LEGEND_ROW = 0.17
FITTING = 0.94  # of the width: the widest legend, since text is up to 3 % wider in a file than on the screen
LETTERS = 64  # characters beside each other in a figure of the page
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


def figure_of_height(height: float) -> Figure:
    """Return a figure with the width of the current medium. height: inches in a figure of the page."""
    return Figure(figsize=(rcParams["figure.figsize"][0], inches(height)))


def inches(on_page: float) -> float:
    """Return the height in the current medium of what is `on_page` inches high in a figure of the page."""
    return on_page * rcParams["figure.figsize"][1] / HEIGHT


def letters(on_page: int) -> int:
    """Return how many characters fit in the current medium where `on_page` characters fit in a figure of the page."""
    page = MEDIA["page"]
    width = rcParams["figure.figsize"][0] / page["figure.figsize"][0]
    return int(on_page * width * page["font.size"] / rcParams["font.size"])


def rows_axes(labels: Sequence[str], num_legend_rows: int = 0) -> tuple[Figure, Axes]:
    """Return axes with one row per label, the first on top."""
    figure = figure_of_height(0.75 + ROW_HEIGHT * max(len(labels), 3) + LEGEND_ROW * num_legend_rows)
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    return figure, axes


def label_rows_axis(axes: Axes, label: str, unit: str) -> None:
    """Label the x axis of `rows_axes`. The unit is on a line of its own where the names of the rows are long."""
    names = [text.get_text() for text in axes.get_yticklabels()]
    room = letters(LETTERS) - max(map(len, names))
    text = f"{label} ({unit})"
    axes.set_xlabel(text if len(text) <= room else f"{label}\n({unit})")


def plain_axes(num_legend_rows: int = 1) -> tuple[Figure, Axes]:
    """Return axes with space for a legend above them."""
    figure = figure_of_height(HEIGHT + LEGEND_ROW * (num_legend_rows - 1))
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


def add_interval(axes: Axes, interval: tuple[float, float], row: float) -> bool:
    """Draw a bar with caps; an arrow at the edge of the axis stands for an end beyond it. Return whether there is one.

    The axis must have its limits already, or show all of the interval.
    """
    left, right = interval if axes.get_autoscalex_on() else axes.get_xlim()
    ends = max(interval[0], left), min(interval[1], right)
    axes.plot(ends, [row] * 2, color=INK, linewidth=1.4)
    for end, is_cut, arrow in ((ends[0], interval[0] < left, "<"), (ends[1], interval[1] > right, ">")):
        axes.plot([end], [row], arrow if is_cut else "|", color=INK, markersize=7 if is_cut else 9, clip_on=False)
    return ends != interval


def add_legend(figure: Figure, num_columns: int, entries: Sequence[Line2D] | None = None) -> None:
    """Add a legend above the axes, in fewer columns where they are too wide. entries: None for all that have labels."""
    style = {"loc": "outside upper left", "borderpad": 0, "columnspacing": 1.2}
    legend = figure.legend(handles=entries, ncols=num_columns, **style)
    if num_columns > 1 and legend.get_window_extent().width > FITTING * figure.bbox.width:
        legend.remove()
        num_entries = len(legend.get_texts())
        num_rows = -(-num_entries // (num_columns - 1)) - -(-num_entries // num_columns)
        figure.set_figheight(figure.get_figheight() + inches(LEGEND_ROW) * num_rows)
        add_legend(figure, num_columns - 1, entries)


def use_log(axes: Axes, axis: str) -> None:
    """Set a log scale on 'x' or 'y' with plain numbers; powers of ten would need mathtext, which the page lacks."""
    (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    scaled = axes.xaxis if axis == "x" else axes.yaxis
    low, high = scaled.get_data_interval()
    decades = log10(high / low) if low > 0 else inf
    scaled.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 else (1, 3) if decades < 3 else (1,)))
    scaled.set_major_formatter("{x:g}")
    scaled.set_minor_locator(NullLocator())


def _widen_flat(axes: Axes) -> None:
    """Widen an axis whose values are equal up to rounding. Its labels would show the rounding, such as 1e-17."""
    for axis, set_limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        low, high = axis.get_view_interval()
        if axis.get_scale() == "linear" and abs(high - low) <= FLAT * max(1.0, abs(low), abs(high)):
            middle = (low + high) / 2
            set_limits(middle - 0.5, middle + 0.5)
