"""The provenance of the numbers: each stage's configuration side by side, versions and machines of all runs.

It also warns about what weakens the comparison of baseline and distilled students: different recipes, different
machines or versions, a teacher that was trained again.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from raykd.config import dotted
from raykd.config.codec import is_number
from raykd.errors import flattened
from raykd.provenance import short_hash, teacher_digest
from raykd.report.read.run_results import Family, RunResult
from raykd.spec.set_paths import set_path
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import RunRecord

_IDENTITY_FIELDS = ("kind", "family", "stage", "seed")  # they differ between runs by design

# Dotted path of a field -> name of a group of runs -> distinct values of the field in the group, () without any.
FieldValues = dict[str, dict[str, tuple[str, ...]]]


def configurations_of(family: Family) -> FieldValues:
    """Return the configuration of each stage, by the paths of --set.

    Distilled students are those of the default method. The teacher that they record is part of the teacher's column.
    """
    rows: FieldValues = {}
    for recorded, values_of in _side_by_side({stage: family.stage(stage) for stage in STAGES}).items():
        for stage in STAGES:
            values, (column, path) = values_of[stage], set_path(recorded, stage)
            *above, last = recorded.split(".")
            is_only_kind = last == "kind" and values == (above[-1],)  # data.kind is always 'data'
            if values and path and not is_only_kind:
                row = rows.setdefault(path, dict.fromkeys(STAGES, ()))
                row[column] = tuple(dict.fromkeys((*row[column], *values)))
    sections = ("data", "teacher", "student", "method")
    positions = {name: position for position, name in enumerate(sections)}
    return dict(sorted(rows.items(), key=lambda row: positions.get(row[0].split(".")[0], len(sections))))


def origins_of(family: Family, stages: Collection[Stage] = STAGES) -> dict[str, Counter[str]]:
    """Return {dotted path: {value: number of runs}} of compute, hardware, versions and git of the stages' runs."""
    runs = [
        flatten(_origin(run.record)) for stage in stages for run in family.all_runs if run.stage == stage and run.record
    ]
    return {path: Counter(run.get(path, "not recorded") for run in runs) for path in _in_order(runs)}


def warnings_of(family: Family) -> tuple[str, ...]:
    """Return a sentence for each fact that weakens comparisons between the family's runs."""
    named = {stage: family.stage(stage) for stage in STAGES if stage != "distilled"} | distilled_runs(family)
    started = {name: runs for name, runs in named.items() if any(run.record for run in runs)}
    by_field = [line for path, values in _side_by_side(started).items() for line in _warnings_of_field(path, values)]
    by_origin = [
        f"the students' runs differ in {path}: "
        + "; ".join(f"{short_hash(value)} ({count} of {counts.total()} runs)" for value, count in counts.items())
        for path, counts in origins_of(family, ("baseline", "distilled")).items()
        if len(counts) > 1 and _affects_results(path)
    ]
    imports = [run.record.imported for run in family.stage("teacher") if run.record and run.record.imported]
    by_import = [flattened(warning, 600) for findings in imports for warning in findings.warnings]
    others = (*_warnings_of_workers(family), *_warning_of_teacher(family), *_warning_of_top_classes(family))
    settings = (*_warning_of_equal_start(family), *_warnings_of_warmup(family), *_warnings_of_published(family))
    return (*by_field, *by_origin, *by_import, *others, *settings)


def distilled_runs(family: Family) -> dict[str, tuple[RunResult, ...]]:
    """Return the distilled runs by their name in a warning: 'distilled' for the default method, else the method."""
    default = family.stage("distilled")
    names = {run.name for run in default}
    compared = {method: tuple(run for run in runs if run.name not in names) for method, runs in family.compared.items()}
    return {"distilled": default} | {f"'{flattened(method)}'": runs for method, runs in compared.items() if runs}


