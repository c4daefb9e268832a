"""Matplotlib figures as SVG inside the page, with the page's colors and font, unique ids and a description.

matplotlib draws with the colors of the light theme, which become CSS here (currentColor, custom properties), so that
one drawing serves the light and the dark theme. The same figure always yields the same bytes.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal
from warnings import catch_warnings, filterwarnings

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.style import context as style_context

from raykd.spec.stages import STAGES

# The colors of the light theme, each for one purpose, so that the page can replace them by the properties of its style.
COLORS: Mapping[str, str] = {
    "ink": "#1b1f24",
    "grid": "#dfe3e8",
    "quiet": "#59636e",
    "paper": "#ffffff",
    "bad": "#b3261e",
    "teacher": "#6b7480",
    "baseline": "#c4570a",
    "distilled": "#0067b1",
    **{"level-1": "#440154", "level-2": "#3e4c8a", "level-3": "#24868e", "level-4": "#3fbc73", "level-5": "#cae11f"},
}
INK, GRID, QUIET, PAPER, BAD = (COLORS[name] for name in ("ink", "grid", "quiet", "paper", "bad"))
STAGE_COLORS = {stage: COLORS[stage] for stage in STAGES}
LEVEL_COLORS = tuple(COLORS[f"level-{level}"] for level in range(1, 6))  # colors from the worst to the best value
CSS_COLORS: Mapping[str, str] = {
    color: "currentColor" if name == "ink" else f"var(--{name})" for name, color in COLORS.items()
}
Medium = Literal["page", "wide", "column"]
# Where a figure is shown. figure.figsize: inches of a figure with one legend row; 4.6 x 3.0 are 331 x 216 SVG units,
# which keep text legible on a page 390 px wide. wide: both columns of the page. column: a column of a paper.
MEDIA: Mapping[Medium, dict[Any, Any]] = {
    "page": {"figure.figsize": (4.6, 3.0), "font.size": 9.0, "legend.fontsize": 8.5},
    "wide": {"figure.figsize": (9.7, 3.0), "font.size": 9.0, "legend.fontsize": 8.5},
    "column": {"figure.figsize": (3.25, 2.4), "font.size": 8.0, "legend.fontsize": 7.5},
}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raykd",
    "text.parse_math": False,  # '$' in a name is literal
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}
# Empty metadata: a date would change the bytes, and the license block contains URLs.
NO_SVG_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_NAMESPACE = re.compile(r"\{[^}]*\}")
_TOO_FINE = re.compile(r"(\.\d\d)\d+")
_REFERENCE = re.compile(r"#([A-Za-z_][\w.-]*)")


@contextmanager
def figure_style(medium: Medium = "page") -> Iterator[None]:
    """Use matplotlib's defaults and the report's settings, regardless of the user's matplotlibrc."""
    with style_context("default"), rc_context(SETTINGS | MEDIA[medium]):
        yield


def inline_svg(figure: Figure, key: str, title: str, description: str) -> str:
    """Return an <svg> element whose ids start with `key`, with title and description for screen readers."""
    buffer = io.BytesIO()
    with figure_style(), catch_warnings():
        filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)  # the browser has others
        figure.savefig(buffer, format="svg", transparent=True, metadata=NO_SVG_METADATA)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):  # a <style> would affect the whole page
        for child in list(parent):
            if _without_namespace(child.tag) in ("metadata", "style"):
                parent.remove(child)
    attributes = [item for element in root.iter() for item in element.attrib.items()]
    referenced = {name for item in attributes if _is_reference(*item) for name in _REFERENCE.findall(item[1])}
    for element in root.iter():
        element.tag = _without_namespace(element.tag)
        _rewrite_attributes(element, key, referenced)
        element.text = element.text if element.text and element.text.strip() else None
        element.tail = None
    _describe(root, key, title, description)
    return ElementTree.tostring(root, encoding="unicode")


def _without_namespace(tag: str) -> str:
    return _NAMESPACE.sub("", tag)


def _is_reference(name: str, value: str) -> bool:
    return _without_namespace(name) == "href" or "url(#" in value


def _rewrite_attributes(element: ElementTree.Element, key: str, referenced: set[str]) -> None:
    attributes = {_without_namespace(name): value for name, value in element.attrib.items()}
    if attributes.get("id") not in referenced:
        attributes.pop("id", None)  # figure_1, axes_1, ... occur in every figure of the page
    for name, value in attributes.items():
        attributes[name] = f"{key}-{value}" if name == "id" else _rewrite(name, value, key)
    element.attrib.clear()
    element.attrib.update(attributes)


def _rewrite(name: str, value: str, key: str) -> str:
    for color, css in CSS_COLORS.items():
        value = value.replace(color, css)
    if name == "d":  # coordinates in points: finer than 0.01 is invisible
        return _TOO_FINE.sub(r"\1", value)
    return _REFERENCE.sub(rf"#{key}-\1", value) if _is_reference(name, value) else value


def _describe(root: ElementTree.Element, key: str, title: str, description: str) -> None:
    view_box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib.update({"viewBox": view_box, "role": "img", "aria-labelledby": f"{key}-title {key}-description"})
    for position, (tag, text) in enumerate({"title": title, "desc": description}.items()):
        element = ElementTree.Element(tag, {"id": f"{key}-{'title' if tag == 'title' else 'description'}"})
        element.text = text
        root.insert(position, element)
