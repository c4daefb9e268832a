"""The tables for a paper: golden text in each format, the page's numbers, and names that LaTeX can typeset."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from report_files import summary_of
from test_comparison import write_comparison

from raykd.cli.parser import TABLE_FORMATS
from raykd.report.build import TableFormat, load, tables_text
from raykd.report.render import latex, markdown

PDFLATEX = shutil.which("pdflatex")
HOSTILE = "[*a_b%c&d#e$f^g~h\\i{j}k|l<m>n\"o'p`q--r`"
NON_ASCII = (
    "\u00e9\u0142\u00df\u0161\u0151\u00e7\u00f8 \u03b1\u03a3 \u2212\u00b1\u00d7\u2013\u2014\u2192 \u6f22\U0001f600"
)
METHODS = {"kd": (81.0, 82.1, 83.0), "logit_std": (90.0, 91.2, 92.0), "50 % [a & b]": (90.1, 91.1, 91.8)}
MARKDOWN = """\
**Test accuracy of teachers, baselines and distilled students**

| family | teacher | baseline | distilled | gain \\[95 %\\] | n |
| :--- | ---: | ---: | ---: | ---: | ---: |
| cnn | \u2013 | 81.00 \u00b1 1.00 | 82.03 \u00b1 1.00 | +1.03 \\[+0.89, +1.18\\] | 0 / 3 / 3 |
| vit | 95.00 | 88.00 \u00b1 1.41 | 87.50 \u00b1 0.71 | \u22120.50 \\[\u22126.85, +5.85\\] | 1 / 2 / 2 |

Test top-1 in percent: mean \u00b1 standard deviation over seeds. Gain: distilled minus baseline of the same seed, in \
percentage points, with Student's 95 % interval of the mean. n: evaluated runs of teacher, baseline and distilled \
student.

The distilled student of cnn is that of kd, one of 3 compared methods: Holm p = 0.0010.

**Methods of distillation compared: family cnn**

| method | top-1 (%) | gain \\[95 %\\] | Holm p | rank | n |
| :--- | ---: | ---: | ---: | ---: | ---: |
| teacher | \u2013 |  |  |  | 0 |
| baseline | 81.00 \u00b1 1.00 |  |  |  | 3 |
| logit\\_std | **91.07** \u00b1 1.01 | +10.07 \\[+9.78, +10.35\\] | \\<0.001 | 1-2 | 3 |
| 50 % \\[a \\& b\\] | 91.00 \u00b1 0.85 \u2020 | +10.00 \\[+9.57, +10.43\\] | \\<0.001 | 1-2 | 3 |
| kd | 82.03 \u00b1 1.00 | +1.03 \\[+0.89, +1.18\\] | 0.0010 | 3 | 3 |

Test top-1 in percent: mean \u00b1 standard deviation over seeds. Gain: over the baseline of the same seed, in \
percentage points, with Student's 95 % interval for this method alone. Holm p: paired t-test, corrected for all 3 \
methods. n: evaluated runs.

Bold: the best mean over seeds 0, 1, 2, which every ranked method has.

\u2020 Not distinguishable from logit\\_std, by paired t-tests of all pairs of methods, corrected by Holm (p \
at least 0.05).
"""
LATEX = r"""% These tables need \usepackage{booktabs}.

\begin{table*}
  \centering\small\setlength{\tabcolsep}{4pt}
  \caption{Test accuracy of teachers, baselines and distilled students}
  \label{tab:results}
  \begin{tabular}{@{}lrrrrr@{}}
    \toprule
    family & teacher & baseline & distilled & gain [95 \%] & n \\
    \midrule
    cnn & \textendash{} & 81.00 $\pm$ 1.00 & 82.03 $\pm$ 1.00 & +1.03 [+0.89, +1.18] & 0 / 3 / 3 \\
    vit & 95.00 & 88.00 $\pm$ 1.41 & 87.50 $\pm$ 0.71 & $-$0.50 [$-$6.85, +5.85] & 1 / 2 / 2 \\
    \bottomrule
  \end{tabular}
