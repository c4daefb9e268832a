"""What all steps of a search are told: the experiment, where things are, who is spoken to."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from raykd.experiment import Experiment
from raykd.orchestration.options import Options
from raykd.orchestration.progress import say
from raykd.search import Search
from raykd.study import SearchFolder


@dataclass(frozen=True)
class SearchCommand:
    """One command that searches, for an experiment that has a search."""

    experiment: Experiment
    options: Options
    console: Console

    @property
    def settings(self) -> Search:
        assert self.experiment.search is not None
        return self.experiment.search

    @property
    def folder(self) -> SearchFolder:
        return SearchFolder(self.options.results / self.experiment.family / self.settings.name)

    @property
    def own(self) -> dict[str, Any]:
        """The experiment's own value of each field that is searched, by dotted path."""
        return self.experiment.own_setting(self.settings)

    def say(self, text: str) -> None:
        """A line for a person."""
        say(self.console, text)
