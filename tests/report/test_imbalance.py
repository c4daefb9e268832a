"""Class counts, balanced accuracy and macro-F1 of data with unequal classes, against scikit-learn."""

import numpy as np
import pytest
from evaluated_folders import metrics, sha256_of
from report_files import summary_of
from sklearn.metrics import balanced_accuracy_score, f1_score

from raykd.report.build import build, load
from raykd.report.render.terminal import render_text
from raykd.report.stats.imbalance import balanced_accuracy, macro_f1

UNEQUAL = [[40, 10], [15, 5]]  # 50 cats and 20 dogs
EQUAL = [[15, 5], [5, 15]]


def of(confusion: list[list[int]]) -> dict[str, object]:
    """Return the fields of test.json or val.json for a confusion matrix."""
    return metrics(50.0, num_images=sum(map(sum, confusion)), confusion=confusion, class_top1=[], reliability=None)


def write_family(results, test: list[list[int]], val: list[list[int]]) -> None:
    """Write a teacher, two baselines and two distilled students with these matrices; seed 1 has two mistakes less."""
    better = [[test[0][0] + 2, test[0][1] - 2], test[1]]
    runs = {}
    for stage, seeds in {"teacher": (0,), "baseline": (0, 1), "distilled": (0, 1)}.items():
        runs[stage] = [results.run("cnn", stage, seed, 50.0, metrics=of(better if seed else test)) for seed in seeds]
        for name in runs[stage]:
            folder = "teachers" if stage == "teacher" else "cnn"
            sha256 = sha256_of(name.encode())
            results.write(f"{folder}/{name}/val.json", {"top1": 50.0, "weights_sha256": sha256, **of(val)})
    results.plan("cnn", **runs)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(3))
def test_the_metrics_are_those_of_scikit_learn(seed):
    """Also for a class that is predicted and has no images, and for one that is neither."""
    generator = np.random.default_rng(seed)
    labels = generator.choice([0, 1, 2, 4], 300, p=[0.6, 0.3, 0.05, 0.05])
    predicted = np.where(generator.random(300) < 0.6, labels, generator.choice([0, 1, 2, 3], 300))
    confusion = np.zeros((6, 6), int)
    np.add.at(confusion, (labels, predicted), 1)
    assert macro_f1(confusion.tolist()) == pytest.approx(100 * f1_score(labels, predicted, average="macro"))
    assert balanced_accuracy(confusion.tolist()) == pytest.approx(100 * balanced_accuracy_score(labels, predicted))


def test_unequal_test_classes_have_balanced_metrics_on_the_page_the_terminal_and_in_the_summary(results):
    write_family(results, UNEQUAL, EQUAL)
    report = build(results.root)
    page = " ".join(report.page.read_text(encoding="utf-8").split())
    assert "Images per class: validation 20 to 20; test 20 to 50." in page
    assert '<th scope="row">cat</th><td class="number">20</td><td class="number">50</td>' in page
    assert (
        '<th scope="row">balanced accuracy (%) \N{UPWARDS ARROW}</th><td class="number" data-label="teacher">52.50</td>'
        in page
    )
    text = render_text(report, in_full=True)
    assert "| balanced accuracy (%) |" in text and "| macro-F1 (%) " in text
    imbalance = summary_of(results.root)["cnn"]["imbalance"]
    assert imbalance["counts"] == {"validation": [20, 20], "test": [50, 20]}
    assert imbalance["spreads"]["balanced_accuracy"]["baseline"]["mean"] == pytest.approx((52.5 + 54.5) / 2)
    assert imbalance["gains"]["balanced_accuracy"]["spread"]["mean"] == 0


def test_unequal_validation_classes_show_unequal_training_classes(results):
    write_family(results, EQUAL, UNEQUAL)
    assert summary_of(results.root)["cnn"]["imbalance"]["counts"]["validation"] == [50, 20]


def test_equal_classes_have_no_balanced_metrics(results):
    write_family(results, EQUAL, EQUAL)
    assert summary_of(results.root)["cnn"]["imbalance"] is None
    assert "balanced accuracy" not in render_text(load(results.root), in_full=True)


def test_a_small_validation_split_is_not_unequal_by_rounding(results):
    """One image of one class and none of the other may be all that a balanced data set holds out."""
    write_family(results, EQUAL, [[0, 1], [0, 0]])
    assert summary_of(results.root)["cnn"]["imbalance"] is None
