"""ImageNet in its three layouts, and Tiny ImageNet as published."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from packed_layouts import pack_small
from small_images import encoded, write_folder, write_parquet, write_tiny_imagenet, write_webdataset

from raykd.cli import parser
from raykd.data import imagenet
from raykd.data.load import find_source, list_datasets, load_dataset
from raykd.data.packs.reader import Pack
from raykd.errors import DataError

DIGITS = Path(__file__).parents[2] / "experiments" / "digits.py"


def parquet_layout(place: Path) -> None:
    for seed, part in enumerate(("train", "validation", "test")):
        labels = [-1] * 4 if part == "test" else [0, 1, 2, 1]
        images = [encoded(10 * seed + row) for row in range(4)]
        write_parquet(place / "data" / f"{part}-00000-of-00001.parquet", images, {"label": labels}, ("a", "b", "c"))


def folder_layout(place: Path) -> None:
    write_folder(place)
    (place / "test").rename(place / "val")
    (place / "test").mkdir()
    (place / "test" / "ILSVRC2012_test_00000001.JPEG").write_bytes(encoded(3))


def tar_layout(place: Path) -> None:
    write_webdataset(place, "imagenet1k-")


@pytest.mark.parametrize("folder", ["imagenet", "imagenet-1k", "ILSVRC2012"])
@pytest.mark.parametrize("make", [parquet_layout, folder_layout, tar_layout])
def test_imagenet_is_tested_on_its_validation_split_with_the_published_statistics(
    tmp_path: Path, folder: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / folder)
    data = load_dataset("imagenet", tmp_path, 16)
    assert (data.mean, data.std) == (imagenet.MEAN, imagenet.STD) and data.num_classes == 3
    (note,) = data.notes
    assert "is the test split, because there is no 'test'" in note
    assert list_datasets(tmp_path) == ("imagenet",)
    packed = Pack(pack_small("imagenet", tmp_path)).record
    assert packed.statistics == (imagenet.MEAN, imagenet.STD) and packed.notes == data.notes


def test_imagenet_without_a_layout_lists_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="imagenet: no such folder; raykd does not download ImageNet: get it from image"
    ):
        load_dataset("imagenet", tmp_path, 16)
    (tmp_path / "imagenet").mkdir()
    with pytest.raises(DataError, match=r"imagenet: holds no layout of ImageNet .*train/<wnid>/"):
        load_dataset("imagenet", tmp_path, 16)


def test_tiny_imagenet_is_read_as_published(tmp_path: Path) -> None:
    place = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    data = load_dataset("tiny_imagenet", tmp_path)
    assert data.class_names == ("goldfish, Carassius auratus", "tabby, tabby cat") and data.image_size == 64
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 and data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.notes == ("'val' is the test split, because the labels of 'test' are not published",)
    first, last = find_source("tiny_imagenet", tmp_path).units()[1][0].images(), place / "val/images"
    assert [image.where for image in first] == [str(last / f"val_{number}.JPEG") for number in (0, 2, 1, 3)]
    assert list_datasets(tmp_path) == ("tiny_imagenet",)


def test_a_val_folder_sorted_into_classes_is_the_same_tiny_imagenet(tmp_path: Path) -> None:
    place = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    before = load_dataset("tiny_imagenet", tmp_path).identity
    for line in (place / "val/val_annotations.txt").read_text().splitlines():
        name, wnid, *_ = line.split("\t")
        (place / "val" / wnid / "images").mkdir(parents=True, exist_ok=True)
        (place / "val/images" / name).rename(place / "val" / wnid / "images" / name)
    (place / "val/images").rmdir()
    (place / "val/val_annotations.txt").unlink()
    assert load_dataset("tiny_imagenet", tmp_path).identity == before


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (
        shutil.rmtree,
        r"tiny-imagenet-200: no such folder; download http.*tiny-imagenet-200\.zip and unpack",
    ),
    "no words": (lambda p: (p / "words.txt").unlink(), r"tiny-imagenet-200: has no words\.txt; download"),
    "no val": (lambda p: shutil.rmtree(p / "val"), r"tiny-imagenet-200: has no val; download"),
    "one class": (lambda p: shutil.rmtree(p / "train/n02123045"), r"train: has 1 folder of classes; at least two"),
    "no images": (
        lambda p: [file.unlink() for file in (p / "train/n02123045/images").iterdir()],
        r"n02123045/images: a class without images",
    ),
    "bad line": (
        lambda p: (p / "val/val_annotations.txt").write_text("val_0.JPEG\tn01443537\nval_1.JPEG\n"),
        r"val_annotations\.txt: line 2 must have a file name and a wnid of train",
    ),
    "unknown wnid": (
        lambda p: (p / "val/val_annotations.txt").write_text("val_0.JPEG\tn00000000\n"),
        r"val_annotations\.txt: line 1 must have a file name and a wnid of train",
    ),
    "missing image": (lambda p: (p / "val/images/val_1.JPEG").unlink(), r"val_1\.JPEG: cannot be read"),
    "unlisted image": (
        lambda p: (p / "val/images/val_9.JPEG").write_bytes(encoded(1)),
        r"val_9\.JPEG: is not in val_annotations\.txt, so it has no label",
    ),
    "damaged image": (
        lambda p: (p / "val/images/val_1.JPEG").write_bytes(b"x"),
        r"val_1\.JPEG is no PNG or JPEG",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_tiny_imagenet_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(write_tiny_imagenet(tmp_path / "tiny-imagenet-200"))
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("tiny_imagenet", tmp_path, 64)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_network")
def test_prefetch_only_looks_for_imagenet(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["prefetch", str(DIGITS), "--data-dir", str(tmp_path), "--set"]
    assert parser.entry([*arguments, "data.name=imagenet"]) == 2
    assert "raykd does not download ImageNet" in capsys.readouterr().err
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    assert parser.entry([*arguments, "data.name=tiny_imagenet"]) == 0
    assert "tiny_imagenet is in" in capsys.readouterr().out
