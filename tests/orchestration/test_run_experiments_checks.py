"""Checks of `run_experiments` before anything starts, and its handling of signals; without Ray."""

import io
import os
import pty
import signal
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from experiment_runs import wait_until
from rich.console import Console
from small_images import write_folder
from small_runs import experiment, recipe, run_of
from written_records import record_of

from raykd.data.load import load_dataset
from raykd.errors import ConfigError, Failure, Interrupted, RunFailed
from raykd.models.timm_model import Timm
from raykd.models.vit_cifar import ViT
from raykd.orchestration import session
from raykd.orchestration.command import Command
from raykd.orchestration.options import Options
from raykd.orchestration.parallel_runs import Slots, require_room
from raykd.orchestration.run_experiments import (
    _record_failures,
    _require_precisions,
    _run,
    prepared_options,
    raise_for,
    run_experiments,
)
from raykd.orchestration.run_queue import Job, JobStatus, RunQueue, State, plan_jobs
from raykd.orchestration.run_states import RunStates
from raykd.orchestration.runs_left import RunsLeft
from raykd.orchestration.stop_signals import STOP_SIGNALS, delayed_signals, stop_signals
from raykd.spec.experiment import Data, Workers
from raykd.spec.plan import make_plan
from raykd.store.run_store import RunStore
from raykd.training.teacher.choose import PlannedCache

