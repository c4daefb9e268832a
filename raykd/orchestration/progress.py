"""The progress of a command: a live table in a terminal or notebook, or from time to time a line per run in a log."""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib.util import find_spec
from math import isnan
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raykd.orchestration.run_queue import JobStatus, Pause, State
from raykd.spec.stages import TEACHERS
from raykd.training.hooks import EpochReport
from raykd.units import clock, duration

if TYPE_CHECKING:
    from raykd.spec.plan import Run

LOG_EVERY_S = 15.0  # the shortest time between two lines of one run in a log; it grows with the command's duration
LOCKED_EVERY_S = 3600.0  # between two lines of a run that waits for another process


class LiveTable:
    """A context manager that draws a table in a terminal, and nothing in a log. `log` prints lines in both.

    A notebook shows the table if ipywidgets is installed, and else the lines of a log.
    """

    def __init__(self, console: Console) -> None:
        self.console, self._started = console, time.monotonic()
        is_drawn_in_notebook = console.is_jupyter and find_spec("ipywidgets") is not None
        self.is_drawn = console.is_terminal or is_drawn_in_notebook
        self.live = Live(console=console, refresh_per_second=4, transient=True, auto_refresh=self.is_drawn)

    def __enter__(self) -> Self:
        if self.is_drawn:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def log(self, text: str) -> None:
        """Print a line above the table, prefixed with the time since the start, such as '[0:12:05] '."""
        log(self.console, f"[{clock(self.seconds())}] {text}")

    def is_due(self, logged_at: float) -> bool:
        """Return whether to log another line of a run, after its last one at the monotonic time `logged_at`."""
        is_late = time.monotonic() - logged_at >= max(LOG_EVERY_S, self.seconds() / 50)
        return is_late and not self.is_drawn

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started


