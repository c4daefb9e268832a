"""`raykd migrate`: move the runs of an earlier layout to where this version reads them."""

from pathlib import Path

from filelock import Timeout

from raykd.disk.file_lock import acquire, lock_at
from raykd.disk.lookup import is_folder
from raykd.errors import COMMAND, ConfigError, one_line
from raykd.store.run_store import RunStore
from raykd.training.migration import apply_migration, describe_migration, plan_migration


def migrate_results(results: Path, dry_run: bool) -> None:
    """Migrate `results` and print what was moved. dry_run: change nothing.

    Raises ConfigError if there is no such folder, if a process uses it, or if it cannot be written.
    """
    if not is_folder(results):
        raise ConfigError(f"results folder '{results}' does not exist; name another with --results")
    if dry_run:
        _print(results, dry_run)
        return
    RunStore(results).require_writable()
    path = results / ".migration.lock"
    try:
        with acquire(lock_at(path), 0):
            _print(results, dry_run)
            path.unlink()
    except Timeout:
        raise ConfigError(f"another process migrates '{results}'; wait for it to end") from None


def _print(results: Path, dry_run: bool) -> None:
    """Plan a migration, print it, and apply it unless `dry_run`."""
    migration = plan_migration(results)
    if not migration.moves:
        print("\n".join([*migration.notes, f"'{results}' has nothing to migrate"]))
        return
    for line in describe_migration(migration):
        print(one_line(line))
    if dry_run:
        print("nothing was changed")
        return
    apply_migration(results, migration)
    print(f"migrated; {COMMAND} report --results {results} writes the report again")
