"""The folders of a command, and the data sets in them, which a process loads once each.

Trials import this module. It is separate so that they need not wait for the imports of run_experiments.
"""

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Self

from raykd.data import dataset_names
from raykd.data.load import load_dataset, load_sample
from raykd.data.packs.dataset import open_packed
from raykd.data.packs.node_copy import copy_to_node
from raykd.data.packs.record import RECORD
from raykd.data.packs.statistics import with_exact_statistics
from raykd.data.sources import ImageSource
from raykd.data.types import Dataset
from raykd.disk.lookup import is_folder
from raykd.spec.callback import Callback
from raykd.spec.experiment import Data, Experiment
from raykd.spec.stages import STAGES, Stage
from raykd.store.records import CommandParts
from raykd.store.results_folder import DECODED, RAY
from raykd.store.run_store import RunStore

DataKey = tuple[str, int | None, float | None, str]


def data_key(data: Data) -> DataKey:
    """Return the fields of `data` that decide whether its images are read from memory or disk."""
    return data.name, data.image_size, data.min_crop_area, data.storage


@dataclass(frozen=True)
class Options:
    """The folders and stages of a command. data_folder: see `--data-dir`. loaders: see `Workers.loaders`.

    packs: the folder of the pack for each `data_key` whose images are read from disk, and None for those in memory, see
    data_storage.py. Data without an entry is decoded into memory.

    trackers, callbacks, keep_checkpoints: those of the experiments. command_parts: by family, of a command line.

    is_plan: whether the command only lists runs, so that images are not decoded, except a sample.
    """

    results: Path
    data_folder: Path
    stages: tuple[Stage, ...] = STAGES
    loaders: int | None = None
    packs: tuple[tuple[DataKey, Path | None], ...] = ()
    trackers: tuple[str, ...] = Experiment.tracker
    callbacks: tuple[Callback, ...] = field(default=(), compare=False)  # a field of one may have no hash
    keep_checkpoints: bool = Experiment.keep_checkpoints
    command_parts: Mapping[str, CommandParts] = field(default_factory=dict, compare=False)
    is_plan: bool = False

    def with_absolute_paths(self) -> Self:
        """Return these options for a process with another working directory."""
        packs = tuple((key, pack and pack.absolute()) for key, pack in self.packs)
        return replace(self, results=self.results.absolute(), data_folder=self.data_folder.absolute(), packs=packs)

    @property
    def weights_folder(self) -> Path:
        """The folder of the pretrained weights that `prefetch` downloads."""
        return self.data_folder / "weights"

    @property
    def store(self) -> RunStore:
        """The store of the command's runs."""
        return RunStore(self.results)

    @property
    def decoded(self) -> Path:
        """The folder of decoded images, kept between commands."""
        return self.results / DECODED

    def new_ray_folder(self) -> Path:
        """Return a folder, which all nodes see, for Ray's files of a command. In an earlier one Ray would resume."""
        return self.results.absolute() / RAY / uuid.uuid4().hex[:12]


_listed: dict[tuple[str, Path], ImageSource] = {}  # for the next load, so that a start lists the images once


def keep_listing(data: Data, options: Options, source: ImageSource) -> None:
    """Keep the list of the images of `data` until `dataset_of` loads them."""
    _listed[data.name, options.data_folder] = source


def dataset_of(data: Data, options: Options) -> Dataset:
    """Return the data set of `data`, loaded or opened once per process.

    Decoded images are read from `options.decoded`, and kept there if the folder exists: it is created only after all
    checks of an experiment.
    """
    pack = dict(options.packs).get(data_key(data))
    if pack is None:
        return _load_once(data.name, options.data_folder, data.image_size, options.decoded, options.is_plan)
    has_one_normalization = data.min_crop_area is not None or dataset_names.kind_of(data.name) in ("packed", "imagenet")
    exact = None if has_one_normalization or options.is_plan else options.decoded
    return _open_once(pack, data.name, data.image_size, data.center_crop, options.loaders, exact)


@cache
def _open_once(
    pack: Path, name: str, image_size: int | None, center_crop: float, loaders: int | None, exact: Path | None
) -> Dataset:
    """Open a pack, or its copy on this node.

    exact: the folder with the mean and std that the same images have in memory; None for those of the pack.
    """
    dataset = open_packed(copy_to_node(pack / RECORD, os.environ), name, image_size, center_crop, loaders)
    return dataset if exact is None else with_exact_statistics(dataset, exact)


@cache
def _load_once(name: str, folder: Path, image_size: int | None, decoded: Path, is_plan: bool) -> Dataset:
    """Load the images, which depend on these fields of `Data` only."""
    source, load = _listed.pop((name, folder), None), load_sample if is_plan else load_dataset
    return load(name, folder, image_size, cache=decoded if is_folder(decoded) else None, source=source)
