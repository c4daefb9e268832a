"""Reads the searches below a results folder: trials, confirmation, cost.

<results>/<family>/<name>/  search.json  study.journal  trials/<number>/  confirmed.json      see raykd/store/study.py

As in collect.py, an absent file means "not yet", and a damaged file ends the report.
"""

from pathlib import Path

from raykd.config import from_dict
from raykd.config.codec import read_record
from raykd.disk.damage import damaged
from raykd.errors import ConfigError
from raykd.report.read.search_cost import cost_of
from raykd.report.read.search_results import SearchSummary
from raykd.report.read.search_trials import summarize_trials
from raykd.spec.search import Search
from raykd.store.records import ConfirmationRecord, read_plan
from raykd.store.results_folder import search_paths


def summarize_searches(results: Path) -> tuple[SearchSummary, ...]:
    """Return every search under `results`, by family and name. Raises DamagedFile."""
    return tuple(summarize_search(path, results) for path in search_paths(results))


def summarize_search(folder: Path, results: Path) -> SearchSummary:
    """Return the search in `folder` of `results`."""
    from raykd.store.study import SearchFolder, best_first  # here: a report without a search does not need optuna

    search_folder = SearchFolder(folder)
    record, path = search_folder.require_record(), search_folder.record_path
    for name, expected in {"family": folder.parent.name, "name": folder.name}.items():
        if (recorded := getattr(record, name)) != expected:
            raise damaged(path, f"{name} is '{recorded}', the folder has '{expected}'")
    try:
        search = from_dict(Search, record.search)
    except ConfigError as error:
        raise damaged(path, str(error)) from error
    started = [trial for trial in search_folder.trials() if trial.state != "waiting"]  # without a grid's other trials
    trials = summarize_trials(search_folder, started, search, record.epochs)
    return SearchSummary(
        folder,
        search_folder.page_folder / "index.html",
        search,
        record,
        search_folder.is_held(),
        trials,
        tuple(trial.number for trial in best_first(started, search)),
        read_record(ConfirmationRecord, search_folder.confirmed),
        cost_of(record, trials, results),
        read_plan(folder.parent / "plan.json").command_parts,
    )
