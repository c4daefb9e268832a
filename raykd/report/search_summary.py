"""Searches' folders in, their summaries out: trials, confirmation, cost.

<results>/<family>/<name>/  search.json  study.journal  trials/<number>/  confirmed.json      see raykd/study.py

As in `collect`: what is absent means "not yet", what is there and cannot be what it should be ends the report.
"""

from pathlib import Path

from raykd.config import from_dict
from raykd.damage import damaged
from raykd.errors import ConfigError
from raykd.json_fields import Fields
from raykd.report.confirmation import read_confirmation
from raykd.report.search_cost import cost_of
from raykd.report.search_records import SearchSummary
from raykd.report.search_trials import runs_of, studied_trials, summarize_trials
from raykd.search import Search

ORIGIN = ("hardware", "versions", "git")


def summaries_of_searches(results: Path) -> tuple[SearchSummary, ...]:
    """Every search under `results`, by family and name; () where there is none.

    Raises: RaykdError naming the file when one is corrupt.
    """
    found = sorted(path for path in results.glob("*/*/search.json") if not path.parts[-3].startswith("."))
    return tuple(summarize_search(path.parent, results) for path in found)


def summarize_search(folder: Path, results: Path) -> SearchSummary:
    """The search in `folder`, whose page will lie below `results`/report."""
    from raykd.study import SearchFolder, best_first  # here: a report without a search needs no optuna

    record = Fields.read(folder / "search.json")
    for key, expected in {"family": folder.parent.name, "name": folder.name}.items():
        if record.text(key) != expected:
            record.refuse(f"{key} is '{record.text(key)}', its folder says '{expected}'")
    search, epochs, own = _search_of(record), record.count("epochs"), record.mapping("own")
    seeds = record.values.get("seeds")
    if not isinstance(seeds, list) or not all(isinstance(seed, int) for seed in seeds):
        record.refuse(f"field 'seeds' is {seeds!r:.80}, not a list of whole numbers")
    place = SearchFolder(folder)
    studied = studied_trials(place)
    runs = runs_of(place, studied)
    trials = summarize_trials(place, studied, runs, search, epochs)
    done = [trial for trial in studied if trial.state == "done"]
    return SearchSummary(
        folder,
        results / "report" / f"{folder.parent.name}-{folder.name}" / "index.html",
        search,
        own,
        epochs,
        tuple(seeds),
        record.text("started"),
        place.is_held(),
        {name: record.values[name] for name in ORIGIN if record.values.get(name)},
        trials,
        tuple(trial.number for trial in best_first(done, search)),
        read_confirmation(place.confirmed, search, seeds),
        cost_of(record, trials, runs, results),
    )


def _search_of(record: Fields) -> Search:
    try:
        return from_dict(Search, record.mapping("search"))
    except ConfigError as error:
        raise damaged(record.path, str(error)) from error
