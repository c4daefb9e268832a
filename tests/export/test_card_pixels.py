"""The code in a card computes exactly the pixels that the run was evaluated on, from the original files."""

import io
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_runs import CPU, NO_WEIGHTS, experiment, recipe
from torch import Tensor

from raykd.data.load import find_source, load_dataset
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.shard import write_shard
from raykd.data.packs.writer import pack, plan_pack
from raykd.data.types import Dataset
from raykd.export.export import export_run
from raykd.models.four_stage_resnet import ResNet
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.options import Options, dataset_of
from raykd.spec.experiment import Data
from raykd.spec.plan import make_plan
from raykd.store.run_folder import RunFolder
from raykd.training.loop import fit
from raykd.training.teacher.sources import no_teacher

SIZE = 16
_PHOTOS = Data("folder:photos", val_images=2, image_size=SIZE, crop_padding=0)
KINDS_OF_VIEW: dict[str, Data] = {
    "squares in memory": _PHOTOS,
    "squares on disk": replace(_PHOTOS, storage="disk", crop_padding=2),
    "random crops and a center crop": replace(_PHOTOS, min_crop_area=0.3, center_crop=0.875),
    "raw squares, in memory": replace(_PHOTOS, name="packed:raw"),
    "crops of raw squares": replace(_PHOTOS, name="packed:raw", min_crop_area=0.3, center_crop=0.875),
    "crops of reduced photos": replace(_PHOTOS, name="packed:reduced", min_crop_area=0.3, center_crop=0.75),
    "digits": Data("digits", val_images=20, train_images=20, crop_padding=1),
    "averaged digits": Data("digits", val_images=20, train_images=20, image_size=8, crop_padding=1),
}


def photo(seed: int, orientation: int, kind: str = "JPEG") -> bytes:
    """Return a photo of 53x38 pixels before the rotation that its EXIF requires, smooth as photos are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(noise).resize((53, 38), Image.Resampling.BICUBIC).save(stream, kind, exif=exif)
    return stream.getvalue()


def gray_16_bit() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(9).integers(0, 65536, (20, 30), dtype=np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def write_photos(place: Path) -> list[bytes]:
    """Write photos in all orientations, and return those of the test split in order."""
    test = [photo(100 + orientation, orientation) for orientation in range(1, 9)]
    test += [photo(200, 6, "PNG"), gray_16_bit()]
    for label in range(2):
        for number in range(4):
            path = place / "train" / f"class{label}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo(10 * label + number, number + 1))
    for number, content in enumerate(test):
        path = place / "test" / f"class{number // 5}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return test


def originals_of_digits() -> list[bytes]:
    streams = [io.BytesIO() for _ in range(3)]
    for stream, image in zip(streams, load_dataset("digits", None).test.images[:3], strict=True):
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(stream, "PNG")
    return [stream.getvalue() for stream in streams]


def trained(data: Data, root: Path) -> tuple[RunFolder, Dataset]:
    options = Options(root / "results", root / "data")
    options.decoded.mkdir(parents=True)
    dataset = dataset_of(data, with_packs([data], options, lambda _: None, Console(file=io.StringIO())))
    student = recipe(model=ResNet((1, 1, 1, 1), 8), epochs=1, batch_size=5)
    plan = make_plan(experiment(data=data, teacher=student, student=student), dataset, NO_WEIGHTS, ["baseline"])
    folder = RunFolder(options.results / "small" / plan.runs[0].name)
    fit(plan.runs[0], dataset, folder, CPU, no_teacher)
    return folder, dataset


def images_of_card(card: str, content: bytes, folder: Path) -> Tensor:
    """Run the part of the card's code that reads an image, with `content` as the image."""
    (folder / "image.png").write_bytes(content)
    block = re.findall(r"```python\n(.*?)```", card, flags=re.S)[-1]
    head, lines = block.partition("\nimage = ")[0], block.partition("\nimage = ")[2].partition("\npixels = ")[0]
    imports = [line for line in head.splitlines() if re.match(r"import (io|numpy|torch)|from PIL", line)]
    names: dict = {}
    exec("\n".join([*imports, f"image = {lines}"]), names)  # noqa: S102 - the test is about this code
    return names["images"]


@pytest.mark.parametrize("kind", KINDS_OF_VIEW)
def test_the_code_in_the_card_computes_the_pixels_of_the_evaluation(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = KINDS_OF_VIEW[kind]
    originals = write_photos(tmp_path / "data/photos") if data.name != "digits" else originals_of_digits()
    for name, pack_options in (("raw", PackOptions(square_size=30)), ("reduced", PackOptions(shorter_side=9))):
        if data.name == f"packed:{name}":
            source = find_source("folder:photos", tmp_path / "data")
            pack(plan_pack(source, tmp_path / "data/packed" / name, pack_options), partial(map, write_shard))
    folder, dataset = trained(data, tmp_path)
    export_run(tmp_path / "results", folder.path.name, "safetensors", tmp_path / "exported", overwrite=False)
    card = (tmp_path / "exported/README.md").read_text()
    monkeypatch.chdir(tmp_path)
    for number, content in enumerate(originals):
        evaluated = dataset.test.images[number : number + 1]
        assert torch.as_tensor(images_of_card(card, content, tmp_path)).equal(evaluated), f"test image {number}"
