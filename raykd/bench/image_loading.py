"""Compare the loader of images on disk with decoding alone and with torchvision's usual pipeline, on one core.

    decode       every image decoded in full by the loader's decoder, from memory, one after another
    raykd        TrainLoader on a pack: read, verify, decode, crop at random, resize, mirror, collect into batches
    torchvision  ImageFolder, RandomResizedCrop, flip, ToTensor, Normalize, in a DataLoader with one worker process

All show the same images at the same size. They alternate in rounds, and the process is bound to one core.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from torch.utils import data
from torchvision import datasets, transforms

from raykd.data.crop_views import CropViews
from raykd.data.image_decoding import decode_whole
from raykd.data.image_metadata import JPEG
from raykd.data.load import find_source
from raykd.data.loader import TrainLoader
from raykd.data.packs.dataset import open_packed
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.shard import write_shard
from raykd.data.packs.writer import pack, plan_pack
from raykd.training.compute import GLIBC_DEFAULT, KEEP_MEMORY, set_malloc

NUM_IMAGES, BATCH_SIZE = 1024, 128
IMAGE_SIZE, MIN_AREA = 224, 0.08
_SUFFIXES = {True: ".jpg", False: ".png"}
_NUM_CLASSES = 2  # ImageFolder and the packer require two


def benchmark_loading(images: Sequence[bytes], num_rounds: int, log: Callable[[str], None]) -> dict[str, Any]:
    """Return the images/s of each implementation and their ratios, ready for JSON. A first round warms up.

    images: encoded images, at least BATCH_SIZE.
    """
    with tempfile.TemporaryDirectory() as place, _one_core():
        folder = _write_folder(Path(place), images)
        implementations = {
            "decode": partial(_decode_all, images),
            "raykd": _loader_epochs(folder),
            "torchvision": _torchvision_epochs(folder),
        }
        rounds: dict[str, list[float]] = {name: [] for name in implementations}
        for number in range(num_rounds + 1):
            log(f"loading images: round {number} of {num_rounds}" + ("" if number else " (warm-up)"))
            for name, run in implementations.items():
                # torchvision's worker process starts in the warm-up, and keeps glibc's default settings.
                set_malloc(GLIBC_DEFAULT if name == "torchvision" and not number else KEEP_MEMORY)
                start = time.perf_counter()
                num_shown = run()
                if number:
                    rounds[name].append(num_shown / (time.perf_counter() - start))
    return _summarize(images, rounds)


def _summarize(images: Sequence[bytes], rounds: dict[str, list[float]]) -> dict[str, Any]:
    ratios = {
        f"raykd_over_{other}": [one / another for one, another in zip(rounds["raykd"], rounds[other], strict=True)]
        for other in ("decode", "torchvision")
    }
    values = {**rounds, **ratios}
    return {
        "num_images": len(images),
        "bytes_per_image": statistics.mean(map(len, images)),
        "image_size": IMAGE_SIZE,
        "images_per_s": {name: statistics.median(rounds[name]) for name in rounds},
        **{name: statistics.median(ratios[name]) for name in ratios},
        "spread": {name: [min(values[name]), max(values[name])] for name in values},
        "rounds": rounds,
    }


@contextmanager
def _one_core() -> Iterator[None]:
    """Bind this process and its child processes to one core, and let torch use one thread."""
    cores, num_threads = os.sched_getaffinity(0), torch.get_num_threads()
    os.sched_setaffinity(0, {max(cores)})
    torch.set_num_threads(1)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(num_threads)


def _write_folder(place: Path, images: Sequence[bytes]) -> Path:
    """Write the images as an ImageFolder, with one test image of each class, and return its folder."""
    for split, part in (("train", images), ("test", images[:_NUM_CLASSES])):
        for number, encoded in enumerate(part):
            folder = place / "images" / split / f"class{number % _NUM_CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06d}{_SUFFIXES[encoded.startswith(JPEG)]}").write_bytes(encoded)
    return place / "images"


def _decode_all(images: Sequence[bytes]) -> int:
    for encoded in images:
        if encoded.startswith(JPEG):
            simplejpeg.decode_jpeg(encoded, "RGB")
        else:
            decode_whole("", encoded)
    return len(images)


def _loader_epochs(folder: Path) -> Callable[[], int]:
    """Return a function that runs an epoch of TrainLoader on a pack of the images in `folder`."""
    place = folder.parent / "pack"
    pack(plan_pack(find_source(f"folder:{folder}", None), place, PackOptions()), partial(map, write_shard))
    train = open_packed(place, "images", IMAGE_SIZE, loaders=1).train
    views = CropViews(MIN_AREA, flip=True)
    loader = TrainLoader(train.images, train.labels, torch.arange(len(train)), views, BATCH_SIZE, seed=0)
    epochs = iter(range(1_000_000))
    return lambda: sum(len(batch.images) for batch in loader.epoch(next(epochs)))


def _torchvision_epochs(folder: Path) -> Callable[[], int]:
    """Return a function that runs an epoch of torchvision's usual pipeline on the images in `folder`."""
    steps = [
        transforms.RandomResizedCrop(IMAGE_SIZE, (MIN_AREA, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    images = datasets.ImageFolder(str(folder / "train"), transforms.Compose(steps))
    loader = data.DataLoader(images, BATCH_SIZE, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True)
    return lambda: sum(len(batch) for batch, _ in loader)
