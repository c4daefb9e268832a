"""Figures of calibration, classes, confusion and costs: their data, read from their descriptions."""

import pytest
from evaluated_folders import COSTS, PARAMETERS, write_evaluated_run

from raykd.report.figures.metrics import MAX_CLASSES, draw_metrics
from raykd.report.figures.svg import QUIET
from raykd.report.figures.tradeoff import draw_tradeoffs
from raykd.report.read.collect import collect
from raykd.report.stats.summary import summarize


def summaries_of(results):
    return [summarize(family) for family in collect(results.root)]


def draw(results):
    return draw_metrics(summaries_of(results)[0], "key")


def test_a_family_without_metrics_has_no_metric_figures(results):
    results.family("cnn", [95.0], [87.0], [88.0])
    assert draw(results) == {}


def test_the_reliability_diagram_leaves_out_bins_with_few_images(results):
    bins = {"count": [9, 60, 31], "confidence": [0.111, 0.6, 0.9], "accuracy": [0.222, 0.5, 0.8]}
    results.plan(
        "cnn", distilled=[write_evaluated_run(results, "cnn", "distilled", 0, 88.0, reliability=bins, ece=0.0613)]
    )
    drawing = draw(results)["Reliability diagram"]
    assert "Calibration error: distilled 0.0613." in drawing.svg
    assert drawing.svg.count("<use") == 2 + 1 + ticks(drawing.svg), "two bins, the legend's marker, the axes' ticks"
    assert "fewer than 10 images are left out" in drawing.caption


def test_the_reliability_diagram_has_a_visible_diagonal_and_the_range_over_seeds(results):
    """A band is drawn where seeds differ; a seed with few images in a bin does not count there."""
    accuracies = {0: (0.5, 0.8), 1: (0.7, 0.9), 2: (0.0, 0.85)}
    names = [
        write_evaluated_run(
            results,
            "cnn",
            "distilled",
            seed,
            88.0,
            reliability={"count": [3 if seed == 2 else 30, 60], "confidence": [0.6, 0.9], "accuracy": [*accuracy]},
        )
        for seed, accuracy in accuracies.items()
    ]
    results.plan("cnn", teacher=[write_evaluated_run(results, "cnn", "teacher", 0, 90.0)], distilled=names)
    drawing = draw(results)["Reliability diagram"]
    axes = drawing.figure.axes[0]
    (band,) = axes.collections
    assert sorted({round(float(y), 6) for y in band.get_paths()[0].vertices[:, 1]}) == [50.0, 70.0, 80.0, 90.0]
    assert "band: lowest to highest seed" in drawing.caption
    assert ">accuracy = confidence<" in drawing.svg
    (diagonal,) = (line for line in axes.lines if line.get_label() == "accuracy = confidence")
    assert diagonal.get_color() == QUIET and diagonal.is_dashed()


def ticks(svg: str) -> int:
    """Return the number of ticks, which are markers too: one for each number beside an axis."""
    return sum(svg.count(f">{number}<") for number in (0, 20, 40, 60, 80, 100))


def test_classes_are_sorted_by_top1_of_the_last_stage(results):
    changes = {
        "classes": ["cat", "dog", "<i>"],
        "confusion": [[40, 10, 0], [5, 20, 0], [0, 0, 25]],
        "class_top1": [80.0, 70.0, 100.0],
    }
    results.plan("cnn", distilled=[write_evaluated_run(results, "cnn", "distilled", 0, 85.0, **changes)])
    drawings = draw(results)
    classes = drawings["Top-1 of each class"].svg
    assert "dog distilled 70.00; cat distilled 80.00; &lt;i&gt; distilled 100.00." in classes
    confusion = drawings["Confusion"]
    assert "Largest wrong shares of a class: cat as dog 20.0 %; dog as cat 20.0 %." in confusion.svg
    assert [confusion.svg.count(f">{percent}<") for percent in (20, 80, 100)] == [2, 2, 1]
    assert "of 3 classes" not in confusion.caption


def test_only_the_hardest_of_many_classes_are_shown(results):
    count = MAX_CLASSES + 8
    table = [[10 if row == column else 0 for column in range(count)] for row in range(count)]
    table[3][4], table[3][3] = 6, 4
    top1 = [100.0] * 3 + [40.0] + [100.0] * (count - 4)
    changes = {"classes": [f"c{i}" for i in range(count)], "confusion": table, "class_top1": top1, "num_images": 200}
    results.plan("cnn", distilled=[write_evaluated_run(results, "cnn", "distilled", 0, 97.0, **changes)])
    for heading in ("Top-1 of each class", "Confusion"):
        drawing = draw(results)[heading]
        assert f"{MAX_CLASSES} of {count} classes" in drawing.caption
        assert ">c3<" in drawing.svg and f">c{count - 1}<" not in drawing.svg


