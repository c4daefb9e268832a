"""Methods over families as text: golden page, terminal, Markdown, LaTeX and CSV, and reports without such a table."""

import csv
import io
import json
import re
from typing import Any

import pytest
from several_families import write_family
from test_over_families import METHODS, simulated, write
from test_page import Tags
from test_paper_tables import PDFLATEX, typeset

from raykd.report.build import build, load, tables_text
from raykd.report.render.files import summary_json
from raykd.report.render.latex import MAX_HEADING, latex_tables
from raykd.report.render.paper_tables import paper_tables
from raykd.report.render.terminal import WIDTH, render_text

MARKDOWN = """\
**Methods of distillation compared over 3 families**

| method | cnn | mlp\\_b | vit | gain over baseline | gain over kd | mean rank |
| :--- | ---: | ---: | ---: | ---: | ---: | ---: |
| teacher | 95.00 | 91.00 | 97.00 |  |  |  |
| baseline | 80.50 ± 0.71 | 80.50 ± 0.71 | 80.50 ± 0.71 |  |  | 4.00 |
| dkd | **83.30** ± 0.42 | 83.30 ± 0.42 | **83.30** ± 0.42 | +2.80 | +1.70 | 1.00 |
| crd | 82.45 ± 0.64 | 82.45 ± 0.64 | 82.45 ± 0.64 | +1.95 | +0.85 | 2.00 |
| kd | 81.60 ± 0.85 | \u2013 | 81.60 ± 0.85 | +1.10 |  | 3.00 |

Test top-1 in percent: mean ± standard deviation over seeds. Gain: mean over families, in percentage points.

Bold: the best of the baseline and the methods with a mean rank in a family.

Mean gains, ranks and tests cover 2 of 3 families: cnn, vit.

A mean rank is that among baseline and 3 methods in each family; 1 is the best.

Without a result: 1 of 12 cells, in mlp\\_b (kd).

Friedman's test of baseline and 3 methods over 2 families: not all are alike, p = 0.042 by permutation.

No signed-rank test of 2 families can reach p \\< 0.05, so none is shown: the smallest possible p is 0.50, and 6 \
families are required.

3 families have 3 teachers, 2 student networks and 1 data set.

Tests assume independent families; those that share one of these are not, so p may be too small.

"""
TERMINAL = """\
methods over 2 of 3 families, on the test split
+----------+--------------------+--------------+-----------+
| method   | gain over baseline | gain over kd | mean rank |
+----------+--------------------+--------------+-----------+
| baseline |                    |              |      4.00 |
| dkd      |              +2.80 |        +1.70 |      1.00 |
| crd      |              +1.95 |        +0.85 |      2.00 |
| kd       |              +1.10 |              |      3.00 |
+----------+--------------------+--------------+-----------+
mean gains, ranks and tests cover 2 of 3 families: cnn, vit
"""
ROW = (
    '<tr><th scope="row" class="name">dkd</th>'
    '<td class="number"><b>83.30</b><span class="sub">±&nbsp;0.42</span></td>'
    '<td class="number">83.30<span class="sub">±&nbsp;0.42</span></td>'
    '<td class="number"><b>83.30</b><span class="sub">±&nbsp;0.42</span></td>'
    '<td class="number">+2.80</td><td class="number">+1.70</td><td class="number">1.00</td></tr>'
)


@pytest.fixture
def three_families(results) -> Any:
    """Return the results of three families, the last of which has no result of kd."""
    baseline = (80.0, 81.0)
    write_family(results, "cnn", baseline, METHODS, teacher=("resnet18", 95.0))
    write_family(results, "vit", baseline, METHODS, teacher=("vit_tiny", 97.0), student="vit6")
    write_family(results, "mlp_b", baseline, METHODS | {"kd": (None, None)}, teacher=("resnet34", 91.0))
    return results


def section_of(page: str) -> str:
    """Return the section on methods over families without line breaks and indentation."""
    (section,) = re.findall(r'<section aria-labelledby="over-families">.*?</section>', page, re.DOTALL)
    return re.sub(r"\s*\n\s*", "", section)


def test_the_markdown_of_three_families(three_families):
    assert MARKDOWN in tables_text(load(three_families.root), "markdown")


def test_the_terminal_shows_the_means_alone(three_families):
    text = render_text(load(three_families.root))
    assert TERMINAL in text
    assert text.index("mlp_b: methods on the test split") < text.index("methods over 2 of 3 families")


def test_the_page_has_the_table_before_the_families(three_families):
    page = build(three_families.root).page.read_text(encoding="utf-8")
    section = section_of(page)
    assert ROW in section
    assert page.index("Methods over families") < page.index('class="family"')
    text = Tags(section).text
    assert "Mean gains, ranks and tests cover 2 of 3 families: cnn, vit." in text
    assert "mlp_<wbr>b" in section and section.count(">\u2013</td>") == 1
    assert "upright" not in section
    assert page.count(".over-families {") == 1


