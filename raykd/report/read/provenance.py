"""Where the numbers came from: each stage's settings side by side, versions and machines over all runs.

Also the cautions a reader needs before comparing baseline and distilled students, those by each method that is
compared included: other recipes, other machines or versions, a teacher that was trained anew.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raykd.config import dotted
from raykd.errors import flattened
from raykd.provenance import identity_of
from raykd.report.read.records import Family, Record, RunResult
from raykd.spec.stages import STAGES, Stage

Flat = Mapping[str, str]

# What a run is, rather than how it was set: these differ between runs by design.
_NAMES_THE_RUN = ("kind", "family", "stage", "seed")


@dataclass(frozen=True)
class SettingRow:
    """A dotted setting and the values it has in each stage's runs: () where a stage has no such setting."""

    path: str
    values: Mapping[str, tuple[str, ...]]

    @property
    def students_differ(self) -> bool:
        """Whether the distilled student has another value than its baseline."""
        return self.values["baseline"] != self.values["distilled"]


@dataclass(frozen=True)
class OriginRow:
    """A fact of how runs were made, and each value that it took with the number of runs."""

    path: str
    values: tuple[tuple[str, int], ...]


def settings_of(family: Family) -> tuple[SettingRow, ...]:
    """Every setting of the stages' runs, side by side; of the distilled ones, those by the experiment's own method."""
    return _side_by_side({stage: family.stage(stage) for stage in STAGES})


def origins_of(family: Family, stages: Collection[Stage] = STAGES) -> tuple[OriginRow, ...]:
    """compute, hardware, versions and git of all runs of the stages, with the number of runs behind each value."""
    runs = [
        flatten(_origin(run.record)) for stage in stages for run in family.all_runs if run.stage == stage and run.record
    ]
    rows = []
    for path in _in_order(runs):
        values = [run.get(path, "not recorded") for run in runs]
        rows.append(OriginRow(path, tuple((value, values.count(value)) for value in dict.fromkeys(values))))
    return tuple(rows)


def cautions_of(family: Family) -> tuple[str, ...]:
    """One sentence for each thing that weakens a comparison between the family's runs."""
    named = {stage: family.stage(stage) for stage in STAGES if stage != "distilled"} | taught(family)
    begun = {name: runs for name, runs in named.items() if any(run.record for run in runs)}
    by_setting = [line for row in _side_by_side(begun) for line in _cautions_of_setting(row)]
    students = origins_of(family, ("baseline", "distilled"))
    by_origin = [line for row in students if _bears_on_results(row.path) for line in _cautions_of_origin(row)]
    of_imports = [caution for run in family.stage("teacher") if run.record for caution in run.record.import_cautions]
    return (*by_setting, *by_origin, *of_imports, *_cautions_of_workers(family), *_caution_of_teacher(family))


def taught(family: Family) -> dict[str, tuple[RunResult, ...]]:
    """The distilled runs by what a caution calls them: 'distilled' by the experiment's own method, others by theirs."""
    own = family.stage("distilled")
    names = {run.name for run in own}
    others = {method: tuple(run for run in runs if run.name not in names) for method, runs in family.compared.items()}
    return {"distilled": own} | {f"'{flattened(method)}'": runs for method, runs in others.items() if runs}


def _cautions_of_setting(row: SettingRow) -> list[str]:
    """A baseline has no teacher and another method by design; all else the students must share."""
    section, last = row.path.split(".")[0], row.path.split(".")[-1]
    # A file is known by its sha256, wherever it lay.
    if last in ("seed", "path") or section in ("teacher", "teacher_seeds"):
        return []
    cautions = [
        f"the {name} runs differ in {row.path}: {', '.join(values)}"
        for name, values in row.values.items()
        if len(values) > 1
    ]
    if "baseline" not in row.values or section == "method":
        return cautions
    others: dict[tuple[str, ...], list[str]] = {}  # of several methods that differ alike there is one caution
    for name, values in row.values.items():
        if name != "teacher" and values != row.values["baseline"]:
            others.setdefault(values, []).append(name)
    baseline = ", ".join(row.values["baseline"]) or "unset"
    for values, names in others.items():
        who = f"{', '.join(names)} student{'' if len(names) == 1 else 's'}"
        cautions.append(f"baseline and {who} differ in {row.path}: {baseline} against {', '.join(values) or 'unset'}")
    return cautions


