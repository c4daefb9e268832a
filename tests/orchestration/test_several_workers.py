"""One run by two workers on Ray: they share each batch, and when one is killed both are replaced."""

import io
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from experiment_runs import run_here, wait_until
from small_runs import NO_WEIGHTS, digits, experiment, recipe

from raykd.spec.experiment import Workers
from raykd.spec.plan import make_plan
from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

TWO = experiment(workers=Workers(count=2), teacher=recipe(epochs=60), student=recipe(epochs=10))


def kill_the_second(results: Path, log: io.StringIO, killed: list[int]) -> None:
    """Kill the worker that does not write the run's folder, after the teacher's first epoch."""
    from ray.util.state import list_actors

    teacher = make_plan(TWO, digits(), NO_WEIGHTS).runs[0]
    folder = RunStore(results).folder(teacher)
    wait_until(lambda: f"{teacher.name}  epoch" in log.getvalue(), "the teacher's first line")
    writer = re.fullmatch(r"process (\d+) on \S+", folder.require_record().writer)
    assert writer is not None
    pids = [actor.pid for actor in list_actors(filters=[("state", "=", "ALIVE")]) if "Worker" in actor.class_name]
    others = [pid for pid in pids if pid and pid != int(writer[1])]
    assert len(others) == 1, pids
    os.kill(others[0], signal.SIGKILL)
    killed.append(others[0])


def test_runs_by_two_workers_survive_the_loss_of_one(cluster: str, tmp_path: Path) -> None:
    log, killed = io.StringIO(), []
    killer = threading.Thread(target=kill_the_second, args=(tmp_path, log, killed), daemon=True)
    killer.start()
    ended = run_here([TWO], tmp_path, log=log)
    killer.join()
    assert (ended.exit_code, ended.errors, len(killed)) == (0, [], 1)
    assert any("1 run at a time with 2 workers of 1 CPU; dashboard" in line for line in ended.lines)
    teacher, *students = make_plan(TWO, digits(), NO_WEIGHTS).runs
    for run in (teacher, *students):
        record = RunStore(tmp_path).folder(run).require_record()
        assert record.compute.workers == (2,)
        assert record.resumes == (1 if run is teacher else 0)
        assert [row["epoch"] for row in RunStore(tmp_path).folder(run).history()] == list(range(run.recipe.epochs))
    assert (tmp_path / "report.json").is_file()
