"""`report --format` prints the tables for a paper to stdout and everything else to stderr, or writes them to a file."""

import pytest
from finished_results import copy_to

from raykd.cli import parser


def report(folder, *arguments: str) -> int:
    return parser.entry(["report", "--results", str(folder), *arguments])


def test_stdout_has_nothing_but_the_tables(tmp_path, capfd):
    results = copy_to(tmp_path)
    assert report(results, "--format", "csv") == 0
    printed = capfd.readouterr()
    assert printed.out.startswith("family,row,stage,") and len(printed.out.splitlines()) == 4
    assert "| distilled |" in printed.err and f"report: {results}" in printed.err


def test_output_writes_the_tables_that_stdout_would_have(tmp_path, capfd):
    results = copy_to(tmp_path)
    assert report(results, "--format", "latex") == 0
    printed = capfd.readouterr().out
    assert report(results, "--format", "latex", "--output", str(tmp_path / "tables.tex")) == 0
    assert capfd.readouterr().out == ""
    assert (tmp_path / "tables.tex").read_text(encoding="utf-8") == printed
    assert printed.startswith(r"% These tables need \usepackage{booktabs}.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "tables.tex"], "--output tables.tex: is the file of the tables; add --format"),
        (["--format", "csv", "--output", "no/tables.csv"], "--output no/tables.csv: the folder does not exist"),
        (["--format", "csv", "--output", "."], "--output '.': must be a file"),
        (["--format", "csv", "--output", ""], "--output '': must be a file"),
        (["--format", "csv", "--models-dir", "."], "--format csv: a report on --models-dir has no tables"),
    ],
)
def test_a_misused_output_is_one_line_and_nothing_is_written(tmp_path, monkeypatch, capfd, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert report(tmp_path / "results", *arguments) == 2
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.startswith(f"raykd: {message}") and printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
