"""A program that packs a folder of large JPEGs, and trains and distills on it in one process.

    python tests/large_photos.py DATA RESULTS       the same command resumes

DATA/photos was written by `write_photos`.
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from small_runs import CPU, NO_WEIGHTS, recipe

from raykd.bench.without_ray import train_plan
from raykd.methods import KD
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.options import Options, dataset_of
from raykd.spec.experiment import Data, Experiment
from raykd.spec.plan import Plan, make_plan
from raykd.store.run_store import RunStore

NUM_CLASSES, NUM_KEPT, NUM_DIFFERENT = 8, 3, 40
BATCH_SIZE = 20


def write_photos(place: Path, num_images: int, size: tuple[int, int]) -> None:
    """Write train/ and a tenth as many images to test/. Photos repeat, but each file has another comment.

    size: width and height.
    """
    photos = [photo(number, size) for number in range(NUM_DIFFERENT)]
    for split, count in (("train", num_images), ("test", num_images // 10)):
        for label in range(NUM_CLASSES):
            (place / split / f"class{label}").mkdir(parents=True)
        for number in range(count):
            content = photos[number % NUM_DIFFERENT]
            comment = f"{split} {number}".encode()
            segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
            path = place / split / f"class{number % NUM_DIFFERENT % NUM_CLASSES}" / f"{number:06d}.jpg"
            path.write_bytes(content[:2] + segment + content[2:])


def photo(number: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG of waves, whose direction and color show its class."""
    draw = np.random.default_rng(number)
    rows, columns = np.mgrid[0 : size[1], 0 : size[0]] / size[0]
    angle, color = np.pi * (number % NUM_CLASSES) / NUM_CLASSES, draw.uniform(0.3, 0.7, 3)
    wave = np.sin(40 * (rows * np.sin(angle) + columns * np.cos(angle)) + draw.uniform(0, 6))
    pixels = (255 * (color + 0.25 * wave[..., None] + draw.normal(0, 0.004, (*wave.shape, 1)))).clip(0, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=80)
    return stream.getvalue()


def experiment(num_images: int) -> Experiment:
    """Return a teacher, a baseline and a student that is distilled from a cache of NUM_KEPT of NUM_CLASSES classes."""
    data = Data(
        "folder:photos",
        val_images=num_images // 10,
        image_size=32,
        crop_padding=0,
        min_crop_area=0.25,
        views_per_image=2,
        center_crop=0.875,
    )
    small = recipe(epochs=2, batch_size=BATCH_SIZE)
    return Experiment(
        "photos",
        data,
        small,
        small,
        KD(alpha=0.5, temperature=1.0),
        (0,),
        teacher_source="cache",
        cached_classes=NUM_KEPT,
    )


def plan_of(data: Path, results: Path) -> tuple[Plan, Options]:
    """Return the plan, and the options with its pack, which is written if it is missing."""
    num_images = sum(1 for _ in (data / "photos" / "train").rglob("*.jpg"))
    chosen = experiment(num_images)
    options = with_packs([chosen.data], Options(results, data, loaders=2), print, Console())
    return make_plan(chosen, dataset_of(chosen.data, options), NO_WEIGHTS), options


def main(data: Path, results: Path) -> None:
    torch.set_num_threads(1)
    plan, options = plan_of(data, results)
    train_plan(plan, dataset_of(plan.experiment.data, options), CPU, RunStore(results))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
