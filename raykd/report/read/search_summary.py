"""Searches' folders in, their summaries out: trials, confirmation, cost.

<results>/<family>/<name>/  search.json  study.journal  trials/<number>/  confirmed.json      see raykd/store/study.py

As in `collect`: what is absent means "not yet", what is there and cannot be what it should be ends the report.

confirmed.json in, the winner's gains out, paired by seed and widened for having been picked.
"""

from collections.abc import Sequence
from pathlib import Path

from raykd.config import from_dict
from raykd.errors import ConfigError, flattened
from raykd.report.read.search_cost import cost_of
from raykd.report.read.search_records import Baseline, Candidate, Confirmation, SearchSummary
from raykd.report.read.search_trials import runs_of, studied_trials, summarize_trials
from raykd.spec.search import Search
from raykd.store.codec import read_record, require_record
from raykd.store.damage import damaged
from raykd.store.records import ConfirmationRecord, SearchRecord


def read_confirmation(path: Path, search: Search, seeds: Sequence[int]) -> Confirmation | None:
    """Return the confirmation of `search`, None before there is one. Raises DamagedFile."""
    record = read_record(ConfirmationRecord, path)
    if record is None:
        return None
    candidates = tuple(
        Candidate(row.trial, row.setting, row.values, flattened(row.failed or "")) for row in record.candidates
    )
    baseline = record.baseline
    return Confirmation(
        record.metric,
        record.seeds,
        candidates,
        Baseline(baseline.setting, baseline.values, flattened(baseline.failed or "")),
        candidates[record.winner],
        runs_of_winner=record.candidates[record.winner].runs,
        is_complete=record.asked == search.confirm and record.seeds == tuple(seeds),
    )


def summarize_searches(results: Path) -> tuple[SearchSummary, ...]:
    """Every search under `results`, by family and name; () where there is none.

    Raises: RaykdError naming the file when one is corrupt.
    """
    found = sorted(path for path in results.glob("*/*/search.json") if not path.parts[-3].startswith("."))
    return tuple(summarize_search(path.parent, results) for path in found)


def summarize_search(folder: Path, results: Path) -> SearchSummary:
    """The search in `folder`, whose page will lie below `results`/report."""
    from raykd.store.study import SearchFolder, best_first  # here: a report without a search needs no optuna

    path = folder / "search.json"
    record = require_record(SearchRecord, path)
    for name, expected in {"family": folder.parent.name, "name": folder.name}.items():
        if (recorded := getattr(record, name)) != expected:
            raise damaged(path, f"{name} is '{recorded}', its folder says '{expected}'")
    try:
        search = from_dict(Search, record.search)
    except ConfigError as error:
        raise damaged(path, str(error)) from error
    place = SearchFolder(folder)
    studied = studied_trials(place)
    runs = runs_of(place, studied)
    trials = summarize_trials(place, studied, runs, search, record.epochs)
    done = [trial for trial in studied if trial.state == "done"]
    return SearchSummary(
        folder,
        results / "report" / f"{folder.parent.name}-{folder.name}" / "index.html",
        search,
        record.own,
        record.epochs,
        record.seeds,
        record.started,
        place.is_held(),
        {"hardware": record.hardware, "versions": record.versions, "git": record.git},
        trials,
        tuple(trial.number for trial in best_first(done, search)),
        read_confirmation(place.confirmed, search, record.seeds),
        cost_of(record, trials, runs, results),
    )
