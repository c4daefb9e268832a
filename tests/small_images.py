"""Small custom data sets on disk: folders of images per class, and Parquet with the Hub's metadata."""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("ant", "bee", "wasp")


def encoded(seed: int, size: tuple[int, int] = (24, 24), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """Return an image of random pixels. size: width and height."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def write_folder(place: Path, num_train: int = 6, num_test: int = 2, classes: Sequence[str] = CLASSES) -> Path:
    """Write train/<class>/<number>.png and test/<class>/<number>.png: different images of 24x24 pixels."""
    for part, count in (("train", num_train), ("test", num_test)):
        for label, name in enumerate(classes):
            (place / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed = 1_000 * label + number + 500 * (part == "test")
                (place / part / name / f"{number:03d}.png").write_bytes(encoded(seed))
    return place


def write_parquet(
    path: Path,
    images: Sequence[bytes],
    columns: Mapping[str, Sequence[int]],
    names: Sequence[str] | None = None,
    rows_per_group: int | None = None,
) -> Path:
    """Write the column 'image' and columns of labels. names: class names, as in the Hub's metadata of 'label'."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": image, "path": None} for image in images], kind)
    table = pa.table({"image": rows} | {name: pa.array(labels, pa.int64()) for name, labels in columns.items()})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a tar file with these members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_webdataset(place: Path, head: str = "", test: str = "validation") -> Path:
    """Write two shards of train with 6 images each, with labels as text, and one of `test` with 3, labels in JSON."""
    for shard in range(2):
        members = {}
        for row in range(6):
            members[f"{shard}_{row}.png"] = encoded(100 * shard + row)
            members[f"{shard}_{row}.cls"] = str(row % 3).encode()
        write_tar(place / f"{head}train-000{shard}.tar", members)
    members = {}
    for row in range(3):
        members[f"images/{row}.json"] = json.dumps({"label": row, "width": 24}).encode()
        members[f"images/{row}.jpg"] = encoded(500 + row, kind="JPEG")
    write_tar(place / f"{head}{test}-00.tar", members)
    return place


def write_tiny_imagenet(place: Path, num_train: int = 4, num_val: int = 2) -> Path:
    """Write two classes in the layout of Tiny ImageNet, with images of 64x64."""
    wnids, annotations = ("n01443537", "n02123045"), ["" for _ in range(2 * num_val)]
    for label, wnid in enumerate(wnids):
        (place / "train" / wnid / "images").mkdir(parents=True)
        (place / "train" / wnid / f"{wnid}_boxes.txt").write_text("a.JPEG\t0\t0\t62\t62\n")
        for number in range(num_train):
            content = encoded(10 * label + number, (64, 64), "JPEG")
            (place / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").write_bytes(content)
        for number in range(num_val):
            annotations[2 * number + label] = f"val_{2 * number + label}.JPEG\t{wnid}\t0\t0\t62\t62"
    (place / "val" / "images").mkdir(parents=True)
    for number in range(len(annotations)):
        (place / "val" / "images" / f"val_{number}.JPEG").write_bytes(encoded(900 + number, (64, 64), "JPEG"))
    (place / "val" / "val_annotations.txt").write_text("\n".join(annotations) + "\n")
    (place / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\nn02123045\ttabby, tabby cat\n")
    (place / "test" / "images").mkdir(parents=True)
    (place / "test" / "images" / "test_0.JPEG").write_bytes(encoded(77, (64, 64), "JPEG"))
    return place
