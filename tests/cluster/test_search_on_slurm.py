"""A small search on CIFAR-10 through sbatch, to a tuned student in report.json; the plain experiment shares its runs.

    sbatch slurm/ray_cluster.slurm experiments/tune_cnn.py ...        python experiments/distill_cnn.py ...

Averaged to 16x16, 4,000 training images and 1,000 held out, a narrow ResNet-18 for 12 epochs, a narrower ResNet-8 for
8, 16 trials.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.data.dataset_names import find_folder
from raykd.report.read.collect import collect
from raykd.report.stats.summary import summarize
from raykd.store.study import SearchFolder

SMALL = {
    "seeds": "0,1",
    "data.image_size": 16,
    "data.train_images": 4_000,
    "data.val_images": 1_000,
    "data.crop_padding": 0,
    "teacher.model.width": 16,
    "teacher.epochs": 12,
    "teacher.batch_size": 64,
    "teacher.schedule": "cosine",
    "student.model.width": 8,
    "student.epochs": 8,
    "student.batch_size": 64,
    "student.optimizer.lr": 0.05,
    "student.schedule": "cosine",
    "workers.cpus": 1,
    "workers.gpus": 0,
}
DATA = find_folder(None, os.environ).absolute()
SETTINGS = ["--data-dir", str(DATA), *(word for path, value in SMALL.items() for word in ("--set", f"{path}={value}"))]
SEARCH = ["--set", "search.grace_epochs=1", "--set", "search.confirm=1"]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.nightly,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (DATA / "cifar10" / "train.parquet").is_file(),
        reason="CIFAR-10 is not there: set RAYKD_DATA to a folder with cifar10/train.parquet and test.parquet",
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def test_a_search_ends_with_a_tuned_student_better_than_the_baseline(slurm, repository, results):
    words = ["--cpus-per-task=2", "slurm/ray_cluster.slurm", "experiments/tune_cnn.py", "--results", str(results)]
    job = slurm.wait(slurm.sbatch([*words, *SETTINGS, *SEARCH], cwd=repository), 500)
    assert (job.state, job.exit_code) == ("COMPLETED", 0), job.output
    folder = SearchFolder(results / "cnn" / "search")
    trials = folder.trials()
    assert len(trials) == 16 and all(trial.state in ("done", "pruned") for trial in trials)
    assert sum(trial.state == "pruned" for trial in trials) >= 8, "ASHA stops more than half"
    confirmed = json.loads(folder.confirmed.read_text())
    assert sum(confirmed["candidates"][confirmed["winner"]]["values"]) > sum(confirmed["baseline"]["values"])
    accuracies = json.loads((results / "report.json").read_text())["cnn"]
    assert accuracies["teacher_accuracy"] > 0.45, "0.4996 to 0.52, by the kind of processor"
    assert accuracies["student_accuracy_with_kd"] > accuracies["student_accuracy_without_kd"] > 0.45


def test_an_experiment_with_the_default_configuration_reuses_the_searchs_runs(results, repository):
    """On this machine: the search has confirmed its winner against these very runs."""
    command = [sys.executable, "experiments/distill_cnn.py", "--results", str(results), *SETTINGS]
    for _ in range(2):
        ended = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
        assert "5 runs, 5 of them done before" in ended.stdout
    assert "; dashboard" not in ended.stdout, "the second has nothing left to do, and starts no Ray cluster"
    summary = summarize(collect(results)[0])
    assert summary.gain is not None and summary.gain.num_in_favor == 2
