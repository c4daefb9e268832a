"""`raykd pack NAME`: pack a data set for training from disk."""

import os
import shlex
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from raykd.data.dataset_names import PACKED_FOLDER, find_folder, plain_name
from raykd.data.load import find_source
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.record import PackRecord
from raykd.data.packs.writer import SKIPPED, PackPlan, plan_pack
from raykd.errors import ConfigError, plural
from raykd.orchestration.packing import write_pack
from raykd.orchestration.progress import log
from raykd.units import capacity


def pack_dataset(arguments: Namespace, console: Console) -> None:
    """Pack the data set that the command line names.

    Raises ConfigError for its flags before anything is written, DataError for the data set, and what `write_pack`
    raises.
    """
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs}: must be at least 1")
    options = PackOptions(arguments.resize, arguments.quality, arguments.raw, arguments.skip_damaged)
    # Absolute, because a process that packs may have another working directory.
    data_folder = find_folder(arguments.data_dir, os.environ).absolute()
    folder = Path(arguments.to).expanduser() if arguments.to else default_folder(arguments.name, data_folder, options)
    plan = plan_pack(find_source(arguments.name, data_folder), folder.absolute(), options)
    log(console, _describe(plan, arguments.name))
    record = write_pack(plan, console, arguments.jobs)
    for line in _result(plan, record, data_folder):
        log(console, line)


def default_folder(name: str, data_folder: Path, options: PackOptions) -> Path:
    """Return the folder in which `packed:` finds the pack: 'flowers-256' for images of 256 pixels."""
    side = options.shorter_side or options.square_size
    return data_folder / PACKED_FOLDER / (plain_name(name) + (f"-{side}" if side else ""))


def _describe(plan: PackPlan, name: str) -> str:
    num_train, num_test = plan.source.num_images
    shards, classes = plural(len(plan.tasks), "shard"), len(plan.source.class_names)
    counts = f"{num_train:,} train and {num_test:,} test images of {classes} classes"
    return f"packing {name}: {counts}, into {shards} in {plan.folder}"


def _result(plan: PackPlan, record: PackRecord, data_folder: Path) -> Iterator[str]:
    """Yield what is in the pack, and how to train on it."""
    num_train, num_test = (sum(shard.num_images for shard in shards) for shards in (record.train, record.test))
    packs = data_folder / PACKED_FOLDER
    name = plan.folder.name if plan.folder.parent == packs else plan.folder
    setting = shlex.quote(f"data.name=packed:{name}")
    yield (
        f"packed {num_train:,} train and {num_test:,} test images, {capacity(record.num_bytes)}; "
        f"train on them with --set {setting}"
    )
    yield from record.notes
    if record.num_skipped:
        yield f"{plural(record.num_skipped, 'damaged image')} left out; {plan.folder / SKIPPED} lists them"
