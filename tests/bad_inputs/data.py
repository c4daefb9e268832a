"""Data sets that cannot be read, or that are ambiguous: folders, images and their metadata, Parquet."""

import io
import json
import os
import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from small_images import encoded, png_chunk

from bad_inputs.case import BadInput, experiment_file

SIDE = 8
CLASSES = ("ant", "bee")
NAMES = ("ash", "elm", "yew")
LABELS = [0, 1, 2, 0, 1, 2]
Change = Callable[[Path], object]


encoded_image = cache(partial(encoded, size=(SIDE, SIDE)))


def deep(maximum: int) -> bytes:
    """Return a gray PNG of 16 bits."""
    values = np.full((SIDE, SIDE), maximum, dtype=np.uint16)
    values[0] = 1
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def plan(folder: Path, name: str, settings: Sequence[str]) -> Sequence[str | Path]:
    arguments = [word for setting in (f"data.name={name}", *settings) for word in ("--set", setting)]
    return ["plan", experiment_file(folder), "--data-dir", folder, *arguments]


def folders(name: str, change: Change, parts: Sequence[str], settings: Sequence[str] = ()) -> BadInput:
    """Return the case of a folder `insects` of images per class after `change`, a function of the folder."""

    def make(folder: Path) -> Sequence[str | Path]:
        place = folder / "insects"
        for part in ("train", "test"):
            for label, class_name in enumerate(CLASSES):
                (place / part / class_name).mkdir(parents=True)
                for number in range(3):
                    seed = 10 * label + number + 100 * (part == "test")
                    (place / part / class_name / f"{number}.png").write_bytes(encoded_image(seed))
        change(place)
        return plan(folder, "folder:insects", settings)

    return BadInput(f"folder: {name}", make, tuple(parts))


def bad_image(name: str, content: bytes, parts: Sequence[str], settings: Sequence[str] = ()) -> BadInput:
    """Return the case of one more image, with `content`, in such a folder."""
    return folders(
        name, lambda place: (place / "train/bee/9.png").write_bytes(content), ["bee/9.png", *parts], settings
    )