SMALL = experiment()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (SMALL, "two experiments of one family"),
        (replace(SMALL, family="other", workers=Workers(cpus=1)), "workers differ between experiments"),
    ],
)
def test_experiments_that_cannot_run_together_are_refused_and_nothing_is_written(tmp_path, other, message) -> None:
    results = tmp_path / "results"
    with pytest.raises(ConfigError, match=message):
        run_experiments([SMALL, other], Command(Options(results, tmp_path), Console(file=io.StringIO())))
    assert not results.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"student": recipe(batch_size=5_000)}, "student.batch_size = 5000: must be at most 12, the number of its"),
        ({"student": recipe(model=ViT(depth=1, width=16, heads=2, patch=5), batch_size=5)}, "patch = 5"),
        ({"student": recipe(model=Timm("test_vit", weights="pretrained"), batch_size=5)}, "pretrained .* do not exist"),
        ({"data": {"val_images": 18}}, "data.val_images = 18: must be less than the 18 training images"),
        ({"student": recipe(model="timm:test_vit", batch_size=5)}, "'test_vit' does not accept images of 24x24"),
    ],
)
def test_an_experiment_that_cannot_run_is_refused_before_its_data_set_is_packed(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    write_folder(tmp_path / "data/insects")
    data = Data("folder:insects", val_images=6, image_size=24, crop_padding=0, min_crop_area=0.5)
    small = replace(experiment(data=data, teacher=recipe(batch_size=5), student=recipe(batch_size=5)), seeds=(0,))
    changed = replace(small, **{k: replace(data, **v) if k == "data" else v for k, v in change.items()})
    options = Options(tmp_path / "results", tmp_path / "data")
    with pytest.raises(ConfigError, match=message):
        run_experiments([changed], Command(options, Console(file=io.StringIO())))
    assert not options.results.exists()
    assert prepared_options([small], Command(options, Console(file=io.StringIO()))).packs[0][1] is not None


def test_caches_are_divided_into_parts_for_the_slots(tmp_path: Path) -> None:
    runs = make_plan(SMALL, load_dataset("digits", None, 8), Path("no-weights")).runs
    cache = PlannedCache((runs[0],), SMALL.data, "fp32", (), True, 146, families=frozenset({"small"}))
    store = RunStore(tmp_path)
    left = RunsLeft(runs, RunStates.read(runs, store), [cache], store)
    assert sum(job.kind == "fill" for job in left.jobs()) == 146, "with fewer, fewer slots would be planned"
    jobs_by_slots = {slots: left.jobs(slots) for slots in (Slots(2, 1, 0.0), Slots(1, 8, 1.0), Slots(4, 8, 1.0))}
    fills = [[job for job in jobs if job.kind == "fill"] for jobs in jobs_by_slots.values()]
    assert [len(parts) for parts in fills] == [146, 3, 4]
    for parts, jobs in zip(fills, jobs_by_slots.values(), strict=True):
        (distilled,) = (job for job in jobs if job.kind == "train" and job.run.stage == "distilled")
        assert set(distilled.needs) == {job.name for job in parts} and distilled.cache == parts[0].cache


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_first_signal_requests_a_stop_and_its_duplicate_does_nothing(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals(Console(file=io.StringIO())) as stopped:
        assert not stopped.is_set()
        os.kill(os.getpid(), number)
        assert stopped.is_set()
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", set(STOP_SIGNALS) - {signal.SIGHUP}, ids=lambda number: number.name)
def test_later_signal_ends_the_command(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.orchestration.stop_signals.SAME_SIGNAL_S", 0.0)
    with pytest.raises(KeyboardInterrupt), stop_signals(Console(file=io.StringIO())):
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), number)


def test_hangup_never_ends_the_command_without_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykd.orchestration.stop_signals.SAME_SIGNAL_S", 0.0)
    with stop_signals(Console(file=io.StringIO())) as stopped:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stopped.is_set()


def test_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals(Console(file=io.StringIO())) as stopped:
            os.kill(os.getpid(), signal.SIGHUP)
            with delayed_signals():
                os.kill(os.getpid(), signal.SIGHUP)
            assert not stopped.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


PRINTS_AFTER_HANGUP = """
import sys
from pathlib import Path
from rich.console import Console
from raykd.orchestration.stop_signals import stop_signals
console = Console()
with stop_signals(console) as stopped:
    console.print("ready")
    stopped.wait(60)
    for _ in range(100):
        console.print("after")
        print("after", file=sys.stderr, flush=True)
Path(sys.argv[1]).write_text("saved")
"""


def test_command_whose_terminal_closes_goes_on_until_it_has_saved(tmp_path: Path) -> None:
    words, end = [sys.executable, "-c", PRINTS_AFTER_HANGUP, str(tmp_path / "end")], tmp_path / "end"
    child, terminal = pty.fork()
    if child == 0:
        os.execv(words[0], words)
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and end.read_text() == "saved"


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGINT, "Ctrl-C: the command saves and stops; a second Ctrl-C ends it without saving"),
        (signal.SIGTERM, "SIGTERM: the command saves and stops; a second SIGTERM ends it without saving"),
        (signal.SIGUSR2, "SIGUSR2: Slurm will end the job soon; the command saves and stops"),
    ],
)
def test_first_signal_is_logged_once_and_immediately(number: signal.Signals, line: str) -> None:
    log, before = io.StringIO(), threading.active_count()
    with stop_signals(Console(file=log, width=200)):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        wait_until(lambda: threading.active_count() == before and bool(log.getvalue()), "the line")
    assert log.getvalue() == f"{line}\n"


def test_signal_while_ray_starts_starts_no_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("raykd.orchestration.run_experiments.ray_session", nullcontext)
    plan, log = make_plan(SMALL, load_dataset("digits", None, 8), Path("no-weights"), ("baseline",)), io.StringIO()
    options, store = Options(tmp_path, Path("data")), RunStore(tmp_path)
    left = RunsLeft(plan.runs, RunStates.read(plan.runs, store), (), store)
    ended = _run(left, Workers(), Command(options, Console(file=log)), lambda: True)
    assert [status.state for status in ended] == [State.WAITING] * len(left.jobs()) and not log.getvalue()
    with pytest.raises(Interrupted):
        raise_for(ended)


