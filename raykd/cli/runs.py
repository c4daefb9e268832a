"""`raykd runs` lists, shows, removes and tags runs, and removes searches; `raykd clean` removes what no run needs.

Imports no torch.
"""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from raykd.cli.compare import compare
from raykd.cli.run_list import listed, parse_age, rows_of, search_rows
from raykd.cli.runs_text import (
    cleaning_text,
    list_text,
    removal_text,
    run_facts,
    search_removal_text,
    show_text,
)
from raykd.config.codec import write_record
from raykd.disk.file_lock import holding, lock_at
from raykd.disk.lookup import is_file
from raykd.errors import COMMAND, ConfigError, RaykdError, did_you_mean, one_line, plural, shortened
from raykd.store.cleaning import find_removable, remove_unneeded
from raykd.store.records import TagsRecord
from raykd.store.results_folder import PLAN_LOCK, PLAN_WAIT_S, require_readable, require_writable, search_paths
from raykd.store.run_catalog import read_catalog, tags_of
from raykd.store.run_folder import RunFolder
from raykd.store.run_names import find_run, short_names
from raykd.store.run_removal import removable_runs, remove_runs
from raykd.store.search_removal import pages_of, removable_searches, remove_searches
from raykd.store.study import SearchFolder

MAX_TAG = 40  # characters


def runs(arguments: Namespace) -> None:
    """Do one of the actions of `raykd runs`; without any, list the runs."""
    require_readable(Path(arguments.results))
    ACTIONS[arguments.action](arguments)


def list_runs(arguments: Namespace) -> None:
    older_than_s = None if arguments.older_than is None else parse_age(arguments.older_than)
    catalog, now = read_catalog(Path(arguments.results)), time.time()
    _require_known("--family", arguments.family, catalog.plans)
    _require_known("--method", arguments.method, {run.record.method for run in catalog.all_runs if run.record})
    _require_known("--tag", arguments.tag, {tag for run in catalog.all_runs for tag in run.tags})
    chosen = listed(catalog, arguments, older_than_s, now)
    rows = rows_of(chosen, short_names(catalog.results), now)
    searches = [] if arguments.trials else search_rows(catalog, arguments, older_than_s, now)
    if arguments.json:
        print(json.dumps([*rows, *searches], indent=1))
    else:
        print(list_text(rows, searches, catalog))


def _require_known(flag: str, value: str | None, known: Iterable[str]) -> None:
    """Raise ConfigError if the results folder has no run with the value of a filter."""
    names = sorted(known)
    if value is not None and value not in names:
        near = did_you_mean(value, names) or f"; there are {', '.join(names) or 'none'}"
        raise ConfigError(f"{flag} {one_line(shortened(value))}: no run has it{near}")


def show_run(arguments: Namespace) -> None:
    results = Path(arguments.results)
    folder = find_run(results, arguments.run)
    catalog = read_catalog(results)
    run = next((one for one in catalog.all_runs if one.folder.path.resolve() == folder.path.resolve()), None)
    if run is None:
        raise ConfigError(f"run '{arguments.run}' is not below '{results}'; name its results folder with --results")
    facts = run_facts(run, catalog)
    print(json.dumps(facts, indent=1) if arguments.json else show_text(facts))


def remove(arguments: Namespace) -> None:
    """Remove the runs and searches that the user names, after printing them and asking."""
    results, force = Path(arguments.results), arguments.force
    run_folders, search_folders = _find_named(results, arguments.run)
    searches = removable_searches(results, search_folders, force)
    chosen = removable_runs(results, run_folders, force, searches)
    for search in searches:
        print(search_removal_text(search, pages_of([search]), results, time.time()))
    if chosen:
        print(removal_text(chosen))
    counts = [plural(len(chosen), "run")] if chosen else []
    counts += [plural(len(searches), "search", "searches")] if searches else []
    if _is_confirmed(arguments, f"remove {' and '.join(counts)}"):
        # Searches first, because the runs may be teachers of their trials.
        remaining = remove_searches(results, searches, force) if searches else []
        remaining += remove_runs(results, chosen, force) if chosen else []
        print(f"removed {' and '.join(counts)}")
        _require_deleted(remaining)


def _require_deleted(remaining: Sequence[str]) -> None:
    """Raise RaykdError if files of what is removed could not be deleted."""
    if remaining:
        raise RaykdError(
            f"removed, but files remain in {', '.join(remaining)}; remove the cause and run '{COMMAND} clean'"
        )


def _find_named(results: Path, names: Sequence[str]) -> tuple[list[RunFolder], list[SearchFolder]]:
    """Return the runs and the searches that `names` name. Raises ConfigError for a name of neither."""
    by_name = {folder.full_name: folder for folder in map(SearchFolder, search_paths(results))}
    runs, searches = [], []
    for name in names:
        if name in by_name:
            searches.append(by_name[name])
        elif name and is_file(SearchFolder(Path(name)).record_path):
            searches.append(SearchFolder(Path(name)))
        else:
            try:
                runs.append(find_run(results, name))
            except ConfigError:
                if near := did_you_mean(name, by_name):
                    shown = one_line(shortened(name))
                    raise ConfigError(f"no run or search '{shown}' under '{results}'{near}") from None
                raise
    return runs, searches


def tag(arguments: Namespace) -> None:
    for word in arguments.tag:
        if not word or len(word) > MAX_TAG or not all(letter.isalnum() or letter in "._-+:/=" for letter in word):
            raise ConfigError(
                f"tag '{one_line(shortened(word))}': must have 1 to {MAX_TAG} letters, digits or ._-+:/=, and no spaces"
            )
    results = Path(arguments.results)
    folder = find_run(results, arguments.run)
    require_writable(folder.path, results)
    with holding(lock_at(folder.results / PLAN_LOCK), PLAN_WAIT_S):
        folder = find_run(results, arguments.run)  # again, because it may have been removed before the lock was held
        before = set(tags_of(folder))
        if arguments.untag and (missing := sorted(set(arguments.tag) - before)):
            has = f"has {', '.join(sorted(before))}" if before else "has none"
            raise ConfigError(f"tag '{missing[0]}': run '{folder.path.name}' {has}")
        after = before - set(arguments.tag) if arguments.untag else before | set(arguments.tag)
        write_record(folder.tags_path, TagsRecord(tuple(sorted(after))))
    print(f"{folder.path.name}: {', '.join(sorted(after)) or 'no tags'}")


def clean(arguments: Namespace) -> None:
    results = Path(arguments.results)
    found = find_removable(results)
    print(cleaning_text(found, results))
    if found.removable and not arguments.dry_run and _is_confirmed(arguments, "remove them"):
        removed, remaining = remove_unneeded(results, found)
        left = len(found.removable) - len(removed)
        kept = (
            f"; {plural(left, 'entry', 'entries')} kept, because a run started to use {'it' if left == 1 else 'them'}"
        )
        print(f"removed {plural(len(removed), 'entry', 'entries')}{kept if left else ''}")
        _require_deleted(remaining)


def _is_confirmed(arguments: Namespace, question: str) -> bool:
    """Return whether the user confirms, by --yes or by an answer. Raises ConfigError if nobody can answer."""
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError(f"'{question}?' cannot be asked without a terminal, so nothing is removed; add --yes")
    try:
        answer = input(f"{question}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("nothing is removed")
    return False


ACTIONS: dict[str | None, Callable[[Namespace], None]] = {
    None: list_runs,
    "show": show_run,
    "rm": remove,
    "tag": tag,
}
RUN_COMMANDS: dict[str, Callable[[Namespace], None]] = {"runs": runs, "clean": clean, "compare": compare}
