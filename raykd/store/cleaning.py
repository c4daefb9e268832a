"""Find and remove what a results folder holds beside its results: `raykd clean`. Imports no torch.

    checkpoints     of finished runs and ended trials, three times the weights each
    logit caches    that no unfinished run or search reads; a run that needs one fills it again
    decoded data    decoded images and packs in .data that no unfinished run or search reads; made again when needed
    leftovers       of killed commands: files of Ray Train, temporary files, runs that were partly removed; and runs
                    that `raykd migrate` set aside

A checkpoint is removed while the run's lock is held, as in training. All others are removed only while no command
trains in the results folder, since they are not locked one by one.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from raykd.disk.atomic import is_leftover
from raykd.disk.file_lock import holding, is_locked, lock_at
from raykd.disk.lookup import is_file, is_folder, is_own
from raykd.errors import RunFailed
from raykd.spec.stages import TRIALS
from raykd.store.migration import SET_ASIDE, require_migrated
from raykd.store.results_folder import (
    DECODED,
    LOGIT_CACHES,
    PLAN_LOCK,
    PLAN_WAIT_S,
    RAY,
    disk_bytes,
    is_in_use,
    require_writable,
    unused,
)
from raykd.store.run_catalog import Catalog, CatalogRun, read_catalog
from raykd.store.run_folder import RunFolder
from raykd.store.run_references import References
from raykd.store.run_removal import REMOVED, delete, renamed_for_removal

Kind = Literal["checkpoints", "logit caches", "decoded data", "leftovers"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEFTOVER_S = 3600.0  # age from which a temporary file counts as left behind
PACK = "pack.json"  # written last: a folder without it is being packed, or packing resumes there
PACK_LOCK = ".lock"
IDENTITY_DIGITS = 16  # of the data's identity, at the end of the names of decoded files


@dataclass(frozen=True)
class Removable:
    """A file or folder that nothing needs. run: its run folder, whose lock guards it; None if no lock does."""

    kind: Kind
    path: Path
    size_bytes: int
    run: RunFolder | None = None


@dataclass(frozen=True)
class Cleaning:
    """What may be removed, and which caches are kept for which runs. is_used: whether a command trains there now."""

    removable: tuple[Removable, ...]
    kept: tuple[tuple[Path, tuple[str, ...]], ...]
    is_used: bool

    def size_of(self, kind: Kind) -> int:
        return sum(item.size_bytes for item in self.removable if item.kind == kind)


def find_removable(results: Path) -> Cleaning:
    """Find what may be removed now. While a command trains in `results`, only checkpoints are. Changes nothing.

    Raises ConfigError if the folder cannot be read or written or has to be migrated first, or if a plan is damaged.
    """
    catalog = read_catalog(results)
    require_migrated(results)
    require_writable(results, results)
    is_used = is_in_use(results)
    removable, kept = list(_checkpoints(catalog)), list[tuple[Path, tuple[str, ...]]]()
    if not is_used:
        unguarded, kept = _unguarded(catalog)
        removable += unguarded
    return Cleaning(tuple(removable), tuple(kept), is_used)


def remove_unneeded(results: Path, found: Cleaning) -> tuple[list[Removable], list[str]]:
    """Remove what `found` has and what is still not needed. Return it, and what `run_removal.delete` returns."""
    removed = [item for item in found.removable if item.run is not None and _remove_in_run(item, item.run)]
    others = {item.path: item for item in found.removable if item.run is None}
    with unused(results) as is_free, holding(lock_at(results / PLAN_LOCK), PLAN_WAIT_S):
        unguarded = _unguarded(read_catalog(results))[0] if is_free and others else ()
        unneeded = [item for item in unguarded if item.path in others]
        renamed = renamed_for_removal(item.path for item in unneeded)
    return removed + unneeded, delete(renamed)  # after the locks are released: a command that starts waits for them


def _remove_in_run(item: Removable, folder: RunFolder) -> bool:
    """Remove a checkpoint or temporary files of a run, and return whether it was still unneeded and not locked."""
    if not is_folder(folder.path):  # the run was removed meanwhile, and its lock would make the folder again
        return False
    try:
        with folder.lock():
            if item.kind == "leftovers":
                item.path.unlink(missing_ok=True)
            elif folder.path.parent.name != TRIALS and folder.status() != "done":  # an ended trial remains ended
                return False
            else:
                folder.remove_checkpoint()
    except RunFailed:
        return False
    return True


def _checkpoints(catalog: Catalog) -> Iterator[Removable]:
    """Yield the checkpoints that no run resumes from, and the temporary files of runs that nobody trains.

    Damaged weights can be restored from a checkpoint, which is then kept.
    """
    ended = {
        search.folder.run(state.number).path for search in catalog.searches for state in search.states if state.is_ended
    }
    for run in catalog.all_runs:
        folder = run.folder
        if is_file(folder.checkpoint) and _is_over(run, ended):
            yield Removable("checkpoints", folder.checkpoint, disk_bytes(folder.checkpoint), folder)
        if run.status != "running":
            for path in _leftovers_in(folder.path, folder.checkpoint.parent, folder.usage(0).parent):
                yield Removable("leftovers", path, disk_bytes(path), folder)


def _is_over(run: CatalogRun, ended: set[Path]) -> bool:
    """Return whether the run, or a trial in `ended`, never resumes. A search's command may rerun other trials."""
    if run.search:
        return run.status == "done" or (run.folder.path in ended and run.status != "running")
    return run.folder.status() == "done"


