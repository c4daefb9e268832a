"""A command is interrupted by Slurm's warning, then killed, then rerun: its results equal those of an undisturbed run.

Its log holds only lines of raykd.
"""

import io
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import small_experiment
from experiment_runs import (
    Command,
    Ended,
    assert_same_bits,
    command,
    environment,
    run_here,
    train_directly,
    wait_until,
)
from small_runs import curve, experiment

from raykd.errors import Interrupted
from raykd.orchestration.stop_signals import SAME_SIGNAL_S
from raykd.report.build import build
from raykd.report.render.terminal import render_text
from raykd.spec.experiment import Workers
from raykd.spec.plan import Run
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

SETTINGS = (*small_experiment.SMALL, "teacher.epochs=200", "student.epochs=3")  # the teacher is interrupted twice
END_OF_RAY_S = 30.0
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # they retry for a minute to reach a GCS that has ended

LOG_LINES = (
    r"3 runs, \d of them done before; results in \S+",
    r"digits: 200 of 1,000 train \(students train on 100\), 200 validation \(split from train\), "
    r"597 test images of 8x8 pixels; 10 classes: 0, 1, 2, 3, 4, \.\.\.",
    r"warning: students of seed 0 start from the initial weights of their teacher, .*",
    r"teacher of digits: logit cache with .* 9 views per image instead of [\d,]+ teacher passes \(\d+ KiB\)",
    r"\[\d:\d\d:\d\d\] \S+  logit cache filled in \d+\.\d s",
    r"(1 run at a time|2 runs side by side, each) with 1 CPU; dashboard http://\S+, token in \S+",
    r"starting workers, which takes 10 to 20 seconds",
    r"\[\d:\d\d:\d\d\] \S+  epoch +\d+/\d+  loss \d+\.\d{3}  val +\d+\.\d %  [\d,]+ images/s  left \S.*",
    r"\[\d:\d\d:\d\d\] \S+  done in \S.*: best val \d+\.\d %(  \(.+\))?",
    r"\[\d:\d\d:\d\d\] \S+  waiting: locked by process \d+ on \S+ since .* UTC \(to end it, .*\); its result .*",
    r"\[\d:\d\d:\d\d\] \S+  done",
    r"(Ctrl-C|SIGTERM): the command saves and stops; a second \S+ ends it without saving",
    "SIGUSR2: Slurm will end the job soon; the command saves and stops",
)


def planned() -> dict[str, Run]:
    """Return the runs by stage, one each."""
    return {run.stage: run for run in small_experiment.runs(settings=SETTINGS)}


@dataclass
class Story:
    """What the three commands left behind."""

    results: Path
    folder: Path
    warned: Ended | None = None
    after_warning: dict[str, object] = field(default_factory=dict)
    seconds_to_end_of_ray: float = 0.0
    left_by_kill: list[Path] = field(default_factory=list)
    last: Ended | None = None

    def run(self, stage: str) -> RunFolder:
        return RunStore(self.results).folder(planned()[stage])

    def private_files(self) -> list[Path]:
        """Return what is in the private folder below RAYKD_TMP."""
        return sorted((self.folder / f"raykd-{os.getuid()}").iterdir())

    def start(self, environ: dict[str, str], name: str) -> Command:
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        return command(["--results", str(self.results), *settings], environ, self.results / name)

    def private(self) -> dict[str, str]:
        return environment(cpus=1) | {"RAYKD_TMP": str(self.folder)}


def warn(story: Story, address: str) -> None:
    """Send SIGUSR2, Slurm's signal before the time limit, to a command on a running Ray cluster, as in a job."""
    shared = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")} | {"RAY_ADDRESS": address}
    with story.start(environment(cpus=1) | shared, "first") as first:
        first.wait_for(f"{planned()['teacher'].name}  epoch")
        first.process.send_signal(signal.SIGUSR2)
        story.warned = first.end()
    teacher = story.run("teacher")
    has_checkpoint = teacher.checkpoint.is_file()
    story.after_warning = {"status": teacher.status(), "history": teacher.history(), "checkpoint": has_checkpoint}


def kill(story: Story) -> None:
    """Kill only the driver, as the kernel does when memory runs out. Its Ray must end by itself."""
    with story.start(story.private(), "second") as second:
        second.wait_for(f"{planned()['teacher'].name}  epoch")
        children = psutil.Process(second.process.pid).children(recursive=True)
        processes = [child for child in children if child.cmdline()[:1] and child.cmdline()[0].strip() not in AGENTS]
        assert len(processes) > 5
        second.process.kill()
        started = time.monotonic()
        wait_until(lambda: not any(process.is_running() for process in processes), "the end of Ray's processes")
        story.seconds_to_end_of_ray = time.monotonic() - started
        story.left_by_kill = [path for path in story.private_files() if (path / "token").is_file()]


