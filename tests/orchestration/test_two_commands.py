"""Two commands on one results folder: the second waits for a run of the first, trains others, and reuses the result.

The experiments have different families and the same teacher.
"""

import io
import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from experiment_runs import run_here, train_directly, wait_until
from small_runs import NO_WEIGHTS, digits, experiment

from raykd.spec.experiment import Workers
from raykd.spec.plan import make_plan
from raykd.store.run_store import RunStore
from raykd.training.hooks import EpochReport, Hooks

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

# One slot: a worker that waited for the teacher would delay the baseline too.
EXPERIMENT = experiment(workers=Workers(cpus=2))


def test_run_that_another_command_has_locked_is_waited_for_and_reused(cluster: str, tmp_path: Path) -> None:
    teacher, baseline = make_plan(EXPERIMENT, digits(), NO_WEIGHTS, ("teacher", "baseline")).runs
    store, log, is_started = RunStore(tmp_path), io.StringIO(), threading.Event()

    def hold(report: EpochReport) -> None:
        """Delay the other command's first epoch until this command waits and has trained all else."""
        is_started.set()
        if report.epoch == 0:
            wait_until(lambda: "locked by" in log.getvalue(), "the line with the process that has the run locked")
            wait_until(lambda: store.status(baseline) == "done", "the run that is not locked")

    (same_teacher,) = make_plan(replace(EXPERIMENT, family="other"), digits(), NO_WEIGHTS, ("teacher",)).runs
    other = threading.Thread(target=train_directly, args=(same_teacher, tmp_path, Hooks(hold)), daemon=True)
    other.start()
    assert is_started.wait(60)
    ended = run_here([EXPERIMENT], tmp_path, ("teacher", "baseline"), log)
    other.join()

    assert ended.exit_code == 0 and ended.errors == []
    record = store.folder(teacher).require_record()
    assert record.resumes == 0 and record.writer.startswith(f"process {os.getpid()} on ")
    logged = [line.split("] ")[1] for line in ended.lines if teacher.name in line]
    waiting, done = logged
    assert waiting.startswith(f"{teacher.name}  waiting: locked by {record.writer} since ")
    assert waiting.endswith(f": kill {os.getpid()}); its result is used here once it is done")
    assert done == f"{teacher.name}  done"
    order = [line.split("] ")[1] for line in ended.lines if line.startswith("[") and "  epoch" not in line]
    assert re.match(rf"{baseline.name}  done in ", order[1]), "runs that are not locked come first"
    assert store.folder(teacher).test.is_file() and store.folder(baseline).test.is_file()
