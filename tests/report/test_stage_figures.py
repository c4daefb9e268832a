"""Learning curves against manual results, and figures that do not affect the rest of the page."""

import math
import re

import pytest

from raykd.report.figures.stages import draw_stages
from raykd.report.read.collect import collect
from raykd.report.read.run_results import History
from raykd.report.stats.curves import comparable_histories, curve_of
from raykd.report.stats.summary import summarize


def summary_of(results):
    return summarize(collect(results.root)[0])


def test_a_curve_is_mean_and_range_over_the_seeds():
    histories = [
        History((0, 1, 2), {"ce": (3.0, 2.0, 1.0)}),
        History((0, 1, 2), {"ce": (1.0, math.nan, 2.0)}),
        History((0,), {"kd": (9.0,)}),
    ]
    curve = curve_of(histories, "ce")
    assert (curve.epochs, curve.mean) == ((1, 3), (2.0, 1.5)), "epoch 2 has a value of one seed only"
    assert (curve.low, curve.high) == ((1.0, 1.0), (3.0, 2.0))
    assert curve.num_runs == 2
    assert curve_of(histories, "feature") is None


def test_a_curve_ends_with_the_shortest_run_and_not_with_the_luckiest_seed(results):
    """With a patience, the seeds that improve the longest have the most epochs."""
    lengths = {0: [10.0, 40.0, 60.0], 1: [10.0, 11.0], 2: [12.0, 12.0]}
    histories = {seed: {"val_top1": top1, "ce": top1} for seed, top1 in lengths.items()}
    results.plan(
        "cnn", baseline=[results.run("cnn", "baseline", seed, 50.0, history=each) for seed, each in histories.items()]
    )
    drawings = draw_stages(summary_of(results), "key")
    assert "Last epoch: baseline 21.00 at epoch 2." in drawings["Validation top-1"].svg
    for heading in ("Validation top-1", "Loss terms"):
        assert "A line ends with its shortest run; epochs of the runs: baseline 2 to 3." in drawings[heading].caption


def test_epochs_below_the_axis_of_the_validation_curves_are_mentioned(results):
    tops = {True: [10.0, 70.0, 80.0, 81.0, 82.0, 83.0], False: [78.0, 79.0, 80.0, 81.0, 82.0, 83.0]}
    for is_cut, val_top1 in tops.items():
        results.plan("cnn", baseline=[results.run("cnn", "baseline", history={"ce": val_top1, "val_top1": val_top1})])
        caption = draw_stages(summary_of(results), "key")["Validation top-1"].caption
        assert caption.endswith("The first epochs are below the axis, which starts at 70 %.") == is_cut


def test_unfinished_runs_make_a_curve_only_while_none_is_done(results):
    running = results.run("cnn", "baseline", 0, None, status="running", history={"ce": [3.0]})
    results.plan("cnn", baseline=[running])
    (family,) = collect(results.root)
    assert len(comparable_histories(family.runs)) == 1
    results.plan("cnn", baseline=[running, results.run("cnn", "baseline", 1, 88.0)])
    (family,) = collect(results.root)
    assert [history.epochs for history in comparable_histories(family.runs)] == [(0, 1, 2)]


def test_a_family_without_any_run_has_no_figures(results):
    results.plan("cnn", teacher=["teacher-net-s0-ab12"])
    assert set(draw_stages(summary_of(results), "key").values()) == {None}


@pytest.mark.parametrize(
    "history", [{"ce": [0.0]}, {"ce": [math.nan, math.nan]}, {"val_top1": [math.nan]}, {"epoch": []}]
)
def test_an_almost_empty_history_can_be_drawn(results, history):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", history=history)])
    draw_stages(summary_of(results), "key")


def test_a_figure_has_no_style_no_url_and_unique_ids(results):
    results.family("cnn", [95.0], [87.0, 88.0], [88.5, 89.0])
    for key, drawing in draw_stages(summary_of(results), "key").items():
        assert "<style" not in drawing.svg, key
        assert "http" not in drawing.svg
        assert not re.search("#[0-9a-f]{6}", drawing.svg), "a color of one theme only"
        ids = re.findall(r'\bid="([^"]*)"', drawing.svg)
        assert len(ids) == len(set(ids))
        assert all(name.startswith("key-") for name in ids)
        assert set(re.findall(r"url\(#([^)]*)\)", drawing.svg)) <= set(ids)
        assert set(re.findall(r'href="#([^"]*)"', drawing.svg)) <= set(ids)


def test_a_figure_describes_its_numbers(results):
    results.family("cnn", [95.0], [87.0, 88.0], [88.5, 89.0])
    drawings = draw_stages(summary_of(results), "key")
    assert 'role="img"' in drawings["Test top-1"].svg
    assert "teacher 95.00; baseline 87.50 ± 0.71; distilled 88.75 ± 0.35." in drawings["Test top-1"].svg
    assert "seed 0 +1.50; seed 1 +1.00; mean +1.25 [-1.93, +4.43]" in drawings["Gain of each seed"].svg
    assert "Last epoch: teacher 89.00 at epoch 3" in drawings["Validation top-1"].svg


def test_a_loss_term_with_any_name_can_be_drawn(results):
    history = {"$\\frac{<b>": [2.0, 0.01], "_hidden": [1.0, 0.5], "lr": [0.1, 0.1]}
    results.plan("cnn", distilled=[results.run("cnn", "distilled", history=history)])
    drawing = draw_stages(summary_of(results), "key")["Loss terms"]
    assert "distilled: $\\frac{&lt;b&gt;" in drawing.svg
    assert "distilled: _hidden" in drawing.svg
    assert "distilled: lr" not in drawing.svg
