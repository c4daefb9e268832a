"""Methods over families: the table of the distillation papers, with methods as rows and pairs of networks as columns.

A family is the unit: its value of a method is the mean test top-1 over seeds. Means, ranks and tests cover the
families in which the baseline and every tested method have a result (a complete block). The tested methods are those
that all families compare. Within such a family, values are means over the seeds that all of these methods have.

    mean gain  mean over families of method - baseline, and of method - main method if all families have the same one
    mean rank  mean over families of the rank among the baseline and the tested methods; 1 is the best, ties share
    F, p       Friedman's test of all of them, see friedman.py
    p, p_holm  exact Wilcoxon signed-rank tests (significance.py) of each method against the baseline, and against the
               main method, each set corrected by Holm

The tests are those of Demsar 2006 (JMLR 7, 1-30), with two changes. His tests after Friedman's compare mean ranks
(Nemenyi, Bonferroni-Dunn), so whether a differs from b depends on the other methods of the table; Benavoli, Corani and
Mangili 2016 (JMLR 17, 5) advise against them, in favor of signed-rank tests, which read a and b alone. The
critical-difference diagrams of recent benchmarks use these with Holm's correction (Ismail Fawaz et al. 2019,
doi:10.1007/s10618-019-00619-1). Second, no test is against the best method: it is selected with the tested values, so
it would need the correction for all pairs, for which 13 methods require 12 families. Baseline and main method must
be chosen before. autorank (Herbold 2020, doi:10.21105/joss.02173) chooses a t-test or Nemenyi's by tests of normality,
which have no power for so few families. The Bayesian signed-rank test (Benavoli et al. 2017, JMLR 18, 77) requires a
difference that counts as none, which depends on the application.

The p-values hold if families are drawn independently. Families that share a teacher, a student network or a data set
are not, so num_teachers, num_students and data_sets are shown beside them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

from raykd.report.stats.comparison import Comparison, MethodSummary
from raykd.report.stats.friedman import Friedman, friedman_test
from raykd.report.stats.paired_interval import Spread, spread_of
from raykd.report.stats.pooled import are_evaluated_alike
from raykd.report.stats.same_methods import SameMethod, ValuesByFamily, different_methods, same_methods
from raykd.report.stats.significance import LEVEL, fewest_pairs, holm, signed_ranks, wilcoxon_test
from raykd.report.stats.summary import FamilySummary

BASELINE = "baseline"
DECIMALS = 9  # of a percentage: means of the same accuracies in another order differ by rounding, and are ties here


@dataclass(frozen=True)
class FamiliesGain:
    """A gain in percentage points over families. p_holm: corrected for all methods with the same reference.

    num_better: families with a gain above 0. is_better: whether the ranks of the gains above 0 prevail, which decides
    the side of a test.
    """

    spread: Spread
    num_better: int
    is_better: bool
    p: float
    p_holm: float

    @property
    def differs(self) -> bool:
        """Whether the method differs from the reference after Holm's correction."""
        return self.p_holm < LEVEL


@dataclass(frozen=True)
class FamiliesRow:
    """A method or the baseline. top1: in percent on the test split, by family; None where there is no result.

    mean_rank, gain, main_gain: over the families that count; None for a method that is not tested. gain is over the
    baseline, main_gain over the main method. per_pair: see SameMethod.
    """

    name: str
    top1: Mapping[str, Spread | None]
    mean_rank: float | None = None
    gain: FamiliesGain | None = None
    main_gain: FamiliesGain | None = None
    per_pair: ValuesByFamily = field(default_factory=dict)


@dataclass(frozen=True)
class FamiliesComparison:
    """Methods over `families`; `counted` are those of the means, ranks and tests, () if there are fewer than two.

    rows: the baseline, then methods by mean rank, then those that are not tested. tested: names of the tested methods.
    best: {family: names of the rows with the highest value}, for families that count. main: the tested method that is
    the main one of every family. seeds: {family: the seeds of its values} where some seeds are left out. missing:
    {family: rows that are planned there and have no result}. not_planned: {method: families that do not compare it}.
    different: see `different_methods`. left_out: families that compare fewer than two of these methods.
    """

    families: tuple[str, ...]
    counted: tuple[str, ...]
    teachers: Mapping[str, Spread | None]
    rows: tuple[FamiliesRow, ...]
    tested: tuple[str, ...]
    best: Mapping[str, frozenset[str]]
    main: str | None
    friedman: Friedman | None
    seeds: Mapping[str, tuple[int, ...]]
    missing: Mapping[str, tuple[str, ...]]
    not_planned: Mapping[str, tuple[str, ...]]
    different: Mapping[str, ValuesByFamily]
    left_out: tuple[str, ...]
    num_teachers: int
    num_students: int
    data_sets: tuple[str, ...]

    @property
    def has_tests(self) -> bool:
        """Whether there are enough families for a p-value below 0.05 of one signed-rank test."""
        return len(self.counted) >= fewest_pairs()

    def references(self) -> dict[str, dict[str, FamiliesGain]]:
        """Return {reference: {method: gain over it}}, for the baseline and then the main method."""
        gains = {
            BASELINE: {row.name: row.gain for row in self.rows if row.gain},
            self.main: {row.name: row.main_gain for row in self.rows if row.main_gain},
        }
        return {name: of_rows for name, of_rows in gains.items() if name is not None and of_rows}


