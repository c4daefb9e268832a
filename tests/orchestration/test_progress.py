"""The lines and the table that are printed while runs train, with a clock that the test moves."""

import io
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from small_runs import run_of

from raykd.orchestration import progress as progress_module
from raykd.orchestration.progress import LOCKED_EVERY_S, LOG_EVERY_S, Progress, log, run_line, seconds_left
from raykd.orchestration.run_queue import Job, JobStatus, Pause, State
from raykd.training.hooks import EpochReport
from raykd.training.teacher.choose import PlannedCache
from raykd.units import duration

RUN = run_of("teacher")
EPOCH_S = 4.0
EPOCHS = 200


def report(epoch: int) -> EpochReport:
    terms = {"ce": 1.25, "loss": 1.25}
    return EpochReport(RUN.name, epoch, EPOCHS, terms, 40.0, 51.25, 1.5, 52.5, 0.1, 12_345.6, (epoch + 1) * EPOCH_S)


def running(epoch: int, first: int = 0) -> JobStatus:
    return JobStatus(Job("train", RUN), State.RUNNING, slot=0, report=report(epoch), first_report=report(first))


class Screen:
    """A console and a clock under the test's control."""

    time = 0.0

    def __init__(self, terminal: bool) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=120, color_system=None)

    def monotonic(self) -> float:
        return self.time

    def lines(self) -> list[str]:
        return self.file.getvalue().splitlines()


def make_screen(monkeypatch: pytest.MonkeyPatch, terminal: bool = False) -> Screen:
    screen = Screen(terminal)
    monkeypatch.setattr(progress_module, "time", screen)
    return screen


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return make_screen(monkeypatch)


def test_a_full_disk_under_the_log_does_not_end_the_training() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:  # as in a job, where Python does not buffer
        console = Console(file=io.TextIOWrapper(full, write_through=True))
        log(console, "lost")
        console.file = kept = io.StringIO()
        log(console, "kept")
    assert kept.getvalue().endswith("kept\n")


def test_line_has_epoch_loss_validation_speed_and_time_left() -> None:
    assert run_line(running(49)) == (
        f"{RUN.name}  epoch  50/200  loss 1.250  val  51.2 %  12,346 images/s  left {duration(150 * EPOCH_S)}"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_runs_have_the_names_of_their_families_if_there_are_several(monkeypatch, terminal) -> None:
    """Teachers belong to all families."""

    def names(*families: str) -> list[str]:
        screen = make_screen(monkeypatch, terminal)
        runs = [RUN, *(run_of("baseline", family=family) for family in families)]
        statuses = [replace(running(0), job=Job("train", run)) for run in runs]
        statuses += [replace(running(0), job=Job("train", run), lines=["a line"]) for run in runs]
        with Progress(screen.console) as progress:
            progress.show(statuses)
        return re.findall(r"\S*(?:teacher|baseline)-\S*", screen.file.getvalue())

    assert {name.split("-")[0] for name in names("cnn", "vit")} == {"teacher", "cnn/baseline", "vit/baseline"}
    assert {name.split("-")[0] for name in names("cnn")} == {"teacher", "baseline"}


def test_line_of_a_run_on_disk_has_the_wait_for_data() -> None:
    status = replace(running(49), report=replace(report(49), data_wait=0.124))
    assert "  12,346 images/s (12% waiting for data)  left " in run_line(status)


def test_time_left_is_computed_at_the_pace_of_this_command() -> None:
    assert seconds_left(running(0)) == pytest.approx(199 * EPOCH_S), "after one epoch: the run's total time"
    slow_before = replace(report(99), seconds=1_000.0)
    resumed = replace(running(109), report=replace(report(109), seconds=1_010.0), first_report=slow_before)
    assert seconds_left(resumed) == pytest.approx(90 * 1.0)
    assert seconds_left(running(EPOCHS - 1)) == 0


def test_a_run_that_stopped_early_is_logged_with_the_reason() -> None:
    stopped = replace(report(49), stopped_early="no better validation top-1 than 52.5 % of epoch 30 for 20 epochs")
    status = replace(running(49), report=stopped)
    assert seconds_left(status) == 0
    assert run_line(replace(status, state=State.DONE)) == (
        f"{RUN.name}  done in {duration(50 * EPOCH_S)}: best val 52.5 %; stopped after epoch 50/200, no better "
        "validation top-1 than 52.5 % of epoch 30 for 20 epochs"
    )


def test_log_has_the_first_epoch_and_then_one_from_time_to_time(screen: Screen) -> None:
    with Progress(screen.console) as progress:
        for epoch in range(30):
            for _ in range(16):  # four polls a second
                progress.show([running(epoch)])
                screen.time += EPOCH_S / 16
    matches = [re.match(r"\[0:(\d\d):(\d\d)\] .*epoch +(\d+)/200", text) for text in screen.lines()]
    times = [60 * int(each[1]) + int(each[2]) for each in matches if each]
    assert len(times) == len(screen.lines()), "another line"
    assert times[0] == 0
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) > 4 and all(LOG_EVERY_S <= gap <= LOG_EVERY_S + EPOCH_S for gap in gaps)


