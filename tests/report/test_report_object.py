"""The report as an object: its DataFrames have the numbers of the files, and notebooks show the headline table."""

import json

import pandas as pd
from pandas.testing import assert_frame_equal

from raykd.report.build import load
from raykd.report.report import Report


def test_runs_equal_the_rows_of_the_csv_file(two_families: Report) -> None:
    frame = two_families.runs
    assert len(frame) == 14
    assert frame.loc[frame["family"] == "cnn", "test_top1"].tolist() == [95.0, 87.0, 88.0, 89.0, 88.5, 89.0, 90.0]
    written = pd.read_csv(two_families.page.with_name("runs.csv"))
    shared = [name for name in frame if frame[name].notna().any() and frame[name].dtype == written[name].dtype]
    assert "test_top1" in shared and len(shared) > 10
    assert_frame_equal(frame[shared], written[shared])


def test_history_has_one_row_per_epoch_and_nan_where_a_run_has_no_such_term(two_families: Report) -> None:
    frame = two_families.history
    assert list(frame.columns[:6]) == ["family", "stage", "run", "method", "seed", "epoch"]
    runs = two_families.runs.set_index(["family", "name"])["num_epochs"]
    assert frame.groupby(["family", "run"]).size().to_dict() == runs[runs.notna()].astype(int).to_dict()
    custom = frame[frame["$<s>kd"].notna()]
    assert custom["$<s>kd"].tolist() == [2.0, 1.0] and custom["epoch"].tolist() == [0, 1]
    assert frame["$<s>kd"].isna().sum() == len(frame) - 2


def test_trials_equal_the_rows_of_the_searches_csv_file(one_search: Report) -> None:
    (search,) = one_search.searches
    written = pd.read_csv(search.page.with_name("trials.csv"))
    frame = one_search.trials
    assert set(frame["search"]) == {search.name} and set(frame["family"]) == {search.family}
    assert frame["number"].tolist() == written["number"].tolist()
    assert frame["val_top1"].equals(written["val_top1"])


def test_a_report_without_searches_has_no_trials(two_families: Report) -> None:
    assert two_families.trials.empty and "configuration" not in two_families.trials


def test_summary_equals_the_json_file(two_families: Report) -> None:
    assert two_families.summary == json.loads(two_families.page.with_name("summary.json").read_text())


def test_a_notebook_shows_the_headline_with_escaped_names(two_families: Report) -> None:
    html = two_families._repr_html_()
    assert "10 of 14 planned runs evaluated" in html
    assert "88.00 ± 1.00" in html and "v&lt;i&gt;t" in html
    assert "<script>" not in html and "href" not in html


def test_loading_writes_nothing_and_prints_as_the_command_line(two_families: Report) -> None:
    root = two_families.page.parents[1]
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    report = load(str(root))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert repr(report) == f"Report('{root}', families: cnn, v<i>t)"
    assert str(report).startswith("cnn\n+")
