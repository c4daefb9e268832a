"""The inputs that every step of a command reads: `Command`, and `SearchCommand` for the steps of a search."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from raykd.orchestration.options import Options
from raykd.orchestration.progress import log
from raykd.spec.experiment import Experiment
from raykd.spec.search import Search
from raykd.store.study import SearchFolder


@dataclass(frozen=True)
class Command:
    """The options of a command, and the console of its log."""

    options: Options
    console: Console

    def log(self, text: str) -> None:
        """Print a line to the console."""
        log(self.console, text)


@dataclass(frozen=True)
class SearchCommand(Command):
    """A command that runs a search. The experiment must have one."""

    experiment: Experiment

    @property
    def search(self) -> Search:
        assert self.experiment.search is not None
        return self.experiment.search

    @property
    def folder(self) -> SearchFolder:
        return SearchFolder(self.options.results / self.experiment.family / self.search.name)

    @property
    def default_configuration(self) -> dict[str, Any]:
        """The experiment's default value of each searched field, by dotted path."""
        return self.experiment.default_configuration(self.search)
