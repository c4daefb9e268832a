"""The page in a real browser: no console messages, complete figures, fits a phone, two themes, sorted tables."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from several_families import write_family

from raykd.report.build import build
from raykd.report.report import Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.nightly, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]

# The page forbids other scripts, so a page with the page in a frame measures it.
FRAME = """<!doctype html><iframe src="{page}" style="width:400px; height:900px; border:0"></iframe>
<p id="measured"></p><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument;
  const style = event.target.contentWindow.getComputedStyle(page.body);
  const figures = [...page.querySelectorAll("figure")].map(figure => {{
    const box = figure.querySelector("svg")?.getBoundingClientRect();
    const is_whole = box && box.width > 300 && box.width <= 400 && box.height > 100;
    return `${{figure.querySelector("h2, h3").textContent.trim()}} ${{is_whole ? "whole" : "broken"}}`;
  }});
  measured.textContent =
    [page.documentElement.scrollWidth, style.backgroundColor, style.color, figures.join(";")].join("|");
}};
</script>"""


CURVES = ("Test top-1", "Gain of each seed", "Validation top-1", "Loss terms")
CONFUSION = "Confusion matrix: distilled with kd"
METRICS = ("Reliability diagram", "Top-1 of each class", CONFUSION, "Accuracy and parameters", "Accuracy and latency")
FIELDS = (
    "Configurations tried",
    "Field by field",
    "Two most important fields after 1 epoch",
    "Importance of each field (fANOVA)",
)
SEARCH = (*FIELDS, "Learning curves", "Trial by trial", "Confirmation with other seeds")
FIGURES = {"report": (*CURVES, *CURVES, *METRICS), "cnn-search": SEARCH}  # two families, one of them with metrics


def browse(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Load a page. The DOM is in stdout, the console in stderr."""
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
        *("--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", f"--user-data-dir={profile}"),
        *("--allow-file-access-from-files", "--virtual-time-budget=5000", *flags),
        *("--dump-dom", page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def measure(page: Path, tmp_path: Path, *flags: str) -> tuple[int, str, str, list[str]]:
    """Return the scroll width in a frame of 400 px, background, text color, and each figure, whole or broken."""
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(page=page.as_uri()))
    dom = browse(frame, tmp_path / "profile", *flags).stdout
    match = re.search(r'id="measured">(\d+)\|([^|]*)\|([^|]*)\|([^<]*)<', dom)
    assert match
    return int(match[1]), match[2], match[3], match[4].split(";")


@pytest.fixture(params=["two_families", "one_search"])
def page(request: pytest.FixtureRequest) -> Path:
    """Return the page of two families, then the page of a search."""
    report: Report = request.getfixturevalue(request.param)
    return report.searches[0].page if report.searches else report.page


def test_the_page_renders_without_a_console_message(page, tmp_path):
    loaded = browse(page, tmp_path / "profile")
    assert loaded.stdout.count("<svg") == len(FIGURES[page.parent.name])
    assert "CONSOLE" not in loaded.stderr


def test_a_forbidden_script_would_have_shown_in_the_console(two_families, tmp_path):
    """Otherwise an empty console might only mean that the console is not read."""
    page = two_families.page.read_text(encoding="utf-8").replace("</body>", "<script>1</script></body>")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    assert "CONSOLE" in browse(tmp_path / "page.html", tmp_path / "profile").stderr


