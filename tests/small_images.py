"""Small custom data sets on disk: folders of images per class, and Parquet with the hub's metadata."""

import io
import json
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
    path: Path, images: Sequence[bytes], columns: Mapping[str, Sequence[int]], names: Sequence[str] | None = None
) -> Path:
    """Write the column 'image' and columns of labels. names: class names, as in the hub's metadata of 'label'."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": image, "path": None} for image in images], kind)
    table = pa.table({"image": rows} | {name: pa.array(labels, pa.int64()) for name, labels in columns.items()})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path