@pytest.fixture(scope="module")
def story(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    made = Story(tmp_path_factory.mktemp("results"), Path(tempfile.mkdtemp(prefix="rk", dir="/tmp")))
    warn(made, cluster)
    kill(made)
    with made.start(made.private(), "third") as third:
        made.last = third.end()
    yield made
    shutil.rmtree(made.folder)


def test_warned_command_saves_and_exits_75(story: Story) -> None:
    assert story.warned is not None
    assert story.warned.exit_code == Interrupted.exit_code
    assert story.warned.errors == ["raykd: stopped; every run is saved; rerun the same command to resume"]
    assert (story.after_warning["status"], story.after_warning["checkpoint"]) == ("interrupted", True)


def test_ray_of_a_killed_command_ends_soon(story: Story) -> None:
    assert story.seconds_to_end_of_ray < END_OF_RAY_S


def test_same_command_resumes_and_completes(story: Story) -> None:
    assert story.last is not None and story.last.exit_code == 0, story.last
    assert [story.run(stage).status() for stage in planned()] == ["done"] * 3


def test_nothing_is_trained_twice(story: Story) -> None:
    assert [story.run(stage).require_record().resumes for stage in ("teacher", "distilled")] == [2, 0]
    before = story.after_warning["history"]
    assert isinstance(before, list) and before
    # This includes times: epochs from before the warning were not trained again.
    assert story.run("teacher").history()[: len(before)] == before


def test_results_equal_those_of_undisturbed_runs_bit_for_bit(story: Story, tmp_path: Path) -> None:
    for stage, run in planned().items():
        directly = train_directly(run, tmp_path, caches=RunStore(story.results).logit_caches)
        assert len(curve(directly)) == run.recipe.epochs
        assert_same_bits(story.run(stage), directly)


def test_log_holds_only_lines_of_raykd(story: Story) -> None:
    report = render_text(build(story.results)).splitlines()
    assert story.last is not None and story.last.errors == []
    lines = [line for line in story.last.lines if line]
    expected = [line for line in report if line]
    assert lines[-len(expected) :] == expected
    for line in lines[: -len(expected)]:
        assert any(re.fullmatch(pattern, line) for pattern in LOG_LINES), f"unknown line: {line}"


def test_next_command_removes_the_token_of_a_killed_command(story: Story) -> None:
    assert [path.name.split("-")[0] for path in story.left_by_kill] == ["command"], "the kill left none"
    assert [path.name for path in story.private_files()] == ["ray"], "something but Ray's logs was left"


@pytest.mark.nightly
def test_signal_while_trainers_start_ends_the_command_cleanly(cluster: str, tmp_path: Path) -> None:
    from raykd.orchestration.trainers import END_S  # imports ray, before which the token must exist

    log, sent = io.StringIO(), []

    def send() -> None:
        wait_until(lambda: "; dashboard" in log.getvalue(), "the line before the trainers start")
        time.sleep(0.5)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()
    ended = run_here([experiment(workers=Workers(cpus=2))], tmp_path, ("baseline",), log)
    assert ended.exit_code == Interrupted.exit_code
    assert time.monotonic() - sent[0] < END_S, "it waited for trainers without anything to save"
    assert not any("epoch" in line for line in ended.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_to_the_whole_process_group_saves_and_ends_ray(number: signal.Signals, tmp_path: Path) -> None:
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    results = tmp_path / "results"
    with command(["--results", str(results), *words], environment(cpus=1), tmp_path / "first") as first:
        first.wait_for(f"{planned()['teacher'].name}  epoch")
        processes = psutil.Process(first.process.pid).children(recursive=True)
        os.killpg(first.process.pid, number)
        ended = first.end()
    assert ended.exit_code == Interrupted.exit_code
    assert ended.errors == ["raykd: stopped; every run is saved; rerun the same command to resume"]
    teacher = RunStore(results).folder(planned()["teacher"])
    assert (teacher.status(), teacher.checkpoint.is_file()) == ("interrupted", True)
    assert [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.nightly
def test_second_ctrl_c_ends_a_starting_command_with_one_line_of_raykd(tmp_path: Path) -> None:
    environ = environment(cpus=1)
    with command(["--results", str(tmp_path / "results")], environ, tmp_path / "first") as first:
        first.wait_for("starting workers")
        first.process.send_signal(signal.SIGINT)
        first.wait_for("Ctrl-C: ")
        time.sleep(SAME_SIGNAL_S + 0.5)
        first.process.send_signal(signal.SIGINT)
        ended = first.end()
    assert ended.exit_code == Interrupted.exit_code
    assert ended.errors == ["raykd: interrupted; what was saved is kept; rerun the same command to resume"]


def test_controller_that_starts_late_is_killed_too(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raykd.orchestration import trainers  # imports ray, before which the token must exist

    is_killed, attempts = threading.Event(), []

    def kill(slots: object) -> None:
        attempts.append(slots)
        if len(attempts) == 3:
            is_killed.set()

    monkeypatch.setattr(trainers, "KILL_POLL_S", 0.01)
    started = trainers._Trainers(tmp_path / "controllers", num_slots=1)
    monkeypatch.setattr(started.controllers, "kill", kill)
    started.start(lambda slot, callback: SimpleNamespace(fit=is_killed.wait))  # pyright: ignore[reportArgumentType]
    started.end()
    assert len(attempts) == 3 and started.have_ended
