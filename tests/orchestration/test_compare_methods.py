"""`python experiments/compare_methods.py`, small, on the digits: every method to one table and one page."""

import json
import os
from pathlib import Path

import pytest
from experiment_runs import ROOT, Ended, command

from raykd.methods import KD, FeatureMethod
from raykd.methods.method import Method
from raykd.store.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]

SMALL = {
    "seeds": "0,1",
    "data.name": "digits",
    "data.image_size": 8,
    "data.val_images": 100,
    "data.train_images": 400,
    "data.crop_padding": 1,
    "teacher.model.width": 16,
    "teacher.epochs": 8,
    "teacher.batch_size": 50,
    "teacher.optimizer.lr": 0.05,
    "teacher.schedule": "cosine",
    "student.model.width": 8,
    "student.epochs": 3,
    "student.batch_size": 50,
    "student.optimizer.lr": 0.02,
    "student.schedule": "cosine",
    "workers.cpus": 1,
}


@pytest.fixture(scope="module")
def compared(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    folder = tmp_path_factory.mktemp("compared")
    settings = [word for path, value in SMALL.items() for word in ("--set", f"{path}={value}")]
    environ = dict(os.environ) | {"RAY_ADDRESS": cluster}
    words, file = ["--results", str(folder / "results"), *settings], ROOT / "experiments" / "compare_methods.py"
    with command(words, environ, folder / "command", file) as started:
        ended = started.end(timeout_s=240)
    return folder / "results", ended


def methods() -> tuple[Method, ...]:
    from raykd.cli.experiment_file import load_experiment

    return load_experiment(ROOT / "experiments" / "compare_methods.py").methods


def test_every_method_is_trained_tested_and_ranked(compared: tuple[Path, Ended]) -> None:
    results, ended = compared
    assert ended.exit_code == 0, ended.errors
    found = json.loads((results / "report" / "summary.json").read_text())["methods"]["comparison"]
    assert {row["method"] for row in found["methods"]} == {method.kind for method in methods()}
    for row in found["methods"]:
        assert row["rank"] and row["top1"]["num_runs"] == 2 and len(row["gain"]["pairs"]) == 2
        low, high = row["time_range"]
        assert 0 < low <= row["time"] <= high and row["hyperparameters"]
    assert len(found["pairs"]) == len(methods()) * (len(methods()) - 1) / 2
    means = [row["top1"]["mean"] for row in found["methods"]]
    assert means == sorted(means, reverse=True)


def test_page_and_log_show_every_method(compared: tuple[Path, Ended]) -> None:
    results, ended = compared
    page, log = (results / "report" / "index.html").read_text(), "\n".join(ended.lines)
    for method in methods():
        assert f">{method.kind}</th>" in page and f"| {method.kind} " in log


def test_methods_of_logits_read_the_cache_and_others_ask_the_teacher(compared: tuple[Path, Ended]) -> None:
    results, _ = compared
    named = json.loads((results / "methods" / "plan.json").read_text())["comparison"]
    for method in methods():
        sources = {
            RunFolder(results / "methods" / name).require_record().compute.teacher for name in named[method.kind]
        }
        assert sources == {"live" if isinstance(method, FeatureMethod) else "cache"}, method.kind


def test_report_json_is_of_the_experiments_default_method(compared: tuple[Path, Ended]) -> None:
    results, _ = compared
    summary = json.loads((results / "report" / "summary.json").read_text())["methods"]
    default = next(row for row in summary["comparison"]["methods"] if row["method"] == KD.kind)
    report = json.loads((results / "report.json").read_text())["methods"]
    assert report["student_accuracy_with_kd"] == pytest.approx(default["top1"]["mean"] / 100)
