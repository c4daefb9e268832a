"""Small data sets of each layout, packed in this process."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from small_images import encoded, write_folder, write_parquet, write_tiny_imagenet, write_webdataset

from raykd.data.load import find_source
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.folder import record_packing
from raykd.data.packs.shard import write_shard
from raykd.data.packs.writer import PackPlan, pack, plan_pack

IN_THIS_PROCESS = partial(map, write_shard)


def make_folder(data: Path) -> str:
    write_folder(data / "insects", 6, 3)
    return "folder:insects"


def make_parquet(data: Path) -> str:
    for shard in range(2):
        images = [encoded(10 * shard + row) for row in range(9)]
        place = data / "trees" / f"train-0000{shard}-of-00002.parquet"
        write_parquet(place, images, {"label": [0, 1, 2] * 3}, ("oak", "ash", "elm"), rows_per_group=4)
    images = [encoded(100 + row) for row in range(3)]
    write_parquet(data / "trees" / "test-00000-of-00001.parquet", images, {"label": [0, 1, 2]}, ("oak", "ash", "elm"))
    return "parquet:trees"


def make_webdataset(data: Path) -> str:
    write_webdataset(data / "pets")
    return "webdataset:pets"


def make_tiny_imagenet(data: Path) -> str:
    write_tiny_imagenet(data / "tiny-imagenet-200")
    return "tiny_imagenet"


LAYOUTS: tuple[Callable[[Path], str], ...] = (make_folder, make_parquet, make_webdataset, make_tiny_imagenet)


def plan_of(name: str, data: Path, options: PackOptions | None = None, to: Path | None = None) -> PackPlan:
    """Return the plan of a pack of the data set `name` in data/packed/pack, or in the folder `to`."""
    return plan_pack(find_source(name, data), to or data / "packed" / "pack", options or PackOptions())


def pack_small(name: str, data: Path, options: PackOptions | None = None, to: Path | None = None) -> Path:
    """Pack the data set `name`; return the pack's folder."""
    plan = plan_of(name, data, options, to)
    pack(plan, IN_THIS_PROCESS)
    return plan.folder


def write_unfinished(plan: PackPlan, num_missing: int = 0) -> None:
    """Write all shards of `plan` but the last `num_missing`, and leave the pack unfinished."""
    record_packing(plan.folder, plan.options, plan.key)
    for task in plan.tasks[: len(plan.tasks) - num_missing]:
        write_shard(task)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a pack by its name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
