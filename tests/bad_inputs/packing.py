"""Data sets that cannot be packed, packs that cannot be read, and data sets that raykd only looks for."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from small_images import write_folder, write_webdataset

from bad_inputs.case import BadInput, experiment_file
from raykd.data.load import find_source
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.shard import write_shard
from raykd.data.packs.writer import pack, plan_pack


def packing(name: str, arguments: Sequence[str], parts: Sequence[str]) -> BadInput:
    """Return the case of `raykd pack` with `arguments`, beside a folder `insects` that can be packed."""

    def make(folder: Path) -> Sequence[str | Path]:
        write_folder(folder / "insects", 2, 1)
        (folder / "file").write_text("")
        return ["pack", *(word.format(folder=folder) for word in arguments), "--data-dir", folder]

    return BadInput(f"pack: {name}", make, tuple(parts))


def plan(folder: Path, name: str, settings: Sequence[str] = ()) -> Sequence[str | Path]:
    arguments = [word for setting in (f"data.name={name}", *settings) for word in ("--set", setting)]
    return ["plan", experiment_file(folder), "--data-dir", folder, *arguments]


def packed(name: str, spoil: Callable[[Path], object], parts: Sequence[str], settings: Sequence[str] = ()) -> BadInput:
    """Return the case of a pack in packed/insects after `spoil`, a function of its folder."""

    def make(folder: Path) -> Sequence[str | Path]:
        write_folder(folder / "insects", 2, 1)
        target = folder / "packed" / "insects"
        pack(plan_pack(find_source("folder:insects", folder), target, PackOptions()), partial(map, write_shard))
        spoil(target)
        return plan(folder, "packed:insects", settings)

    return BadInput(f"packed: {name}", make, tuple(parts))


def looked_for(name: str, write: Callable[[Path], object], parts: Sequence[str]) -> BadInput:
    """Return the case of a data set that raykd only looks for. write: a function of the data folder."""
    return BadInput(
        f"looked for: {name}",
        lambda folder: [write(folder), *plan(folder, name, ["data.image_size=8"])][1:],
        tuple(parts),
    )


def unlink(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


INSECTS = "folder:insects"
CASES = [
    packing("an unknown name", ["mnist"], ["unknown dataset name 'mnist'", "tiny_imagenet"]),
    packing("no place", ["folder:"], ["dataset name 'folder:' names no folder"]),
    packing("digits", ["digits"], ["digits: has no image files that can be packed; name one of folder:PLACE"]),
    packing("a pack", ["packed:insects"], ["packed:insects: has no image files that can be packed"]),
    packing("a missing folder", ["folder:birds"], ["{folder}/birds: no such folder"]),
    packing("another layout", ["parquet:insects"], ["{folder}/insects: has no Parquet of train"]),
    packing("no pixels", [INSECTS, "--resize", "0"], ["--resize 0: must lie in [1, 4096] pixels"]),
    packing("too many pixels", [INSECTS, "--raw", "9999"], ["--raw 9999: must lie in [1, 4096] pixels"]),
    packing("two encodings", [INSECTS, "--raw", "8", "--resize", "8"], ["--resize and --raw exclude each other"]),
    packing("no quality", [INSECTS, "--resize", "8", "--quality", "0"], ["--quality 0: must lie in [1, 100]"]),
    packing("a quality without an encoder", [INSECTS, "--quality", "80"], ["--quality 80: has no effect", "--resize"]),
    packing("no processes", [INSECTS, "--jobs", "0"], ["--jobs 0: must be at least 1"]),
    packing("negative damage", [INSECTS, "--skip-damaged", "-1"], ["--skip-damaged -1: must be 0 or more"]),
    packing(
        "into other files",
        [INSECTS, "--to", "{folder}/insects"],
        ["insects: has test, which is no file of a pack; pack into another folder with --to FOLDER"],
    ),
    packing(
        "into a file",
        [INSECTS, "--to", "{folder}/file"],
        ["{folder}/file: is no folder, and the pack has to be written there"],
    ),
    packing(
        "below a file",
        [INSECTS, "--to", "{folder}/file/x"],
        ["{folder}/file: is no folder", "has to be written below it"],
    ),
    packing(
        "where no folder can be made",
        [INSECTS, "--to", "/proc/x"],
        ["/proc/x: cannot be made or locked (No such file or directory); pack into another folder with --to FOLDER"],
    ),
    packed("no pack.json", unlink("pack.json"), ["{folder}/packed/insects: has no pack.json", "interrupted"]),
    packed("a missing shard", unlink("train-00000.arrow"), ["train-00000.arrow: cannot be read", "pack the data set"]),
    packed("a shard cut short", lambda p: os.truncate(p / "test-00000.arrow", 9), ["has 9 bytes instead of"]),
    packed(
        "a damaged index", lambda p: os.truncate(p / "index.arrow", 9), ["index.arrow: is damaged", "pack the data"]
    ),
    packed(
        "a damaged record",
        lambda p: (p / "pack.json").write_text((p / "pack.json").read_text().replace("bee", "bea")),
        ["pack.json' is damaged: its checksum does not match", "remove the folder '{folder}/packed/insects'"],
    ),
    BadInput("packed: no folder", lambda folder: plan(folder, "packed:x"), ("packed/x: no such folder", "raykd pack")),
    looked_for(
        "imagenet", lambda folder: None, ["{folder}/imagenet: no such folder; raykd does not download ImageNet"]
    ),
    looked_for("tiny_imagenet", lambda folder: None, ["tiny-imagenet-200: no such folder; download http://cs231n"]),
    looked_for("webdataset:pets", lambda folder: None, ["{folder}/pets: no such folder", "train-000000.tar"]),
    looked_for(
        "webdataset:cats",
        lambda folder: (write_webdataset(folder / "cats") / "train-0000.tar").unlink(),
        ["cats: has train-0001.tar and no train-0000.tar", "copy or download it too"],
    ),
    looked_for("imagnet", lambda folder: None, ["unknown dataset name 'imagnet'", "did you mean 'imagenet'?"]),
]
