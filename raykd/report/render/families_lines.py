"""The sentences under a table of methods over families: what its numbers cover, which tests exist, what they assume."""

from collections.abc import Iterator, Mapping

from raykd.errors import flattened, plural
from raykd.report.render.comparison_lines import below_level, listed
from raykd.report.stats.over_families import BASELINE, FamiliesComparison
from raykd.report.stats.significance import LEVEL, fewest_pairs, p_equals, p_value, smallest_p


def lines_with_bold(comparison: FamiliesComparison) -> list[str]:
    """Return `families_lines` after the sentence on bold numbers, if there are any. The terminal has none."""
    bold = ["bold: the best of the baseline and the methods with a mean rank in a family"] if comparison.best else []
    return [*bold, *families_lines(comparison)]


def families_lines(comparison: FamiliesComparison) -> list[str]:
    """Return the sentences, each with one idea, without capitals and full stops."""
    return [
        *_about_coverage(comparison),
        *_about_missing(comparison),
        *(_about_tests(comparison) if comparison.counted else ()),
        *_about_hyperparameters(comparison),
        *_about_families(comparison),
    ]


def _about_coverage(comparison: FamiliesComparison) -> Iterator[str]:
    """Yield which families the means, ranks and tests cover."""
    num_counted, num_families = len(comparison.counted), len(comparison.families)
    if not comparison.tested:
        yield "no mean gains, ranks and tests: no method with a result is compared by all of these families"
    elif not num_counted:
        yield (
            f"no mean gains, ranks and tests: they require two families with results of {BASELINE}, "
            f"{listed(comparison.tested)}"
        )
    else:
        some = f"{num_counted} of {num_families} families: {listed(comparison.counted)}"
        covered = f"all {num_families} families" if num_counted == num_families else some
        yield f"mean gains, ranks and tests cover {covered}"
        others = len(comparison.tested)
        yield f"a mean rank is that among baseline and {plural(others, 'method')} in each family; 1 is the best"
    for family, seeds in comparison.seeds.items():
        yield f"in {flattened(family)} they use the seeds that each of these methods has: {listed(seeds)}"


def _about_missing(comparison: FamiliesComparison) -> Iterator[str]:
    """Yield how many results are missing and where, and which methods and families have no means."""
    num_missing = sum(map(len, comparison.missing.values()))
    if num_missing:
        absent = sum(map(len, comparison.not_planned.values()))
        planned = len(comparison.families) * len(comparison.rows) - absent
        where = "; ".join(f"{flattened(family)} ({listed(names)})" for family, names in comparison.missing.items())
        yield f"without a result: {num_missing} of {planned} cells, in {where}"
    for method, families in comparison.not_planned.items():
        yield f"no mean for {flattened(method)}: it is not compared in {listed(families)}"
    if comparison.left_out:
        yield f"not in this table, because they compare fewer than two of its methods: {listed(comparison.left_out)}"


def _about_tests(comparison: FamiliesComparison) -> Iterator[str]:
    """Yield the verdicts, and how many families those that are missing require."""
    num_families, friedman = len(comparison.counted), comparison.friedman
    if friedman is not None:
        ranked = f"{BASELINE} and {plural(len(comparison.tested), 'method')}"
        verdict = "not all are alike" if friedman.is_distinguishable else "they are not distinguishable"
        f = "" if friedman.f is None else f"Iman-Davenport F = {friedman.f:.3g}, "
        p = f"{p_equals('p', friedman.p)} by permutation"
        yield f"Friedman's test of {ranked} over {num_families} families: {verdict}, {f}{p}"
    if not comparison.has_tests:
        yield (
            f"no signed-rank test of {num_families} families can reach p < {LEVEL:g}, so none is shown: the smallest "
            f"possible p is {p_value(smallest_p(num_families))}, and {fewest_pairs()} families are required"
        )
        return
    yield "Holm p: exact Wilcoxon signed-rank tests over families, corrected for all methods in the column"
    for reference, gains in comparison.references().items():
        differing = {name: gain.is_better for name, gain in gains.items() if gain.differs}
        yield f"over {flattened(reference)}: {below_level(differing)}"
    required = fewest_pairs(LEVEL / len(comparison.tested))
    if num_families < required:
        yield (
            f"the smallest of {len(comparison.tested)} Holm p can be below {LEVEL:g} only with {required} families or "
            "more"
        )


def _about_hyperparameters(comparison: FamiliesComparison) -> Iterator[str]:
    """Yield where hyperparameters differ between families."""
    for row in comparison.rows:
        for field, by_family in row.per_pair.items():
            of_method = f"{flattened(field)} of {flattened(row.name)}"
            yield f"the published {of_method} for each pair of networks is {_by_value(by_family)}"
    for method, fields in comparison.different.items():
        values = "; ".join(f"{flattened(field)} {_by_value(by_family)}" for field, by_family in fields.items())
        yield f"not the same method in all families: {flattened(method)} with {values}"


def _by_value(by_family: Mapping[str, str]) -> str:
    """Return '6.0 (c), 2.0 (d), else 8.0': the most frequent value last."""
    families: dict[str, list[str]] = {}
    for family, value in by_family.items():
        families.setdefault(value, []).append(family)
    *others, (most_frequent, _) = sorted(families.items(), key=lambda item: len(item[1]))
    return ", ".join(
        [*(f"{flattened(value)} ({listed(names)})" for value, names in others), f"else {flattened(most_frequent)}"]
    )


def _about_families(comparison: FamiliesComparison) -> Iterator[str]:
    """Yield what the families have in common, which the tests ignore."""
    count, data_sets = len(comparison.families), comparison.data_sets
    if min(comparison.num_teachers, comparison.num_students, len(data_sets)) < count:
        yield (
            f"{count} families have {plural(comparison.num_teachers, 'teacher')}, "
            f"{plural(comparison.num_students, 'student network')} and {plural(len(data_sets), 'data set')}"
        )
        if comparison.counted:
            yield "tests assume independent families; those that share one of these are not, so p may be too small"
    if len(data_sets) > 1:
        yield f"gains on different data sets ({listed(data_sets)}) are not commensurable; ranks are"
