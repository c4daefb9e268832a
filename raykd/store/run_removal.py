"""Remove whole runs, and nothing that another process trains or an unfinished run needs. Imports no torch.

A run is renamed within its family while its lock is held, and removed after that. So another process sees the whole run
or none. If a rename fails, all earlier ones are undone; what cannot be deleted after them is left to `raykd clean`.
"""

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from raykd.disk.file_lock import holding, lock_at
from raykd.disk.lookup import is_folder, is_there
from raykd.errors import COMMAND, ConfigError, Interrupted, RunFailed
from raykd.spec.stages import TRIALS
from raykd.store.migration import require_migrated
from raykd.store.results_folder import PLAN_LOCK, PLAN_WAIT_S, is_in_use, require_writable
from raykd.store.run_catalog import Catalog, CatalogRun, CatalogSearch, read_catalog
from raykd.store.run_folder import RunFolder
from raykd.store.run_references import References

REMOVED = ".removed-"  # prefix of a folder that is being removed
MAX_NAMED = 3  # runs in a message
Entry = CatalogRun | CatalogSearch


def removable_runs(
    results: Path, folders: Sequence[RunFolder], force: bool = False, searches: Sequence[CatalogSearch] = ()
) -> list[CatalogRun]:
    """Return the catalog's entries of `folders`, after checking that each may be removed. Changes nothing.

    force: also allow teachers that other runs still need. searches: those that are removed first, and need no teacher.
    Raises ConfigError for a run that is locked, that does not belong to `results` or is a trial of a search, for a
    needed teacher, and for folders that cannot be written or have to be migrated first.
    """
    runs = _not_needed(results, folders, force, searches)
    require_unlocked(runs)
    return runs


def remove_runs(results: Path, runs: Sequence[CatalogRun], force: bool = False) -> list[str]:
    """Remove `runs`, after the checks of `removable_runs` with all locks held. If one fails, no run is removed.

    Returns what `delete` returns.
    """
    with holding(lock_at(results / PLAN_LOCK), PLAN_WAIT_S), all_locked(runs):
        _not_needed(results, [run.folder for run in runs], force)
        renamed = renamed_for_removal(run.folder.path for run in runs)
    return delete(renamed)  # later, because NFS keeps an open lock file under another name in the folder


def renamed_for_removal(paths: Iterable[Path]) -> list[Path]:
    """Rename folders or files so that no process finds them, and return their new paths. The caller holds a lock.

    If one cannot be renamed, the others get their names back. What a removal has renamed before keeps its name.
    """
    renamed: list[tuple[Path, Path]] = []
    try:
        for path in paths:
            hidden = path if path.name.startswith(REMOVED) else path.with_name(f"{REMOVED}{uuid.uuid4().hex[:12]}")
            renamed.append((path, hidden))
            path.rename(hidden)
    except BaseException:
        for path, hidden in reversed(renamed):
            if is_there(hidden) and not is_there(path):
                hidden.rename(path)
        raise
    return [hidden for _, hidden in renamed]


def delete(paths: Iterable[Path]) -> list[str]:
    """Delete renamed folders and files, and return which of them remain and why: ["'PATH' (Permission denied)"].

    Another process may delete them concurrently. Raises Interrupted upon Ctrl-C, with the remedy.
    """
    remaining = []
    for path in paths:
        try:
            _delete(path)
        except OSError as error:
            remaining.append(f"'{path}' ({error.strerror})")
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted while the files of what is removed were deleted; run '{COMMAND} clean' to delete the rest"
            ) from None
    return remaining


def _delete(path: Path) -> None:
    """Delete a file or folder. A file that another process deletes first ends rmtree, which then continues."""
    while os.path.lexists(path):
        with suppress(FileNotFoundError):
            if is_folder(path) and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _not_needed(
    results: Path, folders: Sequence[RunFolder], force: bool, searches: Sequence[CatalogSearch] = ()
) -> list[CatalogRun]:
    """Return the catalog's entries of `folders`. Raises what `removable_runs` raises, except for locked runs."""
    catalog = read_catalog(results)
    require_migrated(results)
    entries = {run.folder.path.resolve(): run for run in catalog.runs}
    chosen = list(dict.fromkeys(folder.path.resolve() for folder in folders))
    for path in chosen:
        if path not in entries:
            raise _not_a_run(path, catalog)
    runs = [entries[path] for path in chosen]
    names = {entry.full_name for entry in (*runs, *searches)}
    for run in runs:
        for folder in (run.folder.path.parent, run.folder.path):
            require_writable(folder, results)
        if not force:
            _require_not_needed(run, References(catalog), names)
    return runs


def _not_a_run(path: Path, catalog: Catalog) -> ConfigError:
    """Return why the folder `path` is not removed as a run of `catalog`."""
    for search in catalog.searches:
        if path == (search.folder.path / TRIALS / path.name).resolve():
            return ConfigError(
                f"run '{search.full_name}/{path.name}' is a trial, to which its search refers; remove the whole search "
                f"with '{COMMAND} runs rm {search.full_name}'"
            )
    return ConfigError(f"run '{path.name}' is not below '{catalog.results}'; it is not removed")


def _require_not_needed(run: CatalogRun, references: References, removed: set[str]) -> None:
    """Raise ConfigError if runs or searches that are not `removed` themselves need the teacher `run`."""
    left = [name for name in references.needing_teacher(run) if name not in removed]
    if left:
        more = f" and {len(left) - MAX_NAMED} more" if len(left) > MAX_NAMED else ""
        raise ConfigError(
            f"teacher '{run.name}' is still needed by {', '.join(left[:MAX_NAMED])}{more}; finish or remove "
            f"{'it' if len(left) == 1 else 'them'} first, or add --force"
        )
    if run.stage == "teacher" and references.plans_of(run) and is_in_use(references.catalog.results):
        raise ConfigError(
            f"teacher '{run.name}' is planned, and a command trains in '{references.catalog.results}' now; wait for "
            "it to end, or add --force"
        )


def require_unlocked(entries: Iterable[Entry]) -> None:
    """Raise ConfigError if another process holds the lock of a run, a trial or a search."""
    for entry in entries:
        if entry.folder.is_held():
            raise _locked_error(entry)


@contextmanager
def all_locked(entries: Sequence[Entry]) -> Iterator[None]:
    """Hold the locks of runs or searches. Raises ConfigError for one that another process has locked."""
    with ExitStack() as stack:
        for entry in entries:
            try:
                stack.enter_context(entry.folder.lock())
            except RunFailed:
                raise _locked_error(entry) from None
        yield


def _locked_error(entry: Entry) -> ConfigError:
    noun = "search" if isinstance(entry, CatalogSearch) else "trial" if entry.search else "run"
    name = entry.name if noun == "run" else entry.full_name
    return ConfigError(f"{noun} '{name}' is locked by {entry.folder.last_writer}; wait for it to end, or stop it")