"""
LATEX_METHODS = r"""    \toprule
    method & top-1 (\%) & gain [95 \%] & Holm p & rank & n \\
    \midrule
    teacher & \textendash{} &  &  &  & 0 \\
    baseline & 81.00 $\pm$ 1.00 &  &  &  & 3 \\
    \midrule
    logit\_std & \textbf{91.07} $\pm$ 1.01 & +10.07 [+9.78, +10.35] & $<$0.001 & 1-2 & 3 \\
    50 \% [a \& b] & 91.00 $\pm$ 0.85\rlap{$^\dagger$} & +10.00 [+9.57, +10.43] & $<$0.001 & 1-2 & 3 \\
    kd & 82.03 $\pm$ 1.00 & +1.03 [+0.89, +1.18] & 0.0010 & 3 & 3 \\
    \bottomrule
"""
CSV_HEAD = (
    "family,row,stage,model,method,top1_mean,top1_std,num_runs,num_planned,gain_mean,gain_std,gain_low,gain_high,"
    "num_pairs,p,p_holm,rank,is_best,is_tied_with_best,published,time,memory"
)


@pytest.fixture
def text_of(results):
    """Return a function that returns the tables of two families in a format."""
    write_comparison(results, METHODS)
    results.family("vit", [95.0], [87.0, 89.0], [87.0, 88.0])
    report = load(results.root)
    return lambda table_format: tables_text(report, table_format)


def test_the_markdown_of_two_families(text_of):
    assert text_of("markdown") == MARKDOWN


def test_the_latex_of_two_families(text_of):
    text = text_of("latex")
    assert text.startswith(LATEX)
    assert LATEX_METHODS in text
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    assert "\n    $^\\dagger$ Not distinguishable from logit\\_std, by paired t-tests of all pairs" in text
    assert text.isascii() and text.endswith("\\end{table*}\n")


def test_the_csv_of_two_families_has_one_header_and_the_numbers_of_the_summary(text_of, results):
    text = text_of("csv")
    assert text.splitlines()[0] == CSV_HEAD
    assert text.splitlines()[-1] == (
        "vit,stage,distilled,resnet8,kd,87.5,0.7071067811865476,2,2,-0.5,0.7071067811865476,-6.853102368087347,"
        "5.853102368087347,2,,,,,,,,"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["family"], row["row"]) for row in rows] == [
        *[("cnn", "stage")] * 3,
        *[("cnn", "method")] * 3,
        *[("vit", "stage")] * 3,
    ]
    methods = {row["method"]: row for row in rows if row["row"] == "method"}
    for method in summary_of(results.root)["cnn"]["comparison"]["methods"]:
        row = methods[method["method"]]
        assert float(row["top1_mean"]) == method["top1"]["mean"] and row["rank"] == method["rank"]
        assert float(row["p_holm"]) == method["p_holm"] and float(row["gain_mean"]) == method["gain"]["spread"]["mean"]
        assert [float(row[name]) for name in ("gain_low", "gain_high")] == method["gain"]["interval"]
    assert {name for name, row in methods.items() if row["is_best"] == "true"} == {"logit_std"}
    assert {name for name, row in methods.items() if row["is_tied_with_best"] == "true"} == {"50 % [a & b]"}


def test_a_tie_in_the_tables_is_a_tie_in_the_ranks_of_the_page(results):
    """The interval of kd minus dkd excludes 0, but not after the correction for three pairs, which the ranks use."""
    write_comparison(results, {"kd": (90.0, 91.0, 92.0), "dkd": (89.8, 90.7, 91.6), "sp": (89.4, 90.4, 91.38)})
    report = load(results.root)
    comparison = report.summaries[0].comparison
    assert comparison is not None and comparison.ranking is not None
    ranking = comparison.ranking
    (pair,) = (pair for pair in ranking.pairs if {pair.better, pair.worse} == {"kd", "dkd"})
    assert pair.gain.is_distinguishable and pair.is_tie
    text = tables_text(report, "markdown")
    assert "| dkd | 90.70 \u00b1 0.90 \N{DAGGER} |" in text and "| sp | 90.39 \u00b1 0.99 |" in text
    assert [method.rank for method in ranking.methods] == ["1-2", "1-3", "2-3"]


def test_the_caption_of_the_methods_names_networks_and_data(results):
    write_comparison(results, {"kd": (81.0, 82.1, 83.0), "dkd": (90.0, 91.2, 92.0)})
    plan = json.loads((results.root / "cnn" / "plan.json").read_text())
    plan["stages"]["teacher"] = [results.run("cnn", "teacher", 0, 95.0)]
    results.write("cnn/plan.json", plan)
    text = tables_text(load(results.root), "latex")
    assert r"\caption{Methods of distillation compared: resnet8 distilled from resnet18 on digits}" in text


def test_one_seed_marks_every_other_method_and_the_reason_is_given(results):
    write_comparison(results, {"kd": (81.0,), "dkd": (90.0,)})
    text = tables_text(load(results.root), "markdown")
    assert "| dkd | **90.00** | +10.00 |" in text and "| kd | 81.00 \N{DAGGER} | +1.00 |" in text
    assert "\N{DAGGER} Not distinguishable from dkd, because fewer than 3 seeds allow no verdict." in text


def test_an_incomplete_family_is_named_below_the_table(results):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", 0, 80.0), "baseline-net-s1-ab12"])
    text = tables_text(load(results.root), "markdown")
    assert "cnn is incomplete: planned runs without a result: 1 of 2." in text
    assert "Gain of cnn: no seed has both a baseline and a distilled result yet." in text


def test_latex_escapes_every_special_letter():
    assert latex.escape("a_b%c&d#e{f}") == r"a\_b\%c\&d\#e\{f\}"
    assert latex.escape("\\ ^ ~ < > |") == r"$\backslash$ \^{} \~{} $<$ $>$ $|$"
    assert latex.escape("[a] --b") == r"{[}a] -{}-b"
    assert latex.escape("caf\u00e9 \u03b1") == r"caf\'{e} $\alpha$"
    assert latex.escape("\u6f22") == r"\texttt{U+6F22}"


def test_latex_names_the_letters_that_it_replaces(results):
    write_comparison(results, {"\u6f22": (81.0, 82.0, 83.0), "kd": (80.0, 81.0, 82.5)})
    text = tables_text(load(results.root), "latex")
    assert "\n% U+6F22 stands for \u6f22, which pdfLaTeX cannot typeset.\n" in text
    assert "\n    \\texttt{U+6F22} & " in text


def test_markdown_escapes_what_github_reads_as_markup():
    assert markdown.escape("a|b *c* <d> `e` $f$ [g] _h_") == r"a\|b \*c\* \<d\> \`e\` \$f\$ \[g\] \_h\_"


def test_the_command_line_has_every_format():
    assert get_args(TableFormat) == TABLE_FORMATS


@pytest.mark.skipif(PDFLATEX is None, reason="pdflatex is not installed")
def test_the_tables_fit_a_paper_with_two_columns_and_can_be_referred_to(results, tmp_path):
    """TeX reports an overfull box where a table is wider than the text."""
    write_comparison(results, {"logit_standardization": (70.0, 81.1, 93.0), "kd": (90.0, 91.2, 92.0)})
    results.family("vit", [95.0], [87.0, 88.5, 89.0], [88.5, 79.0, 90.0])
    (tmp_path / "tables.tex").write_text(tables_text(load(results.root), "latex"), encoding="utf-8")
    log = typeset(
        tmp_path,
        r"\documentclass[twocolumn]{article}\usepackage{booktabs}\begin{document}\input{tables}"
        r"See Table~\ref{tab:results} and~\ref{tab:methods-0}.\end{document}",
    )
    log = typeset(tmp_path, (tmp_path / "paper.tex").read_text())
    assert "Overfull" not in log and "undefined" not in log


@pytest.mark.skipif(PDFLATEX is None, reason="pdflatex is not installed")
def test_pdflatex_typesets_the_tables_with_booktabs_alone(results, tmp_path):
    methods = {HOSTILE: (81.0, 82.1, 83.0), NON_ASCII: (90.0, 91.2, 92.0), "*kd": (90.1, 91.1, 91.8)}
    write_comparison(results, methods)
    (tmp_path / "tables.tex").write_text(tables_text(load(results.root), "latex"), encoding="utf-8")
    log = typeset(tmp_path, r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{tables}\end{document}")
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
    assert "Missing character" not in log


def typeset(folder: Path, document: str) -> str:
    """Write `document` to paper.tex, typeset it and return the log."""
    (folder / "paper.tex").write_text(document)
    command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "paper.log").read_text(errors="replace")
