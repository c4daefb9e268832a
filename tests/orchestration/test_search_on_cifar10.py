"""The ViT's search on real CIFAR-10, small: `python experiments/tune_vit.py`, from images to a page and report.json.

Averaged to 16x16, 2,000 training images and 1,000 held out, three layers of width 48 for 4 epochs teach two for 4, 16
trials.
"""

import json
import os
from pathlib import Path

import pytest
from experiment_runs import ROOT, command

from raykd.data.dataset_names import find_folder
from raykd.store.study import SearchFolder

SMALL = {
    "seeds": "0,1",
    "data.image_size": 16,
    "data.train_images": 2_000,
    "data.val_images": 1_000,
    "data.crop_padding": 0,
    "teacher.model": "vit6",
    "teacher.model.depth": 3,
    "teacher.model.width": 48,
    "teacher.epochs": 4,
    "teacher.batch_size": 50,
    "student.model.depth": 2,
    "student.model.width": 48,
    "student.epochs": 4,
    "student.batch_size": 50,
    "workers.cpus": 1,
    "search.grace_epochs": 1,
    "search.confirm": 1,
}
DATA = find_folder(None, os.environ).absolute()

pytestmark = [
    pytest.mark.ray,
    pytest.mark.nightly,
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(
        not (DATA / "cifar10" / "train.parquet").is_file(),
        reason="CIFAR-10 is not there: set RAYKD_DATA to a folder with cifar10/train.parquet and test.parquet",
    ),
]


def test_search_of_the_vit_ends_with_a_page_and_a_tuned_student(cluster: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    settings = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]
    words = ["--results", str(results), "--data-dir", str(DATA), *settings]
    environ = dict(os.environ) | {"RAY_ADDRESS": cluster}
    with command(words, environ, tmp_path / "command", ROOT / "experiments" / "tune_vit.py") as started:
        ended = started.end(timeout_s=500)
    assert ended.exit_code == 0, ended.errors
    trials = SearchFolder(results / "vit" / "search").trials()
    assert len(trials) == 16 and {trial.state for trial in trials} == {"done", "pruned"}
    assert all(accuracy > 0.15 for accuracy in json.loads((results / "report.json").read_text())["vit"].values())
    assert (results / "report" / "vit-search" / "index.html").is_file()