def test_log_of_a_long_command_becomes_sparse(screen: Screen) -> None:
    with Progress(screen.console) as progress:
        for epoch in range(EPOCHS):
            screen.time += 3_600.0
            progress.show([running(epoch)])
    assert len(screen.lines()) < 120, "not one line per hour"


def test_time_before_a_line_counts_from_the_start(screen: Screen) -> None:
    with Progress(screen.console) as progress:
        screen.time += 3_725.9
        progress.show([running(0)])
    assert screen.lines()[0].startswith("[1:02:05] ")


def test_each_change_of_state_is_logged_once(screen: Screen) -> None:
    waiting, started = JobStatus(Job("train", RUN)), replace(running(0), report=None, first_report=None)
    done = replace(running(EPOCHS - 1), state=State.DONE)
    with Progress(screen.console) as progress:
        for status in (waiting, started, done, done):
            progress.show([status])
    assert screen.lines() == [f"[0:00:00] {RUN.name}  done in 13 min 20 s: best val 52.5 %"]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (State.FAILED, "failed: loss became NaN"),
        (State.SKIPPED, "skipped: loss became NaN"),
        (State.WAITING, "waiting: loss became NaN"),
    ],
)
def test_reason_is_logged_in_one_line(state: State, text: str, screen: Screen) -> None:
    status = JobStatus(Job("train", RUN), state, reason="loss became NaN\nTraceback (most recent call last):\n  ...")
    with Progress(screen.console) as progress:
        progress.show([status])
        progress.show([status])
    assert screen.lines() == [f"[0:00:00] {RUN.name}  {text}"]


def test_evaluations_are_not_logged(screen: Screen) -> None:
    with Progress(screen.console) as progress:
        progress.show([JobStatus(Job("evaluate", RUN), State.DONE)])
    assert screen.lines() == []


def test_terminal_shows_a_table_of_running_jobs_and_keeps_the_lines_of_finished_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = make_screen(monkeypatch, terminal=True)
    other = JobStatus(Job("train", run_of("baseline")))
    with Progress(terminal.console) as progress:
        progress.show([running(49), other])
        progress.live.refresh()  # four times a second by itself
        drawn = terminal.file.getvalue()
        progress.show([replace(running(EPOCHS - 1), state=State.DONE), other])
    for part in (
        "run",
        "epoch",
        "val top-1",
        "images/s",
        "left",
        RUN.name,
        "50/200",
        "12,346",
        "10 min 00 s",
        "1 waiting",
    ):
        assert part in drawn
    assert "loss 1.250" not in drawn, "a terminal has the table instead of lines of epochs"
    assert f"{RUN.name}  done in 13 min 20 s" in terminal.file.getvalue()


def test_path_is_printed_unchanged(screen: Screen) -> None:
    path = "results in /scratch/" + "a-long-folder/" * 12 + "[bold]x[/bold]"
    log(screen.console, path)
    assert screen.lines() == [path]


def fills(done: int, num_parts: int = 4) -> list[JobStatus]:
    """Return the statuses of the parts of a cache; each part takes 30 s, one after another."""
    cache = PlannedCache((RUN,), RUN.data, "fp32", (), True, num_parts)
    jobs = [Job("fill", RUN, (), cache, part) for part in range(num_parts)]
    return [
        JobStatus(job, State.DONE, times={"started": 30.0 * part, "ended": 30.0 * (part + 1)})
        if part < done
        else JobStatus(job)
        for part, job in enumerate(jobs)
    ]


