"""Metrics for data with unequal classes, from the stored confusion matrices: class counts, balanced accuracy, macro-F1.

    recall_c            images of class c predicted as c / images of class c
    balanced accuracy   mean recall over the classes with images (Brodersen et al. 2010, ICPR)
    F1_c                2 * images of class c predicted as c / (images of class c + images predicted as c)
    macro-F1            mean F1 over the classes with images or predictions

They are shown if a class of the validation or the test split has more than RATIO times the images of another. The
validation split is drawn from the training images class by class, so its counts show the balance of those.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raykd.report.read.run_results import Family, RunResult
from raykd.report.stats import pooled
from raykd.report.stats.metrics import BALANCED_METRICS
from raykd.report.stats.paired_interval import PairedGain, Spread, paired_gain, pairs_of, spread_of
from raykd.spec.stages import STAGES, Stage

RATIO = 2
Confusion = Sequence[Sequence[int]]  # [label][predicted] in images


@dataclass(frozen=True)
class Imbalance:
    """The class counts of a family, and its metrics with equal weight for each class.

    counts: images of each class by split, 'validation' or 'test'. spreads and gains: in percent and points on the test
    split, by the names of BALANCED_METRICS.
    """

    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    spreads: Mapping[str, Mapping[Stage, Spread]]
    gains: Mapping[str, PairedGain]

    @property
    def ranges(self) -> tuple[str, ...]:
        """The smallest and the largest class of each split: 'validation 5 to 50'."""
        return tuple(f"{split} {min(counts):,} to {max(counts):,}" for split, counts in self.counts.items())

    @property
    def rows(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The name of each class with its images in each split."""
        columns = list(zip(*self.counts.values(), strict=True))
        return tuple(zip(self.classes or map(str, range(len(columns))), columns, strict=True))


def imbalance_of(family: Family) -> Imbalance | None:
    """Return the metrics of a family with unequal classes; None for equal ones, or without confusion matrices."""
    evaluated = [run for run in family.all_runs if run.state == "evaluated"]
    counts = {
        "validation": _class_counts([run.val.confusion for run in evaluated if run.val]),
        "test": _class_counts([run.test.confusion for run in evaluated if run.test]),
    }
    counts = {split: by_class for split, by_class in counts.items() if by_class}
    # Drawing the validation split class by class rounds each count by less than one image.
    if not any(_is_unequal(by_class, split == "validation") for split, by_class in counts.items()):
        return None
    classes = pooled.classes_of([run.test for run in evaluated if run.test])
    spreads, gains = {}, {}
    for name, metric in zip(BALANCED_METRICS, (balanced_accuracy, macro_f1), strict=True):
        values = {stage: pooled.by_seed(family.stage(stage), _on_test(metric)) for stage in STAGES}
        spreads[name] = {stage: spread for stage in STAGES if (spread := spread_of(list(values[stage].values())))}
        if pooled.are_evaluated_alike(family.stage("baseline"), family.stage("distilled")):
            gain = paired_gain(pairs_of(values["baseline"], values["distilled"]))
            gains |= {name: gain} if gain else {}
    return Imbalance(classes, counts, spreads, gains)


def balanced_accuracy(confusion: Confusion) -> float:
    """Return the mean recall in percent over the classes with images."""
    recalls = [row[label] / sum(row) for label, row in enumerate(confusion) if sum(row)]
    return 100 * sum(recalls) / len(recalls)


def macro_f1(confusion: Confusion) -> float:
    """Return the mean F1 in percent over the classes with images or predictions."""
    predicted = [sum(column) for column in zip(*confusion, strict=True)]
    sizes = [sum(row) + num_predicted for row, num_predicted in zip(confusion, predicted, strict=True)]
    scores = [2 * row[label] / sizes[label] for label, row in enumerate(confusion) if sizes[label]]
    return 100 * sum(scores) / len(scores)


def _class_counts(matrices: Sequence[Confusion]) -> tuple[int, ...]:
    """Return the images of each class; () without a matrix, or if the runs were evaluated on different images."""
    counts = {tuple(map(sum, matrix)) for matrix in matrices if matrix}
    return counts.pop() if len(counts) == 1 else ()


def _is_unequal(counts: Sequence[int], rounding: int) -> bool:
    return max(counts) - rounding > RATIO * (min(counts) + rounding)


def _on_test(metric: Callable[[Confusion], float]) -> Callable[[RunResult], float | None]:
    """Return a function that applies `metric` to a run's confusion matrix, and returns None without one."""
    return lambda run: metric(run.test.confusion) if run.test and run.test.num_images and run.test.confusion else None
