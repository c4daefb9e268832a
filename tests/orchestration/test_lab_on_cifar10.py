"""The CNN lab on real CIFAR-10, small: `python experiments/distill_cnn.py` from images to a report with a gain.

Averaged to 16x16, 5,000 training images, a narrow ResNet-18 for 12 epochs, a narrower ResNet-8 for 8.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.data.dataset import find_folder
from raykd.report.collect import collect
from raykd.report.summary import summarize

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "seeds": "0,1",
    "data.image_size": 16,
    "data.train_images": 5_000,
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
}
DATA = find_folder(None, os.environ).absolute()

pytestmark = [
    pytest.mark.ray,
    pytest.mark.xdist_group("ray"),
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (DATA / "cifar10" / "train.parquet").is_file(),
        reason="CIFAR-10 is not there: set RAYKD_DATA to a folder with cifar10/train.parquet and test.parquet",
    ),
]


def _run(results: Path) -> subprocess.CompletedProcess[str]:
    settings = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]
    command = [
        sys.executable,
        "experiments/distill_cnn.py",
        "--results",
        str(results),
        "--data-dir",
        str(DATA),
        *settings,
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)


def test_distilling_gains_on_real_images_and_a_second_call_has_nothing_to_do(tmp_path):
    done = _run(tmp_path)
    assert done.returncode == 0, done.stderr
    accuracies = json.loads((tmp_path / "report.json").read_text())["cnn"]
    assert accuracies["teacher_accuracy"] > 0.50
    assert accuracies["student_accuracy_with_kd"] > accuracies["student_accuracy_without_kd"] > 0.45
    summary = summarize(collect(tmp_path)[0])
    assert summary.gain is not None and summary.gain.num_in_favour == 2

    began = time.monotonic()
    again = _run(tmp_path)
    assert again.returncode == 0 and "5 runs, 5 of them done before" in again.stdout
    assert "at a time" not in again.stdout, "a second call must not start Ray"
    assert time.monotonic() - began < 60
    assert json.loads((tmp_path / "report.json").read_text())["cnn"] == accuracies