@dataclass(frozen=True)
class _Block:
    """Values {baseline or method: {family: {seed: top-1}}}, and the part of them that means, ranks and tests use.

    seeds: {family: the seeds that the baseline and all tested methods have}.
    """

    values: Mapping[str, Mapping[str, Mapping[int, float]]]
    tested: tuple[str, ...]
    seeds: Mapping[str, tuple[int, ...]]

    @cached_property
    def counted(self) -> tuple[str, ...]:
        families = tuple(family for family, seeds in self.seeds.items() if seeds)
        return families if self.tested and len(families) > 1 else ()

    @property
    def incomplete_seeds(self) -> dict[str, tuple[int, ...]]:
        """`seeds` of the families that count where the baseline or a tested method has other seeds too."""
        known = {
            family: {seed for name in (BASELINE, *self.tested) for seed in self.values[name][family]}
            for family in self.counted
        }
        return {family: self.seeds[family] for family, seeds in known.items() if seeds != {*self.seeds[family]}}

    @cached_property
    def means(self) -> dict[str, list[float]]:
        """{baseline or tested method: its mean in each family that counts}."""
        return {
            name: [
                round(fmean(self.values[name][family][seed] for seed in self.seeds[family]), DECIMALS)
                for family in self.counted
            ]
            for name in (BASELINE, *self.tested)
        }

    @property
    def _by_family(self) -> list[tuple[float, ...]]:
        """`means` as [family][baseline or tested method]."""
        return list(zip(*self.means.values(), strict=True))

    @cached_property
    def ranks(self) -> list[list[float]]:
        """[family][baseline or tested method]."""
        from scipy.stats import rankdata

        return [rankdata([-mean for mean in means]).tolist() for means in self._by_family]

    @property
    def mean_ranks(self) -> dict[str, float]:
        by_method = zip(*self.ranks, strict=True)
        return {name: fmean(ranks) for name, ranks in zip(self.means, by_method, strict=False)}

    @property
    def best(self) -> dict[str, frozenset[str]]:
        return {
            family: frozenset(name for name, mean in zip(self.means, means, strict=True) if mean == max(means))
            for family, means in zip(self.counted, self._by_family, strict=True)
        }

    def gains(self, reference: str | None) -> dict[str, FamiliesGain]:
        """Return the gain of each tested method over `reference`; {} while no family counts."""
        if reference is None or not self.counted:
            return {}
        differences = {
            name: [round(own - other, DECIMALS) for own, other in zip(means, self.means[reference], strict=True)]
            for name, means in self.means.items()
            if name not in (reference, BASELINE)
        }
        p_values = [wilcoxon_test(of_method) for of_method in differences.values()]
        return {
            name: _gain(of_method, p, p_holm)
            for (name, of_method), p, p_holm in zip(differences.items(), p_values, holm(p_values), strict=True)
        }


def compare_families(summaries: Sequence[FamilySummary]) -> FamiliesComparison | None:
    """Return the methods over families; None unless two families compare at least two methods in common."""
    comparing = [summary for summary in summaries if summary.comparison is not None]
    methods, shown = _in_common(comparing)
    if not shown:
        return None
    block = _block(methods, shown)
    main = _main(methods, shown, block.tested)
    names = tuple(summary.name for summary in shown)
    return FamiliesComparison(
        families=names,
        counted=block.counted,
        teachers={summary.name: summary.stage("teacher").top1 for summary in shown},
        rows=_rows(methods, block, main),
        tested=block.tested,
        best=block.best,
        main=main,
        friedman=friedman_test(block.ranks),
        seeds=block.incomplete_seeds,
        missing={family: missing for family in names if (missing := _missing(family, methods, block))},
        not_planned={
            method.name: absent
            for method in methods
            if (absent := tuple(family for family in names if family not in method.labels))
        },
        different=different_methods([summary.family for summary in comparing]),
        left_out=tuple(summary.name for summary in comparing if summary.name not in names),
        num_teachers=len({tuple(run.name for run in summary.family.stage("teacher")) for summary in shown}),
        num_students=len({summary.stage("baseline").model or summary.name for summary in shown}),
        data_sets=tuple(dict.fromkeys(summary.family.data.name or "not recorded" for summary in shown)),
    )


