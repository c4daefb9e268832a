"""The progress of a command: a live table in a terminal, or from time to time a line per run in a log."""

import time
from collections.abc import Callable, Iterable
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raykd.orchestration.run_queue import JobStatus, State
from raykd.report.wording import duration

LOG_EVERY_S = 15.0  # the shortest time between two lines of one run in a log; it grows with the command's duration


class LiveTable:
    """A context manager that redraws a table in a terminal. In a log there is no table, and `is_live` is false."""

    def __init__(self, console: Console) -> None:
        self.console, self._started = console, time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        return self._live is not None

    def redraw(self, table: Callable[[], Table]) -> None:
        """Show the table that `table` returns, if this is a terminal."""
        if self._live is not None:
            self._live.update(table())

    def log(self, text: str) -> None:
        """Print a line above the table, with the time since the start before it."""
        log(self.console, clock(self._started) + text)

    def is_due(self, logged_at: float) -> bool:
        """Return whether to log a run again, whose last line is of the monotonic time `logged_at`."""
        now = time.monotonic()
        return not self.is_live and now - logged_at >= max(LOG_EVERY_S, (now - self._started) / 50)

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started


class Progress(LiveTable):
    """The progress of the queue's jobs."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._logged: dict[str, tuple[State, int]] = {}  # state and epoch in the last line of each job
        self._logged_at: dict[str, float] = {}
        self._filled: dict[str, tuple[int, float]] = {}  # parts in the last line of each logit cache, and its time

    def show(self, statuses: list[JobStatus]) -> None:
        """Log what has changed, and redraw the live table."""
        training = [status for status in statuses if status.job.kind == "train"]
        for status in training:
            if self._is_new(status):
                self._logged[status.job.name] = (status.state, _epoch(status))
                self._logged_at[status.job.name] = time.monotonic()
                self.log(line(status))
        self._show_caches([status for status in statuses if status.job.kind == "fill"])
        self.redraw(lambda: _table(training))

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
        """Return whether to log `status`: a change of state, or that another command has the run locked.

        A log also gets the first epoch, and then one every LOG_EVERY_S or a 50th of the command's time.
        """
        logged = self._logged.get(status.job.name)
        if status.state is State.WAITING and not status.reason:
            return False
        if status.state is State.RUNNING and status.report is None:
            return False
        if logged is None or logged[0] is not status.state:
            return not self.is_live or status.state is not State.RUNNING
        if logged[1] == _epoch(status) or status.state is not State.RUNNING:
            return False
        return self.is_due(self._logged_at[status.job.name])


def clock(started: float) -> str:
    """Return the time since the monotonic time `started`, as '[0:12:05] '."""
    seconds = int(time.monotonic() - started)
    return f"[{seconds // 3600:d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}] "


def log(console: Console, text: str) -> None:
    """Print `text` unchanged: a bracket in a path is no markup, and a long line is not wrapped in a log."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def line(status: JobStatus) -> str:
    """Describe a run in one line: epoch, loss, validation top-1, speed and time left, or how it ended."""
    report, name = status.report, status.job.run.name
    if status.state in (State.WAITING, State.FAILED, State.SKIPPED):
        return f"{name}  {status.state}: {status.reason.splitlines()[0] if status.reason else 'no reason given'}"
    if report is None:
        result = f": {status.reason}" if status.state is State.DONE and status.reason else ""
        return f"{name}  {status.state}{result}"
    if status.state is State.DONE:
        return f"{name}  done in {duration(report.seconds)}: best val {report.best_val_top1:.1f} %"
    left = f"  left {duration(seconds_left(status))}" if status.state is State.RUNNING else f"  {status.state}"
    compute = f"  ({report.compute})" if report.compute and status.first_report is report else ""
    epoch, metrics = (
        f"epoch {report.epoch + 1:>3}/{report.epochs}",
        f"loss {report.terms['loss']:.3f}  val {report.val_top1:5.1f} %",
    )
    return f"{name}  {epoch}  {metrics}  {report.images_per_s:,.0f} images/s{left}{compute}"


def cache_line(name: str, parts: list[JobStatus]) -> str:
    """Describe the filling of a logit cache in one line: parts filled, and the time left at the pace so far."""
    done = [part for part in parts if part.state is State.DONE]
    cache = parts[0].job.cache
    num_teachers = len(cache.teachers) if cache is not None else 1
    subject = f"logit cache of the mean of {num_teachers} teachers" if num_teachers > 1 else "logit cache"
    started = min(part.times["started"] for part in parts if "started" in part.times)
    spent = max(part.times["ended"] for part in done) - started
    if len(done) == len(parts):
        return f"{name}  {subject} filled in {duration(spent)}"
    left = duration(spent / len(done) * (len(parts) - len(done)))
    return f"{name}  {subject} {len(done):>3}/{len(parts)} parts  left {left}"


def _epoch(status: JobStatus) -> int:
    return status.report.epoch if status.report is not None else -1


def seconds_left(status: JobStatus) -> float:
    """Return the seconds to the run's end, at the mean pace of the epochs in this command."""
    first, last = status.first_report, status.report
    if first is None or last is None:
        return 0.0
    seen = last.epoch - first.epoch
    # After a single epoch in this command, only the run's total time is known.
    pace = (last.seconds - first.seconds) / seen if seen else last.seconds / (last.epoch + 1)
    return pace * (last.epochs - last.epoch - 1)


def _table(statuses: Iterable[JobStatus]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("run", "epoch", "loss", "val top1", "best", "images/s", "left"):
        table.add_column(column, justify="left" if column == "run" else "right", no_wrap=True)
    waiting = 0
    for status in statuses:
        report = status.report
        if status.state is State.WAITING:
            waiting += 1
        if status.state is not State.RUNNING:
            continue
        if report is None:
            table.add_row(status.job.run.name, "starting")
            continue
        table.add_row(
            status.job.run.name,
            f"{report.epoch + 1}/{report.epochs}",
            f"{report.terms['loss']:.3f}",
            f"{report.val_top1:.1f} %",
            f"{report.best_val_top1:.1f} %",
            f"{report.images_per_s:,.0f}",
            duration(seconds_left(status)),
        )
    table.caption = f"{waiting} waiting" if waiting else None
    return table
