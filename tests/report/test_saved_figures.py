"""Figures as files: one for each figure of the pages, the same bytes each time, with their fonts and colors."""

import re
import zlib
from dataclasses import replace
from typing import get_args

import pytest
from matplotlib.text import Text
from test_comparison import write_comparison

from raykd.cli.parser import FIGURE_FORMATS
from raykd.report.build import build, load
from raykd.report.figures.metrics import draw_metrics
from raykd.report.figures.saved import FigureFormat, figure_files
from raykd.report.figures.search import draw_search
from raykd.report.figures.stages import draw_stages
from raykd.report.figures.svg import COLORS, figure_style
from raykd.report.figures.tradeoff import draw_tradeoffs
from raykd.report.stats.importances import importances_of

OF_FAMILY = {"gain", "loss", "top1", "val"}
WITH_METRICS = OF_FAMILY | {"reliability", "classes", "confusion"}
OF_SEARCH = {"search-parallel", "search-fields", "search-plane"}
OF_SEARCH |= {"search-curves", "search-history", "search-confirmation", "search-importances"}


@pytest.fixture(scope="module")
def saved(two_families) -> dict[str, bytes]:
    """Return the saved figures of two families by the names of their files."""
    files = figure_files(two_families, ("pdf", "svg", "pdf"))
    assert {path.parent for path in files} == {two_families.page.parent / "figures"}
    return {path.name: content for path, content in files.items()}


def test_every_figure_of_the_page_is_saved_in_each_format(saved):
    families = {"cnn": WITH_METRICS, "v<i>t": OF_FAMILY, "all": {"parameters", "latency"}}
    names = {f"{family}-{figure}" for family, figures in families.items() for figure in figures}
    assert saved.keys() == {f"{name}.{figure_format}" for name in names for figure_format in FIGURE_FORMATS}


def test_saved_figures_are_the_same_bytes_each_time_without_dates(saved, two_families):
    smaller = replace(two_families, summaries=two_families.summaries[1:])
    again = {path.name: content for path, content in figure_files(smaller, ("pdf", "svg")).items()}
    of_family = {name for name in again if name.startswith("v<i>t-")}
    assert len(of_family) == 2 * len(OF_FAMILY) and all(again[name] == saved[name] for name in of_family)
    assert not [name for name, content in saved.items() if b"Date" in content or b"<dc:date" in content]


def test_a_saved_pdf_embeds_its_fonts_as_truetype(saved):
    for name, content in saved.items():
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF-"), name
            assert b"/FontFile2" in content and b"/Type3" not in content
            assert b"/Subtype /CIDFontType2" in content or b"/Subtype /TrueType" in content


def test_a_saved_figure_has_the_colors_of_the_light_theme(saved):
    """In an SVG as text; in a PDF as numbers from 0 to 1 in its compressed drawing."""
    for name, content in saved.items():
        if name.endswith(".svg"):
            text = content.decode()
            assert "<text" not in text and "var(--" not in text and "currentColor" not in text, name
            assert COLORS["distilled"] in text or COLORS["ink"] in text
            assert set(re.findall("#[0-9a-f]{6}", text)) <= set(COLORS.values())
    drawing = b"".join(map(_decompressed, re.findall(rb"stream\n(.*?)\nendstream", saved["cnn-top1.pdf"], re.DOTALL)))
    red, green, blue = (f"{int(COLORS['distilled'][place : place + 2], 16) / 255:.10g}" for place in (1, 3, 5))
    assert f" {red} {green} {blue} rg " in b" ".join(drawing.split()).decode("latin-1")


