"""What a person sees while runs train: a live table in a terminal, a line a run now and then in a log."""

import time
from collections.abc import Callable, Iterable
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from raykd.orchestration.run_queue import JobStatus, State
from raykd.report.wording import duration

LOG_EVERY_S = 15.0  # a line for each run in training, at most this often; later ones come more rarely


class LiveTable:
    """A context manager: a table that is drawn anew while it lasts. In a log there is none, and `is_live` is false."""

    def __init__(self, console: Console) -> None:
        self.console, self._began = console, time.monotonic()
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
        """Show what `table` makes, where a table is shown."""
        if self._live is not None:
            self._live.update(table())

    def say(self, text: str) -> None:
        """A line after the time since this began, above the table."""
        say(self.console, clock(self._began) + text)

    def is_due(self, said_at: float) -> bool:
        """Whether a log wants one more line of something that had its last at the monotonic time `said_at`."""
        moment = time.monotonic()
        return not self.is_live and moment - said_at >= max(LOG_EVERY_S, (moment - self._began) / 50)

    def seconds(self) -> float:
        """Since this began."""
        return time.monotonic() - self._began


class Progress(LiveTable):
    """A context manager whose `show` takes the queue's statuses."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._said: dict[str, tuple[State, int]] = {}
        self._said_at: dict[str, float] = {}
        self._filled: dict[str, tuple[int, float]] = {}  # a logit cache's parts that are done, and when that was said

    def show(self, statuses: list[JobStatus]) -> None:
        """Print what is new, and redraw the live table."""
        training = [status for status in statuses if status.job.kind == "train"]
        for status in training:
            if self._is_due(status):
                self._said[status.job.name] = (status.state, _epoch(status))
                self._said_at[status.job.name] = time.monotonic()
                self.say(line(status))
        self._show_caches([status for status in statuses if status.job.kind == "fill"])
        self.redraw(lambda: _table(training))

    def _show_caches(self, fills: list[JobStatus]) -> None:
        """A line for each teacher's logit cache when one more of its parts is filled, at most every LOG_EVERY_S."""
        for name in dict.fromkeys(status.job.run.name for status in fills):
            parts = [status for status in fills if status.job.run.name == name]
            done, said = sum(part.state is State.DONE for part in parts), self._filled.get(name, (0, -LOG_EVERY_S))
            if done > said[0] and (done == len(parts) or time.monotonic() - said[1] >= LOG_EVERY_S):
                self._filled[name] = (done, time.monotonic())
                self.say(cache_line(name, parts))

    def _is_due(self, status: JobStatus) -> bool:
        """Every change of state, and that another command is at it.

        In a log also the first epoch, and then one every LOG_EVERY_S or a 50th of the time.
        """
        said = self._said.get(status.job.name)
        if status.state is State.WAITING and not status.reason:
            return False
        if status.state is State.RUNNING and status.report is None:
            return False
        if said is None or said[0] is not status.state:
            return not self.is_live or status.state is not State.RUNNING
        if said[1] == _epoch(status) or status.state is not State.RUNNING:
            return False
        return self.is_due(self._said_at[status.job.name])


def clock(began: float) -> str:
    """'[0:12:05] ' since the monotonic time `began`."""
    seconds = int(time.monotonic() - began)
    return f"[{seconds // 3600:d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}] "


def say(console: Console, text: str) -> None:
    """`text` as it is: a bracket in a path is no markup, and a long line stays one line in a log."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def line(status: JobStatus) -> str:
    """One run in one line: epoch, loss, val top1, speed, time left; or how it ended."""
    report, name = status.report, status.job.run.name
    if status.state in (State.WAITING, State.FAILED, State.SKIPPED):
        return f"{name}  {status.state}: {status.reason.splitlines()[0] if status.reason else 'no reason given'}"
    if report is None:
        return f"{name}  {status.state}" + (
            f": {status.reason}" if status.state is State.DONE and status.reason else ""
        )
    facts = (
        f"epoch {report.epoch + 1:>3}/{report.epochs}  loss {report.terms['loss']:.3f}  val {report.val_top1:5.1f} %"
    )
    if status.state is State.DONE:
        return f"{name}  done in {duration(report.seconds)}: best val {report.best_val_top1:.1f} %"
    left = f"  left {duration(seconds_left(status))}" if status.state is State.RUNNING else f"  {status.state}"
    how = f"  ({report.compute})" if report.compute and status.first_report is report else ""
    return f"{name}  {facts}  {report.images_per_s:,.0f} images/s{left}{how}"


def cache_line(name: str, parts: list[JobStatus]) -> str:
    """A teacher's logit cache in one line: parts filled, time left at the pace so far."""
    done = [part for part in parts if part.state is State.DONE]
    cache = parts[0].job.cache
    several = len(cache.teachers) if cache is not None else 1
    what = f"logit cache of the mean of {several} teachers" if several > 1 else "logit cache"
    began = min(part.times["began"] for part in parts if "began" in part.times)
    spent = max(part.times["ended"] for part in done) - began
    if len(done) == len(parts):
        return f"{name}  {what} filled in {duration(spent)}"
    left = duration(spent / len(done) * (len(parts) - len(done)))
    return f"{name}  {what} {len(done):>3}/{len(parts)} parts  left {left}"


def _epoch(status: JobStatus) -> int:
    return status.report.epoch if status.report is not None else -1


def seconds_left(status: JobStatus) -> float:
    """Seconds to the run's end at the pace of the epochs seen so far in this command."""
    first, last = status.first_report, status.report
    if first is None or last is None:
        return 0.0
    seen = last.epoch - first.epoch
    # Before a second epoch there is no pace but the run's own clock.
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