def table(labels: object = LABELS, names: Sequence[str] | None = NAMES, seed: int = 0, **columns: object) -> pa.Table:
    """Return columns 'image' and 'label', or `columns` instead. names: of the ClassLabel in the Hub's metadata."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": encoded_image(seed + row), "path": f"{row}.png"} for row in range(len(LABELS))]
    result = pa.table(columns or {"image": pa.array(rows, kind), "label": labels})
    if names is None:
        return result
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return result.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def parquet(
    name: str, files: dict[str, pa.Table | bytes], parts: Sequence[str], change: Change | None = None
) -> BadInput:
    """Return the case of `files` in a folder `trees`, after `change`."""

    def make(folder: Path) -> Sequence[str | Path]:
        for path, content in files.items():
            file = folder / "trees" / f"{path}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content) if isinstance(content, bytes) else pq.write_table(content, file)
        if change is not None:
            change(folder / "trees")
        return plan(folder, "parquet:trees", ())

    return BadInput(f"Parquet: {name}", make, tuple(parts))


def pair(train: pa.Table | bytes, test: pa.Table | bytes | None = None) -> dict[str, pa.Table | bytes]:
    return {"train": train, "test": TEST if test is None else test}


def with_image(content: bytes | None) -> pa.Table:
    """Return a table whose third image is `content`."""
    original = table()
    rows = original["image"].to_pylist()
    rows[2] = {"bytes": content, "path": "2.png"}
    return original.set_column(0, "image", pa.array(rows, original.schema.field("image").type))


def unlink(*names: str) -> Change:
    return lambda place: [(place / name).unlink() for name in names]


def move(old: str, new: str) -> Change:
    return lambda place: (place / old).rename(place / new)


def link(name: str, target: str) -> Change:
    return lambda place: (place / name).symlink_to(target)


def empty(name: str) -> Change:
    return lambda place: [file.unlink() for file in (place / name).iterdir()]


def one_color(place: Path) -> None:
    for file in (place / "train").rglob("*.png"):
        Image.new("RGB", (SIDE, SIDE), (9, 9, 9)).save(file)


def twelve_bits(place: Path) -> None:
    for row, file in enumerate((place / "train").rglob("*.png")):
        file.write_bytes(deep(4_000 + row))


TEST = table(seed=50)
A, B = "b42a6d1f21f14bd7", "77aa6d1f21f14bd7"
PNG_HEAD = encoded_image(0)[:8]
HUGE = PNG_HEAD + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)) + encoded_image(0)[33:]
BAD_ROWS = PNG_HEAD + encoded_image(0)[8:33] + png_chunk(b"IDAT", b"no zlib") + png_chunk(b"IEND", b"")

FOLDERS = [
    folders("no such folder", move("", "../gone"), ["insects: no such folder", "absolute path, with train/<class>"]),
    folders("no train", move("train", "training"), ["insects: has no folder train", "there are: test, training"]),
    folders("no test", move("test", "Test"), ["insects: has no folder test", "there are: Test, train"]),
    folders("classes without splits", move("train", "x"), ["insects: has no folder train", "there are: test, x"]),
    folders("two validation splits", lambda p: [move("test", "val")(p), link("dev", "val")(p)], ["'val' and 'dev'"]),
    folders("one class", lambda p: [move("train/bee", "b")(p), move("test/bee", "c")(p)], ["has 1 folder of classes"]),
    folders("an empty class", empty("train/bee"), ["train/bee: a class without images", "remove the folder"]),
    folders("a class that train lacks", move("test/bee", "test/beee"), ["test/beee", "did you mean 'bee'?"]),
    folders("a loose image", move("train/ant/0.png", "train/0.png"), ["train/0.png: is an image outside"]),
    folders("a text file", lambda p: (p / "train/ant/a.csv").touch(), ["ant/a.csv: is not a .png", "convert it"]),
    folders("a FIFO", lambda p: os.mkfifo(p / "train/ant/9.png"), ["ant/9.png: is a FIFO (a named pipe)", "remove it"]),
    folders("a FIFO of another name", lambda p: os.mkfifo(p / "test/ant/pipe"), ["ant/pipe: is a FIFO", "remove it"]),
    folders("a loose FIFO", lambda p: os.mkfifo(p / "train/9.jpg"), ["train/9.jpg: is a FIFO", "remove it"]),
    folders("a device", link("train/ant/9.png", "/dev/zero"), ["ant/9.png: is a device, not a file; remove it"]),
    folders("a broken link", link("train/ant/9.png", "gone"), ["9.png: is a link to gone, which cannot be followed"]),
    folders("a link to itself", link("train/ant/9.png", "9.png"), ["is a link to 9.png, which cannot be followed"]),
    folders(
        "a class that is a broken link", link("train/cat", "gone"), ["train/cat: is a link to gone", "remove the link"]
    ),
    folders("a loop", link("train/ant/all", ".."), ["all/ant: is a link to a folder above it", "remove the link"]),
    folders(
        "a class that is its split", link("train/all", "../train"), ["train/all/all: is a link to a folder above it"]
    ),
    folders("a folder x.png", lambda p: (p / "train/ant/x.png").mkdir(), ["ant/x.png: is a folder with the name of a"]),
    folders(
        "a class x.jpg", lambda p: (p / "train/x.jpg").mkdir(), ["train/x.jpg: is a folder with the name of a file"]
    ),
    folders(
        "a class that is not UTF-8",
        lambda p: [(p / n / "bee").rename(os.fsdecode(os.fsencode(p / n) + b"/b\xff")) for n in ("train", "test")],
        ["\\udcff: a class's name must be plain text in UTF-8; rename the folder"],
    ),
    folders(
        "a class of two lines",
        lambda p: [(p / n / "bee").rename(p / n / "b\ne") for n in ("train", "test")],
        ["train/b\\ne: a class's name must be plain text in UTF-8; rename the folder"],
    ),
    folders("a file of another suffix", move("train/ant/0.png", "train/ant/0.png.part"), ["0.png.part: is not a .png"]),
    folders(
        "a class in two forms", lambda p: [(p / f"train/{n}").mkdir() for n in ("\u00e9", "e\u0301")], ["Unicode form"]
    ),
    folders("one color", one_color, ["folder:insects: every training image has one and the same color"]),
    folders(
        "12 bits in 16", twelve_bits, ["0.png: its values of 16 bits go up to 4,00", "multiply the values to fill 16"]
    ),
    folders(
        "a size above the limit",
        lambda _: None,
        ["image_size = 900000", "must be at most 1,024"],
        ["data.image_size=900000"],
    ),
]
IMAGES = [
    bad_image("another size", encoded(1, (9, 9)), ["is 9x9 pixels; the first is 8x8", "--set data.image_size=8"]),
    bad_image("an empty file", b"", ["is no PNG or JPEG; it is empty or all zeros; copy or download it again"]),
    bad_image("a file of zeros", bytes(900), ["it is empty or all zeros; copy or download it again"]),
    bad_image("text", b"a image", ["is no PNG or JPEG; store one of these"]),
    bad_image("a WEBP", encoded_image(1, kind="WEBP"), ["it is a WEBP by its content; convert it to PNG or JPEG"]),
    bad_image("a GIF", encoded_image(1, kind="GIF"), ["it is a GIF by its content; convert it to PNG or JPEG"]),
    bad_image("a BMP", encoded_image(1, kind="BMP"), ["it is a BMP by its content; convert it to PNG or JPEG"]),
    bad_image("a TIFF", encoded_image(1, kind="TIFF"), ["it is a TIFF by its content; convert it to PNG or JPEG"]),
    bad_image("a web page", b"<!DOCTYPE html><p>404", ["it is a web page or XML and not the file itself"]),
    bad_image("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1", ["run: git lfs pull"]),
    bad_image("half a PNG", encoded_image(1)[:100], ["cannot be decoded", "copy or download it again"]),
    bad_image("half a JPEG", encoded_image(1, kind="JPEG")[:400], ["cannot be decoded", "copy or download it again"]),
    bad_image("a signature alone", PNG_HEAD, ["is a PNG or JPEG that cannot be decoded", "save it again as PNG"]),
    bad_image("rows that are no zlib", BAD_ROWS, ["is a PNG or JPEG that cannot be decoded", "save it again as PNG"]),
    bad_image(
        "above the limit of pixels", HUGE, ["has 400,000,000 pixels, and 178,956,970 is the limit; make it smaller"]
    ),
    bad_image("above it, to be resized", HUGE, ["has 400,000,000 pixels", "make it smaller"], ["data.image_size=8"]),
    bad_image("8 bits in 16", deep(200), ["its values of 16 bits go up to 200 at most", "1 of 1", "or store 8 bits"]),
]
PARQUET = [
    parquet("no such folder", pair(table()), ["trees: no such folder"], lambda p: p.rename(p.with_name("wood"))),
    parquet("no train", {"test": TEST}, ["has no Parquet of train", "there are: test"]),
    parquet("no test", {"train": table()}, ["has no Parquet of test", "there are: train"]),
    parquet(
        "another name", {"data/training": table()}, ["has no Parquet of train", "there are: data/training.parquet"]
    ),
    parquet("half of the shards", {f"train-00000-of-00002-{A}": table()}, ["there is no", f"train-00001-of-00002-{A}"]),
    parquet("the second shard alone", {"train-00001-of-00002": table()}, ["there is no train-00000-of-00002.parquet"]),
    parquet("two uploads", {f"data/train-00000-of-00001-{u}": table() for u in (A, B)}, ["are from two uploads; keep"]),
    parquet(
        "mixed uploads", {f"train-0000{i}-of-00002-{u}": table() for i, u in enumerate((A, B))}, ["from two uploads"]
    ),
    parquet("two totals", {"train-00000-of-00001": table(), "train-00000-of-00002": table()}, ["are from two uploads"]),
    parquet(
        "a browser's copy", {"train": table(), "train (1)": table()}, ["train (1).parquet: a name that is not read"]
    ),
    parquet(
        "a second file", {"train": table(), "train_2": table()}, ["train_2.parquet: a name that is not read; rename"]
    ),
    parquet("a gap in the numbers", {f"default/train/000{i}": table() for i in (0, 2)}, ["there is no 0001.parquet"]),
    parquet(
        "two layouts", {"train": table(), "train-00000-of-00001": table()}, ["has 'train' twice", "keep one of them"]
    ),
    parquet("two places", {"train": table(), "data/train-00000-of-00001": table()}, ["Parquet in several places"]),
    parquet(
        "two configurations", {"a/train": table(), "b/train": table()}, ["2 configurations, a, b", "parquet:PLACE/a"]
    ),
    parquet(
        "equal shards", {f"train-0000{i}-of-00002": table() for i in (0, 1)} | {"test": TEST}, ["has the same content"]
    ),
    parquet("a folder train.parquet", {"train.parquet/part-0": table()}, ["is a folder with the name of a file"]),
    parquet("a FIFO", pair(table()), ["train.parquet: is a FIFO"], lambda p: [unlink("train.parquet")(p), fifo(p)]),
    parquet(
        "classes in another order", pair(table(), table(names=NAMES[::-1], seed=9)), ["label 0 is 'yew' in", "'ash'"]
    ),
    parquet(
        "more classes in test", pair(table(), table(names=(*NAMES, "oak"), seed=9)), ["has 4 classes in its metadata"]
    ),
    parquet(
        "test without names", pair(table(), table(names=None, seed=9)), ["does not; write all files with the same"]
    ),
    parquet(
        "two classes of one name", pair(table(names=("a", "b", "a")), table(names=("a", "b", "a"))), ["called 'a'"]
    ),
    parquet("labels from 1", pair(table([1, 2, 3] * 2, None), table(names=None)), ["no training image has label 0"]),
    parquet("one class", pair(table([0] * 6, None), table(names=None)), ["its labels name 1 class"]),
    parquet("float labels", pair(table([0.0, 1.0, 2.0] * 2)), ["'label': double", "cast 'label' to integers from 0"]),
    parquet("truth values", pair(table([True, False] * 3)), ["'label': bool", "cast 'label' to integers from 0"]),
    parquet("lists of labels", pair(table([[0], [1]] * 3)), ["'label': list", "give each image one label, not a list"]),
    parquet(
        "no labels", pair(table(None, None, image=table()["image"])), ["rename the column with the labels to 'label'"]
    ),
    parquet("no images", pair(table(None, None, label=LABELS)), ["has the columns 'label': int64; requires 'img'"]),
    parquet("a missing label", pair(table([0, 1, 2, None, 1, 2])), ["row 3 has no label; leave the row out"]),
    parquet(
        "unlabelled test", pair(table(), table([-1] * 6)), ["test.parquet: row 0 has label -1; train's are 0 to 2"]
    ),
    parquet(
        "text that train lacks",
        pair(table(["a", "b"] * 3), table(["c"] * 6)),
        ["row 0 has label c; train's are a to b"],
    ),
    parquet(
        "two columns of one name",
        pair(pa.Table.from_arrays([table()["image"], *[pa.chunked_array([LABELS])] * 2], ["image", "label", "label"])),
        ["train.parquet: has two columns called 'label'; rename or remove one of them"],
    ),
    parquet("bytes for labels", pair(table([b"a", b"b"] * 3)), ["'label': binary", "cast 'label' to integers"]),
    parquet("empty labels", pair(table(pa.nulls(6))), ["'label': null", "cast 'label' to integers from 0"]),
    parquet(
        "images of pixels",
        pair(table(None, None, image=[[1, 2, 3]] * 6, label=LABELS)),
        ["'image': list<element: int64>", "store in 'image' the bytes of each PNG or JPEG"],
    ),
    parquet(
        "paths for images",
        pair(table(None, None, image=["a.png"] * 6, label=LABELS)),
        ["'image': string", "store in 'image' the bytes of each PNG or JPEG"],
    ),
    parquet(
        "addresses for images",
        pair(table(None, None, image_url=["http"] * 6, label=LABELS)),
        ["'image_url': string", "rename the column with the images to 'img'"],
    ),
    parquet(
        "shards from 1", {f"train-0000{i}-of-00002": table(seed=i) for i in (1, 2)}, ["there is no train-00000-of"]
    ),
    parquet("a footer too long", pair(b"PAR1" + bytes(99) + b"\xff\xff\xff\x7fPAR1"), ["copy or download it again"]),
    parquet("a path alone", pair(with_image(None)), ["train.parquet: row 2 has no image", "store its bytes"]),
    parquet("a bad image", pair(with_image(b"no image")), ["train.parquet: row 2 is no PNG or JPEG"]),
    parquet("12 bits in 16", pair(with_image(deep(4_000))), ["row 2: its values of 16 bits go up to 4,000 at most"]),
    parquet("no rows", pair(table().slice(0, 0)), ["train.parquet"]),
    parquet("no Parquet", pair(b"image,label"), ["train.parquet: truncated or no Parquet file", "copy or download it"]),
    parquet("a Git LFS pointer", pair(b"version https://git-lfs.github.com/spec/v1"), ["run: git lfs pull"]),
]


def fifo(place: Path) -> None:
    os.mkfifo(place / "train.parquet")


CASES = [*FOLDERS, *IMAGES, *PARQUET]
