"""The examples in docs/custom_data.md, custom_method.md, custom_network.md and trackers.md run, on small files."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from documented_methods import block
from PIL import Image
from small_runs import digits
from small_runs import experiment as small_experiment

from raykd.cli import parser
from raykd.cli.experiment_file import apply_settings, load_experiments
from raykd.config import to_dict
from raykd.config.codec import read_checked_json
from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override
from raykd.spec.plan import make_plan
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.hooks import Hooks
from raykd.training.loop import fit
from raykd.training.teacher.load import load_live_teacher
from raykd.training.teacher.sources import no_teacher
from raykd.training.train_one import Observers, train_one

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
CUSTOM_NETWORK = (ROOT / "docs" / "custom_network.md").read_text()
COLORS = {"daisy": (250, 250, 230), "rose": (220, 30, 60), "violet": (90, 30, 200)}


def write_flowers(place: Path) -> None:
    """Write 40 training and 10 test images of each class, of several sizes, in its color with a spot."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 40), ("test", 10)):
        for name, color in COLORS.items():
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                width, height, x, y = (20 + int(n) for n in torch.randint(0, 20, (4,), generator=generator))
                image = Image.new("RGB", (width, height), color)
                image.paste((40, 160, 60), (x // 2, y // 2, x // 2 + 8, y // 2 + 8))
                image.save(place / part / name / f"{number}.{'jpg' if number % 2 else 'png'}")


def train(experiment: Experiment, dataset: Dataset, results: Path) -> dict[str, dict[str, Any]]:
    """Train and test the teacher and the first distilled student without Ray; return run.json and top1 by stage."""
    runs, store, records = make_plan(experiment, dataset, Path("none")).runs, RunStore(results), {}
    for run in (runs[0], next(run for run in runs if run.stage == "distilled")):
        folder = store.folder(run)
        teacher = load_live_teacher([store.folder(run.teacher)], CPU) if run.teacher else no_teacher
        fit(run, dataset, folder, CPU, teacher, Hooks())
        evaluate_on_test(run, folder, dataset, choose_compute(CPU, "fp32"))
        top1 = read_checked_json(folder.test)["top1"]
        records[run.stage] = asdict(folder.require_record()) | {"test_top1": top1, "columns": set(folder.history()[0])}
    return records


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ("custom_data.md", "experiment = Experiment("),
        ("custom_method.md", "class SoftL1(Method)"),
        ("custom_method.md", "from my_method import SoftL1"),
        ("custom_network.md", "class MyNet(nn.Module)"),
        ("custom_network.md", "from my_net import MyNet"),
        ("trackers.md", "class Slack(Callback)"),
    ],
)
def test_examples_are_short(document: str, part: str) -> None:
    assert len(block(document, part).splitlines()) < 40