def _in_common(comparing: Sequence[FamilySummary]) -> tuple[tuple[SameMethod, ...], list[FamilySummary]]:
    """Return the methods that several families compare, and the families that compare at least two of them."""
    shown, before = [*comparing], None
    methods: tuple[SameMethod, ...] = ()
    while before != len(shown):  # without one family, a method may be compared by one family alone
        before = len(shown)
        methods = same_methods([summary.family for summary in shown])
        shown = [summary for summary in shown if sum(summary.name in method.labels for method in methods) > 1]
    return methods, shown


def _block(methods: Sequence[SameMethod], shown: Sequence[FamilySummary]) -> _Block:
    comparisons = {summary.name: _comparison(summary) for summary in shown}
    values = {
        BASELINE: {summary.name: _baselines(summary) for summary in shown},
        **{
            method.name: {
                family: found.by_seed if (found := _of_family(method, family, comparison)) else {}
                for family, comparison in comparisons.items()
            }
            for method in methods
        },
    }
    # A method without any result yet would leave no family that counts.
    tested = tuple(
        method.name for method in methods if len(method.labels) == len(shown) and any(values[method.name].values())
    )
    seeds = {
        family: tuple(sorted(set.intersection(*({*values[name][family]} for name in (BASELINE, *tested)))))
        for family in comparisons
    }
    return _Block(values, tested, seeds)


def _comparison(summary: FamilySummary) -> Comparison:
    assert summary.comparison is not None, "only families that compare methods are in the table"
    return summary.comparison


def _of_family(method: SameMethod, family: str, comparison: Comparison) -> MethodSummary | None:
    label = method.labels.get(family)
    return next((other for other in comparison.methods if other.name == label), None)


def _baselines(summary: FamilySummary) -> Mapping[int, float]:
    """Return the baselines by seed; {} where they are classifiers and the methods' students linear probes."""
    family = summary.family
    is_comparable = are_evaluated_alike(family.stage("baseline"), *family.compared.values())
    return _comparison(summary).baselines if is_comparable else {}


def _main(methods: Sequence[SameMethod], shown: Sequence[FamilySummary], tested: Sequence[str]) -> str | None:
    """Return the tested method that is the main one of every family, `method` of its experiment; None without one."""
    defaults = {summary.name: _comparison(summary).default for summary in shown}
    labels = {family: default.name if default else "" for family, default in defaults.items()}
    return next((method.name for method in methods if method.labels == labels and method.name in tested), None)


def _rows(methods: Sequence[SameMethod], block: _Block, main: str | None) -> tuple[FamiliesRow, ...]:
    """Return the baseline, then methods by mean rank, then those without one."""
    ranks, gains, main_gains = block.mean_ranks, block.gains(BASELINE), block.gains(main)
    per_pair = {method.name: method.per_pair for method in methods}
    rows = [
        FamiliesRow(
            name,
            {family: spread_of([*by_seed.values()]) for family, by_seed in by_family.items()},
            ranks.get(name),
            gains.get(name),
            main_gains.get(name),
            per_pair.get(name, {}),
        )
        for name, by_family in block.values.items()
    ]
    last = 1.0 + len(rows)
    return (rows[0], *sorted(rows[1:], key=lambda row: (row.mean_rank or last, row.name)))


def _missing(family: str, methods: Sequence[SameMethod], block: _Block) -> tuple[str, ...]:
    """Return the baseline and the methods that are planned in a family and have no result."""
    planned = [BASELINE, *(method.name for method in methods if family in method.labels)]
    return tuple(name for name in planned if not block.values[name][family])


def _gain(differences: Sequence[float], p: float, p_holm: float | None) -> FamiliesGain:
    spread = spread_of(differences)
    assert spread is not None and p_holm is not None
    return FamiliesGain(spread, sum(d > 0 for d in differences), sum(signed_ranks(differences)) > 0, p, p_holm)
