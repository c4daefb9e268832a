"""The trackers of a command: which runs they show, below which family or search, and with which report."""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from raykd.config import to_dict
from raykd.disk.lookup import find, is_file
from raykd.orchestration.command import Command, SearchCommand
from raykd.spec.plan import Plan, Run
from raykd.spec.stages import TRIALS
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.trackers.copier import Parent
from raykd.trackers.tracking import Attachment, Tracking

REPORT_FILES = ("report.json", "report/index.html", "report/runs.csv")


def tracking_of(command: Command) -> Tracking:
    """Return the trackers of a command. They copy runs while the returned object is entered.

    Every path that their thread receives is absolute, because this process changes its folder while Ray starts.
    """
    return Tracking(command.options.trackers, command.options.results.absolute(), command.log)


def watch_runs(tracking: Tracking, parent: Parent, runs: Iterable[Run], store: RunStore) -> None:
    """Show these runs below `parent`, unless they are below another parent already."""
    folders = [RunFolder(store.folder(run).path.absolute()) for run in runs]
    tracking.watch(parent, lambda: folders)


def parent_of(plan: Plan, results: Path) -> Parent:
    """Return the parent of an experiment's runs."""
    return Parent(results.absolute() / plan.experiment.family, plan.experiment.family)


def watch_search(tracking: Tracking, command: SearchCommand) -> Parent:
    """Show the trials of a search below it, and the search below its family. Return the search."""
    family, folder = command.experiment.family, command.folder.path.absolute()
    space = {f"search.space.{path}": str(to_dict(space)) for path, space in command.search.space.items()}
    above = Parent(folder.parent, family)
    parent = Parent(folder, command.folder.full_name, "search", space, above)

    def trials() -> Sequence[RunFolder]:
        return [RunFolder(path) for path in find(folder, f"{TRIALS}/*")]

    tracking.watch(parent, trials, are_trials=True)
    return parent


def attach_report(tracking: Tracking, plans: Iterable[Plan], results: Path) -> None:
    """Store the report with the family of each plan."""
    for plan in plans:
        tracking.attach(parent_of(plan, results), partial(_report_of, plan.experiment.family, results.absolute()))


def _report_of(family: str, results: Path) -> Attachment:
    """Return the files of the report, and the family's accuracies as fractions."""
    files = [path for name in REPORT_FILES if is_file(path := results / name)]
    accuracies = json.loads((results / "report.json").read_text(encoding="utf-8")).get(family, {})
    return files, {name: value for name, value in accuracies.items() if value is not None}
