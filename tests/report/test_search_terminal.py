"""The text of a search for a Slurm log: no colors, at most 100 columns."""

from typing import Any

import pytest
from search_folders import SPACE, Outcome, finished_search, learning_curve, make_search

from raykd.report.build import load
from raykd.report.render.terminal import render_search, render_text
from raykd.spec.search import Search, choice
from raykd.store.study import SearchFolder


def test_the_whole_text_of_a_small_search(tmp_path):
    space = {"method.alpha": choice(0.1, 0.5, 0.9), "method.temperature": choice(2, 4)}
    search = Search(space=space, sampler="grid", trials=4, grace_epochs=3, confirm=1)
    outcomes = [
        Outcome("done", learning_curve(85.0, 9), seconds=90.0),
        Outcome("pruned", learning_curve(80.0, 3)),
        Outcome("failed", reason="loss kd is NaN at epoch 3"),
        Outcome("done", learning_curve(85.5, 9), seconds=90.0),
    ]
    example = make_search(tmp_path, search, lambda trial: outcomes[trial.number], gpus=1.0)
    example.confirm({None: [86.0, 86.0, 86.0], 0: [86.5, 87.0, 87.5]}, [84.0, 85.0, 86.0])
    summary = example.summary()
    assert (
        render_search(summary)
        == f"""\
search cnn/search: done; 4 of 4 trials ended: 2 done, 1 pruned, 1 failed
The best configuration is that of trial 0: alpha 0.1, temperature 2, validation top-1 87.00 ± 0.50 %
  over 3 seeds.
+-------+-------+-------------+--------+--------+-----------+------------+
| trial | alpha | temperature | state  | epochs |  val_top1 |       time |
+-------+-------+-------------+--------+--------+-----------+------------+
|     3 |   0.5 |           4 | done   | 9 of 9 |   85.50 % | 1 min 30 s |
|     0 |   0.1 |           2 | done   | 9 of 9 |   85.00 % | 1 min 30 s |
|     1 |   0.1 |           4 | pruned | 3 of 9 | (66.67 %) |    ~30.0 s |
|     2 |   0.5 |           2 | failed | 0 of 9 |         - |          - |
+-------+-------+-------------+--------+--------+-----------+------------+
trial 2 failed: loss kd is NaN at epoch 3
confirmed with seeds 0, 1, 2
+-------------+--------------------------+----------------+--------+
| from        | configuration            |       val_top1 |        |
+-------------+--------------------------+----------------+--------+
| the default | alpha 0.5, temperature 4 | 86.00 ± 0.00 % |        |
| trial 0     | alpha 0.1, temperature 2 | 87.00 ± 0.50 % | winner |
| baseline    | no teacher               | 85.00 ± 1.00 % |        |
+-------------+--------------------------+----------------+--------+
Winner against the baseline, trained with the same recipe: +2.00 points [+0.21, +3.79]; the winner
  is better at n = 3; 3 of 3 seeds in favor of the winner.
Winner against the default configuration: +1.00 points [-0.24, +2.24]; not distinguishable at n = 3;
  3 of 3 seeds in favor of the winner.
It was selected from 2 configurations with these seeds, the default included, so the interval of its
  gain over the baseline is widened for 2, and over the default configuration for 1 (Bonferroni).
The trials trained 21 epochs in all, which took 210 GPU seconds (3 min 30 s) with 1 GPU per trial.
The time of 1 of 3 trials is estimated as epochs times a measured pace: they recorded no end.
Pruning trials saved 6 epochs, about 60.0 GPU seconds.
The teacher's logits were cached; live, the trials would have made 21 passes of the teacher over
  each image.
to train it: --set search=none --set method.alpha=0.1 --set method.temperature=2
page: {summary.page}
"""
    )