def test_filling_of_a_cache_is_logged_from_time_to_time_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = make_screen(monkeypatch)
    with Progress(shown.console) as progress:
        for done, at in ((0, 1.0), (1, 31.0), (1, 50.0), (2, 61.0), (3, 65.0), (4, 66.0), (4, 99.0)):
            shown.time = at
            progress.show(fills(done))
    assert [text.split("  ", 1)[1] for text in shown.lines()] == [
        "logit cache   1/4 parts  left 1 min 30 s",
        "logit cache   2/4 parts  left 1 min 00 s",
        "logit cache filled in 2 min 00 s",
    ]


def test_line_of_a_filled_cache_has_its_error_as_its_last_part_reported_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, parts = make_screen(monkeypatch), fills(4)
    for number, part in enumerate(parts):
        part.reason = f"error {number}"
    with Progress(shown.console) as progress:
        progress.show(parts)
    assert shown.lines()[0].endswith("  logit cache filled in 2 min 00 s: error 3")


def test_line_of_a_cache_of_several_teachers_has_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, cache = make_screen(monkeypatch), PlannedCache((RUN, RUN, RUN), RUN.data, "fp32", (), True, 1)
    done = JobStatus(Job("fill", RUN, (), cache), State.DONE, times={"started": 0.0, "ended": 30.0})
    with Progress(shown.console) as progress:
        progress.show([done])
    assert shown.lines()[0].endswith("  logit cache of the mean of 3 teachers filled in 30.0 s")


@pytest.mark.parametrize("first", [0, 3])
def test_first_line_of_a_run_has_its_precision_threads_and_teacher_source(first: int, screen: Screen) -> None:
    """A run of short epochs is past its first epoch when it is polled."""
    reports = [replace(report(epoch), compute="bf16, 2 threads, cached teacher") for epoch in (first, 50)]
    with Progress(screen.console) as progress:
        for each in reports:
            progress.show([replace(running(0), report=each, first_report=report(0))])
            screen.time += 3_600.0
    line, later = screen.lines()
    assert line.endswith("  (bf16, 2 threads, cached teacher)")
    assert "bf16" not in later


def test_a_run_that_ended_before_its_first_line_is_logged_with_its_precision(screen: Screen) -> None:
    last = replace(report(EPOCHS - 1), compute="fp32, 1 thread")
    with Progress(screen.console) as progress:
        progress.show([replace(running(0), state=State.DONE, report=last)])
    assert screen.lines()[0].endswith("done in 13 min 20 s: best val 52.5 %  (fp32, 1 thread)")


def test_a_locked_run_is_logged_immediately_then_every_hour_and_when_another_process_locks_it(screen: Screen) -> None:
    def locked(reason: str) -> JobStatus:
        return JobStatus(Job("train", RUN), State.WAITING, reason=reason, pause=Pause.LOCKED)

    text = f"{RUN.name}  waiting: locked by process 7 on cn1; its result is used here once it is done"
    with Progress(screen.console) as progress:
        for seconds in (0.0, 60.0, LOCKED_EVERY_S - 1, LOCKED_EVERY_S):
            screen.time = seconds
            progress.show([locked("locked by process 7 on cn1")])
            progress.show([JobStatus(Job("train", RUN), State.RUNNING, slot=0)])  # it tries the lock
        progress.show([locked("locked by process 8 on cn2")])
    assert [line.split("] ")[1] for line in screen.lines()] == [text, text, text.replace("7 on cn1", "8 on cn2")]
    assert screen.lines()[1].startswith("[1:00:00]")


def test_lines_of_the_workers_of_all_kinds_of_jobs_are_logged_once(screen: Screen) -> None:
    status = JobStatus(Job("evaluate", RUN), State.RUNNING, slot=0, lines=["warning: the disk is full"])
    with Progress(screen.console) as progress:
        progress.show([status])
        progress.show([status])
    assert screen.lines() == [f"[0:00:00] {RUN.name}  warning: the disk is full"]
