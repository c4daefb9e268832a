"""Pack a data set: plan its shards, write them in any processes, and finish the pack.

    plan = plan_pack(find_source("folder:flowers", data), folder, PackOptions(shorter_side=256))
    pack(plan, run_tasks=partial(map, write_shard))

An interrupted pack is resumed by the same call: shards that are complete, and of the same files and options, are kept.
Processes on several nodes may write different shards of one plan side by side. The order and the number of processes
change no byte.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import lcm
from pathlib import Path

import pyarrow as pa

from raykd.config.codec import read_record, write_record
from raykd.data import image_decoding
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.folder import SKIPPED, locked, record_packing, remove_unfinished, require_place
from raykd.data.packs.reader import Pack
from raykd.data.packs.record import INDEX, INDEX_SCHEMA, RECORD, VERSION, PackRecord
from raykd.data.packs.shard import ShardTask, WrittenShard, read_written, too_many_damaged
from raykd.data.packs.space import require_space
from raykd.data.sources import ImageSource, Unit, content_identity, notes_on_shared_files, require_different
from raykd.data.splits import TEST, TRAIN
from raykd.data.types import Channels, statistics_of_sums
from raykd.disk.atomic import write_bytes
from raykd.disk.lookup import is_there
from raykd.errors import DataError, plural

Runner = Callable[[Sequence[ShardTask]], Iterator[WrittenShard]]  # calls write_shard on each; results in any order
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackPlan:
    """The shards of a pack in the order of the images: those of train, then those of test."""

    source: ImageSource
    folder: Path
    options: PackOptions
    train: tuple[ShardTask, ...]
    test: tuple[ShardTask, ...]

    @property
    def tasks(self) -> tuple[ShardTask, ...]:
        return (*self.train, *self.test)

    @property
    def num_images(self) -> int:
        return sum(self.source.num_images)

    @property
    def is_written(self) -> bool:
        """Whether the pack is complete."""
        record = read_record(PackRecord, self.folder / RECORD)
        return record is not None and record.source_key == self.key

    @cached_property
    def key(self) -> str:
        """A hex digest that differs for other files, other versions of files, or other options."""
        return hashlib.sha256(" ".join(task.key for task in self.tasks).encode()).hexdigest()


def plan_pack(source: ImageSource, folder: Path, options: PackOptions) -> PackPlan:
    """Return the plan of a pack in `folder`. Writes nothing.

    Raises DataError if the folder holds another pack, or anything else.
    """
    train, test = (
        _tasks(split, units, folder, options) for split, units in zip((TRAIN, TEST), source.units(), strict=True)
    )
    plan = PackPlan(source, folder, options, train, test)
    require_place(folder, plan.key, options)
    return plan


def discard_pack(folder: Path, source_key: str) -> None:
    """Remove the complete pack in `folder`, unless another process has replaced it. source_key: as in its record.

    The record is removed last, so that a removal that is interrupted is repeated.
    """
    with locked(folder, source_key, lambda: None):
        record = read_record(PackRecord, folder / RECORD)
        if record is not None and record.source_key == source_key:
            for file in (*(shard.file for shard in (*record.train, *record.test)), INDEX, SKIPPED, RECORD):
                (folder / file).unlink(missing_ok=True)


def _tasks(split: str, units: Sequence[Unit], folder: Path, options: PackOptions) -> tuple[ShardTask, ...]:
    return tuple(ShardTask(folder, f"{split}-{i:05d}.arrow", unit, options) for i, unit in enumerate(units))


def pack(
    plan: PackPlan,
    run_tasks: Runner,
    report: Callable[[WrittenShard, bool], None] = lambda written, is_new: None,
    on_wait: Callable[[], None] = lambda: None,
) -> PackRecord:
    """Write what is missing of a pack, and return its record. If another process packs the same, wait for it.

    run_tasks: yields the result of `write_shard` for each task. report: receives each shard, and whether it is new.
    on_wait: called now and then while another process packs the same; it may raise an error to stop waiting.
    Raises DataError for too little space, before anything is written, for damaged images, and for anything else in
    the folder.
    """
    record = _complete(plan)
    if record is not None:
        return record
    if not is_there(plan.folder):
        require_space(plan.folder, plan.tasks, plan.options)  # before the folder is made
    with locked(plan.folder, plan.key, on_wait):
        # Again, for what another process has written meanwhile.
        require_place(plan.folder, plan.key, plan.options, is_mine=True)
        record = _complete(plan)
        if record is not None:
            return record
        record_packing(plan.folder, plan.options, plan.key)
        return _pack(plan, run_tasks, report)


def _complete(plan: PackPlan) -> PackRecord | None:
    """Return the record if the pack is complete, without the files that only unfinished packs have, else None.

    Raises DataError for a complete pack that is damaged.
    """
    record = read_record(PackRecord, plan.folder / RECORD)
    if record is None or record.source_key != plan.key:
        return None
    Pack(plan.folder)
    remove_unfinished(plan.folder, [task.file for task in plan.tasks])
    return record


def _pack(plan: PackPlan, run_tasks: Runner, report: Callable[[WrittenShard, bool], None]) -> PackRecord:
    written = {task.file: found for task in plan.tasks if (found := read_written(task))}
    missing = [task for task in plan.tasks if task.file not in written]
    if outdated := sum(is_there(task.path) for task in missing):
        _log.warning("%s: %s of changed files are packed again", plan.folder, plural(outdated, "shard"))
    require_space(plan.folder, missing, plan.options)
    num_damaged = 0
    for shard, is_new in _all_shards(written.values(), run_tasks(missing) if missing else iter(())):
        written[shard.shard.file] = shard
        num_damaged += len(shard.damaged)
        if num_damaged > plan.options.skip_damaged:
            _raise_damaged(plan, written)
        report(shard, is_new)
    return finish_pack(plan, [written[task.file] for task in plan.tasks])


def _all_shards(found: Iterable[WrittenShard], new: Iterator[WrittenShard]) -> Iterator[tuple[WrittenShard, bool]]:
    """Yield each shard, and whether it is new."""
    yield from ((shard, False) for shard in list(found))
    yield from ((shard, True) for shard in new)


def _raise_damaged(plan: PackPlan, written: dict[str, WrittenShard]) -> None:
    """Raise DataError for the damaged images among the shards that are written."""
    shards = [written[task.file] for task in plan.tasks if task.file in written]
    raise too_many_damaged([image for shard in shards for image in shard.damaged], plan.options.skip_damaged)


def finish_pack(plan: PackPlan, written: Sequence[WrittenShard]) -> PackRecord:
    """Write the index and pack.json, and remove what only unfinished packs have. written: in the order of the tasks.

    Raises DataError for errors that are visible only in the whole data set: files with equal content, too many dark
    images, or classes without training images. Also if the shards on disk are not those that were written.
    """
    _require_unchanged(plan, written)
    index = _read_index(plan)
    content = _encoded(index)
    record = _record_of(plan, written, index, zlib.crc32(content))
    write_bytes(plan.folder / INDEX, content)
    damaged = [image for shard in written for image in shard.damaged]
    (plan.folder / SKIPPED).unlink(missing_ok=True)  # of an attempt that was interrupted here, with other images
    if damaged:
        text = "".join(f"{image.where}: {image.reason}\n" for image in damaged)
        write_bytes(plan.folder / SKIPPED, text.encode("utf-8", "surrogateescape"))
    write_record(plan.folder / RECORD, record)
    remove_unfinished(plan.folder, [task.file for task in plan.tasks])
    return record


def _require_unchanged(plan: PackPlan, written: Sequence[WrittenShard]) -> None:
    """Raise DataError if a shard on disk is not the one in `written`, as if something else wrote into the folder."""
    for task, shard in zip(plan.tasks, written, strict=True):
        if read_written(task) != shard:
            raise DataError(
                f"{task.path}: was changed while the data set was packed; end other processes that write into its "
                "folder, and rerun the same command"
            )


def _read_index(plan: PackPlan) -> pa.Table:
    parts = []
    for task in plan.tasks:
        with pa.memory_map(str(task.index)) as source:
            parts.append(pa.ipc.open_stream(source.read_buffer()).read_all())
    return pa.concat_tables(parts).combine_chunks()


def _encoded(index: pa.Table) -> bytes:
    """Return the content of index.arrow."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, INDEX_SCHEMA) as writer:
        writer.write_table(index)
    return sink.getvalue().to_pybytes()