class Progress(LiveTable):
    """The progress of the queue's jobs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        # The last line of each job: the job's state, its report, and the line's time.
        self._logged: dict[str, tuple[State | None, EpochReport | None, float]] = {}
        self._locked: dict[str, tuple[str, float]] = {}  # the reason in the last line of each job, and its time
        self._described: set[str] = set()  # jobs with a line that states how the run is computed
        self._num_lines: dict[str, int] = {}  # of the lines of each job that are logged
        self._filled: dict[str, tuple[int, float]] = {}  # parts in the last line of each logit cache, and its time

    def show(self, statuses: list[JobStatus]) -> None:
        """Log what has changed, and update the table."""
        training = [status for status in statuses if status.job.kind == "train"]
        families = families_of(statuses)
        for status in statuses:
            for line in status.lines[self._num_lines.get(status.job.name, 0) :]:
                self.log(f"{titled(status.job.run, families)}  {line}")
            self._num_lines[status.job.name] = len(status.lines)
        for status in training:
            if self._is_new(status):
                self._logged[status.job.name] = status.state, status.report, time.monotonic()
                self._locked[status.job.name] = status.reason, time.monotonic()
                self.log(f"{run_line(status, families)}{self._compute_note(status)}")
        self._show_caches([status for status in statuses if status.job.kind == "fill"])
        self.live.update(_table(training, families))

    def _compute_note(self, status: JobStatus) -> str:
        """Return how a run is computed, for the first line after an epoch of it; '' for its other lines."""
        if status.report is None or not status.report.compute or status.job.name in self._described:
            return ""
        self._described.add(status.job.name)
        return f"  ({status.report.compute})"

    def _show_caches(self, fills: list[JobStatus]) -> None:
        """Log each logit cache when more of its parts are filled, at most every LOG_EVERY_S."""
        for name in dict.fromkeys(status.job.run.name for status in fills):
            parts = [status for status in fills if status.job.run.name == name]
            num_done = sum(part.state is State.DONE for part in parts)
            num_logged, logged_at = self._filled.get(name, (0, -LOG_EVERY_S))
            is_due = num_done == len(parts) or time.monotonic() - logged_at >= LOG_EVERY_S
            if num_done > num_logged and is_due:
                self._filled[name] = (num_done, time.monotonic())
                self.log(cache_line(name, parts))

    def _is_new(self, status: JobStatus) -> bool:
        """Return whether to log `status`: a change of state, or another process that has the run locked.

        The first epoch is logged too, and then one every LOG_EVERY_S or a 50th of the command's time. A locked run is
        logged every LOCKED_EVERY_S.
        """
        is_running = status.state is State.RUNNING
        if status.state is State.WAITING and status.pause is Pause.LOCKED:
            reason, logged_at = self._locked.get(status.job.name, ("", 0.0))
            return status.reason != reason or time.monotonic() - logged_at >= LOCKED_EVERY_S
        if (status.state is State.WAITING and not status.reason) or (is_running and status.report is None):
            return False
        state, report, logged_at = self._logged.get(status.job.name, (None, None, 0.0))
        if state is not status.state:
            return not (is_running and self.is_drawn)
        return is_running and report != status.report and self.is_due(logged_at)


def log(console: Console, text: str) -> None:
    """Print `text` unchanged: a bracket in a path is no markup, and a long line is not wrapped in a log.

    An error, as of a log in a full home folder, is ignored: training does not depend on its log.
    """
    with suppress(OSError):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def families_of(statuses: Sequence[JobStatus]) -> frozenset[str]:
    """Return the families of the jobs. Teachers belong to all families."""
    return frozenset(status.job.run.family for status in statuses) - {TEACHERS}


def titled(run: "Run", families: Collection[str]) -> str:
    """Return the name of a run, with its family if the command has several `families`: 'cnn/distilled-...'."""
    return f"{run.family}/{run.name}" if len(families) > 1 and run.family in families else run.name


def run_line(status: JobStatus, families: Collection[str] = ()) -> str:
    """Describe a run in one line: epoch, loss, validation top-1, speed and time left, or how it ended.

    families: those of the command.
    """
    report, name = status.report, titled(status.job.run, families)
    if status.state in (State.WAITING, State.FAILED, State.SKIPPED):
        awaited = "; its result is used here once it is done" if status.pause is Pause.LOCKED else ""
        return f"{name}  {status.state}: {(status.reason.splitlines() or ['no reason given'])[0]}{awaited}"
    if report is None:
        result = f": {status.reason}" if status.state is State.DONE and status.reason else ""
        return f"{name}  {status.state}{result}"
    if status.state is State.DONE:
        early = f"; stopped after epoch {report.epoch + 1}/{report.epochs}, {report.stopped_early}"
        result = "" if isnan(report.best_val_top1) else f": best val {report.best_val_top1:.1f} %"
        done = f"done in {duration(report.seconds)}{result}"
        return f"{name}  {done}{early if report.stopped_early else ''}"
    epoch = f"epoch {report.epoch + 1:>3}/{report.epochs}"
    waiting = "" if report.data_wait is None else f" ({report.data_wait:.0%} waiting for data)"
    speed = f"{report.images_per_s:,.0f} images/s{waiting}"
    validation = "" if isnan(report.val_top1) else f"val {report.val_top1:5.1f} %  "
    metrics = f"loss {report.terms['loss']:.3f}  {validation}{speed}"
    end = f"left {duration(seconds_left(status))}" if status.state is State.RUNNING else status.state
    return f"{name}  {epoch}  {metrics}  {end}"


def cache_line(name: str, parts: list[JobStatus]) -> str:
    """Describe the filling of a logit cache in one line: parts filled, and the time left at the pace so far."""
    done = [part for part in parts if part.state is State.DONE]
    num_teachers = len(cache.teachers) if (cache := parts[0].job.cache) else 1
    subject = f"logit cache of the mean of {num_teachers} teachers" if num_teachers > 1 else "logit cache"
    started = min(part.times["started"] for part in parts if "started" in part.times)
    spent = max(part.times["ended"] for part in done) - started
    if len(done) == len(parts):
        error = max(done, key=lambda part: part.times["ended"]).reason  # '' if the rows keep all classes
        return f"{name}  {subject} filled in {duration(spent)}{f': {error}' if error else ''}"
    left = duration(spent / len(done) * (len(parts) - len(done)))
    return f"{name}  {subject} {len(done):>3}/{len(parts)} parts  left {left}"


def seconds_left(status: JobStatus) -> float:
    """Return the seconds to the run's end, at the mean pace of the epochs in this command.

    For a run that may stop early (patience), this is an upper bound.
    """
    first, last = status.first_report, status.report
    if first is None or last is None or last.is_last:
        return 0.0
    seen = last.epoch - first.epoch
    # After a single epoch in this command, only the run's total time is known.
    pace = (last.seconds - first.seconds) / seen if seen else last.seconds / (last.epoch + 1)
    return pace * (last.epochs - last.epoch - 1)


def _table(statuses: Sequence[JobStatus], families: Collection[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("run", "epoch", "loss", "val top-1", "best", "images/s", "left"):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    for status in (status for status in statuses if status.state is State.RUNNING):
        if (report := status.report) is None:
            table.add_row(titled(status.job.run, families), "starting")
            continue
        table.add_row(
            titled(status.job.run, families),
            f"{report.epoch + 1}/{report.epochs}",
            f"{report.terms['loss']:.3f}",
            "" if isnan(report.val_top1) else f"{report.val_top1:.1f} %",
            "" if isnan(report.best_val_top1) else f"{report.best_val_top1:.1f} %",
            f"{report.images_per_s:,.0f}",
            duration(seconds_left(status)),
        )
    num_waiting = sum(status.state is State.WAITING for status in statuses)
    table.caption = f"{num_waiting} waiting" if num_waiting else None
    return table
