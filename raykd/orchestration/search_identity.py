"""What a search is, so that another is not mixed with it: its settings, its experiment's, its data and its teacher.

What all steps of a search are told: the experiment, where things are, who is spoken to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from raykd.config import to_dict
from raykd.data.types import Dataset
from raykd.errors import ConfigError
from raykd.orchestration.options import Options
from raykd.orchestration.progress import log
from raykd.spec.experiment import Experiment
from raykd.spec.plan import RESULT_VERSION, Plan
from raykd.spec.search import Search
from raykd.store.study import SearchFolder


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
        return self.experiment.default_setting(self.settings)

    def log(self, text: str) -> None:
        """A line for a person."""
        log(self.console, text)


def identity_of(experiment: Experiment, plan: Plan, dataset: Dataset) -> dict[str, Any]:
    """All that decides what its trials give. More seeds, or more trials, go on with the same search."""
    settings = to_dict(experiment, results_only=True)
    del settings["seeds"]
    assert experiment.search is not None
    teacher = next(run for run in plan.runs if run.stage == "teacher")
    own = {word: to_dict(method, results_only=True)["source"] for word, method in experiment.custom_methods.items()}
    return {
        **settings,
        "custom_methods": own,
        "search": to_dict(experiment.search, results_only=True),
        "data_identity": dataset.identity,
        "teacher_run": teacher.fingerprint,
        "version": RESULT_VERSION,
    }


def require_same(folder: SearchFolder, identity: dict[str, Any]) -> None:
    """Raise ConfigError, with the difference, where the folder holds another search, or its search.json is damaged."""
    before = _checked(folder).get("identity")
    if before is not None and (changed := differences(before, identity)):
        lines = "; ".join(f"{path} was {old}, and is {new}" for path, old, new in changed[:5])
        more = f"; and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise ConfigError(
            f"'{folder.path}' holds another search: {lines}{more}. Go on with its settings, or give this one a name of "
            "its own with --set search.name=NAME"
        )


def _checked(folder: SearchFolder) -> dict[str, Any]:
    """search.json, of which the fields that a search goes on from have the right types."""
    record = folder.record()
    expected: dict[str, tuple[type, ...]] = {
        "identity": (Mapping,), "resumes": (int,), "fill_seconds": (int, float), "started": (str,), "cache": (str,)
    }  # fmt: skip
    for name, types in expected.items():
        value = record.get(name)
        if value is not None and not isinstance(value, types):
            raise ConfigError(
                f"'{folder.path / 'search.json'}' is damaged (field '{name}' is {value!r:.80}); "
                f"move '{folder.path}' away and search again"
            )
    return record


def differences(before: Any, now: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Where two results of `to_dict` differ: (dotted path, value before, value now); None for what is not there."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [(path, before, now)]
    return [
        found
        for name in dict.fromkeys((*before, *now))
        for found in differences(before.get(name), now.get(name), f"{path}.{name}" if path else str(name))
    ]
