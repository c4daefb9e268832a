"""One training that is preempted with grace time twenty times, at random moments: `make soak`.

    pytest -n 0 -s -m soak tests/cluster/test_soak_preemption.py

PREEMPTIONS in the environment sets another number.
"""

import json
import os
import random
import struct
import time
from pathlib import Path

import pytest
import small_experiment
from slurm_jobs import SCRIPT, leftovers, start_now
from testbed import ENDED, HERE, Testbed, missing

from raykd.store.run_store import RunStore

pytestmark = [pytest.mark.slurm, pytest.mark.soak, pytest.mark.timeout(6000)]

PREEMPTIONS = int(os.environ.get("PREEMPTIONS", "20"))
LATEST_S = 15.0  # after a life's first step; a start is interrupted too, about once in four times
SETTINGS = (*small_experiment.SMALL, "teacher.epochs={epochs}", "workers.cpus=1", "workers.gpus=0")
WAIT_S = 240


def step_of(checkpoint: Path) -> tuple[int, int]:
    """Epoch and step of the last checkpoint; (0, 0) before the first."""
    if not checkpoint.is_file():
        return 0, 0
    with checkpoint.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        progress = json.loads(json.loads(file.read(size))["__metadata__"]["progress"])
    return progress["epoch"], progress["step"]


def test_twenty_preemptions_lose_no_step(repository: Path, tmp_path: Path) -> None:
    if reason := missing():
        pytest.skip(reason)
    # Each life trains some seconds: enough epochs that the run outlives all preemptions.
    settings = tuple(setting.format(epochs=400 * PREEMPTIONS) for setting in SETTINGS)
    (run,) = small_experiment.runs(("teacher",), settings)
    results, moments = tmp_path / "results", random.Random(14)
    folder = RunStore(results).folder(run)
    words = ["-p", "requeued", "--cpus-per-task=1", "--mem=6G", SCRIPT, *small_experiment.words(results, settings)]
    before = entries()
    with Testbed.start(tmp_path / "bed", num_nodes=1, settings=(HERE / "preemption.conf").read_text()) as bed:
        job_id, steps, saves = bed.sbatch([*words, "--stage", "teacher"], repository), [(0, 0)], 0
        for number in range(PREEMPTIONS):
            wait_for_life(bed, job_id, number, folder.checkpoint, moments)
            if bed.job(job_id)["JobState"] in ENDED:
                break
            urgent = bed.sbatch(["-p", "urgent", "--exclusive", "--wrap", "sleep 1"], bed.folder)
            wait_for_requeue(bed, job_id, number + 1)
            steps.append(step_of(folder.checkpoint))
            assert steps[-1] >= steps[-2], steps
            saves += steps[-1] > steps[-2]
            bed.wait(urgent, timeout_s=WAIT_S)
            start_now(bed, job_id)
            print(f"preemption {number + 1}: saved at epoch {steps[-1][0]}, step {steps[-1][1]}", flush=True)
        job = bed.wait(job_id, timeout_s=1800)
        assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
        assert len(steps) == PREEMPTIONS + 1 and saves > PREEMPTIONS // 2, steps
        assert job.output.count("every run is saved") >= saves, "each save is the step at hand, not an earlier one"
        assert leftovers(bed) == []
    assert entries() <= before, "nothing new is left; what other programs left may go meanwhile"
    small_experiment.assert_undisturbed(run, results, tmp_path / "straight")
    print(f"{PREEMPTIONS} preemptions, {saves} of them in training; resumed {folder.require_record().resumes} times")


def entries() -> set[str]:
    return {name for name in os.listdir("/tmp") if name.startswith(("rk-", ".rk-", "pymp-"))}  # noqa: PTH208


def wait_for_life(bed: Testbed, job_id: int, number: int, checkpoint: Path, moments: random.Random) -> None:
    """Until this life of the job trains, and a random while longer; or a random while of its start."""
    deadline = time.monotonic() + WAIT_S
    lives = "starting Ray"
    while bed.output(job_id).count(lives) <= number:
        assert time.monotonic() < deadline, bed.output(job_id)
        time.sleep(0.1)
    if moments.random() < 0.25:
        time.sleep(moments.uniform(0.5, 10))
        return
    while bed.output(job_id).rpartition(lives)[2].count("  epoch ") == 0:
        if bed.job(job_id)["JobState"] in ENDED:
            return
        assert time.monotonic() < deadline, bed.output(job_id)
        time.sleep(0.1)
    time.sleep(moments.uniform(0, LATEST_S))


def wait_for_requeue(bed: Testbed, job_id: int, count: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while bed.output(job_id).count("DUE TO JOB REQUEUE") + bed.output(job_id).count("DUE TO PREEMPTION") < count:
        assert time.monotonic() < deadline, bed.output(job_id)
        time.sleep(0.1)