def test_no_more_than_twenty_trials_are_shown_best_first_and_reasons_once(tmp_path):
    search = Search(space=SPACE, trials=32, sampler="random", scheduler="none", confirm=0)

    def outcome_of(trial) -> Outcome:
        if trial.number >= 29:
            return Outcome("failed", reason="no more memory\x1b[31m")
        return Outcome("done", [50.0 + trial.number])

    text = render_search(make_search(tmp_path, search, outcome_of).summary())
    rows = [line for line in text.splitlines() if line.startswith("| ") and "done" in line]
    assert [row.split()[1] for row in rows] == [str(number) for number in range(28, 8, -1)]
    assert "... and 12 more in trials.csv" in text
    assert "trials 29, 30, 31 failed: no more memory [31m\n" in text
    assert "\x1b" not in text


def test_unfinished_trials_are_in_training_while_the_search_runs(tmp_path):
    search = Search(space=SPACE, trials=8, grace_epochs=1)
    example = make_search(tmp_path, search, lambda _: Outcome("running", [10.0, 20.0]), num_trials=1)
    with SearchFolder(example.path).lock():
        running = render_search(example.summary())
    interrupted = render_search(example.summary())
    assert "search cnn/search: running; 0 of 8 trials ended" in running
    assert "| in training | 2 of 9 | (20.00 %) |" in running
    assert "search cnn/search: interrupted; 0 of 8 trials ended" in interrupted
    assert "| interrupted | 2 of 9 | (20.00 %) |" in interrupted


@pytest.mark.parametrize("num_fields", [2, 6])
def test_no_line_is_wider_than_a_hundred_columns_and_latin_1_holds_it(tmp_path, num_fields):
    more = {f"student.optimizer.a_rather_long_name_{field}": choice(0.123456, 1) for field in range(num_fields - 2)}
    search = Search(space=SPACE | more, trials=3, sampler="random", scheduler="none", confirm=1)
    default_configuration = {"method.alpha": 0.5, "method.temperature": 4.0, **dict.fromkeys(more, 1)}
    example = make_search(
        tmp_path, search, lambda t: Outcome("done", [80.0 + t.number]), default_configuration=default_configuration
    )
    example.confirm({None: [85.0, 86.0, 87.0], 2: [86.0, 87.5, 87.5]}, [80.0, 82.0, 81.0])
    text = render_search(example.summary())
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith(("page:", "to train it:")))
    text.encode("latin-1")


def test_the_report_prints_searches_after_the_families(tmp_path):
    finished_search(tmp_path)
    report = load(tmp_path)
    text = render_text(report)
    assert text.index("missing: teacher-s0: not started") < text.index("search cnn/search: done;")
    assert text.endswith(f"page: {report.searches[0].page}\n\nreport: {report.page}\n")
    assert render_search(report.searches[0]) in text


def test_long_fields_are_broken_after_underscores_or_share_one_column(tmp_path):
    space = {"student.optimizer.weight_decay": choice(1e-4, 1e-3), "student.label_smoothing": choice(0.0, 0.1)}
    default = {"student.optimizer.weight_decay": 1e-4, "student.label_smoothing": 0.0}

    def text_of(metrics: tuple[str, ...], more: dict[str, Any]) -> str:
        search = Search(space=space | more, metric=metrics, trials=2, sampler="random", scheduler="none", confirm=0)
        outcome = Outcome("done", [50.0], values=[50.0, 1.25, 270_000.0][: len(metrics)])
        root = tmp_path / f"{len(metrics)}"
        return render_search(make_search(root, search, lambda _: outcome, default | dict.fromkeys(more, 1)).summary())

    few = text_of(("val_top1",), {})
    assert "|       | weight_ |    label_ |" in few and "| trial |   decay | smoothing |" in few
    many = text_of(
        ("val_top1", "latency_ms", "parameters"),
        {"student.gradient_accumulation": choice(1, 2), "student.optimizer.momentum": choice(0.0, 1)},
    )
    assert "| trial | configuration " in many and "gradient_accumulation" in many
    assert max(len(line) for line in many.splitlines() if line.startswith(("|", "+"))) <= 100
