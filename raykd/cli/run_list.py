"""The rows of `raykd runs`: which runs and searches its flags select, in which order, as values for JSON."""

import re
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raykd.errors import ConfigError, one_line, shortened
from raykd.spec.stages import STAGES
from raykd.store.results_folder import disk_bytes
from raykd.store.run_catalog import Catalog, CatalogRun, CatalogSearch

Row = dict[str, Any]
_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}

# --sort: the key of a run, ascending.
SORT_KEYS: dict[str, Callable[[CatalogRun], Any]] = {
    "name": lambda run: (run.family, STAGES.index(run.stage) if run.stage else len(STAGES), run.name),
    "age": lambda run: -run.changed_at,
    "size": lambda run: -run.size_bytes,
    "val": lambda run: -(-1 if run.val_top1 is None else run.val_top1),
    "test": lambda run: -(-1 if run.test_top1 is None else run.test_top1),
}


def parse_age(text: str) -> float:
    """Return the seconds of an age such as '30m', '12h', '7d' or '2w'. Raises ConfigError."""
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([mhdw])", text)
    if match is None:
        shown = one_line(shortened(text))
        raise ConfigError(f"--older-than {shown}: must be a number and m, h, d or w, such as 7d for seven days")
    return float(match[1]) * _SECONDS[match[2]]


def listed(catalog: Catalog, arguments: Namespace, older_than_s: float | None, now: float) -> list[CatalogRun]:
    """Return the runs that the flags select, sorted; with --trials, the trials of searches instead."""
    runs = [run for search in catalog.searches for run in search.trials] if arguments.trials else catalog.runs
    chosen = [run for run in runs if _is_selected(run, arguments, older_than_s, now)]
    return sorted(chosen, key=SORT_KEYS[arguments.sort])


def _is_selected(run: CatalogRun, arguments: Namespace, older_than_s: float | None, now: float) -> bool:
    values = {"family": run.family, "stage": run.stage, "status": run.status}
    values["method"] = run.record.method if run.record else None
    return (
        all(getattr(arguments, name) in (None, value) for name, value in values.items())
        and (older_than_s is None or now - run.changed_at > older_than_s)
        and not (arguments.unplanned and run.is_planned)
        and (arguments.tag is None or arguments.tag in run.tags)
    )


def rows_of(runs: Sequence[CatalogRun], short: Mapping[Path, str], now: float) -> list[Row]:
    """Return the runs as rows. short: beginnings of their fingerprints that name them in commands."""
    return [
        {
            "run": short.get(run.folder.path, run.name),
            "name": run.name,
            "family": run.family,
            "stage": run.stage,
            "model": run.record.model if run.record else None,
            "method": run.record.method if run.record else None,
            "seed": run.record.seed if run.record else None,
            "status": run.status,
            "val_top1": run.val_top1,
            "test_top1": run.test_top1,
            "size_bytes": run.size_bytes,
            "age_s": round(max(0.0, now - run.changed_at)),
            "planned": run.is_planned,
            "changes": dict(run.changes),
            "tags": list(run.tags),
            "folder": str(run.folder.path),
        }
        for run in runs
    ]


def search_rows(catalog: Catalog, arguments: Namespace, older_than_s: float | None, now: float) -> list[Row]:
    """Return one row per search. A search has no stage, method, status or tag, so filters of these leave it out."""
    filters = (arguments.stage, arguments.method, arguments.status, arguments.tag, arguments.unplanned or None)
    if any(value is not None for value in filters):
        return []
    rows = []
    for search in catalog.searches:
        row = search_row(search, now)
        if arguments.family in (None, search.family) and (older_than_s is None or row["age_s"] > older_than_s):
            rows.append(row)
    return rows


def search_row(search: CatalogSearch, now: float) -> Row:
    """Return a search as a row. Its age counts from the last change of a trial."""
    changed_at = max((run.changed_at for run in search.trials), default=search.folder.path.stat().st_mtime)
    values = [run.val_top1 for run in search.trials if run.val_top1 is not None]
    return {
        "search": search.name,
        "family": search.family,
        "trials": dict(Counter(state.state for state in search.states)),
        "unfinished": search.is_unfinished,
        "val_top1": max(values, default=None),
        "size_bytes": disk_bytes(search.folder.path),
        "age_s": round(max(0.0, now - changed_at)),
        "folder": str(search.folder.path),
    }