def test_headings_of_many_families_are_upright_and_p_values_are_columns(results):
    write(results, simulated(7, 2))
    section = section_of(build(results.root).page.read_text(encoding="utf-8"))
    assert section.count('<span class="upright">') == 7
    headings = re.findall(r'<th scope="col"[^>]*>(.*?)</th>', section)
    assert [Tags(heading).text for heading in headings[-5:]] == [
        "gain over baseline",
        "Holm\N{NO-BREAK SPACE}p",
        "gain over kd",
        "Holm\N{NO-BREAK SPACE}p",
        "mean rank",
    ]
    assert len(headings) == 13


def test_names_with_markup_are_escaped_in_every_format(results):
    hostile = "<b>k|d_1<i>"
    for family in ("a", "b"):
        write_family(results, family, (80.0,), {hostile: (81.0,), "dkd": (82.0,)})
    report = build(results.root)
    section = section_of(report.page.read_text(encoding="utf-8"))
    assert "&lt;b&gt;k|d_<wbr>1&lt;i&gt;" in section and hostile in Tags(section).text
    assert "gain over \\<b\\>k\\|d\\_1\\<i\\>" in tables_text(report, "markdown")
    assert r"$<$b$>$k$|$d\_1$<$i$>$" in tables_text(report, "latex")


def test_a_report_without_common_methods_has_no_table_anywhere(results):
    write_family(results, "a", (80.0,), {"kd": (81.0,), "dkd": (82.0,)})
    results.family("cnn", [95.0], [87.0, 88.0], [88.5, 89.0])
    report = build(results.root)
    assert report.over_families is None
    assert "over-families" not in report.page.read_text(encoding="utf-8")
    assert not re.search("over .*families", render_text(report))
    for table_format in ("latex", "markdown", "csv"):
        assert "families" not in tables_text(report, table_format).replace("tables", "")


def test_the_csv_has_a_row_for_each_gain_over_families(three_families):
    rows = list(csv.DictReader(io.StringIO(tables_text(load(three_families.root), "csv"))))
    found = [(row["row"], row["method"], row["rank"]) for row in rows if row["row"].startswith("families")]
    assert found == [
        ("families", "baseline", "4.0"),
        ("families", "dkd", "1.0"),
        ("families_main", "dkd", ""),
        ("families", "crd", "2.0"),
        ("families_main", "crd", ""),
        ("families", "kd", "3.0"),
    ]
    dkd = next(row for row in rows if row["row"] == "families" and row["method"] == "dkd")
    assert (float(dkd["gain_mean"]), dkd["num_pairs"], dkd["p"], dkd["family"]) == (pytest.approx(2.8), "2", "0.5", "")


def test_latex_divides_the_columns_and_breaks_headings(results):
    write(results, simulated(13))
    tables = [table for table in paper_tables(load(results.root)) if table.key == "families"]
    text = latex_tables(tables)
    assert re.findall(r"\\label\{(.*?)\}", text) == [
        "tab:families",
        "tab:families-2",
        "tab:families-3",
        "tab:families-4",
    ]
    assert text.count("(1 of 4)") == 1 and text.count(r"\begin{minipage}") == 1
    assert "\n     & gain over &  & gain over &  \\\\\n    method & baseline & Holm p & kd & Holm p" not in text
    assert text.count("    baseline & ") == 4
    assert text.count("gain over &") == 1 and len("gain over kd") == MAX_HEADING


@pytest.mark.skipif(PDFLATEX is None, reason="pdflatex is not installed")
def test_the_published_pairs_fit_a_paper_with_one_column(results, tmp_path):
    """5.5 inches is the text width of NeurIPS and ICLR. The names are the longest of the benchmark."""
    for family in ("resnet32x4_resnet8x4", "resnet50_mobilenetv2", "wrn_40_2_wrn_16_2", *"abcdefghij"):
        methods = {"kd": (81.0, 82.0), "logit_standardization": (82.0, 83.1), "dkd": (83.0, 84.1)}
        write_family(results, family, (80.0, 81.0), methods)
    tables = [table for table in paper_tables(load(results.root)) if table.key == "families"]
    (tmp_path / "tables.tex").write_text(latex_tables(tables), encoding="utf-8")
    document = (
        r"\documentclass{article}\usepackage{booktabs}\setlength{\textwidth}{5.5in}\begin{document}\input{tables}"
    )
    assert "Overfull" not in typeset(tmp_path, document + r"See~\ref{tab:families-4}.\end{document}")


def test_no_line_of_the_terminal_is_wider_than_the_tables(results):
    write(results, simulated(13, 6))
    lines = render_text(load(results.root)).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("methods over"))
    assert max(map(len, lines[start:-2])) <= WIDTH


def test_no_number_is_nan(three_families):
    report = load(three_families.root)
    assert "nan" not in render_text(report).lower().split()
    json.loads(summary_json(report), parse_constant=pytest.fail)
