"""Remove whole searches: their trials, their journal and their pages of the report. Imports no torch.

Runs of a family are kept, also those that confirm the configurations of a search, and so are teachers and logit caches:
other runs and searches may use them, and `raykd runs rm` and `raykd clean` remove them. As in run_removal.py, a search
and its page are renamed while its lock is held, and then deleted.
"""

from collections.abc import Sequence
from pathlib import Path

from raykd.disk.file_lock import holding, lock_at
from raykd.disk.lookup import find, is_folder
from raykd.errors import ConfigError
from raykd.spec.stages import TRIALS
from raykd.store.migration import require_migrated
from raykd.store.results_folder import PLAN_LOCK, PLAN_WAIT_S, is_in_use, require_writable
from raykd.store.run_catalog import CatalogSearch, read_catalog
from raykd.store.run_removal import all_locked, delete, renamed_for_removal, require_unlocked
from raykd.store.study import SearchFolder


def removable_searches(results: Path, folders: Sequence[SearchFolder], force: bool = False) -> list[CatalogSearch]:
    """Return the catalog's entries of `folders`, after checking that each may be removed. Changes nothing.

    force: also while a command trains in `results`, which may be about to start or resume a search. Raises ConfigError
    for a search that is locked or has a locked trial, for one that is not below `results`, and for folders that cannot
    be written or have to be migrated first.
    """
    catalog = read_catalog(results)
    require_migrated(results)
    entries = {search.folder.path.resolve(): search for search in catalog.searches}
    chosen = list(dict.fromkeys(folder.path.resolve() for folder in folders))
    for path in chosen:
        if path not in entries:
            raise ConfigError(f"search '{path.parent.name}/{path.name}' is not below '{results}'; it is not removed")
    searches = [entries[path] for path in chosen]
    for search in searches:
        folder = search.folder.path
        for path in (folder.parent, folder, *(path for path in find(folder, TRIALS) if is_folder(path))):
            require_writable(path, results)
        require_unlocked([search, *search.trials])
    if searches and not force and is_in_use(results):
        raise ConfigError(
            f"search '{searches[0].full_name}' may be used by a command that trains in '{results}' now; wait for it "
            "to end, or add --force"
        )
    return searches


def remove_searches(results: Path, searches: Sequence[CatalogSearch], force: bool = False) -> list[str]:
    """Remove `searches`, after the checks of `removable_searches`. If one fails, no search is removed.

    Returns what `run_removal.delete` returns.
    """
    with holding(lock_at(results / PLAN_LOCK), PLAN_WAIT_S):
        removable_searches(results, [search.folder for search in searches], force)
        with all_locked(searches):  # no command starts a trial, and workers may outlive a killed one for some seconds
            require_unlocked(trial for search in searches for trial in search.trials)
            # Pages first: if the process is killed between two renames, the command can be repeated.
            renamed = renamed_for_removal([*pages_of(searches), *(search.folder.path for search in searches)])
    return delete(renamed)


def pages_of(searches: Sequence[CatalogSearch]) -> list[Path]:
    """Return the folders with the pages of `searches` that exist."""
    return [search.folder.page_folder for search in searches if is_folder(search.folder.page_folder)]
