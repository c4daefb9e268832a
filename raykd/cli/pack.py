"""`python -m raykd pack NAME`: pack a data set for training from disk, in the processes of this machine."""

import os
import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from raykd.cli.process_pool import write_in_processes
from raykd.data.dataset_names import PACKED_FOLDER, plain_name
from raykd.data.image_packing import PackOptions
from raykd.data.load import find_folder, find_source
from raykd.data.pack import PackRecord
from raykd.data.pack_writer import SKIPPED, PackPlan, Runner, pack, plan_pack
from raykd.data.shard_writer import WrittenShard, write_shard
from raykd.errors import ConfigError, plural
from raykd.report.wording import duration

_LOG_EVERY_S = 15.0  # seconds between two lines where there is no terminal
_MB = 1e6


def pack_dataset(arguments: Namespace, console: Console) -> None:
    """Pack the data set that the command line names. Raises ConfigError, before anything is written."""
    jobs = len(os.sched_getaffinity(0)) if arguments.jobs is None else arguments.jobs
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: must be at least 1")
    options = PackOptions(arguments.resize, arguments.quality, arguments.raw, arguments.skip_damaged)
    # Absolute, because a process that packs may have another working directory.
    data_folder = find_folder(arguments.data_dir, os.environ).absolute()
    folder = Path(arguments.to).expanduser() if arguments.to else default_folder(arguments.name, data_folder, options)
    plan = plan_pack(find_source(arguments.name, data_folder), folder.absolute(), options)
    console.print(_describe(plan, arguments.name), highlight=False, soft_wrap=True)
    run_units: Runner = partial(map, write_shard) if jobs == 1 else partial(write_in_processes, num_processes=jobs)
    with PackProgress(plan.num_images, console) as progress:
        record = pack(plan, run_units, progress.report)
    for line in _result(plan, record, data_folder):
        console.print(line, highlight=False, soft_wrap=True)


def default_folder(name: str, data_folder: Path, options: PackOptions) -> Path:
    """Return the folder in which `packed:` finds the pack: 'flowers-256' for images of 256 pixels."""
    side = options.shorter_side or options.square_size
    return data_folder / PACKED_FOLDER / (plain_name(name) + (f"-{side}" if side else ""))


class PackProgress:
    """A context manager that draws a bar of the packed images in a terminal, and logs a line now and then elsewhere."""

    def __init__(self, num_images: int, console: Console) -> None:
        self._console, self._num_images = console, num_images
        self._num_found = self._num_new = 0  # images of earlier attempts, and of this one
        self._started = self._logged = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("images, {task.description}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("starting", total=num_images)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def report(self, written: WrittenShard, is_new: bool) -> None:
        """Count the images of a shard. is_new: this command has written it."""
        num_images = written.shard.num_images + len(written.damaged)
        self._num_new += num_images if is_new else 0
        self._num_found += 0 if is_new else num_images
        self._bar.update(self._task, completed=self._num_found + self._num_new, description=self.describe_speed())
        if is_new and not self._console.is_terminal and time.monotonic() - self._logged >= _LOG_EVERY_S:
            self._logged = time.monotonic()
            done = f"{self._num_found + self._num_new:,} of {self._num_images:,} images"
            self._console.print(f"{done}, {self.describe_speed()}", highlight=False)

    def describe_speed(self) -> str:
        """Return '1,200 images/s, 3 min left', without the images of earlier attempts."""
        if not self._num_new:
            return "resumed"
        per_s = self._num_new / max(1e-9, time.monotonic() - self._started)
        left_s = (self._num_images - self._num_found - self._num_new) / per_s
        return f"{per_s:,.0f} images/s, {duration(left_s)} left"


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
    yield (
        f"packed {num_train:,} train and {num_test:,} test images, {record.num_bytes / _MB:,.1f} MB; "
        f"train on them with --set data.name=packed:{name}"
    )
    yield from record.notes
    if record.num_skipped:
        yield f"{plural(record.num_skipped, 'damaged image')} left out; {plan.folder / SKIPPED} lists them"
