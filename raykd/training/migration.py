"""Migrate a results folder of the earlier layout, in which families did not share teachers.

    migration = plan_migration(results)      # reads only
    apply_migration(results, migration)      # moves folders and rewrites their files

A teacher moves to the folder that all families share. Its fingerprint changes, because it has no family any more, and
so do the fingerprints and names of the runs that are distilled from it. Of several copies of one teacher the best
trained one is kept, and the others are set aside. Weights are not rewritten: best.safetensors keeps its SHA-256, so
logit caches stay valid.

The plan is written to the results folder first. After an interruption it is read from there, and each step that was
done changes nothing when it is repeated.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from raykd.config.codec import read_checked_json, read_record, write_checked_json, write_record
from raykd.disk.file_lock import is_locked, lock_at
from raykd.disk.lookup import find, is_file, is_folder, is_there
from raykd.errors import ConfigError, plural
from raykd.provenance import teacher_digest
from raykd.spec.plan import Run
from raykd.spec.stages import TEACHERS
from raykd.store.migration import JOURNAL, SET_ASIDE, MigrationRecord, Move
from raykd.store.records import PlanRecord, RunRecord, UsageFile
from raykd.store.results_folder import is_in_use
from raykd.store.run_folder import RunFolder
from raykd.training.checkpoint import set_run_of_checkpoint
from raykd.training.run_record import recorded_run
from raykd.training.run_sources import ForeignCode, load_method_class


@dataclass(frozen=True)
class OldRun:
    """A run of the earlier layout. after: the same run with a shared teacher; None if it cannot be read any more."""

    folder: RunFolder
    record: RunRecord
    before: Run | None
    after: Run | None

    @property
    def is_trial(self) -> bool:
        return self.folder.is_trial


def plan_migration(results: Path) -> MigrationRecord:
    """Return what a migration of `results` changes; no moves if there is nothing to do.

    Raises ConfigError if a process trains a run or a search there, and DamagedFile for a damaged run.json.
    """
    if (interrupted := read_record(MigrationRecord, results / JOURNAL)) is not None:
        return interrupted
    _require_unlocked(results)
    old = [run for folder in _run_folders(results) if (run := _read_old(folder)) is not None]
    teachers = [run for run in old if run.record.stage == "teacher"]
    kept = _kept_teachers(results, old)
    moves, notes = _moves_of_teachers(results, teachers, kept)
    for run in (run for run in old if run.record.stage != "teacher"):
        move, note = _move_of_student(results, run, kept)
        moves += [move] if move else []
        notes += [f"{run.folder.path.relative_to(results)}: {note}"] if note else []
    fingerprints = {run.record.fingerprint: run.after.fingerprint for run in teachers if run.after}
    return MigrationRecord(tuple(moves), fingerprints, tuple(notes))


def apply_migration(results: Path, migration: MigrationRecord) -> None:
    """Do everything in `migration`. If it is interrupted, call it again to complete the remaining moves."""
    write_record(results / JOURNAL, migration)
    for move in migration.moves:
        _apply(results, move)
    for path in find(results, "*/plan.json"):
        _rename_in_plan(path, _names(migration, path.parent.name))
    for path in find(results, "*/*/search.json"):
        _rename_in_search(path.parent, _names(migration, path.parts[-3]), migration.fingerprints)
    (results / JOURNAL).unlink()


def _run_folders(results: Path) -> list[RunFolder]:
    """Return the folders of all runs and trials that have started, without those that were set aside."""
    found = (*find(results, "*/*/run.json"), *find(results, "*/*/trials/*/run.json"))
    return [RunFolder(path.parent) for path in sorted(found) if path.relative_to(results).parts[0] != SET_ASIDE]


def _require_unlocked(results: Path) -> None:
    if is_in_use(results):
        raise ConfigError(f"a command trains in '{results}' now; migrate when no command uses these results")
    for folder in _run_folders(results):
        if folder.is_held():
            raise ConfigError(
                f"run '{folder.path}' is locked by {folder.last_writer}; migrate when no command uses these results"
            )
    for path in find(results, "*/*/search.json"):
        if is_locked(lock_at(path.with_name(".lock"))):
            raise ConfigError(f"a process runs the search in '{path.parent}'; migrate when no command uses it")


def _read_old(folder: RunFolder) -> OldRun | None:
    """Return the run in `folder` if it is of the earlier layout: a teacher of a family, or a student of one."""
    record = folder.require_record()
    teacher = record.config if record.stage == "teacher" else record.config.get("teacher")
    if not isinstance(teacher, Mapping) or teacher.get("family") == TEACHERS:
        return None
    before = _recorded_run_with_method(folder, record)
    if before is None or before.fingerprint != record.fingerprint:
        return OldRun(folder, record, None, None)
    if before.teacher is None:
        return OldRun(folder, record, before, replace(before, family=TEACHERS))
    return OldRun(folder, record, before, replace(before, teacher=replace(before.teacher, family=TEACHERS)))


def _recorded_run_with_method(folder: RunFolder, record: RunRecord) -> Run | None:
    """Return the run in `folder`; None if it, or the code of its method, cannot be read any more.

    Raises ForeignCode if it may not be read.
    """
    try:
        run, cls = recorded_run(folder), load_method_class(folder)
        if cls is None:
            return run
        values = {name: value for name, value in record.config["method"].items() if name not in ("kind", "source")}
        return replace(run, method=cls(**values))
    except ForeignCode:
        raise
    except ConfigError:
        return None


def _kept_teachers(results: Path, old: Sequence[OldRun]) -> dict[str, RunFolder]:
    """Return the folder to keep of each teacher, by its name after the migration; it may be there already.

    Among several copies an evaluated one is preferred, then a trained one, then the one with the most epochs. Ties go
    to the copy with the most distilled runs and trials in `old`, because the weights of the copies may differ.
    """
    teachers = [run for run in old if run.record.stage == "teacher"]
    students = [run for run in old if run.before is not None and run.record.stage != "teacher"]
    used = Counter(
        (run.record.family, teacher.name) for run in students if run.before for teacher in run.before.teachers
    )
    copies: dict[str, list[RunFolder]] = {}
    for path in find(results / TEACHERS, "*/run.json"):
        copies[path.parent.name] = [RunFolder(path.parent)]
    for run in teachers:
        if run.after is not None:
            copies.setdefault(run.after.name, []).append(run.folder)

    def value(folder: RunFolder) -> tuple[bool, bool, int, int]:
        is_done, (family, name) = folder.status() == "done", folder.path.parts[-2:]
        return is_done and is_file(folder.test), is_done, len(folder.history()), used[family, name]

    return {name: max(folders, key=value) for name, folders in copies.items()}


def _moves_of_teachers(
    results: Path, teachers: Sequence[OldRun], kept: Mapping[str, RunFolder]
) -> tuple[list[Move], list[str]]:
    """Return the moves of the teachers, and notes on those that are set aside."""
    aside, moved, notes = [], [], []
    for run in teachers:
        source = str(run.folder.path.relative_to(results))
        if run.after is None:
            aside.append(Move(source, f"{SET_ASIDE}/{source}"))
            notes.append(
                f"{source}: another version of raykd wrote its configuration; it moves to {SET_ASIDE}/, and the "
                "teacher is trained again"
            )
        elif kept[run.after.name] == run.folder:
            target = f"{TEACHERS}/{run.after.name}"
            moved.append(Move(source, target, run.after.name, run.after.fingerprint))
            if is_there(results / target):  # a later version trained it, but less far than the kept copy
                aside.append(Move(target, f"{SET_ASIDE}/{target}"))
        else:
            other = kept[run.after.name].path.relative_to(results)
            aside.append(Move(source, f"{SET_ASIDE}/{source}", run.after.name))
            notes.append(f"{source}: it duplicates the teacher {other}, which is kept; this copy moves to {SET_ASIDE}/")
    return [*aside, *moved], notes


def _move_of_student(results: Path, run: OldRun, kept: Mapping[str, RunFolder]) -> tuple[Move | None, str]:
    """Return the move of a distilled run or trial, None if it stays as it is; and a note, or ''."""
    if run.after is None:
        return None, "its configuration or the code of its method cannot be read; it stays, and is trained again"
    sha256, note = _teacher_sha256(results, run, kept), ""
    if sha256 is None:
        sha256 = run.record.teacher_sha256
        if not run.is_trial:  # the trials of a search are compared with each other only
            note = "distilled from other weights of the same teacher, as the report warns"
            if run.record.status != "done":
                return None, "partly trained with other weights of its teacher; it stays, and is trained again"
    source = str(run.folder.path.relative_to(results))
    target = source if run.is_trial else f"{run.after.family}/{run.after.name}"
    if target != source and is_there(results / target):
        return None, f"{target} exists already; this run is not moved, and no plan refers to it"
    return Move(source, target, run.after.name, run.after.fingerprint, sha256), note


def _teacher_sha256(results: Path, run: OldRun, kept: Mapping[str, RunFolder]) -> str | None:
    """Return the identity of the teacher's weights after the migration; None if they are other weights than the run's.

    The files of two copies of one teacher differ in the run's name in their header, even if all weights are equal.
    """
    assert run.before is not None and run.after is not None
    recorded, family = run.record.teacher_sha256, run.record.family
    after = [kept.get(teacher.name) for teacher in run.after.teachers]
    found = [folder.require_record().weights_sha256 if folder else None for folder in after]
    digests = [digest for digest in found if digest]
    if len(digests) < len(found) or recorded in ("", teacher_digest(digests)):
        return recorded  # the new identity is unknown (a teacher is untrained), or it equals the recorded one
    before = [RunFolder(results / family / teacher.name) for teacher in run.before.teachers]
    records = [folder.record() for folder in before]
    known = [record.weights_sha256 for record in records if record and record.weights_sha256]
    if len(known) < len(before) or teacher_digest(known) != recorded:
        return None
    pairs = zip(before, after, strict=True)
    is_equal = all(folder is not None and _have_same_weights(one, folder) for one, folder in pairs)
    return teacher_digest(digests) if is_equal else None


def _have_same_weights(one: RunFolder, other: RunFolder) -> bool:
    if not (is_file(one.best) and is_file(other.best)):
        return False
    first, second = load_file(one.best), load_file(other.best)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _apply(results: Path, move: Move) -> None:
    """Rewrite the files of a run, and rename its folder unless it is a trial. Repeating this is safe."""
    source, target = results / move.source, results / move.target
    if not is_folder(source):
        return
    folder = RunFolder(source)
    with folder.lock():
        if move.fingerprint:
            _rewrite(folder, move)
        if not move.is_trial:
            target.parent.mkdir(parents=True, exist_ok=True)
            source.rename(target)


def _rewrite(folder: RunFolder, move: Move) -> None:
    """Write the new name, fingerprint and teacher to the files of a run. best.safetensors stays as it is."""
    record = folder.require_record()
    is_teacher = record.stage == "teacher"
    config = dict(record.config)
    if is_teacher:
        config["family"] = TEACHERS
    else:
        config["teacher"] = {**config["teacher"], "family": TEACHERS}
    for path in (folder.val, folder.test):
        values = read_checked_json(path)
        if values is not None and values.get("teacher_sha256") not in (None, move.teacher_sha256):
            write_checked_json(path, values | {"teacher_sha256": move.teacher_sha256})
    for path in find(folder.path / "usage", "*.json"):
        if (usage := read_record(UsageFile, path)) is not None:
            write_record(path, replace(usage, run=Path(move.target).name))
    set_run_of_checkpoint(folder.checkpoint, move.fingerprint)
    folder.write_record(
        replace(
            record,
            name=move.name,
            family=TEACHERS if is_teacher else record.family,
            fingerprint=move.fingerprint,
            config=config,
            teacher_sha256=move.teacher_sha256,
        )
    )


def _names(migration: MigrationRecord, family: str) -> dict[str, str]:
    """Return {name before: name after} of the runs that plans and confirmations of `family` may name."""
    moves = [move for move in migration.moves if move.family == family and move.name and not move.is_trial]
    return {Path(move.source).name: move.name for move in moves}


def _rename_in_plan(path: Path, names: Mapping[str, str]) -> None:
    plan = read_record(PlanRecord, path)
    if plan is None:
        return
    stages = {stage: _renamed(runs, names) for stage, runs in plan.stages.items()}
    comparison = {method: _renamed(runs, names) for method, runs in plan.comparison.items()}
    write_record(path, replace(plan, stages=stages, comparison=comparison))


def _renamed(runs: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(names.get(run, run) for run in runs)


def _rename_in_search(folder: Path, names: Mapping[str, str], fingerprints: Mapping[str, str]) -> None:
    """Rename the runs that confirm a search, and its teacher in its identity."""
    search = folder / "search.json"
    if (values := read_checked_json(search)) is not None:
        identity = values["identity"]
        teacher = identity.get("teacher_run")
        identity = identity | {"teacher_run": fingerprints.get(teacher, teacher)}
        write_checked_json(search, values | {"identity": identity})
    confirmed = folder / "confirmed.json"
    if (values := read_checked_json(confirmed)) is not None:
        rows = [_with_runs(row, names) for row in values["candidates"]]
        write_checked_json(confirmed, values | {"candidates": rows, "baseline": _with_runs(values["baseline"], names)})


def _with_runs(row: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {**row, "runs": list(_renamed(row["runs"], names))}


def describe_migration(migration: MigrationRecord) -> Iterator[str]:
    """Yield the lines that describe `migration`: each folder that is renamed, its notes, and the counts."""
    for move in migration.moves:
        if not move.is_trial:
            yield f"{move.source} -> {move.target}"
    yield from migration.notes
    teachers = sum(move.target.startswith(f"{TEACHERS}/") for move in migration.moves)
    aside = sum(move.target.startswith(f"{SET_ASIDE}/") for move in migration.moves)
    trials = sum(move.is_trial for move in migration.moves)
    students = len(migration.moves) - teachers - aside - trials
    counts = [plural(teachers, "teacher"), plural(students, "distilled run"), plural(trials, "trial")]
    yield f"{', '.join(counts)} keep their results; {plural(aside, 'teacher')} set aside"