def _record_of(plan: PackPlan, written: Sequence[WrittenShard], index: pa.Table, index_checksum: int) -> PackRecord:
    source, options = plan.source, plan.options
    train, test = written[: len(plan.train)], written[len(plan.train) :]
    for split in (train, test):
        image_decoding.require_full_range([(m.where, m.value) for shard in split for m in shard.maxima])
    num_train = sum(shard.shard.num_images for shard in train)
    _require_classes(plan, index.slice(0, num_train))
    content, notes = _content(plan, written)
    mean, std = source.statistics or _statistics(plan, train)
    is_jpeg = options.encoding == "jpeg"
    return PackRecord(
        version=VERSION,
        kind=source.kind,
        content=content,
        class_names=source.class_names,
        train=tuple(shard.shard for shard in train),
        test=tuple(shard.shard for shard in test),
        index_checksum=index_checksum,
        encoding=options.encoding,
        mean=mean,
        std=std,
        shorter_side=options.shorter_side,
        quality=options.quality if is_jpeg else None,
        square_size=_square_size(index),
        notes=(*source.notes, *notes, *_shared_images(index, num_train)),
        num_skipped=sum(len(shard.damaged) for shard in written),
        source_key=plan.key,
    )


def _require_classes(plan: PackPlan, train: pa.Table) -> None:
    """Raise DataError if all training images of a class were left out."""
    present = set(train["label"].unique().to_pylist())
    absent = [name for label, name in enumerate(plan.source.class_names) if label not in present]
    if absent:
        raise DataError(f"{plan.source.place}: all training images of class '{absent[0]}' are damaged; replace them")