def _decompressed(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:  # an object that is stored as it is
        return b""


def test_letters_that_the_font_lacks_are_one_line(results, caplog, recwarn):
    write_comparison(results, {"kd": (81.0, 82.1, 83.0), "\u8702\u7fc5\u8702": (81.2, 82.0, 83.5)})
    figure_files(load(results.root), ("pdf", "svg"))
    assert caplog.messages == ["the saved figures have boxes for letters that DejaVu Sans lacks: \u7fc5 \u8702"]
    assert not recwarn.list


def test_the_figures_of_a_search_are_beside_its_page(one_search):
    folder = one_search.searches[0].page.parent / "figures"
    files = figure_files(one_search, ("svg",))
    assert {path.stem for path in files if path.parent == folder} == OF_SEARCH


def test_the_report_saves_no_figure_unless_asked_and_its_page_is_the_same(results):
    write_comparison(results, {"kd": (81.0, 82.1, 83.0), "$\\frac{<b>": (81.2, 82.0, 83.5)})
    page = build(results.root).page.read_bytes()
    assert not (results.root / "report" / "figures").exists()
    assert build(results.root, ("svg",)).page.read_bytes() == page
    assert (results.root / "report" / "figures" / "cnn-methods.svg").is_file()


@pytest.mark.parametrize("report", ["two_families", "one_search"])
def test_a_saved_figure_is_as_wide_as_a_column_and_nothing_leaves_it(report, request):
    """Labels have 8 points; other text is at least 6.5 points high."""
    content = request.getfixturevalue(report)
    drawings = [drawing for summary in content.summaries for drawing in draw_stages(summary, "a", "column").values()]
    drawings += [drawing for summary in content.summaries for drawing in draw_metrics(summary, "b", "column").values()]
    drawings += draw_tradeoffs(content.summaries, "column").values()
    for search in content.searches:
        drawings += draw_search(search, importances_of(search), "column").values()
    for drawing in filter(None, drawings):
        with figure_style("column"):
            drawing.figure.draw_without_rendering()
            box = drawing.figure.get_tightbbox()
        width, height = drawing.figure.get_size_inches()
        assert width == 3.25 and height < 9
        assert box.x0 >= -0.01 and box.y0 >= -0.01 and box.x1 <= width + 0.01 and box.y1 <= height + 0.01, drawing.title
        shown = [text for text in drawing.figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in shown) >= 6.5
        assert all(axes.xaxis.label.get_fontsize() == 8 for axes in drawing.figure.axes)


def test_a_saved_figure_has_the_size_of_a_column_in_its_file(saved):
    for name, content in saved.items():
        if name.endswith(".svg"):
            assert b'width="234pt"' in content, name
        else:
            assert re.search(rb"/MediaBox \[ 0 0 234 [\d.]+ \]", content), name


def test_the_command_line_has_every_format():
    assert get_args(FigureFormat) == FIGURE_FORMATS


def test_equal_values_do_not_label_an_axis_with_rounding(results):
    """88.1 - 87.1 and 89.3 - 88.3 differ in the 14th digit, and an axis of that span would show it as an offset."""
    results.family("cnn", [95.0], [87.1, 88.3, 86.7], [88.1, 89.3, 87.7])
    history = {"ce": [0.1 + 0.2, 0.3, 0.3], "val_top1": [80.0, 80.00000000000001, 80.0]}
    results.run("cnn", "teacher", 0, 95.0, history=history)
    (summary,) = load(results.root).summaries
    for heading, drawing in draw_stages(summary, "cnn").items():
        assert drawing is not None
        drawing.figure.draw_without_rendering()
        for axis in (drawing.figure.axes[0].xaxis, drawing.figure.axes[0].yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            assert axis.get_offset_text().get_text() == "", heading
            assert len(set(labels)) == len(labels) and all(len(label) <= 9 for label in labels), (heading, labels)


def test_an_axis_of_equal_gains_spans_a_whole_point(results):
    results.family("cnn", [95.0], [88.3, 88.1], [88.3, 88.1 + 1.4e-14])
    (summary,) = load(results.root).summaries
    drawing = draw_stages(summary, "cnn")["Gain of each seed"]
    assert drawing is not None
    low, high = drawing.figure.axes[0].get_xlim()
    assert high - low == pytest.approx(1.0) and low < 0 < high
