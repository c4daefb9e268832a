"""The provenance of the numbers: each stage's configuration side by side, versions and machines of all runs.

Also the cautions about comparing baseline and distilled students, for each method that is compared: different recipes,
different machines or versions, a teacher that was trained again.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raykd.config import dotted
from raykd.errors import flattened
from raykd.provenance import identity_of
from raykd.report.read.records import Family, RunResult
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import RunRecord

Flat = Mapping[str, str]

_IDENTITY_FIELDS = ("kind", "family", "stage", "seed")  # they differ between runs by design


@dataclass(frozen=True)
class SettingRow:
    """A field of the configuration by dotted path, and its values in each stage's runs; () if a stage lacks it."""

    path: str
    values: Mapping[str, tuple[str, ...]]

    @property
    def students_differ(self) -> bool:
        """Whether baseline and distilled student have different values."""
        return self.values["baseline"] != self.values["distilled"]


@dataclass(frozen=True)
class OriginRow:
    """A fact about how runs were made, by dotted path, and its (value, number of runs) pairs."""

    path: str
    values: tuple[tuple[str, int], ...]


def settings_of(family: Family) -> tuple[SettingRow, ...]:
    """Return the configuration of each stage; for distilled students, that of the default method."""
    return _side_by_side({stage: family.stage(stage) for stage in STAGES})


def origins_of(family: Family, stages: Collection[Stage] = STAGES) -> tuple[OriginRow, ...]:
    """Return compute, hardware, versions and git of all runs of the stages, with the number of runs per value."""
    runs = [
        flatten(_origin(run.record)) for stage in stages for run in family.all_runs if run.stage == stage and run.record
    ]
    rows = []
    for path in _in_order(runs):
        values = [run.get(path, "not recorded") for run in runs]
        rows.append(OriginRow(path, tuple((value, values.count(value)) for value in dict.fromkeys(values))))
    return tuple(rows)


def cautions_of(family: Family) -> tuple[str, ...]:
    """Return a sentence for each fact that weakens comparisons between the family's runs."""
    named = {stage: family.stage(stage) for stage in STAGES if stage != "distilled"} | distilled_runs(family)
    started = {name: runs for name, runs in named.items() if any(run.record for run in runs)}
    by_setting = [line for row in _side_by_side(started) for line in _cautions_of_setting(row)]
    students = origins_of(family, ("baseline", "distilled"))
    by_origin = [line for row in students if _affects_results(row.path) for line in _cautions_of_origin(row)]
    imports = [run.record.imported for run in family.stage("teacher") if run.record and run.record.imported]
    of_imports = [flattened(caution, 600) for findings in imports for caution in findings.cautions]
    return (*by_setting, *by_origin, *of_imports, *_cautions_of_workers(family), *_caution_of_teacher(family))


def distilled_runs(family: Family) -> dict[str, tuple[RunResult, ...]]:
    """Return the distilled runs by their name in a caution: 'distilled' for the default method, else the method."""
    default = family.stage("distilled")
    names = {run.name for run in default}
    others = {method: tuple(run for run in runs if run.name not in names) for method, runs in family.compared.items()}
    return {"distilled": default} | {f"'{flattened(method)}'": runs for method, runs in others.items() if runs}


def _cautions_of_setting(row: SettingRow) -> list[str]:
    """Return cautions about one field. Students must share all fields except teacher and method."""
    section, last = row.path.split(".")[0], row.path.split(".")[-1]
    if last in ("seed", "path") or section in ("teacher", "teacher_seeds"):  # files are identified by their sha256
        return []
    cautions = [
        f"the {name} runs differ in {row.path}: {', '.join(values)}"
        for name, values in row.values.items()
        if len(values) > 1
    ]
    if "baseline" not in row.values or section == "method":
        return cautions
    others: dict[tuple[str, ...], list[str]] = {}  # methods with the same values share one caution
    for name, values in row.values.items():
        if name != "teacher" and values != row.values["baseline"]:
            others.setdefault(values, []).append(name)
    baseline = ", ".join(row.values["baseline"]) or "unset"
    for values, names in others.items():
        students = f"{', '.join(names)} student{'' if len(names) == 1 else 's'}"
        cautions.append(
            f"baseline and {students} differ in {row.path}: {baseline} against {', '.join(values) or 'unset'}"
        )
    return cautions


