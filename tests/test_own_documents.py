"""docs/own_data.md and docs/own_method.md: their examples run as they stand, on small files."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_runs import digits
from small_runs import experiment as small_experiment

from raykd.cli.experiment_file import apply_settings, load_experiments
from raykd.config import to_dict
from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.spec.experiment import Experiment
from raykd.spec.overrides import override
from raykd.spec.plan import make_plan
from raykd.store.codec import read_json
from raykd.store.run_store import RunStore
from raykd.training.compute import choose
from raykd.training.evaluate_best import evaluate_on_test
from raykd.training.hooks import Hooks
from raykd.training.loop import fit
from raykd.training.teacher.load import load_live_teacher
from raykd.training.teacher.sources import no_teacher

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
COLOURS = {"daisy": (250, 250, 230), "rose": (220, 30, 60), "violet": (90, 30, 200)}


def block(document: str, part: str) -> str:
    """The one block of Python in a document of docs/ with `part` in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / document).read_text(), flags=re.S)
    (found,) = (block for block in blocks if part in block)
    return found


def write_flowers(place: Path) -> None:
    """40 and 10 pictures of each class, of several sizes, in its colour with a spot of another."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 40), ("test", 10)):
        for name, colour in COLOURS.items():
            (place / part / name).mkdir(parents=True)
            for number in range(count):
                width, height, x, y = (20 + int(n) for n in torch.randint(0, 20, (4,), generator=generator))
                picture = Image.new("RGB", (width, height), colour)
                picture.paste((40, 160, 60), (x // 2, y // 2, x // 2 + 8, y // 2 + 8))
                picture.save(place / part / name / f"{number}.{'jpg' if number % 2 else 'png'}")


def train(experiment: Experiment, dataset: Dataset, results: Path) -> dict[str, dict[str, Any]]:
    """Teacher and first distilled student by the loop alone; run.json and test top1 by stage."""
    runs, store, found = make_plan(experiment, dataset, Path("none")).runs, RunStore(results), {}
    for run in (runs[0], next(run for run in runs if run.stage == "distilled")):
        folder = store.folder(run)
        teacher = load_live_teacher([store.folder(run.teacher)], CPU) if run.teacher else no_teacher
        fit(run, dataset, folder, CPU, teacher, Hooks())
        evaluate_on_test(folder, dataset, choose(CPU, "fp32"))
        top1 = read_json(folder.test)["top1"]
        found[run.stage] = folder.record() | {"test_top1": top1, "columns": set(folder.history()[0])}
    return found


@pytest.mark.parametrize(
    ("document", "part"),
    [
        ("own_data.md", "experiment = Experiment("),
        ("own_method.md", "class SoftL1(Method)"),
        ("own_method.md", "from my_method import SoftL1"),
    ],
)
def test_examples_are_short(document: str, part: str) -> None:
    assert len(block(document, part).splitlines()) < 40


def test_flowers_are_checked_trained_and_tested(tmp_path: Path) -> None:
    write_flowers(tmp_path / "data" / "flowers")
    file = tmp_path / "flowers.py"
    file.write_text(block("own_data.md", "experiment = Experiment("))
    command = [sys.executable, str(file), "--plan", "--results", str(tmp_path / "r")]
    words = ["--data-dir", str(tmp_path / "data")]
    planned = subprocess.run(
        [*command, *words], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
    )
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("not started") == 5 and not (tmp_path / "r").exists()
    (experiment,) = load_experiments(file)
    dataset = load_dataset(experiment.data.name, tmp_path / "data", experiment.data.image_size)
    assert (dataset.class_names, len(dataset.train), len(dataset.test)) == (tuple(COLOURS), 120, 30)
    ended = train(experiment, dataset, tmp_path / "r")
    assert ended["teacher"]["test_top1"] > 60, "three colours are learnt in two epochs"
    assert ended["distilled"]["status"] == "done" and ended["distilled"]["config"]["data"]["name"] == "folder:flowers"


def test_the_same_flowers_elsewhere_are_the_same_runs(tmp_path: Path) -> None:
    write_flowers(tmp_path / "data" / "flowers")
    file = tmp_path / "flowers.py"
    text = block("own_data.md", "experiment = Experiment(")
    file.write_text(text)
    (here,) = load_experiments(file)
    (tmp_path / "data" / "flowers").rename(tmp_path / "garden")
    file.write_text(text.replace("folder:flowers", f"folder:{tmp_path / 'garden'}"))
    (there,) = load_experiments(file)
    dataset = load_dataset(there.data.name, None, 16)
    names = [[run.name for run in make_plan(made, dataset, Path("none")).runs] for made in (here, there)]
    assert names[0] == names[1]


@pytest.fixture
def own_method(tmp_path: Path) -> Path:
    """my_method.py, mine.py that imports it, and digits.py, whose experiment both are about."""
    (tmp_path / "my_method.py").write_text(block("own_method.md", "class SoftL1(Method)"))
    (tmp_path / "mine.py").write_text(block("own_method.md", "from my_method import SoftL1"))
    (tmp_path / "digits.py").write_text((ROOT / "experiments" / "digits.py").read_text())
    return tmp_path


def test_method_by_its_path_is_planned(own_method: Path) -> None:
    words = ["--set", "method=my_method.py:SoftL1", "--set", "method.weight=3", "--plan", "--results", "r"]
    planned = subprocess.run(
        [sys.executable, "digits.py", *words],
        cwd=own_method, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("-soft-l1-s") == 5


def test_method_by_import_makes_the_same_runs_as_by_its_path(own_method: Path) -> None:
    (mine,) = load_experiments(own_method / "mine.py")
    settings = [f"method={own_method / 'my_method.py'}:SoftL1", "method.weight=3"]
    (by_path,) = apply_settings(load_experiments(own_method / "digits.py"), settings)
    assert mine.method == by_path.method and mine.method.title() == "SoftL1"
    for name in ("my_method", "digits"):
        sys.modules.pop(name)


def test_the_methods_term_is_trained_and_recorded(own_method: Path) -> None:
    made = override(small_experiment(), "method", f"{own_method / 'my_method.py'}:SoftL1")
    ended = train(made, digits(), own_method / "r")["distilled"]
    assert "l1" in ended["columns"] and ended["method"] == "soft_l1"
    assert ended["config"]["method"] == to_dict(made.method)
    assert ended["config"]["method"]["source"]["file"] == "my_method.py"
