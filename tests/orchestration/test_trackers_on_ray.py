"""A tracker in the driver, and a callback in the workers after its file is removed, for an experiment on Ray."""

import os
from pathlib import Path

import pytest
from experiment_runs import run_here
from small_runs import experiment, run_of
from wandb_files import contents

from raykd.spec.experiment import Workers
from raykd.store.run_store import RunStore
from raykd.trackers.tracking import FOLDER

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

CALLBACKS = """
import os
from dataclasses import dataclass
from pathlib import Path
from raykd import Callback

@dataclass(frozen=True)
class Notes(Callback):
    def on_epoch(self, report):
        with (Path(__file__).parent / "notes.txt").open("a") as file:
            file.write(f"{os.getpid()} {report.run} {report.epoch}\\n")

@dataclass(frozen=True)
class Bad(Callback):
    def on_epoch(self, report):
        raise OSError("no network")
"""


@pytest.mark.nightly  # test_small_search.py has both on Ray too
def test_a_teacher_is_in_wandb_and_calls_the_callbacks(cluster: str, tmp_path: Path) -> None:
    file, results = tmp_path / "my_callbacks.py", tmp_path / "results"
    file.write_text(CALLBACKS)
    callbacks = f"{file}:Bad,{file}:Notes"
    made = experiment(tracker="wandb", callbacks=callbacks, workers=Workers(cpus=1))
    file.unlink()
    ended = run_here([made], results, ("teacher",))
    assert (ended.exit_code, ended.errors) == (0, [])
    run = run_of("teacher")
    (error,) = [line for line in ended.lines if "no network" in line]
    number = CALLBACKS.splitlines().index('        raise OSError("no network")') + 1
    assert f"{run.name}  callback Bad in '{file}': on_epoch() fails at line {number} with OSError: no network" in error
    folder = RunStore(results).folder(run)
    assert folder.status() == "done" and not folder.tensorboard.exists()
    notes = [line.split() for line in (tmp_path / "notes.txt").read_text().splitlines()]
    assert [(name, epoch) for _, name, epoch in notes] == [(run.name, str(epoch)) for epoch in range(3)]
    assert {int(process) for process, _, _ in notes}.isdisjoint({os.getpid()}), "a worker called it"
    shown = {one["name"]: one for one in map(contents, (results / FOLDER).glob("wandb/offline-run-*/*.wandb"))}
    teacher = shown[run.name]
    assert (len(teacher["steps"]), teacher["exit"], "test/top1" in teacher["summary"]) == (3, 0, True)
    assert shown["small"]["summary"]["teacher_accuracy"] == pytest.approx(teacher["summary"]["test/top1"] / 100)