def _cautions_of_origin(row: OriginRow) -> list[str]:
    counts = dict(row.values)
    total = sum(counts.values())
    if len(counts) == 1:
        return []
    values = "; ".join(f"{value} ({count} of {total} runs)" for value, count in row.values)
    return [f"the students' runs differ in {row.path}: {values}"]


def _affects_results(path: str) -> bool:
    """Return whether a fact may change results: host names and job ids do not, the type of a processor may.

    A live teacher and cached logits agree up to the rounding of float16.
    """
    if path.startswith("hardware."):
        return path in ("hardware.cpu", "hardware.gpu")
    return path not in ("compute.teacher", "compute.per_worker")  # `_cautions_of_workers` covers the latter


def _cautions_of_workers(family: Family) -> list[str]:
    """Return cautions about runs whose result depends on the number of workers by more than rounding."""
    runs: dict[str, list[str]] = {}
    for run in family.all_runs:
        if run.record and (parts := run.record.compute.per_worker):
            runs.setdefault(flattened(parts), []).append(run.name)
    return [
        f"{', '.join(names)}: trained by several workers, each with separate {parts}; the result of one worker "
        "differs by more than rounding, although the run has the same name"
        for parts, names in runs.items()
    ]


def _caution_of_teacher(family: Family) -> list[str]:
    """Return a caution if the teacher was trained again after its students, which changes its weights on a GPU."""
    teachers = family.stage("teacher")
    weights = [run.test.weights_sha256 for run in teachers if run.test and run.test.weights_sha256]
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
        f"{', '.join(others)}: distilled from other weights than the teacher above has, as it was trained again since; "
        "remove these folders and rerun the same command"
    ]


def flatten(nested: Mapping[str, Any]) -> dict[str, str]:
    """Return {dotted path: text}: strings unchanged, other values as JSON."""
    texts = {path: value if isinstance(value, str) else json.dumps(value) for path, value in dotted(nested)}
    return {flattened(path): flattened(text) for path, text in texts.items()}


def _settings(record: RunRecord) -> dict[str, Any]:
    return {name: value for name, value in record.config.items() if name not in _IDENTITY_FIELDS}


def _origin(record: RunRecord) -> dict[str, Any]:
    sections = {
        "compute": {name: value for name, value in asdict(record.compute).items() if name != "per_worker" or value},
        "hardware": record.hardware,
        "versions": record.versions,
        "git": record.git,
    }
    return {name: values for name, values in sections.items() if values}


def _side_by_side(named: Mapping[str, Sequence[RunResult]]) -> tuple[SettingRow, ...]:
    """Return every field of the runs' configurations, with its values under each name."""
    flats = {name: [flatten(_settings(run.record)) for run in runs if run.record] for name, runs in named.items()}
    paths = _in_order([flat for of_name in flats.values() for flat in of_name])
    sections = {path[:end] for path in paths for end, letter in enumerate(path) if letter == "."}
    return tuple(
        SettingRow(path, {name: _distinct(path, of_name) for name, of_name in flats.items()})
        for path in paths
        if path not in sections  # 'teacher' is null in stages without one, and a section in the others
    )


def _distinct(path: str, flats: Iterable[Flat]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(flat[path] for flat in flats if path in flat))


def _in_order(flats: Iterable[Flat]) -> list[str]:
    """Return all paths in the order of their first occurrence, with the paths of one section together."""
    paths = list(dict.fromkeys(path for flat in flats for path in flat))
    sections = list(dict.fromkeys(path.split(".")[0] for path in paths))
    return sorted(paths, key=lambda path: sections.index(path.split(".")[0]))
