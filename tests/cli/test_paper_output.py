"""What `report` makes for a paper: tables alone on stdout or in a file, figures as files; and misused flags."""

import pytest
from finished_results import copy_to

from raykd.cli import parser
from raykd.report.build import load, tables_text


def report(folder, *arguments: str) -> int:
    return parser.entry(["report", "--results", str(folder), *arguments])


def test_stdout_has_nothing_but_the_tables_also_while_figures_are_saved(tmp_path, capfd):
    results = copy_to(tmp_path)
    assert report(results, "--format", "csv", "--figures", "svg") == 0
    printed = capfd.readouterr()
    assert printed.out.startswith("family,row,stage,") and len(printed.out.splitlines()) == 4
    assert "| distilled |" in printed.err and f"report: {results}" in printed.err
    saved = {path.name for path in (results / "report" / "figures").iterdir()}
    assert {"tiny-top1.svg", "all-latency.svg"} <= saved


def test_output_writes_the_tables_to_a_file_and_nothing_to_stdout(tmp_path, capfd):
    results, file = copy_to(tmp_path), tmp_path / "tables.tex"
    file.write_text("old")
    assert report(results, "--format", "latex", "--output", str(file)) == 0
    assert capfd.readouterr().out == ""
    assert file.read_text(encoding="utf-8") == tables_text(load(results), "latex")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "tables.tex"], "--output tables.tex: requires tables; add --format"),
        (["--format", "csv", "--output", "no/tables.csv"], "--output no/tables.csv: the folder does not exist"),
        (["--format", "csv", "--output", "."], "--output '.': must be a file"),
        (["--format", "csv", "--output", ""], "--output '': must be a file"),
        (["--figures", "pdf", "--models-dir", "."], "--figures pdf: a report on --models-dir has no figures"),
        (["--format", "csv", "--models-dir", "."], "--format csv: a report on --models-dir has no tables"),
    ],
)
def test_a_misused_output_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert report(tmp_path / "results", *arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.startswith(f"raykd: {message}") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