def _cautions_of_origin(row: OriginRow) -> list[str]:
    counts = dict(row.values)
    total = sum(counts.values())
    if len(counts) == 1:
        return []
    several = "; ".join(f"{value} ({count} of {total} runs)" for value, count in row.values)
    return [f"the students' runs differ in {row.path}: {several}"]


def _bears_on_results(path: str) -> bool:
    """A host's name or a job's number differs from run to run and means nothing; a processor's kind may.

    Live or from a logit cache, the teacher says the same up to float16's rounding.
    """
    if path.startswith("hardware."):
        return path in ("hardware.cpu", "hardware.gpu")
    return path not in ("compute.teacher", "compute.per_worker")  # the latter has a caution of its own


def _cautions_of_workers(family: Family) -> list[str]:
    """Runs of several workers whose result differs from one worker's by more than rounding."""
    runs: dict[str, list[str]] = {}
    for run in family.all_runs:
        if run.record and (parts := run.record.compute.get("per_worker")):
            runs.setdefault(flattened(str(parts)), []).append(run.name)
    return [
        f"{', '.join(names)}: trained by several workers, each of which has its own {parts}; one worker's result "
        "differs by more than rounding, under the same run name"
        for parts, names in runs.items()
    ]


def _caution_of_teacher(family: Family) -> list[str]:
    """A teacher that was trained anew, on a GPU with other bits, under students that are done and were not."""
    teachers = family.stage("teacher")
    weights = [run.score.weights_sha256 for run in teachers if run.score and run.score.weights_sha256]
    if not weights or len(weights) < len(teachers):
        return []
    identity = identity_of(weights)
    others = [
        run.name
        for run in family.all_runs
        if run.stage == "distilled"
        and run.record
        and run.record.teacher_sha256
        and run.record.teacher_sha256 != identity
    ]
    if not others:
        return []
    return [
        f"{', '.join(others)}: taught by other weights than the teacher's above, which was trained anew since; "
        "remove these folders and run again"
    ]


def flatten(nested: Mapping[str, Any]) -> dict[str, str]:
    """Dotted paths to values as text: strings bare, all else as JSON."""
    texts = {path: value if isinstance(value, str) else json.dumps(value) for path, value in dotted(nested)}
    return {flattened(path): flattened(text) for path, text in texts.items()}


def _settings(record: Record) -> dict[str, Any]:
    return {name: value for name, value in record.config.items() if name not in _NAMES_THE_RUN}


def _origin(record: Record) -> dict[str, Any]:
    sections = {
        "compute": record.compute,
        "hardware": record.hardware,
        "versions": record.versions,
        "git": record.git,
    }
    return {name: values for name, values in sections.items() if values}


def _side_by_side(named: Mapping[str, Sequence[RunResult]]) -> tuple[SettingRow, ...]:
    """Every setting of the runs, with the values that it has under each name."""
    flats = {name: [flatten(_settings(run.record)) for run in runs if run.record] for name, runs in named.items()}
    paths = _in_order([flat for found in flats.values() for flat in found])
    sections = {path[:end] for path in paths for end, letter in enumerate(path) if letter == "."}
    return tuple(
        SettingRow(path, {name: _distinct(path, found) for name, found in flats.items()})
        for path in paths
        if path not in sections  # 'teacher' is null in a stage that has none, and a section in the others
    )


def _distinct(path: str, flats: Iterable[Flat]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flat[path] for flat in flats if path in flat))


def _in_order(flats: Iterable[Flat]) -> list[str]:
    """All paths, those of one section together, sections and settings in the order first met."""
    paths = list(dict.fromkeys(path for flat in flats for path in flat))
    sections = list(dict.fromkeys(path.split(".")[0] for path in paths))
    return sorted(paths, key=lambda path: sections.index(path.split(".")[0]))