def _content(plan: PackPlan, written: Sequence[WrittenShard]) -> tuple[str, tuple[str, ...]]:
    """Return the identity of the source's files and notes about shared files.

    The identity is '' if the images are hashed instead of the files.
    """
    files, digests = [], []
    for tasks, shards in ((plan.train, written[: len(plan.train)]), (plan.test, written[len(plan.train) :])):
        hashed = [(task.unit.file, shard) for task, shard in zip(tasks, shards, strict=True)]
        files.append([file for file, _ in hashed if file is not None])
        digests.append([bytes.fromhex(shard.file_sha256) for file, shard in hashed if file is not None])
        require_different(files[-1], digests[-1])
    if not files[0]:
        return "", ()
    return content_identity(plan.source.kind, *digests), notes_on_shared_files(files[1], *digests)


def _statistics(plan: PackPlan, train: Sequence[WrittenShard]) -> tuple[Channels, Channels]:
    """Return mean and std of the training pixels, where each image has the same weight."""
    sums = [(int(side), part) for shard in train for side, part in shard.sums.items()]
    pixels = lcm(*(side * side for side, _ in sums))  # per image
    values, squared = [0, 0, 0], [0, 0, 0]
    for side, part in sums:
        weight = pixels // (side * side)
        values = [total + weight * value for total, value in zip(values, part.values, strict=True)]
        squared = [total + weight * value for total, value in zip(squared, part.squared_values, strict=True)]
    num_pixels = pixels * sum(part.num_images for _, part in sums)
    return statistics_of_sums(str(plan.source.place), values, squared, num_pixels)


def _square_size(index: pa.Table) -> int | None:
    """Return the pixels per side if all images are squares of one size, else None."""
    sides = {*index["height"].unique().to_pylist(), *index["width"].unique().to_pylist()}
    return sides.pop() if len(sides) == 1 else None


def _shared_images(index: pa.Table, num_train: int) -> tuple[str, ...]:
    """Return a note if test images are also training images."""
    digests = index["sha256"].to_pylist()
    train = set(digests[:num_train])
    num_shared, num_test = sum(digest in train for digest in digests[num_train:]), len(digests) - num_train
    return (f"{num_shared} of {num_test} test images are also training images",) if num_shared else ()
