"""Runs on a small pack that stays on disk. A child process imports this file too, so nothing in it needs pytest."""

import io
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pack_of_images import write_pack
from PIL import Image
from small_runs import CPU, NO_WEIGHTS, experiment, recipe

from raykd.data.augmentation import Augmentation
from raykd.data.packs.dataset import find_packed, open_packed
from raykd.data.types import Dataset
from raykd.spec.experiment import Data
from raykd.spec.plan import Run, make_plan
from raykd.store.run_folder import RunFolder
from raykd.training.hooks import EpochReport, Hooks
from raykd.training.loop import fit

SIZE, NUM_TRAIN, NUM_TEST = 16, 60, 12
_DATA = Data("packed:small", val_images=12, image_size=SIZE, crop_padding=0)
CASES: dict[str, dict[str, Any]] = {
    "endless crops": {"data": replace(_DATA, min_crop_area=0.2, center_crop=0.8)},
    "three crops of each image": {"data": replace(_DATA, min_crop_area=0.2, views_per_image=3)},
    "padded squares": {"data": replace(_DATA, crop_padding=2)},
    "endless crops, augmented": {
        "data": replace(_DATA, min_crop_area=0.2),
        "student": recipe(batch_size=12, augmentation=Augmentation(0.5, (2, 9), 3, 0.8, 1.0)),
    },
}


def photo(number: int) -> bytes:
    """Return a JPEG whose color shows its class, number % 3, to a network."""
    drawn = np.random.default_rng(number)
    pixels = drawn.integers(0, 100, (18 + number % 9, 22 + number % 5, 3), dtype=np.uint8)
    pixels[..., number % 3] += 100
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def make_pack(folder: Path) -> Path:
    """Write the pack unless it is there already."""
    if not (folder / "pack.json").is_file():
        write_pack(folder, [photo(n) for n in range(NUM_TRAIN)], [photo(n) for n in range(100, 100 + NUM_TEST)])
    return folder


def on_disk(pack: Path, case: str, loaders: int = 2) -> Dataset:
    data = CASES[case]["data"]
    return open_packed(pack, data.name, data.image_size, data.center_crop, loaders)


@cache
def in_memory(pack: Path) -> Dataset:
    """Return the same images, decoded into memory."""
    stored = find_packed(pack, SIZE)
    train, test = stored.decode()
    mean, std = stored.statistics or ((0.0,) * 3, (1.0,) * 3)
    return Dataset("packed:small", train, test, stored.class_names, mean, std, stored.identity, stored.notes)


def run_of_case(case: str, dataset: Dataset) -> Run:
    small = recipe(batch_size=12)
    plan = make_plan(experiment(**{"teacher": small, "student": small, **CASES[case]}), dataset, NO_WEIGHTS)
    return next(run for run in plan.runs if run.stage == "baseline")


def train(case: str, dataset: Dataset, folder: Path, **hooks: Any) -> list[EpochReport]:
    """Start or resume the baseline of a case with `Hooks(**hooks)`, and return the reports of its epochs."""
    reports: list[EpochReport] = []
    torch.set_num_threads(1)
    fit(run_of_case(case, dataset), dataset, RunFolder(folder), CPU, hooks=Hooks(reports.append, **hooks))
    return reports
