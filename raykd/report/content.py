"""The content of a report, which all of its writers read: families in numbers, methods over families, searches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from raykd.report.read.run_results import RunResult
from raykd.report.read.search_results import SearchSummary
from raykd.report.stats.importances import Importances, importances_of
from raykd.report.stats.over_families import FamiliesComparison, compare_families
from raykd.report.stats.summary import FamilySummary


@dataclass(frozen=True)
class ReportContent:
    """The content of a report. page: where its HTML page is written. Accuracies are in percent."""

    summaries: tuple[FamilySummary, ...]
    page: Path
    searches: tuple[SearchSummary, ...] = ()

    @cached_property
    def over_families(self) -> FamiliesComparison | None:
        """The methods over families; None unless two families compare at least two methods in common."""
        return compare_families(self.summaries)

    @cached_property
    def importances(self) -> Mapping[str, Importances | None]:
        """The importances of the fields of each search, by the search's full name."""
        return {search.full_name: importances_of(search) for search in self.searches}

    @property
    def planned_runs(self) -> Sequence[tuple[str, RunResult]]:
        """The name of its family and each planned run."""
        return [(summary.name, run) for summary in self.summaries for run in summary.family.all_runs]
