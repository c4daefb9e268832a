"""A search's own page and the files beside it, which need no network and no script.

<results>/report/<family>-<name>/  index.html  trials.parquet  trials.csv  summary.json
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raykd.errors import plural
from raykd.report import wording
from raykd.report.figures.search import draw_search
from raykd.report.read.provenance import flatten
from raykd.report.read.search_records import SearchSummary
from raykd.report.render import search_wording
from raykd.report.render.files import csv_bytes, parquet_bytes
from raykd.report.render.search_files import summary_json, trials_table
from raykd.report.render.search_wording import number
from raykd.report.render.templates import template
from raykd.report.stats.importances import Importances, importances_of


def files_of(summary: SearchSummary) -> dict[Path, bytes]:
    """Everything that tells of one search, by where it goes; the same bytes for the same folder."""
    importances = importances_of(summary)
    trials = trials_table(summary)
    return {
        summary.page: render_search_page(summary, importances),
        summary.page.with_name("trials.parquet"): parquet_bytes(trials),
        summary.page.with_name("trials.csv"): csv_bytes(trials),
        summary.page.with_name("summary.json"): summary_json(summary, importances),
    }


def render_search_page(summary: SearchSummary, importances: Importances | None) -> bytes:
    """index.html in UTF-8. It holds while the search is running, and where nothing came of it."""
    page = template("search.html.j2").render(
        summary=summary,
        confirmation=summary.confirmation,
        labels=search_wording.labels(list(summary.search.space)),
        drawings=draw_search(summary, importances),
        settings=settings_of(summary),
        origin=flatten(summary.origin),
        number=number,
        said=search_wording,
        wording=wording,
    )
    return page.encode()


def settings_of(summary: SearchSummary) -> Mapping[str, str]:
    """What was searched and how, by name."""
    search = summary.search
    fields = {path: f"{space}; its own is {_own(summary, path)}" for path, space in search.space.items()}
    metrics = zip(search.metrics, search.directions, strict=True)
    scheduler = search.scheduler
    if scheduler != "none":
        scheduler += f", each trial is left {plural(search.grace_of(summary.epochs), 'epoch')}"
    if search.scheduler == "asha":
        rungs = ", ".join(map(str, search.rungs_of(summary.epochs)))
        scheduler += f", rungs after {rungs}, one trial in {search.reduction_factor} goes on"
    trials = f"{search.num_trials} of up to {plural(summary.epochs, 'epoch')}, seed {search.trial_seed}"
    if search.max_concurrent:
        trials += f", at most {search.max_concurrent} side by side"
    return {
        **fields,
        "metric": ", ".join(f"{metric} ({mode})" for metric, mode in metrics),
        "trials": trials,
        "sampler": f"{search.sampler}, seed {search.seed}",
        "scheduler": scheduler,
        "confirm": f"the best {search.confirm}, with seeds {', '.join(map(str, summary.seeds))}"
        if search.confirm
        else "not asked for",
        "started": summary.started,
        "folder": str(summary.path),
    }


def _own(summary: SearchSummary, path: str) -> str:
    value: Any = summary.own.get(path)
    return "not recorded" if value is None else number(value)
