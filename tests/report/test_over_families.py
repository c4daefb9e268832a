"""Methods over families: which cells count, mean gains, ranks and tests, against computations with scipy."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from report_files import summary_of
from scipy.stats import rankdata, wilcoxon
from several_families import write_family

from raykd.report.build import load
from raykd.report.render.families_lines import families_lines
from raykd.report.render.files import OVER_FAMILIES
from raykd.report.stats.over_families import FamiliesComparison
from raykd.report.stats.significance import holm, wilcoxon_test

BASELINE = (80.0, 81.0)
METHODS = {"kd": (81.0, 82.2), "dkd": (83.0, 83.6), "crd": (82.0, 82.9)}


def compared(results) -> FamiliesComparison:
    comparison = load(results.root).over_families
    assert comparison is not None
    return comparison


def write(results, values: Mapping[str, Mapping[str, Sequence[float | None]]]) -> None:
    """Write families. values: {family: {'baseline' or method: top-1 by seed}}; kd is the main method."""
    for family, tops in values.items():
        methods = {name: top1 for name, top1 in tops.items() if name != "baseline"}
        write_family(results, family, tops.get("baseline", BASELINE), methods)


def simulated(num_families: int, num_methods: int = 4, effect: float = 0.5) -> dict[str, dict[str, list[float]]]:
    """Return families of three seeds with methods of increasing effect; noise is shared within a family."""
    generator = np.random.default_rng(num_families)
    names = ("kd", "dkd", "crd", "fitnets", "sp", "at")[:num_methods]
    values = {}
    for number in range(num_families):
        seeds = generator.normal(50 + 2 * number, 0.3, 3)
        rows = {name: seeds + effect * place for place, name in enumerate(("baseline", *names))}
        noise = {name: generator.normal(0, 0.4) + generator.normal(0, 0.1, 3) for name in rows}
        values[f"f{number:02}"] = {name: (row + noise[name]).round(5).tolist() for name, row in rows.items()}
    return values


def means_of(values) -> dict[str, np.ndarray]:
    names = next(iter(values.values()))
    return {name: np.array([np.mean(family[name]) for family in values.values()]) for name in names}


def test_gains_ranks_and_p_values_equal_those_of_scipy(results):
    values = simulated(13)
    write(results, values)
    comparison, means = compared(results), means_of(values)
    assert comparison.counted == comparison.families == tuple(values)
    ranks = dict(zip(means, rankdata([-row for row in means.values()], axis=0).mean(axis=1), strict=True))
    rows = {row.name: row for row in comparison.rows}
    assert {name: row.mean_rank for name, row in rows.items()} == pytest.approx(ranks)
    assert list(rows) == ["baseline", *sorted(means.keys() - {"baseline"}, key=ranks.__getitem__)]
    for reference, others in (("baseline", ["kd", "dkd", "crd", "fitnets"]), ("kd", ["dkd", "crd", "fitnets"])):
        raw = [float(wilcoxon(means[name], means[reference], method="exact").pvalue) for name in others]
        gains = comparison.references()[reference]
        assert set(gains) == set(others)
        for name, p, p_holm in zip(others, raw, holm(raw), strict=True):
            gain, differences = gains[name], means[name] - means[reference]
            assert (gain.p, gain.p_holm) == (pytest.approx(p), pytest.approx(p_holm))
            assert gain.spread.mean == pytest.approx(differences.mean())
            assert (gain.num_better, gain.is_better) == ((differences > 0).sum(), differences.mean() > 0)


def test_a_family_with_a_missing_result_does_not_count_for_any_method(results):
    write(results, {"a": METHODS, "b": METHODS, "c": METHODS | {"crd": (None, None), "dkd": (99.0, 99.9)}})
    comparison = compared(results)
    assert (comparison.families, comparison.counted) == (("a", "b", "c"), ("a", "b"))
    rows = {row.name: row for row in comparison.rows}
    assert rows["dkd"].gain.spread.mean == pytest.approx(2.8) and rows["dkd"].top1["c"].mean == pytest.approx(99.45)
    assert rows["crd"].top1["c"] is None and "c" not in comparison.best
    assert comparison.missing == {"c": ("crd",)}
    lines = families_lines(comparison)
    assert "mean gains, ranks and tests cover 2 of 3 families: a, b" in lines
    assert "without a result: 1 of 12 cells, in c (crd)" in lines


def test_a_method_that_a_family_does_not_compare_has_cells_and_no_mean(results):
    without = {name: tops for name, tops in METHODS.items() if name != "crd"}
    write(results, {"a": METHODS, "b": METHODS, "c": without})
    comparison = compared(results)
    assert comparison.counted == ("a", "b", "c") and comparison.tested == ("kd", "dkd")
    crd = comparison.rows[-1]
    assert (crd.name, crd.mean_rank, crd.gain, crd.main_gain) == ("crd", None, None, None)
    assert crd.top1["a"].mean == pytest.approx(82.45)
    assert [row.mean_rank for row in comparison.rows] == [3.0, 1.0, 2.0, None]
    assert "no mean for crd: it is not compared in c" in families_lines(comparison)


def test_a_method_without_any_result_yet_does_not_hide_the_others(results):
    write(results, {family: METHODS | {"crd": (None, None)} for family in "ab"})
    comparison = compared(results)
    assert comparison.counted == ("a", "b") and comparison.tested == ("kd", "dkd")
    assert comparison.missing == {"a": ("crd",), "b": ("crd",)}


def test_means_within_a_family_use_the_seeds_that_all_methods_have(results):
    write(results, {"a": METHODS, "b": METHODS | {"crd": (82.0, None), "dkd": (83.0, 99.0)}})
    comparison = compared(results)
    rows = {row.name: row for row in comparison.rows}
    assert rows["dkd"].top1["b"].mean == pytest.approx(91.0), "the cell has all seeds"
    assert rows["dkd"].gain.spread.mean == pytest.approx((2.8 + 3.0) / 2), "seed 0 alone in b"
    assert comparison.seeds == {"b": (0,)}
    assert "in b they use the seeds that each of these methods has: 0" in families_lines(comparison)


def test_more_seeds_of_a_method_that_is_not_tested_leave_out_no_seed_of_the_others(results):
    three = {name: (*tops, tops[0]) for name, tops in METHODS.items()}
    tested = {name: (*METHODS[name], None) for name in ("kd", "dkd")} | {"baseline": (*BASELINE, None)}
    write(results, {"a": tested | {"crd": three["crd"]}, "b": tested | {"crd": three["crd"]}, "c": tested})
    comparison = compared(results)
    assert comparison.tested == ("kd", "dkd") and comparison.seeds == {}


def test_one_complete_family_has_cells_and_no_means(results):
    write(results, {"a": METHODS, "b": METHODS | {"kd": (None, None)}})
    comparison = compared(results)
    assert comparison.counted == () and comparison.friedman is None and comparison.references() == {}
    assert all(row.mean_rank is row.gain is None for row in comparison.rows)
    assert families_lines(comparison)[0] == (
        "no mean gains, ranks and tests: they require two families with results of baseline, kd, dkd, crd"
    )


def test_nothing_has_run_yet(results):
    nothing = dict.fromkeys(("baseline", *METHODS), (None, None))
    write(results, {"a": nothing, "b": nothing})
    comparison = compared(results)
    assert comparison.tested == () and comparison.counted == ()
    assert "without a result: 8 of 8 cells" in families_lines(comparison)[1]


def test_one_seed_is_enough(results):
    write(results, {f: {name: (tops[0],) for name, tops in METHODS.items()} | {"baseline": (80.0,)} for f in "abcdef"})
    comparison = compared(results)
    assert [row.mean_rank for row in comparison.rows] == [4.0, 1.0, 2.0, 3.0]
    assert comparison.rows[1].top1["a"].std is None
    assert {gain.p for gain in comparison.references()["baseline"].values()} == {2 / 64}


def test_equal_means_tie_and_have_no_gain(results):
    """0.1 + 0.2 and 0.3 are equal here: seeds in another order have the same mean."""
    tied = {"kd": (80.1, 80.2, 80.3), "dkd": (80.3, 80.1, 80.2), "baseline": (80.2, 80.3, 80.1)}
    write(results, dict.fromkeys("abcdef", tied))
    comparison = compared(results)
    assert {row.mean_rank for row in comparison.rows} == {2.0}
    assert comparison.friedman is None
    gain = comparison.rows[1].gain
    assert (gain.spread.mean, gain.num_better, gain.p, gain.p_holm) == (0.0, 0, 1.0, 1.0)
    assert comparison.best["a"] == {"baseline", "kd", "dkd"}


def test_the_main_method_is_a_reference_only_if_all_families_have_the_same(results):
    write(results, {"a": METHODS, "b": METHODS})
    assert compared(results).main == "kd"
    write(results, {"b": {name: METHODS[name] for name in ("dkd", "kd", "crd")}})
    comparison = compared(results)
    assert comparison.main is None and list(comparison.references()) == ["baseline"]


def test_families_without_methods_in_common_have_no_table(results):
    write(results, {"a": {"kd": (81.0,), "dkd": (82.0,)}})
    assert load(results.root).over_families is None
    write(results, {"b": {"kd": (81.0,), "crd": (82.0,)}})
    assert load(results.root).over_families is None, "one method in common"
    write(results, {"c": {"kd": (81.0,), "dkd": (82.0,)}})
    comparison = compared(results)
    assert (comparison.families, comparison.left_out) == (("a", "c"), ("b",))
    line = "not in this table, because they compare fewer than two of its methods: b"
    assert line in families_lines(comparison)


def test_a_family_whose_students_are_linear_probes_does_not_count_without_probes_as_baselines(results):
    write(results, dict.fromkeys("abc", METHODS))
    for path in (results.root / "c").glob("distilled-*/test.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"probe_penalty": 0.1}))
    comparison = compared(results)
    assert comparison.counted == ("a", "b") and comparison.missing == {"c": ("baseline",)}


def test_too_few_families_have_no_p_values_and_say_so(results):
    write(results, simulated(5))
    comparison = compared(results)
    assert not comparison.has_tests
    assert (
        "no signed-rank test of 5 families can reach p < 0.05, so none is shown: the smallest possible p is 0.062, and "
        "6 families are required"
    ) in families_lines(comparison)


def test_few_families_say_how_many_the_correction_requires(results):
    """2^-6 x 4 is above 0.05, and 2^-7 x 4 is not."""
    write(results, simulated(6))
    lines = families_lines(compared(results))
    assert "the smallest of 4 Holm p can be below 0.05 only with 8 families or more" in lines
    write(results, simulated(8))
    assert not [line for line in families_lines(compared(results)) if "or more" in line]


def test_the_text_names_methods_that_differ_from_each_reference(results):
    values = simulated(9, 3, effect=1.5)
    write(results, values | {name: family | {"crd": [40.0, 40.1, 40.2]} for name, family in values.items()})
    lines = families_lines(compared(results))
    assert "over baseline: Holm p is below 0.05 for dkd, kd (better); crd (worse)" in lines
    assert "over kd: Holm p is below 0.05 for dkd (better); crd (worse)" in lines


def test_shared_teachers_students_and_data_are_counted(results):
    for family, teacher, student, data in (
        ("a", "resnet18", "resnet8", "cifar10"),
        ("b", "resnet18", "vgg8", "cifar10"),
        ("c", "resnet34", "resnet8", "digits"),
    ):
        write_family(results, family, BASELINE, METHODS, teacher=(teacher, 95.0), student=student, data=data)
    comparison = compared(results)
    assert (comparison.num_teachers, comparison.num_students) == (2, 2)
    assert families_lines(comparison)[-3:] == [
        "3 families have 2 teachers, 2 student networks and 2 data sets",
        "tests assume independent families; those that share one of these are not, so p may be too small",
        "gains on different data sets (cifar10, digits) are not commensurable; ranks are",
    ]


def test_hyperparameters_that_differ_are_named_with_their_families(results):
    pairs = {"a": ("vgg13:vgg8", 6.0), "b": ("resnet56:resnet20", 2.0), "c": ("resnet110:resnet32", 2.0)}
    for family, (published, beta) in pairs.items():
        settings: dict[str, dict[str, Any]] = {"dkd": {"beta": beta}, "crd": {"weight": 0.8 if family == "a" else 1.0}}
        write_family(results, family, BASELINE, METHODS, settings=settings, published=published)
    lines = families_lines(compared(results))
    assert "the published beta of dkd for each pair of networks is 6.0 (a), else 2.0" in lines
    assert "not the same method in all families: crd with weight 0.8 (a), else 1.0" in lines
    assert "no mean for crd: it is not compared in a" in lines


def test_the_summary_has_the_table_and_the_tests(results):
    write(results, simulated(13))
    values = summary_of(results.root)[OVER_FAMILIES]
    assert [row["method"] for row in values["rows"]] == ["baseline", "fitnets", "crd", "dkd", "kd"]
    best = values["rows"][1]
    assert best["top1"]["f00"]["num_runs"] == 3 and best["gain"]["num_families"] == 13
    assert best["gain"]["p"] == 2 / 2**13 and best["gain"]["p_holm"] == pytest.approx(4 * 2 / 2**13)
    assert best["main_gain"]["p_holm"] < 0.05 and values["main"] == "kd"
    assert values["friedman"]["p"] < 0.05 and values["counted"] == values["families"]
    assert values["rows"][0]["gain"] is None


def test_the_summary_of_other_reports_does_not_change(results):
    results.family("cnn", [95.0], [87.0], [88.0])
    results.family("vit", [95.0], [87.0], [88.0])
    assert list(summary_of(results.root)) == ["cnn", "vit"]
    write(results, {"a": METHODS})
    assert list(summary_of(results.root)) == ["a", "cnn", "vit"]


def test_signed_rank_tests_with_holm_control_errors_where_no_method_has_an_effect():
    """500 experiments of 13 families and 5 methods that share a baseline, with noise of other sizes in each family."""
    generator = np.random.default_rng(17)
    rejected = raw = 0
    for _ in range(500):
        means = generator.normal(0, 0.3, (6, 13)) * generator.uniform(0.2, 2.0, 13)
        p_values = [wilcoxon_test((row - means[0]).tolist()) for row in means[1:]]
        raw += min(p_values) < 0.05
        rejected += min(p for p in holm(p_values) if p is not None) < 0.05
    assert raw / 500 > 0.1
    assert rejected / 500 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 500)
