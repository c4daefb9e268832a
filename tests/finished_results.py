"""A small finished results folder, trained without Ray once per process, and functions that damage its files.

The bad inputs import this module too, so it does not need pytest.
"""

import atexit
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace as replaced
from functools import cache
from pathlib import Path
from typing import Any

from small_runs import CPU, NO_WEIGHTS

from raykd.bench.without_ray import train_plan
from raykd.cli.experiment_file import load_experiment
from raykd.config.codec import read_checked_json, write_checked_json
from raykd.data.load import load_dataset
from raykd.data.types import Dataset
from raykd.spec.plan import Plan, make_plan
from raykd.spec.stages import STAGES, Stage
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.training.compute import choose_compute
from raykd.training.final_evaluation import evaluate_on_test
from raykd.training.usage import record_usage

EXPERIMENT = """
from raykd import KD, SGD, Cosine, Data, Experiment, Recipe, ResNet
student = Recipe(ResNet(blocks=(1, 1, 1, 1), width=8), epochs=2, batch_size=50, optimizer=SGD(lr=0.05),
                 schedule=Cosine(), precision="fp32")
experiment = Experiment(
    family="tiny", seeds=(0, 1), teacher=student, student=student, method=KD(),
    data=Data("digits", val_images=100, train_images=200, image_size=8, crop_padding=1, flip=False),
)
"""


@cache
def original() -> Path:
    """Return a folder with the experiment as tiny.py, and below results/ its five finished, evaluated runs."""
    folder = Path(tempfile.mkdtemp(prefix="raykd-finished-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "tiny.py").write_text(EXPERIMENT)
    plan, store = plan_of(folder), RunStore(folder / "results")
    store.make_folder()
    store.write_plan(plan)
    train_plan(plan, dataset(), CPU, store)
    for run in plan.runs:
        with record_usage(store.folder(run).usage(0), CPU, 0):
            evaluate_on_test(run, store.folder(run), dataset(), choose_compute(CPU, "fp32"))
    return folder


@cache
def dataset() -> Dataset:
    return load_dataset("digits", None, image_size=8)


def plan_of(folder: Path, stages: Iterable[Stage] = STAGES, **changes: Any) -> Plan:
    return make_plan(replaced(load_experiment(folder / "tiny.py"), **changes), dataset(), NO_WEIGHTS, stages)


def copy_to(folder: Path) -> Path:
    """Copy the original into `folder`; return the copied results."""
    shutil.copytree(original(), folder, dirs_exist_ok=True)
    return folder / "results"


def run_in(results: Path, stage: str, seed: int = 0) -> RunFolder:
    """Return the folder of one run."""
    (path,) = (results / ("teachers" if stage == "teacher" else "tiny")).glob(f"{stage}-*-s{seed}-*")
    return RunFolder(path)


def flip(path: Path, seed: int = 0, count: int = 2) -> None:
    """Change `count` bytes."""
    content, random_numbers = bytearray(path.read_bytes()), random.Random(seed)
    for position in random_numbers.sample(range(len(content)), min(count, len(content))):
        content[position] ^= random_numbers.randrange(1, 256)
    path.write_bytes(content)


def truncate(path: Path, seed: int = 0) -> None:
    """Keep only the first part of the file."""
    content = path.read_bytes()
    path.write_bytes(content[: random.Random(seed).randrange(len(content))])


def zero_half(path: Path, seed: int = 0) -> None:
    """Zero the second half, like a disk that has lost blocks."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))


def exchange(path: Path, other: Path) -> None:
    """Replace the content of `path` by that of `other`."""
    path.write_bytes(other.read_bytes())


def empty(path: Path) -> None:
    path.write_bytes(b"")


def nest(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def nest_in_field(path: Path) -> None:
    path.write_bytes(b'{"a": ' * 150 + b"1" + b"}" * 150)


def to_list(path: Path) -> None:
    path.write_text("[1, 2]")


def to_latin1(path: Path) -> None:
    path.write_bytes('{"family": "k\xe4se"}'.encode("latin-1"))


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def change(**changes: object) -> Callable[[Path], None]:
    """Return a function that changes fields of a JSON file and corrects its checksum."""
    return lambda path: write_checked_json(path, read_checked_json(path) | changes)


def drop(name: str) -> Callable[[Path], None]:
    """Return a function that removes a field of a JSON file and corrects its checksum."""

    def remove(path: Path) -> None:
        content = read_checked_json(path)
        del content[name]
        write_checked_json(path, content)

    return remove


def replace(before: str, after: str) -> Callable[[Path], None]:
    """Return a function that replaces text in a file and keeps the old checksum."""

    def write(path: Path) -> None:
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))

    return write
