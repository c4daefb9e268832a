"""Where a command reads its images: from memory, or from a pack on disk, which is written if there is none.

The driver decides once, and its workers follow (`Options.packs`), because other nodes may have more or less memory.
"""

import hashlib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from raykd.data import dataset_names
from raykd.data.load import find_source
from raykd.data.memory import available_bytes, require_memory
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.errors import HoldsOtherPack, PackError, pack_command
from raykd.data.packs.record import read_pack_record
from raykd.data.packs.writer import PackPlan, discard_pack, plan_pack
from raykd.data.placeholder import placeholder_dataset
from raykd.data.sources import ImageSource
from raykd.data.storage import StorageChoice, choose_storage, decoded_size
from raykd.data.types import Dataset
from raykd.errors import ConfigError, DataError
from raykd.orchestration.options import Options, data_key, keep_listing
from raykd.orchestration.packing import write_pack
from raykd.orchestration.packing_processes import PackingKilled
from raykd.spec.experiment import Data

MAX_HASHED_BYTES = 10_000_000_000  # of images without a pack that a plan hashes; ImageNet has 15 times as many


def with_packs(
    used: Iterable[Data],
    options: Options,
    log: Callable[[str], None],
    console: Console | None = None,
    check: Callable[[Data, Dataset], None] = lambda data, undecoded: None,
) -> Options:
    """Return `options` with the packs of those data sets among `used` that are read from disk.

    Data that `options` already has is not examined again.

    log: receives why images are read from memory or disk. console: shows the progress of packing. Without it,
    ConfigError is raised for a data set that has to be packed first. check: called before a data set is packed, with
    what is known of it then, see data/placeholder.py; it raises ConfigError for experiments that cannot run on it.
    """
    packs = dict(options.packs)
    for data in used:
        if data_key(data) in packs or _is_in_memory_only(data):
            continue
        choice, found = _choose(data, options)
        log(f"{data.name}: {choice.reason}")
        if choice.storage == "memory":
            packs[data_key(data)] = None
            if isinstance(found, ImageSource):
                keep_listing(data, options, found)
                if options.is_plan:
                    _warn_of_memory(data, found, log)
            continue
        try:
            pack = found if isinstance(found, Path) else _pack_of(data, found, options, log, console, check)
        except (PackError, PackingKilled) as error:
            raise error.with_commands(data.name, options.data_folder) from error
        packs[data_key(data)] = pack
    return replace(options, packs=tuple(packs.items()))


def _is_in_memory_only(data: Data) -> bool:
    """Return whether the data set is one of those that cannot be packed. Raises ConfigError if it would have to be."""
    if dataset_names.is_packable(data.name):
        return False
    in_memory = f"requires images on disk, and those of {data.name} are always in memory"
    data.require(data.storage != "disk", "storage", f"{in_memory}; use auto")
    data.require(data.min_crop_area is None, "min_crop_area", f"{in_memory}; use student.augmentation.crop_area")
    return True


def _choose(data: Data, options: Options) -> tuple[StorageChoice, Path | ImageSource]:
    """Return where the images are read from, and their pack, or the source that a pack would be written from."""
    if dataset_names.kind_of(data.name) == "packed":
        pack = dataset_names.folder_of(data.name, options.data_folder)
        record = read_pack_record(pack)
        num_images = sum(shard.num_images for shard in (*record.train, *record.test))
        return _choice(data, num_images, data.image_size or record.square_size or 0), pack
    source = find_source(data.name, options.data_folder)
    return _choice(data, sum(source.num_images), decoded_size(source, data.image_size)), source


def _choice(data: Data, num_images: int, image_size: int) -> StorageChoice:
    return choose_storage(data.storage, num_images, image_size, data.min_crop_area is not None, available_bytes())


def _pack_of(
    data: Data,
    source: ImageSource,
    options: Options,
    log: Callable[[str], None],
    console: Console | None,
    check: Callable[[Data, Dataset], None],
) -> Path | None:
    """Return the folder of the pack of `source` below the results, after writing it if necessary.

    None for a plan of images that a job with more memory would decode into memory: their runs have the same names.
    """
    name = data.name
    place = hashlib.sha256(str(source.place.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    folder = options.decoded / f"{dataset_names.plain_name(name)}-{place[:8]}.pack"
    command = pack_command(name, options.data_folder)
    plan = _planned(source, folder, log, may_replace=console is not None)
    if plan is not None and plan.is_written:
        return folder
    if options.is_plan and _may_fit_in_a_job(data, source):
        log(f"{name}: a job packs the images first, unless it has more free memory; the runs have the same names")
        keep_listing(data, options, source)
        return None
    if plan is None or console is None:
        setting = shlex.quote(f"data.name=packed:{dataset_names.plain_name(name)}")
        raise ConfigError(
            f"{name}: its images are decoded in each step and have to be packed first; run the experiment without "
            f"--plan, or pack them for all experiments ({command}) and add --set {setting}"
        )
    check(data, placeholder_dataset(name, source, data.image_size))
    options.store.require_writable()
    log(f"packing {name} into {folder}; to pack it once for all results folders: {command}")
    write_pack(plan, console)
    return folder


def _warn_of_memory(data: Data, source: ImageSource, log: Callable[[str], None]) -> None:
    """Log a warning if the images do not fit into the memory of this machine, as `data.storage = memory` requires."""
    try:
        require_memory(source.place, sum(source.num_images), decoded_size(source, data.image_size))
    except DataError as error:
        log(f"{data.name}: warning: {error}")


def _may_fit_in_a_job(data: Data, source: ImageSource) -> bool:
    """Return whether the images are on disk only for lack of memory here, and a plan can hash them in seconds."""
    num_bytes = sum(unit.num_bytes for units in source.units() for unit in units)
    return data.storage == "auto" and data.min_crop_area is None and num_bytes <= MAX_HASHED_BYTES


def _planned(source: ImageSource, folder: Path, log: Callable[[str], None], may_replace: bool) -> PackPlan | None:
    """Return the plan of the pack in `folder`; None if another version of the files is packed there and is kept."""
    try:
        return plan_pack(source, folder, PackOptions())
    except HoldsOtherPack:
        if not may_replace:
            return None
    log(f"{folder}: its files have changed since they were packed; packing them again")
    discard_pack(folder, read_pack_record(folder).source_key)
    return plan_pack(source, folder, PackOptions())