def test_mistakes_count_even_if_their_classes_are_not_shown(results):
    """The last 8 of 20 classes have no mistakes and are left out, but mistaking another class for one is named."""
    count = MAX_CLASSES + 8
    table = [[10 if row == column else 0 for column in range(count)] for row in range(count)]
    for row in range(MAX_CLASSES):
        table[row][row], table[row][count - 1], table[row][(row + 1) % MAX_CLASSES] = 6, 3, 1
    top1 = [60.0] * MAX_CLASSES + [100.0] * 8
    changes = {"classes": [f"c{i}" for i in range(count)], "confusion": table, "class_top1": top1, "num_images": 200}
    results.plan("cnn", distilled=[write_evaluated_run(results, "cnn", "distilled", 0, 76.0, **changes)])
    assert f"Largest wrong shares of a class: c0 as c{count - 1} 30.0 %;" in draw(results)["Confusion"].caption


def test_the_confusion_matrix_is_that_of_the_last_stage(results):
    results.plan(
        "cnn", teacher=[write_evaluated_run(results, "cnn", "teacher", 0, 90.0)], distilled=["distilled-net-s0-ab12"]
    )
    assert draw(results)["Confusion"].caption.startswith("Teacher, all seeds")


def test_accuracy_is_drawn_over_parameters_and_latency_of_all_families(results):
    for name in ("cnn", "vit"):
        students = [write_evaluated_run(results, name, "distilled", seed, 90.0 + seed) for seed in range(2)]
        results.plan(name, teacher=[write_evaluated_run(results, name, "teacher", 0, 95.0)], distilled=students)
    drawings = draw_tradeoffs(summaries_of(results))
    assert (
        "cnn teacher 95.00 % at 11.17 M; cnn distilled 90.50 % at 78.0 k; vit"
        in drawings["Accuracy and parameters"].svg
    )
    assert "cnn distilled 90.50 % at 2 ms;" in drawings["Accuracy and latency"].svg
    assert drawings["Accuracy and latency"].caption.endswith("percentile, on NVIDIA H100, bf16.")
    assert all(">vit<" in drawing.svg for drawing in drawings.values()), "families are named where there are several"


def test_latencies_of_two_devices_never_share_a_figure(results):
    names = [write_evaluated_run(results, "cnn", stage, 0, 90.0) for stage in ("teacher", "baseline", "distilled")]
    slow = {"parameters": PARAMETERS["teacher"], "shape": "cd", "device": "a slow processor"}
    results.write(f"teachers/{names[0]}/costs.json", COSTS | slow)
    results.plan("cnn", teacher=names[:1], baseline=names[1:2], distilled=names[2:])
    drawing = draw_tradeoffs(summaries_of(results))["Accuracy and latency"]
    assert "teacher" not in drawing.svg and "cnn baseline 90.00 % at 2 ms" in drawing.svg
    assert "a slow processor" not in drawing.caption


def test_no_line_joins_models_and_a_log_axis_is_labeled(results):
    """A line from the teacher to its students would look like models in between."""
    students = [write_evaluated_run(results, "cnn", stage, 0, 90.0) for stage in ("baseline", "distilled")]
    results.plan(
        "cnn",
        teacher=[write_evaluated_run(results, "cnn", "teacher", 0, 95.0)],
        baseline=students[:1],
        distilled=students[1:],
    )
    drawings = draw_tradeoffs(summaries_of(results))
    for drawing in drawings.values():
        axes = drawing.figure.axes[0]
        assert all(len(line.get_xdata()) == 1 for line in axes.lines)
    parameters = drawings["Accuracy and parameters"].svg
    assert ">parameters, log scale<" in parameters and ">100 k<" in parameters and ">1 M<" in parameters
    assert ">latency of one image (ms)<" in drawings["Accuracy and latency"].svg


@pytest.mark.parametrize("is_same", [True, False])
def test_a_latency_that_is_measured_once_for_both_students_is_no_second_measurement(results, is_same):
    names = [write_evaluated_run(results, "cnn", stage, 0, 90.0) for stage in ("baseline", "distilled")]
    if not is_same:
        results.write(f"cnn/{names[1]}/costs.json", COSTS | {"shape": "cd"})
    results.plan("cnn", baseline=names[:1], distilled=names[1:])
    caption = draw_tradeoffs(summaries_of(results))["Accuracy and latency"].caption
    assert ("its latency is measured once for both" in caption) == is_same


def test_a_share_that_rounds_to_0_has_no_number_in_the_confusion_matrix(results):
    changes = {
        "classes": ["cat", "dog"],
        "confusion": [[199, 1], [3, 197]],
        "class_top1": [99.5, 98.5],
        "num_images": 400,
    }
    results.plan("cnn", distilled=[write_evaluated_run(results, "cnn", "distilled", 0, 99.0, **changes)])
    axes = draw(results)["Confusion"].figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["100", "2", "98"]


def test_numbers_of_the_confusion_matrix_are_as_large_as_labels(results):
    results.plan("cnn", distilled=[write_evaluated_run(results, "cnn", "distilled", 0, 88.0)])
    axes = draw(results)["Confusion"].figure.axes[0]
    assert axes.texts and {text.get_fontsize() for text in axes.texts} == {axes.xaxis.label.get_fontsize()}


@pytest.mark.parametrize("heading", ["Accuracy and parameters", "Accuracy and latency"])
def test_a_cost_figure_without_data_is_left_out(results, heading):
    results.plan("cnn", baseline=[results.run("cnn", "baseline", parameters=None)])
    assert heading not in draw_tradeoffs(summaries_of(results))
