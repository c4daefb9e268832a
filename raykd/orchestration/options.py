"""The folders of a command, and the data sets in them, which a process loads once each.

Trials import this module. It is separate so that they need not wait for the imports of run_experiments.
"""

import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from raykd.data import dataset_names, packed_dataset
from raykd.data.load import find_source, load_dataset
from raykd.data.memory import available_bytes
from raykd.data.node_copy import copy_to_node
from raykd.data.pack import RECORD
from raykd.data.storage import StorageChoice, choose_storage, decoded_size
from raykd.data.types import Dataset
from raykd.errors import ConfigError
from raykd.spec.experiment import Data
from raykd.spec.stages import STAGES, Stage


@dataclass(frozen=True)
class Options:
    """The folders and stages of a command. data_folder: see `--data-dir`. loaders: see `Workers.loaders`."""

    results: Path
    data_folder: Path
    stages: tuple[Stage, ...] = STAGES
    loaders: int | None = None

    @property
    def weights_folder(self) -> Path:
        """The folder of the pretrained weights that `prefetch` downloads."""
        return self.data_folder / "weights"

    @property
    def decoded(self) -> Path:
        """The folder of decoded images, kept between commands."""
        return self.results / ".data"


def dataset_of(data: Data, options: Options) -> Dataset:
    """Return the data set of `data`, loaded or opened once per process, with the folders of `options`.

    Images in memory are read from `options.decoded`, and kept there if the folder exists: it is created only after all
    checks of an experiment. A packed data set may stay on disk, see storage.py; its notes then contain the reason.

    Raises what `load_dataset` raises, and ConfigError for images on disk that are not packed or cannot be.
    """
    has_crops = data.min_crop_area is not None
    if _is_always_in_memory(data.name) and (has_crops or data.storage == "disk"):
        field = "min_crop_area" if has_crops else "storage"
        raise ConfigError(
            f"data.{field} = {getattr(data, field)}: requires images on disk, and those of {data.name} are always in "
            "memory; remove it, or choose another data set"
        )
    fields = _ImageFields(data.name, data.image_size, data.storage, has_crops, data.center_crop)
    return _load_once(fields, options.data_folder, options.decoded, options.loaders)


def _is_always_in_memory(name: str) -> bool:
    return name == "digits" or dataset_names.is_cifar(name)


@dataclass(frozen=True)
class _ImageFields:
    """The fields of `Data` on which its images depend. has_crops: whether it shows random crops of whole images."""

    name: str
    image_size: int | None
    storage: Literal["auto", "memory", "disk"]
    has_crops: bool
    center_crop: float


@cache
def _load_once(fields: _ImageFields, folder: Path, decoded: Path, loaders: int | None) -> Dataset:
    choice = None if _is_always_in_memory(fields.name) else _choose_storage(fields, folder)
    if choice is None or choice.storage == "memory":
        cache = decoded if decoded.is_dir() else None
        return load_dataset(fields.name, folder, fields.image_size, cache=cache)
    place = dataset_names.folder_of(fields.name, folder)
    if dataset_names.kind_of(fields.name) != "packed":
        packed = f"packed:{dataset_names.plain_name(fields.name)}"
        raise ConfigError(
            f"data.name = {fields.name}: {choice.reason}, which requires a packed data set; run 'python -m raykd pack "
            f"{fields.name}' once, and set data.name={packed}"
        )
    copy = copy_to_node(place / RECORD, os.environ)
    dataset = packed_dataset.open_packed(copy, fields.name, fields.image_size, fields.center_crop, loaders)
    return replace(dataset, notes=(*dataset.notes, choice.reason))


def _choose_storage(fields: _ImageFields, folder: Path) -> StorageChoice:
    """Choose between memory and disk by the number of images, none of which is decoded."""
    if dataset_names.kind_of(fields.name) == "packed":
        pack = packed_dataset.open_pack(dataset_names.folder_of(fields.name, folder))
        num_images, size = len(pack.train) + len(pack.test), packed_dataset.size_of(pack, fields.image_size)
    else:
        source = find_source(fields.name, folder)
        num_images, size = sum(source.num_images), decoded_size(source, fields.image_size)
    return choose_storage(fields.storage, num_images, size, fields.has_crops, available_bytes())