def _leftovers_in(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in _entries(folder) if _is_left_behind(path)]


def _unguarded(catalog: Catalog) -> tuple[list[Removable], list[tuple[Path, tuple[str, ...]]]]:
    """Return what has no lock of its own and is not needed, and the caches that are needed, with who needs them."""
    results, references = catalog.results, References(catalog)
    removable, kept = [], []
    for path in _entries(results / LOGIT_CACHES):
        if is_folder(path) and not path.name.startswith("."):
            if needing := references.needing_cache(path):
                kept.append((path, tuple(needing)))
            else:
                removable.append(Removable("logit caches", path, disk_bytes(path)))
    removable += [Removable("decoded data", path, disk_bytes(path)) for path in _decoded(results / DECODED, references)]
    families = [path for path in _entries(results) if is_folder(path)]
    left = [path for folder in (results, *families) for path in _entries(folder) if _is_left_behind(path)]
    left += [*_entries(results / RAY), *_entries(results / SET_ASIDE)]
    removable += [Removable("leftovers", path, disk_bytes(path)) for path in left]
    return removable, kept


def _decoded(folder: Path, references: References) -> list[Path]:
    """Return the decoded images, statistics and complete packs in `folder` that nothing unfinished reads."""
    needed, paths = references.needed_data(), []
    for path in _entries(folder):
        digits = path.stem.rpartition("-")[2]
        if path.suffix == ".pack":
            is_written = is_file(path / PACK) and not is_locked(lock_at(path / PACK_LOCK))
            is_needed = needed is None or bool(needed) or not is_written
        elif path.suffix in (".safetensors", ".json") and len(digits) == IDENTITY_DIGITS:
            is_needed = needed is None or any(identity.startswith(digits) for identity in needed)
        else:
            continue
        if not is_needed:
            paths.append(path)
    return paths


def _is_left_behind(path: Path) -> bool:
    """Return whether `path` is a temporary file of a killed writer, or what an interrupted removal left.

    Evaluations, tags and reports are written without a lock, but in less than LEFTOVER_S.
    """
    if path.name.startswith(REMOVED):
        return True
    try:
        return is_leftover(path.name) and time.time() - path.lstat().st_mtime > LEFTOVER_S
    except FileNotFoundError:  # its writer has renamed it
        return False


def _entries(folder: Path) -> Sequence[Path]:
    """Return what is in `folder`; nothing if it is missing, or a link of another user, which may lead anywhere."""
    if not is_folder(folder) or (folder.is_symlink() and not is_own(folder)):
        return ()
    return sorted(folder.iterdir())
