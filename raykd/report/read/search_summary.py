"""Searches' folders in, their summaries out: trials, confirmation, cost.

<results>/<family>/<name>/  search.json  study.journal  trials/<number>/  confirmed.json      see raykd/store/study.py

As in `collect`: what is absent means "not yet", what is there and cannot be what it should be ends the report.

confirmed.json in, the winner's gains out, paired by seed and widened for having been picked.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raykd.config import from_dict
from raykd.errors import ConfigError, flattened
from raykd.report.read.search_cost import cost_of
from raykd.report.read.search_records import Baseline, Candidate, Confirmation, SearchSummary
from raykd.report.read.search_trials import runs_of, studied_trials, summarize_trials
from raykd.spec.search import METRICS, Search
from raykd.store.codec import Fields, is_number
from raykd.store.damage import damaged


def read_confirmation(path: Path, search: Search, seeds: Sequence[int]) -> Confirmation | None:
    """None where nothing is confirmed yet. `is_whole` where it is of as many settings and of the `seeds` asked for.

    Raises: RaykdError naming the file when it is corrupt.
    """
    fields = Fields.read_if_exists(path)
    if fields is None:
        return None
    metric = fields.text("metric")
    if metric not in METRICS:
        fields.refuse(f"metric is '{metric}': known are {', '.join(METRICS)}")
    found_seeds = _whole_numbers(fields, "seeds")
    rows = [_fields(path, row) for row in _list(fields, "candidates")]
    candidates = tuple(_candidate(row, len(found_seeds)) for row in rows)
    index = fields.count("winner")
    if index >= len(candidates):
        fields.refuse(f"winner is {index}, and there are {len(candidates)} candidates")
    winner, own = candidates[index], next((one for one in candidates if one.trial is None), None)
    if winner.failed:
        fields.refuse(f"winner is {index}, and that candidate failed: {winner.failed}")
    baseline = _baseline(_fields(path, fields.mapping("baseline")), len(found_seeds), own)
    return Confirmation(
        metric,
        found_seeds,
        candidates,
        baseline,
        winner,
        runs_of_winner=tuple(map(str, _list(rows[index], "runs"))),
        is_complete=fields.count("asked") == search.confirm and found_seeds == tuple(seeds),
    )


def _candidate(row: Fields, num_seeds: int) -> Candidate:
    trial, setting = row.optional("trial", row.count), row.mapping("setting")
    return Candidate(trial, setting, *_values(row, num_seeds))


def _baseline(row: Fields, num_seeds: int, own: Candidate | None) -> Baseline:
    """A baseline that does not record its recipe is taken to have the experiment's own."""
    recipe = row.optional("setting", row.mapping)
    if recipe is None:
        recipe = own.setting if own else {}
    return Baseline(recipe, *_values(row, num_seeds))


def _values(row: Fields, num_seeds: int) -> tuple[tuple[float, ...], str]:
    """One value a seed and '', or () and why there are none."""
    values, failed = _list(row, "values"), row.optional_text("failed") or ""
    if failed:
        return (), flattened(failed)
    if len(values) != num_seeds or not all(is_number(value) for value in values):
        row.refuse(f"values {values!r:.80} are not {num_seeds} numbers, one for each seed")
    return tuple(float(value) for value in values), ""


def _whole_numbers(fields: Fields, name: str) -> tuple[int, ...]:
    values = _list(fields, name)
    if not values or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        fields.refuse(f"field '{name}' is {values!r:.80}, not a list of whole numbers")
    return tuple(values)


def _list(fields: Fields, name: str) -> list[Any]:
    values = fields.values.get(name)
    return values if isinstance(values, list) else fields.refuse(f"field '{name}' is {values!r:.80}, not a list")


def _fields(path: Path, row: Any) -> Fields:
    return Fields(path, row if isinstance(row, Mapping) else {})


ORIGIN = ("hardware", "versions", "git")


def summarize_searches(results: Path) -> tuple[SearchSummary, ...]:
    """Every search under `results`, by family and name; () where there is none.

    Raises: RaykdError naming the file when one is corrupt.
    """
    found = sorted(path for path in results.glob("*/*/search.json") if not path.parts[-3].startswith("."))
    return tuple(summarize_search(path.parent, results) for path in found)


def summarize_search(folder: Path, results: Path) -> SearchSummary:
    """The search in `folder`, whose page will lie below `results`/report."""
    from raykd.store.study import SearchFolder, best_first  # here: a report without a search needs no optuna

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