def _warnings_of_field(path: str, values_of: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return warnings about one recorded field. Students must share all fields except teacher and method."""
    section, last = path.split(".")[0], path.split(".")[-1]
    if last in ("seed", "path") or section in ("teacher", "teacher_seeds"):  # files are identified by their sha256
        return []
    if path == "cached_classes":  # of distilled runs only, see `_warning_of_top_classes`
        return []
    # False for students whose loss would not train a classifier; the report names their linear probe.
    if path == "recipe.model.classifier":
        return []
    in_students = set_path(path, "baseline")[1]
    warnings = [
        f"the {name} runs differ in {set_path(path, 'teacher')[1] if name == 'teacher' else in_students}: "
        f"{', '.join(values)}"
        for name, values in values_of.items()
        if len(values) > 1
    ]
    if "baseline" not in values_of or section == "method":
        return warnings
    differing: dict[tuple[str, ...], list[str]] = {}  # methods with the same values share one warning
    for name, values in values_of.items():
        if name != "teacher" and values != values_of["baseline"]:
            differing.setdefault(values, []).append(name)
    baseline = ", ".join(values_of["baseline"]) or "unset"
    for values, names in differing.items():
        students = f"{', '.join(names)} student{'' if len(names) == 1 else 's'}"
        other = ", ".join(values) or "unset"
        warnings.append(f"baseline and {students} differ in {in_students}: {baseline} against {other}")
    return warnings


def _affects_results(path: str) -> bool:
    """Return whether the recorded value at `path` may affect results: a processor's type does, a host name does not.

    A live teacher and cached logits agree up to the rounding of float16. `_warning_of_top_classes` covers caches that
    do not keep all classes, and `_warnings_of_workers` covers what each worker computes or draws separately. Two git
    revisions may have the same source, which has a hash of its own.
    """
    if path.startswith("hardware."):
        return path in ("hardware.cpu", "hardware.gpu")
    section = ".".join(path.split(".")[:2])
    return section not in ("compute.teacher", "compute.top_classes", "compute.per_worker", "git.revision")


def _warnings_of_workers(family: Family) -> list[str]:
    """Return warnings about runs whose result depends on the number of workers by more than rounding."""
    runs: dict[str, list[str]] = {}
    for run in family.all_runs:
        if run.record and (parts := run.record.compute.per_worker):
            runs.setdefault(flattened(parts), []).append(run.name)
    return [
        f"{', '.join(names)}: trained by several workers with separate {parts}, so the result differs from that of "
        "one worker by more than rounding"
        for parts, names in runs.items()
    ]


def _warning_of_teacher(family: Family) -> list[str]:
    """Return a warning if the teacher was trained again after its students, which changes its weights on a GPU."""
    teachers = family.stage("teacher")
    weights = [run.test.weights_sha256 for run in teachers if run.test and run.test.weights_sha256]
    if not weights or len(weights) < len(teachers):
        return []
    known = ("", teacher_digest(weights))
    students = [run for run in family.all_runs if run.stage == "distilled"]
    outdated = [run.name for run in students if run.record and run.record.teacher_sha256 not in known]
    if not outdated:
        return []
    return [
        f"{', '.join(outdated)}: distilled from earlier weights of the teacher, because the teacher was "
        "trained again, or raykd migrate kept another copy; remove these folders and rerun the same command"
    ]


def _warning_of_top_classes(family: Family) -> list[str]:
    """Return a warning if some distilled runs learned from the top classes of the teacher, and others from more."""
    by_classes: dict[str, list[str]] = {}
    for run in family.all_runs:
        if run.stage == "distilled" and run.record and run.record.compute.teacher:
            top = run.record.compute.top_classes
            classes = f"the top {top.kept} of {top.num_classes:,} classes" if top else "all classes"
            by_classes.setdefault(classes, []).append(run.name)
    if len(by_classes) < 2:
        return []
    described = "; ".join(f"{classes} ({', '.join(names)})" for classes, names in by_classes.items())
    return [f"the distilled runs learn from different logits of the teacher: {described}"]


def _warning_of_equal_start(family: Family) -> list[str]:
    """Return a warning about students that start from the initial weights of their teacher, by their seeds."""
    records = [run.record for run in family.all_runs if run.stage == "distilled" and run.record]
    seeds = sorted({record.seed for record in records if record.starts_as_its_teacher})
    if not seeds:
        return []
    return [
        f"distilled students of seed {', '.join(map(str, seeds))} started from the initial weights of their teacher, "
        "which is the same network with the same seed, and stay closer to it than other students"
    ]


def _warnings_of_warmup(family: Family) -> list[str]:
    """Return a warning for each configuration of a method whose warm-up does not end within the epochs of its runs."""
    lines = [
        f"the {name} runs have a warm-up of {warmup.epochs:g} epochs and train for "
        f"{record.configuration.recipe.epochs}, so the terms of {flattened(record.method)} reach "
        f"{100 * warmup.reached:.0f} % of their weights"
        for name, runs in distilled_runs(family).items()
        for record in (run.record for run in runs if run.record)
        if (warmup := record.unfinished_warmup)
    ]
    return list(dict.fromkeys(lines))  # one for all seeds


def _warnings_of_published(family: Family) -> list[str]:
    """Return a warning for each method whose hyperparameters are not those of the published accuracy beside it."""
    pair, lines = family.published, []
    for method, runs in family.compared.items():
        if pair is None or method not in pair.top1:
            continue
        for field, published in pair.settings.get(method, {}).items():
            recorded = [run.record.configuration.method.values.get(field) for run in runs if run.record]
            values = {value for value in recorded if is_number(value)}
            lines += [
                f"the published accuracy of {method} was reached with {field} {published:g}, and the runs here have "
                f"{value:g}"
                for value in sorted(values - {published})
            ]
    return lines


def flatten(nested: Mapping[str, Any]) -> dict[str, str]:
    """Return {dotted path: text}: strings unchanged, other values as JSON."""
    texts = {path: value if isinstance(value, str) else json.dumps(value) for path, value in dotted(nested)}
    return {flattened(path): flattened(text) for path, text in texts.items()}


def _origin(record: RunRecord) -> dict[str, Any]:
    optional = ("per_worker", "top_classes")
    compute = {name: value for name, value in asdict(record.compute).items() if name not in optional or value}
    sections = {"compute": compute, "hardware": record.hardware, "versions": record.versions, "git": record.git}
    return {name: values for name, values in sections.items() if values}


def _side_by_side(named: Mapping[str, Sequence[RunResult]]) -> FieldValues:
    """Return every field of the runs' configurations, with its values in each named group of runs."""
    configs = {name: [flatten(run.record.config) for run in runs if run.record] for name, runs in named.items()}
    paths = _in_order([config for group in configs.values() for config in group])
    # 'teacher' is null in stages without one, and a section in the others.
    sections = {path[:end] for path in paths for end, letter in enumerate(path) if letter == "."}
    return {
        path: {
            name: tuple(dict.fromkeys(config[path] for config in group if path in config))
            for name, group in configs.items()
        }
        for path in paths
        if path not in sections and path not in _IDENTITY_FIELDS
    }


def _in_order(flat: Sequence[Mapping[str, str]]) -> list[str]:
    """Return all paths in the order of their first occurrence, with the paths of one section together."""
    paths = list(dict.fromkeys(path for values in flat for path in values))
    sections = list(dict.fromkeys(path.split(".")[0] for path in paths))
    return sorted(paths, key=lambda path: sections.index(path.split(".")[0]))
