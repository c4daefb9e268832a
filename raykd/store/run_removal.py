"""Remove whole runs, and nothing that another process trains or an unfinished run needs. Imports no torch.

A run is renamed within its family while its lock is held, and removed after that. So another process sees the whole run
or none, and a removal that is interrupted leaves a folder that `raykd clean` removes.
"""

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from raykd.errors import COMMAND, ConfigError, RunFailed
from raykd.file_lock import holding, lock_at
from raykd.spec.stages import TRIALS
from raykd.store.migration import require_migrated
from raykd.store.results_folder import PLAN_LOCK, PLAN_WAIT_S, is_in_use, require_writable
from raykd.store.run_catalog import Catalog, CatalogRun, CatalogSearch, read_catalog
from raykd.store.run_folder import RunFolder
from raykd.store.run_references import References

REMOVED = ".removed-"  # prefix of a folder that is being removed
MAX_NAMED = 3  # runs in a message
Entry = TypeVar("Entry", CatalogRun, CatalogSearch)


def removable_runs(
    results: Path, folders: Sequence[RunFolder], force: bool = False, searches: Sequence[CatalogSearch] = ()
) -> list[CatalogRun]:
    """Return the catalog's entries of `folders`, after checking that each may be removed. Changes nothing.

    force: also allow teachers that other runs still need. searches: those that are removed first, and need no teacher.
    Raises ConfigError for a run that is locked, that does not belong to `results` or is a trial of a search, for a
    needed teacher, and for folders that cannot be written or have to be migrated first.
    """
    runs = _not_needed(results, folders, force, searches)
    for run in runs:
        if run.folder.is_held():
            raise _locked(run)
    return runs


def remove_runs(results: Path, runs: Sequence[CatalogRun], force: bool = False) -> None:
    """Remove `runs`, after the checks of `removable_runs` with all locks held. If one fails, no run is removed."""
    with holding(lock_at(results / PLAN_LOCK), PLAN_WAIT_S), all_locked(runs, _locked):
        _not_needed(results, [run.folder for run in runs], force)
        renamed = renamed_for_removal(run.folder.path for run in runs)
    for path in renamed:  # NFS keeps an open lock file under another name, so that its folder could not be removed
        shutil.rmtree(path)


def renamed_for_removal(paths: Iterable[Path]) -> list[Path]:
    """Rename folders or files so that no process finds them, and return their new paths. The caller holds a lock."""
    return [path.rename(path.with_name(f"{REMOVED}{uuid.uuid4().hex[:12]}")) for path in paths]


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


@contextmanager
def all_locked(entries: Sequence[Entry], refused: Callable[[Entry], ConfigError]) -> Iterator[None]:
    """Hold the locks of runs or searches. Raises what `refused` returns for one that another process has locked."""
    with ExitStack() as stack:
        for entry in entries:
            try:
                stack.enter_context(entry.folder.lock())
            except RunFailed:
                raise refused(entry) from None
        yield


def _locked(run: CatalogRun) -> ConfigError:
    return ConfigError(f"run '{run.name}' is locked by {run.folder.last_writer}; wait for it to end, or stop it")
