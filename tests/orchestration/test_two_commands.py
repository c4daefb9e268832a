"""Two commands on one results folder: the second leaves a run to the first, does its own, and reuses the result."""

import io
import os
import re
import threading
from pathlib import Path

import pytest
from experiment_runs import run_here, train_directly, wait_until
from small_runs import NO_WEIGHTS, digits, experiment

from raykd.spec.experiment import Workers
from raykd.spec.plan import make_plan
from raykd.store.run_store import RunStore
from raykd.training.hooks import EpochReport, Hooks

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

# One slot: a worker that waited for the teacher would keep the baseline waiting too.
EXPERIMENT = experiment(workers=Workers(cpus=2))


def test_run_that_another_command_is_at_is_waited_for_and_reused(cluster: str, tmp_path: Path) -> None:
    teacher, baseline = make_plan(EXPERIMENT, digits(), NO_WEIGHTS, ("teacher", "baseline")).runs
    store, log, begun = RunStore(tmp_path), io.StringIO(), threading.Event()

    def hold(report: EpochReport) -> None:
        """The other command's first epoch takes until this one has said that it waits, and done what it can."""
        begun.set()
        if report.epoch == 0:
            wait_until(lambda: "locked by" in log.getvalue(), "the line that says who is at the run")
            wait_until(lambda: store.status(baseline) == "done", "the run that nobody else is at")

    other = threading.Thread(target=train_directly, args=(teacher, tmp_path, Hooks(hold)), daemon=True)
    other.start()
    assert begun.wait(60)
    ended = run_here([EXPERIMENT], tmp_path, ("teacher", "baseline"), log)
    other.join()

    assert ended.exit_code == 0 and ended.errors == []
    record = store.folder(teacher).record()
    assert record["resumes"] == 0 and record["writer"].startswith(f"process {os.getpid()} on ")
    said = [line.split("] ")[1] for line in ended.lines if teacher.name in line]
    assert said == [f"{teacher.name}  waiting: locked by {record['writer']}", f"{teacher.name}  done"]
    order = [line.split("] ")[1] for line in ended.lines if line.startswith("[") and "  epoch" not in line]
    assert re.match(rf"{baseline.name}  done in ", order[1]), "its own runs go first"
    assert store.folder(teacher).test.is_file() and store.folder(baseline).test.is_file()
