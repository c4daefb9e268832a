"""A search's page and the files beside it; the page opens offline, and a script only sorts and labels its tables.

<results>/report/<family>-<name>/  index.html  trials.parquet  trials.csv  summary.json
"""

from collections.abc import Mapping
from pathlib import Path

from raykd.errors import plural
from raykd.report import search_wording, wording
from raykd.report.figures.search import draw_search
from raykd.report.figures.search_contour import why_no_contour
from raykd.report.read.provenance import flatten
from raykd.report.read.search_results import SearchSummary
from raykd.report.render import templates
from raykd.report.render.files import csv_bytes, parquet_bytes
from raykd.report.render.search_files import search_summary_json, trials_table
from raykd.report.search_wording import format_value
from raykd.report.stats.confirmation import gain_over_default
from raykd.report.stats.importances import Importances
from raykd.report.stats.metrics import SEARCH_METRICS
from raykd.report.stats.tuning import tunes_baseline


def search_files(summary: SearchSummary, importances: Importances | None) -> dict[Path, bytes]:
    """Return the content of each file about one search: the same bytes for the same search folder."""
    trials = trials_table(summary)
    return {
        summary.page: _render_page(summary, importances),
        summary.page.with_name("trials.parquet"): parquet_bytes(trials),
        summary.page.with_name("trials.csv"): csv_bytes(trials),
        summary.page.with_name("summary.json"): search_summary_json(summary, importances),
    }


def _render_page(summary: SearchSummary, importances: Importances | None) -> bytes:
    """Return index.html in UTF-8, also for a search that is running or failed."""
    return templates.page(
        "search.html.j2",
        summary=summary,
        confirmation=summary.confirmation,
        gain=gain_over_default(summary.confirmation) if summary.confirmation else None,
        labels=search_wording.labels(list(summary.search.space)),
        drawings=draw_search(summary, importances),
        no_contour=why_no_contour(summary, importances),
        search_fields=_search_fields(summary),
        origin=flatten({name: getattr(summary.record, name) for name in ("hardware", "versions", "git")}),
        metrics=SEARCH_METRICS,
        search_wording=search_wording,
        wording=wording,
        tunes_baseline=tunes_baseline,
    )


def _search_fields(summary: SearchSummary) -> Mapping[str, str]:
    """Return the fields of the search, in words, by name."""
    search = summary.search
    defaults = {
        path: format_value(value) for path, value in summary.record.default_configuration.items() if value is not None
    }
    fields = {
        path: f"{space}; the default is {defaults.get(path, 'not recorded')}" for path, space in search.space.items()
    }
    metrics = zip(search.metrics, search.directions, strict=True)
    scheduler = search.scheduler
    if scheduler != "none":
        scheduler += f", no trial is stopped before {plural(search.grace_of(summary.record.epochs), 'epoch')}"
    if search.scheduler == "asha":
        rungs = ", ".join(map(str, search.rungs_of(summary.record.epochs)))
        scheduler += f", rungs after {rungs}, one trial in {search.reduction_factor} continues"
    trials = f"{search.num_trials} of up to {plural(summary.record.epochs, 'epoch')}, seed {search.trial_seed}"
    if search.max_concurrent:
        trials += f", at most {search.max_concurrent} side by side"
    seeds = ", ".join(map(str, summary.record.seeds))
    return {
        **fields,
        "metric": ", ".join(f"{metric} ({mode})" for metric, mode in metrics),
        "trials": trials,
        "sampler": f"{search.sampler}, seed {search.seed}",
        "scheduler": scheduler,
        "confirm": f"the best {search.confirm}, with seeds {seeds}" if search.confirm else "none",
        "started": summary.record.started,
        "folder": str(summary.path),
    }