def test_the_page_fits_400_px_in_both_themes(page, tmp_path):
    width, light, ink_on_light, _ = measure(page, tmp_path, "--blink-settings=preferredColorScheme=1")
    assert width == 400
    assert (light, ink_on_light) == ("rgb(255, 255, 255)", "rgb(27, 31, 36)")
    width, dark, ink_on_dark, _ = measure(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert width == 400
    assert (dark, ink_on_dark) == ("rgb(20, 23, 27)", "rgb(230, 233, 237)")


def test_every_figure_is_whole_on_a_phone(page, tmp_path):
    figures = measure(page, tmp_path)[-1]
    assert sorted(figures) == sorted(f"{heading} whole" for heading in FIGURES[page.parent.name])


LAYOUT = """<!doctype html><iframe src="{page}" style="width:{width}px; height:900px; border:0"></iframe>
<p id="measured"></p><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, window = event.target.contentWindow;
  for (const details of page.querySelectorAll("details")) details.open = true;
  if ({is_print})
    for (const rule of [...page.styleSheets[0].cssRules].filter(rule => rule.media?.mediaText.includes("print")))
      rule.media.mediaText = "all";
  const style = (selector, pseudo) => window.getComputedStyle(page.querySelector(selector), pseudo);
  const roles = ["table", "thead", "tr", "tbody th", "td", "thead th"].map(
    selector => page.querySelector(`.cards ${{selector}}`)?.getAttribute("role") ??
      page.querySelector(".cards").getAttribute("role"));
  setTimeout(() => {{
    const regions = [...page.querySelectorAll(".scroll")];
    const wrong = regions.filter(region => (region.tabIndex === 0) !== (region.scrollWidth > region.clientWidth));
    const stops = regions.filter(region => region.tabIndex === 0);
    measured.textContent = JSON.stringify({{
      roles,
      wrong: wrong.map(region => region.ariaLabel),
      stops: stops.map(region => region.ariaLabel),
      number: style("thead .number button", "::before").content,
      text: style("thead button", "::after").content,
      button: style("thead button").display,
      summary: style("summary").listStyleType,
      label: page.querySelector("thead th").getAttribute("aria-label"),
      top: page.querySelector("[aria-label='Headline'] table")?.getBoundingClientRect().top,
    }});
  }}, 500);
}};
</script>"""


def layout(page: Path, tmp_path: Path, width: int, is_print: bool = False) -> dict[str, Any]:
    """Return measurements of a page in a window of `width` pixels, or with the rules for print."""
    frame = tmp_path / "frame.html"
    frame.write_text(LAYOUT.format(page=page.as_uri(), width=width, is_print=str(is_print).lower()), encoding="utf-8")
    match = re.search(r'id="measured">([^<]+)<', browse(frame, tmp_path / "profile").stdout)
    assert match
    return json.loads(html.unescape(match[1]))


@pytest.mark.parametrize("width", [390, 1280])
def test_tables_keep_their_semantics_and_only_regions_that_scroll_are_tab_stops(page, tmp_path, width):
    """On a phone, rows of tables are grids, which would not be rows for a screen reader."""
    measured = layout(page, tmp_path, width)
    assert measured["roles"] == ["table", "rowgroup", "row", "rowheader", "cell", "columnheader"]
    assert measured["wrong"] == []
    assert len(measured["stops"]) < 4 if width == 390 else measured["stops"] == []
    assert measured["label"], "the button is hidden on a phone"


def test_a_heading_shows_that_it_sorts(page, tmp_path):
    measured = layout(page, tmp_path, 1280)
    assert "\N{UP DOWN ARROW}" in measured["number"] and "\N{UP DOWN ARROW}" in measured["text"]


def test_headings_are_printed_on_every_page_and_open_sections_without_a_triangle(page, tmp_path):
    """Chromium does not paint a button in a heading that it repeats on the next page."""
    measured = layout(page, tmp_path, 800, is_print=True)
    assert (measured["button"], measured["summary"]) == ("contents", "none")


def test_the_first_numbers_are_near_the_top_on_a_phone(two_families, tmp_path):
    assert layout(two_families.page, tmp_path, 390)["top"] < 250


SORT = """<!doctype html><iframe src="{page}" style="width:1200px; height:900px; border:0"></iframe>
<p id="measured"></p><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument;
  const found = [];
  const click = (table, column) => {{
    const heading = table.tHead.rows[0].cells[column], button = heading.querySelector("button");
    button.focus();
    if (page.activeElement !== button) found.push("not focused");
    button.click();
    const cells = [...table.tBodies[0].rows].map(row => row.cells[column].textContent.trim());
    found.push(`${{heading.getAttribute("aria-sort")}}: ${{cells.join(", ")}}`);
  }};
  const stages = page.querySelector("[aria-label='Stages of cnn'] table");
  for (const column of [1, 1, 1, 3, 4]) click(stages, column);
  click(page.querySelector("[aria-label='Runs of v<i>t'] table"), 6);
  found.push(stages.querySelectorAll("[aria-sort]").length);
  measured.textContent = found.join("|");
}};
</script>"""


def test_a_heading_sorts_its_table_by_numbers_with_missing_values_last(two_families, tmp_path):
    """Ascending, descending, then as it was; '1 min 00 s' and '1.20 G' by their size; the button takes the focus."""
    page = two_families.page.read_text(encoding="utf-8")
    changed = (
        page.replace(">78.0 k<", ">1.20 G<", 1)
        .replace(">1 min 00 s<", ">1 h 00 min<", 1)
        .replace(">1 min 00 s<", ">59.0 s<", 1)
    )
    (tmp_path / "page.html").write_text(changed, encoding="utf-8")
    (tmp_path / "frame.html").write_text(SORT.format(page=(tmp_path / "page.html").as_uri()), encoding="utf-8")
    dom = browse(tmp_path / "frame.html", tmp_path / "profile").stdout
    match = re.search(r'id="measured">([^<]+)<', dom)
    assert match
    assert match[1].split("|") == [
        "ascending: 88.00 ± 1.00, 89.17 ± 0.76, 95.00",
        "descending: 95.00, 89.17 ± 0.76, 88.00 ± 1.00",
        "null: 95.00, 88.00 ± 1.00, 89.17 ± 0.76",
        "ascending: 78.0 k, 11.17 M, 1.20 G",
        "ascending: 59.0 s, 1 min 00 s, 1 h 00 min",
        "ascending: 82.00, 83.00, 93.00" + 4 * ", \N{EN DASH}",
        "1",
    ]


# Long names of the published pairs, and as many families as these.
FAMILIES = ("resnet32x4_resnet8x4", "resnet50_mobilenetv2", "wrn_40_2_wrn_16_2", *(f"vgg13_vgg{n}" for n in range(10)))


def test_thirteen_families_fit_a_wide_window_and_scroll_on_a_phone_beside_the_names(results, tmp_path):
    for number, family in enumerate(FAMILIES):
        top1 = 60.0 + number
        methods = {"kd": (top1, top1 + 0.3), "logit_standardization": (top1 + 1, top1 + 1.1 + 0.01 * number)}
        write_family(results, family, (top1 - 2, top1 - 1.5), methods)
    page = build(results.root).page
    assert "Methods over families" not in layout(page, tmp_path, 1280)["stops"]
    assert "Methods over families" in layout(page, tmp_path, 390)["stops"]
    (tmp_path / "frame.html").write_text(SCROLLED.format(page=page.as_uri()), encoding="utf-8")
    match = re.search(r'id="measured">([^<]+)<', browse(tmp_path / "frame.html", tmp_path / "profile").stdout)
    assert match
    width, name, number = (float(value) for value in match[1].split("|"))
    assert width == 390 and name >= 0 > number, "the name stays in view, and the first family does not"


SCROLLED = """<!doctype html><iframe src="{page}" style="width:390px; height:900px; border:0"></iframe>
<p id="measured"></p><script>
document.querySelector("iframe").onload = event => {{
  const page = event.target.contentDocument, region = page.querySelector("[aria-label='Methods over families']");
  region.scrollLeft = 300;
  const [name, number] = region.querySelector("tbody tr").cells;
  const places = [name, number].map(cell => cell.getBoundingClientRect().left);
  measured.textContent = [page.documentElement.scrollWidth, ...places].join("|");
}};
</script>"""
