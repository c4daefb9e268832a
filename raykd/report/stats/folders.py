"""Results folders side by side: each stage's test top-1 in each folder, and its difference to the first folder.

    difference   top-1 in a folder - top-1 in the reference, paired by seed, with Student's 95 % interval of the mean;
                 the reference is the first of the folders that has runs of the stage
    p            of the paired t-test behind the interval; with several differences to one reference corrected by Holm
    changes      fields in which the runs differ from those of the reference, by the paths that --set takes

Runs are paired only if they are evaluated on the same images, which equal identities of their data sets show. The
interval is over seeds. It does not cover other teachers, and each folder may have a different one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from raykd.report.read.run_results import Family, RunResult
from raykd.report.stats.comparison import TOP1
from raykd.report.stats.paired_interval import PairedGain, Spread, paired_gain, pairs_of, spread_of
from raykd.report.stats.pooled import are_evaluated_alike, by_seed
from raykd.report.stats.significance import holm
from raykd.spec.stages import STAGES
from raykd.store.records import RunRecord
from raykd.store.run_differences import differing_fields


@dataclass(frozen=True)
class InFolder:
    """The runs of one row in one folder. top1: in percent on the test split. num_planned: also those without a result.

    difference: to the reference; None for the reference itself, for the same runs, and for `why_no_difference`.
    changes: {field: (value in the reference, value here)}. has_other_teacher: whether a student's teacher is another
    run than that of the reference. are_same: whether runs of the same seeds have the same configuration, so that a
    difference would show nothing.
    """

    folder: str
    top1: Spread | None
    num_planned: int
    difference: PairedGain | None = None
    why_no_difference: str = ""
    changes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    has_other_teacher: bool = False
    are_same: bool = False


@dataclass(frozen=True)
class FoldersRow:
    """The runs of one family and stage, or of one compared method, in at least two folders, the reference first.

    method: of `compare`; '' for the runs of a stage.
    """

    family: str
    stage: str
    method: str
    entries: tuple[InFolder, ...]

    @property
    def name(self) -> str:
        """'cnn baseline', or 'cnn dkd' for a compared method."""
        return f"{self.family} {self.method or self.stage}"


def compare_folders(folders: Mapping[str, Sequence[Family]]) -> tuple[FoldersRow, ...]:
    """Return a row for each stage and compared method of a family that at least two of the folders have.

    folders: the families by the name of the folder; the first one is the reference.
    """
    groups: dict[tuple[str, str, str], dict[str, Sequence[RunResult]]] = {}
    for folder, families in folders.items():
        for family in families:
            for (stage, method), runs in _groups_of(family).items():
                groups.setdefault((family.name, stage, method), {})[folder] = runs
    order = [*dict.fromkeys(family for family, _, _ in groups)]
    shared = {key: by_folder for key, by_folder in groups.items() if len(by_folder) > 1}
    keys = sorted(shared, key=lambda key: (order.index(key[0]), STAGES.index(key[1]), bool(key[2])))
    return tuple(FoldersRow(*key, _entries(shared[key])) for key in keys)


def _groups_of(family: Family) -> dict[tuple[str, str], Sequence[RunResult]]:
    """Return the planned runs by stage and compared method; the main method has '', as the runs of its stage."""
    groups: dict[tuple[str, str], Sequence[RunResult]] = {}
    for stage in STAGES:
        if runs := family.stage(stage):
            groups[stage, ""] = runs
    main = {run.name for run in family.stage("distilled")}
    for method, runs in family.compared.items():
        if {run.name for run in runs} != main:
            groups["distilled", method] = runs
    return groups


def _entries(by_folder: Mapping[str, Sequence[RunResult]]) -> tuple[InFolder, ...]:
    (reference, reference_runs), *others = by_folder.items()
    entries = [_entry(folder, runs, reference_runs) for folder, runs in others]
    corrected = holm([entry.difference.t_test_p if entry.difference else None for entry in entries])
    if len(entries) > 1:
        entries = [
            replace(entry, difference=replace(entry.difference, num_methods=len(entries), p_holm=p))
            if entry.difference
            else entry
            for entry, p in zip(entries, corrected, strict=True)
        ]
    return (InFolder(reference, _top1(reference_runs), len(reference_runs)), *entries)


def _entry(folder: str, runs: Sequence[RunResult], reference: Sequence[RunResult]) -> InFolder:
    why_no_difference = _why_not_paired(runs, reference)
    pairs = [] if why_no_difference else pairs_of(by_seed(reference, TOP1), by_seed(runs, TOP1))
    here, there = _records(runs), _records(reference)
    shared = here.keys() & there.keys()
    are_same = bool(shared) and all(here[seed].fingerprint == there[seed].fingerprint for seed in shared)
    return InFolder(
        folder,
        _top1(runs),
        len(runs),
        None if are_same else paired_gain(pairs, folder),
        "" if are_same else why_no_difference or ("" if pairs else "no seed has a result in both folders"),
        _changes([*here.values()], [*there.values()]),
        bool({record.teachers for record in here.values()} ^ {record.teachers for record in there.values()}),
        are_same,
    )


def _why_not_paired(runs: Sequence[RunResult], reference: Sequence[RunResult]) -> str:
    """Return why two groups of runs have no difference, whatever their seeds; '' if they may have one."""
    tested = [run for run in (*runs, *reference) if run.record and run.test]
    identities = {run.record.configuration.data_identity for run in tested if run.record}
    if len(identities) > 1 or len({run.test.num_images for run in tested if run.test}) > 1:
        return "the data sets differ, so the test images may differ"
    if not are_evaluated_alike(runs, reference):
        return "one is a linear probe and the other a classifier"
    return ""


def _top1(runs: Sequence[RunResult]) -> Spread | None:
    return spread_of([*by_seed(runs, TOP1).values()])


def _records(runs: Sequence[RunResult]) -> dict[int, RunRecord]:
    """Return the records of the started runs by seed."""
    return {run.record.seed: run.record for run in runs if run.record}


def _changes(here: Sequence[RunRecord], there: Sequence[RunRecord]) -> dict[str, tuple[str, str]]:
    """Return {field: (its value there, its value here)} of the first runs; the others differ in their seed only."""
    if not here or not there:
        return {}
    (one, other), stage = (here[0], there[0]), here[0].stage
    values = differing_fields(one.config, stage, [other.config])
    before = differing_fields(other.config, stage, [one.config])
    return {name: (before.get(name, "none"), values.get(name, "none")) for name in sorted({**values, **before})}
