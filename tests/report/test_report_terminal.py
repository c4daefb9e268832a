"""The report as text for a Slurm log: no colors, no line wider than the table, every result."""

import pytest

from raykd.report import wording
from raykd.report.build import load
from raykd.report.render.terminal import WIDTH, render_text
from raykd.report.stats.paired_interval import Pair, paired_gain


def test_the_whole_text_of_a_small_family(results):
    results.family("cnn", [95.0], [87.0, 88.0, 89.0], [88.5, 89.0, 90.0])
    report = load(results.root)
    assert (
        render_text(report)
        == f"""\
cnn
+-----------+----------+--------+----------------+--------+------------+--------------+
| stage     | model    | method | test top-1 (%) |      n | parameters | time per run |
+-----------+----------+--------+----------------+--------+------------+--------------+
| teacher   | resnet18 | ce     |          95.00 | 1 of 1 |    11.17 M |   1 min 00 s |
| baseline  | resnet8  | ce     |   88.00 ± 1.00 | 3 of 3 |     78.0 k |   1 min 00 s |
| distilled | resnet8  | kd     |   89.17 ± 0.76 | 3 of 3 |     78.0 k |   1 min 00 s |
+-----------+----------+--------+----------------+--------+------------+--------------+
gain: +1.17 points [+0.45, +1.88]; distilled is better at n = 3; 3 of 3 seeds in favor of distillation

report: {report.page}
"""
    )


def test_missing_results_and_warnings_are_listed_in_latin_1(two_families):
    text = render_text(two_families)
    assert "gain: +1.00 points; one seed: no interval; 1 of 1 seed in favor of distillation" in text
    assert "missing: baseline-net-s1-ab12: not evaluated" in text
    assert "missing: baseline-net-s2-ab12: failed: <script>alert(1)</script> & [31mred second line" in text
    assert "warning: the students' runs differ in versions.torch" in text
    assert "\x1b" not in text
    assert all(len(line) <= WIDTH for line in text.splitlines() if line.startswith(("|", "+")))


def test_names_in_square_brackets_are_not_markup(results):
    results.plan("[bold]x", teacher=[results.run("[bold]x", "teacher", model="[red]net[/red]")])
    text = render_text(load(results.root))
    assert "[bold]x" in text
    assert "[red]net[/red]" in text
    assert "gain: no seed has both a baseline and a distilled result yet" in text


def test_the_text_can_be_encoded_in_latin_1(two_families):
    render_text(two_families).encode("latin-1")


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (None, "-"),
        (0.25, "0.25"),
        (0.0164, "0.016"),
        (0.0004, "<0.001"),
        (0.0496, "0.0496"),
        (0.2, "0.20"),
        (0.006, "0.0060"),
        (0.05, "0.050"),
        (1.0, "1.0"),
    ],
)
def test_a_p_value_is_never_rounded_over_the_level(p, text):
    assert wording.p_value(p) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(512, "512"), (2_081_000, "2.08 M"), (506_865_664, "507 M"), (999_600_000, "1 G"), (1_113_000_000, "1.11 G")],
)
def test_flops_have_three_digits_and_a_unit_that_fits(count, text):
    assert wording.flops(count) == text


def test_exact_tests_state_that_three_seeds_cannot_reach_5_percent(results):
    results.family("cnn", [95.0], [87.0, 88.0, 89.0], [88.5, 89.0, 90.0])
    assert (
        "exact tests of the gain in top-1, two-sided: sign p = 0.25, permutation p = 0.25\n"
        "the smallest possible p of these at n = 3 is 0.25; p < 0.05 requires 6 seeds\n"
    ) in render_text(load(results.root), in_full=True)
    many = paired_gain([Pair(seed, 80.0, 81.0 + 0.1 * seed) for seed in range(12)])
    assert wording.exact_tests(many) == [
        "exact tests of the gain in top-1, two-sided: sign p < 0.001, permutation p < 0.001",
        "the smallest possible p of these at n = 12 is <0.001",
    ]