def statuses(*ends: State) -> list[JobStatus]:
    """Return the statuses of the jobs of a teacher and a baseline that ended like this."""
    plan = make_plan(SMALL, load_dataset("digits", None, 8), Path("no-weights"), ("teacher", "baseline"))
    statuses = RunQueue(plan_jobs(plan.runs, set(), set())).statuses()
    for status, end in zip(statuses, ends, strict=True):
        status.state, status.reason = end, "a reason" if end in (State.FAILED, State.SKIPPED) else ""
    return statuses


def test_each_failure_is_one_line_and_skipped_jobs_are_not_listed() -> None:
    with pytest.raises(RunFailed) as raised:
        raise_for(statuses(State.FAILED, State.DONE, State.SKIPPED, State.FAILED))
    first, *lines = str(raised.value).splitlines()
    assert first == "2 of 4 jobs failed; the others are kept:"
    assert [line.split("-")[0] for line in lines] == ["  train teacher", "  evaluate baseline"]
    assert all(line.endswith(": a reason") for line in lines)
    assert RunFailed.exit_code == 1


def test_the_resources_of_a_ray_that_runs_already_are_unknown_before_it_answers(monkeypatch) -> None:
    monkeypatch.setattr(session, "_is_connected", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    node = session.private_node()
    assert node is not None and node["CPU"] == session.num_usable_cpus()
    with pytest.raises(ConfigError, match="no node has as many"):
        require_room(Workers(gpus=node["GPU"] + 1), node)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert session.private_node() is None
    require_room(Workers(cpus=9999), None)
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setattr(session, "_is_connected", lambda: True)
    assert session.private_node() is None


def test_a_failed_run_has_the_name_of_its_family_if_there_are_several() -> None:
    failed = [JobStatus(Job("train", run_of("baseline", family=family)), State.FAILED) for family in ("cnn", "vit")]
    with pytest.raises(RunFailed, match=r"\n  train cnn/baseline-.*\n  train vit/baseline-"):
        raise_for(failed)
    with pytest.raises(RunFailed, match=r"\n  train baseline-"):
        raise_for(failed[:1])


@pytest.mark.parametrize("end", [State.STOPPED, State.WAITING, State.RUNNING])
def test_unfinished_run_raises_interrupted(end: State) -> None:
    with pytest.raises(Interrupted, match="rerun the same command to resume"):
        raise_for(statuses(State.DONE, end, State.DONE, State.WAITING))
    assert Interrupted.exit_code == 75


def test_failure_takes_precedence_over_interruption() -> None:
    with pytest.raises(RunFailed):
        raise_for(statuses(State.FAILED, State.STOPPED, State.SKIPPED, State.WAITING))
    raise_for(statuses(State.DONE, State.DONE, State.DONE, State.DONE))


@pytest.mark.parametrize(("reported", "recorded"), [("code", "code"), (None, "outside")], ids=["an error", "it died"])
def test_a_failed_run_keeps_the_kind_that_its_worker_reported(
    reported: Failure | None, recorded: Failure, tmp_path: Path
) -> None:
    """A search would train a configuration with an error in its method again, if its kind became 'outside'."""
    store, failed = RunStore(tmp_path), statuses(State.FAILED, State.DONE, State.DONE, State.DONE)
    status = failed[0]
    folder = store.folder(status.job.run)
    folder.write_record(record_of(status.job.run, status="failed", failure="code", reason="shapes differ"))
    status.reason, status.failure = "RuntimeError: shapes differ\nTraceback (most recent call last):", reported
    _record_failures(failed, store)
    record = folder.require_record()
    assert (record.status, record.reason, record.failure) == ("failed", "RuntimeError: shapes differ", recorded)


def test_tf32_is_refused_by_a_cluster_without_gpus() -> None:
    jobs = [Job("train", run_of("baseline", student=recipe(precision="tf32")))]
    _require_precisions(jobs, Slots(1, 1, 1.0, 1, 1))
    with pytest.raises(ConfigError, match=r"^student\.precision = tf32: requires a GPU"):
        _require_precisions(jobs, Slots(1, 1, 0.0, 1, 1))