@pytest.mark.nightly
def test_the_data_example_is_planned_trained_and_tested(tmp_path: Path) -> None:
    write_flowers(tmp_path / "data" / "flowers")
    file = tmp_path / "flowers.py"
    file.write_text(block("custom_data.md", "experiment = Experiment("))
    command = [sys.executable, str(file), "--plan", "--results", str(tmp_path / "r")]
    arguments = ["--data-dir", str(tmp_path / "data")]
    completed = subprocess.run(
        [*command, *arguments], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("not started") == 5 and not (tmp_path / "r").exists()
    (experiment,) = load_experiments(file)
    dataset = load_dataset(experiment.data.name, tmp_path / "data", experiment.data.image_size)
    assert (dataset.class_names, len(dataset.train), len(dataset.test)) == (tuple(COLORS), 120, 30)
    records = train(experiment, dataset, tmp_path / "r")
    assert records["teacher"]["test_top1"] > 60, "two epochs are enough for three colors"
    assert (
        records["distilled"]["status"] == "done" and records["distilled"]["config"]["data"]["name"] == "folder:flowers"
    )


def test_moved_images_have_the_same_runs(tmp_path: Path) -> None:
    write_flowers(tmp_path / "data" / "flowers")
    file = tmp_path / "flowers.py"
    text = block("custom_data.md", "experiment = Experiment(")
    file.write_text(text)
    (original,) = load_experiments(file)
    (tmp_path / "data" / "flowers").rename(tmp_path / "garden")
    file.write_text(text.replace("folder:flowers", f"folder:{tmp_path / 'garden'}"))
    (moved,) = load_experiments(file)
    dataset = load_dataset(moved.data.name, None, 16)
    names = [
        [run.name for run in make_plan(experiment, dataset, Path("none")).runs] for experiment in (original, moved)
    ]
    assert names[0] == names[1]


@pytest.fixture
def method_folder(tmp_path: Path) -> Path:
    """A folder with my_method.py, mine.py that imports it, and digits.py, whose experiment both use."""
    (tmp_path / "my_method.py").write_text(block("custom_method.md", "class SoftL1(Method)"))
    (tmp_path / "mine.py").write_text(block("custom_method.md", "from my_method import SoftL1"))
    (tmp_path / "digits.py").write_text((ROOT / "experiments" / "digits.py").read_text())
    return tmp_path


@pytest.mark.nightly
def test_a_method_named_by_its_path_is_planned(method_folder: Path) -> None:
    arguments = ["--set", "method=my_method.py:SoftL1", "--set", "method.weight=3", "--plan", "--results", "r"]
    completed = subprocess.run(
        [sys.executable, "digits.py", *arguments],
        cwd=method_folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("-soft-l1-s") == 5


def test_an_imported_method_equals_the_method_named_by_its_path(method_folder: Path) -> None:
    (imported,) = load_experiments(method_folder / "mine.py")
    settings = [f"method={method_folder / 'my_method.py'}:SoftL1", "method.weight=3"]
    (by_path,) = apply_settings(load_experiments(method_folder / "digits.py"), settings)
    assert imported.method == by_path.method and imported.method.title() == "SoftL1"
    for name in ("my_method", "digits"):
        sys.modules.pop(name)


def test_the_term_of_a_custom_method_is_trained_and_recorded(method_folder: Path) -> None:
    experiment = override(small_experiment(), "method", f"{method_folder / 'my_method.py'}:SoftL1")
    record = train(experiment, digits(), method_folder / "r")["distilled"]
    assert "l1" in record["columns"] and record["method"] == "soft_l1"
    assert record["config"]["method"] == to_dict(experiment.method)
    assert record["config"]["method"]["source"]["file"] == "my_method.py"


# ---- docs/custom_network.md ----


@pytest.fixture
def network_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with my_net.py, mine.py that imports it, and digits.py, whose experiment both use."""
    (tmp_path / "my_net.py").write_text(block("custom_network.md", "class MyNet(nn.Module)"))
    (tmp_path / "mine.py").write_text(block("custom_network.md", "from my_net import MyNet"))
    (tmp_path / "digits.py").write_text((ROOT / "experiments" / "digits.py").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_network_trains_as_teacher_and_student(network_folder: Path) -> None:
    (experiment,) = apply_settings([small_experiment()], ["student.model=my_net.py:MyNet", "student.model.width=8"])
    (experiment,) = apply_settings([experiment], ["teacher.model=my_net.py:MyNet", "teacher.epochs=30"])
    records = train(experiment, digits(), network_folder / "results")
    assert records["distilled"]["model"] == "my_net-width8"
    assert records["teacher"]["test_top1"] > 25, "by chance it is 10"
    run = RunStore(network_folder / "results").folder(make_plan(experiment, digits(), Path("none")).runs[0])
    assert [path.name for path in run.code.glob("*/*")] == ["my_net.py"]


def test_the_experiment_that_imports_the_network_is_that_of_its_path(network_folder: Path) -> None:
    (experiment,) = load_experiments(network_folder / "mine.py")
    settings = ["student.model=my_net.py:MyNet", "student.model.width=8", "student.model.features=stage1,stage2"]
    (by_path,) = apply_settings([experiment], settings)
    assert by_path.student.model == experiment.student.model


def test_a_missing_submodule_is_refused_with_the_documented_line(network_folder: Path, capsys: Any) -> None:
    arguments = ["--set", "student.model=my_net.py:MyNet", "--set", "student.model.width=8", "--set", "method=fitnets"]
    assert parser.entry(["plan", "digits.py", *arguments, "--results", "r"]) == 2
    documented = re.search(r"```\n(raykd: method = FitNets.*?), \.\.\.\n```", CUSTOM_NETWORK, flags=re.S)
    assert documented is not None
    assert " ".join(documented[1].split()) in capsys.readouterr().err


# ---- docs/trackers.md ----


def test_the_example_callback_posts_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_callbacks.py").write_text(block("trackers.md", "class Slack(Callback)"))
    posted: list[tuple[str, str]] = []

    def post(request: Any, timeout: float) -> None:
        posted.append((request.full_url, json.loads(request.data)["text"]))

    monkeypatch.setattr("urllib.request.urlopen", post)
    monkeypatch.setenv("SLACK_WEBHOOK", "https://example.org/hook")
    (callback,) = small_experiment(callbacks=f"{tmp_path / 'my_callbacks.py'}:Slack").callbacks
    every_second = replace(callback, every=2)
    run = make_plan(small_experiment(), digits(), Path("none")).runs[0]
    store = RunStore(tmp_path / "r")
    train_one(run, store.folder(run), digits(), CPU, store, None, observers=Observers(callbacks=(every_second,)))
    best = store.folder(run).history()[1]["val_top1"]
    name = f"{run.family}/{run.name}"
    assert {address for address, _ in posted} == {"https://example.org/hook"}
    first, second, third = [text for _, text in posted]
    assert (first, third) == (f"{name} starts, 3 epochs", f"{name} is done")
    assert re.fullmatch(rf"{name} epoch 2/3, best \d+\.\d %", second) and float(second.split()[-2]) >= round(best, 1)
