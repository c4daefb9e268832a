"""Where the numbers of a whole report come from: its newest run, the git revisions and the commands.

All of it is read from the run folders, so the same folders make the same page, whenever it is written.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from raykd.errors import flattened
from raykd.report.read.run_results import Family, RunResult


@dataclass(frozen=True)
class PageOrigin:
    """newest: the run that ended last; None if none has started. date: when it ended, in UTC.

    revisions: {git revision: number of runs}. commands: {command: names of the families that it planned last}.
    """

    newest: RunResult | None
    date: str
    revisions: Counter[str]
    commands: dict[str, tuple[str, ...]]


def page_origin(families: Sequence[Family]) -> PageOrigin:
    """Return the origin of a report on `families`."""
    runs = [run for family in families for run in family.all_runs]
    started = {(run.record.family, run.name): run for run in runs if run.record}  # families may share a teacher
    # Times are in seconds. Of several runs of one second, a teacher cannot be the last.
    newest = max(started, key=lambda key: (_time(started[key]), not _is_teacher(started[key]), key), default=None)
    revisions = Counter(_revision(run) for run in started.values())
    commands: dict[str, tuple[str, ...]] = {}
    for family in families:
        if family.command:
            commands[family.command] = (*commands.get(family.command, ()), family.name)
    if newest is None:
        return PageOrigin(None, "", revisions, commands)
    return PageOrigin(started[newest], _time(started[newest]), revisions, commands)


def _is_teacher(run: RunResult) -> bool:
    return run.record is not None and run.record.stage == "teacher"


def _time(run: RunResult) -> str:
    """Return when a run ended, or started if it has not ended: '2026-01-02 03:04:05 UTC'."""
    recorded = (run.record.ended or run.record.started) if run.record else ""
    try:
        return datetime.fromisoformat(recorded).astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return flattened(recorded)


def _revision(run: RunResult) -> str:
    revision = run.record.git.get("revision") if run.record else None
    return flattened(revision or "not recorded")
