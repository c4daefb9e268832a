"""A report as an object, for scripts and notebooks: pandas DataFrames, and the headline table as HTML.

report = raykd.load("ray_results")
report.runs[["stage", "seed", "test_top1"]]          one row per run
report.history.query("stage == 'distilled'")         one row per epoch of each run
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from raykd.report import wording
from raykd.report.content import ReportContent
from raykd.report.read.run_results import RunResult
from raykd.report.render import files
from raykd.report.render.search_files import trials_table
from raykd.report.render.templates import template
from raykd.report.render.terminal import render_text
from raykd.spec.stages import STAGES

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Report(ReportContent):
    """All runs and searches of a results folder at the time of reading. Accuracies are in percent.

    `print(report)` prints the tables of the command line. A notebook shows the headline table of the page.
    """

    @cached_property
    def runs(self) -> "DataFrame":
        """One row per planned run: family, stage, name, model, method, seed, state, metrics, costs and time.

        The columns are those of report/runs.csv. Metrics on the test and validation split are test_<metric> and
        val_<metric>. A value is missing (NaN or None) if it is not known yet.
        """
        return files.runs_table(self).to_pandas()

    @cached_property
    def history(self) -> "DataFrame":
        """One row per finished epoch of each run: family, stage, run, method, seed, epoch, metrics and loss terms.

        Epochs count from 0. The columns after `epoch` are those of history.parquet. A value is NaN in the rows of runs
        without it.
        """
        from pandas import DataFrame, concat

        frames = [DataFrame(_history_of(family, run)) for family, run in self.planned_runs if run.history]
        empty = DataFrame(columns=["family", "stage", "run", "method", "seed", "epoch"])
        return concat(frames, ignore_index=True) if frames else empty

    @cached_property
    def trials(self) -> "DataFrame":
        """One row per started trial of each search: family, search, number, state, configuration and metrics.

        The columns are those of trials.csv of the search.
        """
        from pandas import DataFrame, concat

        frames = []
        for search in self.searches:
            frame = trials_table(search).to_pandas()
            frame.insert(0, "search", search.name)
            frame.insert(0, "family", search.family)
            frames.append(frame)
        empty = DataFrame(columns=["family", "search", "number", "state"])
        return concat(frames, ignore_index=True) if frames else empty

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Means, intervals, gains and missing results by family, as in report/summary.json (docs/report.md)."""
        return json.loads(files.summary_json(self))

    def __repr__(self) -> str:
        families = ", ".join(summary.name for summary in self.summaries)
        return f"Report('{self.page.parents[1]}', families: {families})"

    def __str__(self) -> str:
        return render_text(self)

    def _repr_html_(self) -> str:
        """Return the headline table of the page, which notebooks display."""
        return template("notebook.html.j2").render(summaries=self.summaries, stages=STAGES, wording=wording)


def _history_of(family: str, run: RunResult) -> dict[str, Any]:
    """Return the columns of a run's epochs, with the run's name and configuration in each row."""
    assert run.history is not None and run.record is not None, "a run with epochs has a record"
    identity = {"family": family, "stage": run.stage, "run": run.name, "method": run.record.method}
    columns = {name: values for name, values in run.history.columns.items() if name != "epoch"}
    return {**identity, "seed": run.record.seed, "epoch": run.history.epochs, **columns}
