"""A folder of images per class: reading, and the error for each kind of bad file."""

import contextlib
import io
import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_images import CLASSES, encoded, write_folder

from raykd.data.load import load_dataset
from raykd.errors import DataError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "insects")


def read(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)


def test_every_image_is_read_once_with_the_label_of_its_folder(place: Path) -> None:
    data = load_dataset("folder:insects", place.parent)
    files = sorted((place / "train").rglob("*.png"))
    assert data.train.images.equal(torch.stack([read(file) for file in files]))
    assert data.train.labels.tolist() == [CLASSES.index(file.parent.name) for file in files]
    assert (len(data.test), data.class_names, data.num_classes, data.image_size) == (6, CLASSES, 3, 24)
    assert data.train.images.is_contiguous(memory_format=torch.channels_last)
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_an_absolute_path_needs_no_data_folder(place: Path) -> None:
    assert load_dataset(f"folder:{place}", None).identity == load_dataset("folder:insects", place.parent).identity
    with pytest.raises(DataError, match="folder:insects is read from a folder: give --data-dir"):
        load_dataset("folder:insects", None)


def test_identity_depends_on_bytes_and_classes_but_not_on_paths(place: Path, tmp_path: Path) -> None:
    before = load_dataset("folder:insects", tmp_path)
    place.rename(tmp_path / "moved")
    (tmp_path / "moved/train/ant/000.png").rename(tmp_path / "moved/train/ant/00.png")
    assert load_dataset("folder:moved", tmp_path).identity == before.identity
    identities = {before.identity, load_dataset("folder:moved", tmp_path, 12).identity}
    for change in ("train/ant/00.png", "test/wasp/001.png"):
        (tmp_path / "moved" / change).write_bytes(encoded(77))
        identities.add(load_dataset("folder:moved", tmp_path).identity)
    for part in ("train", "test"):
        (tmp_path / "moved" / part / "ant").rename(tmp_path / "moved" / part / "aphid")
    identities.add(load_dataset("folder:moved", tmp_path).identity)
    assert len(identities) == 5


def test_decoded_cache_equals_decoding(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = load_dataset(f"folder:{place}", None, 16, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    assert file.name.endswith(f"insects-16-{decoded.identity[:16]}.safetensors") and len(file.name) < 110
    monkeypatch.setattr("raykd.data.image_decoding.decode", lambda *_: pytest.fail("decoded again"))
    mapped = load_dataset(f"folder:{place}", None, 16, tmp_path / "cache")
    assert mapped.train.images.equal(decoded.train.images) and mapped.test.labels.equal(decoded.test.labels)
    assert (mapped.mean, mapped.std, mapped.class_names) == (decoded.mean, decoded.std, decoded.class_names)


def test_middle_square_of_other_sizes_is_resized(place: Path) -> None:
    wide = np.zeros((20, 40, 3), dtype=np.uint8)  # its middle square is columns 10 to 29; bicubic looks at some more
    wide[:, 7:33] = (200, 100, 50)
    Image.fromarray(wide).save(place / "train/ant/000.png")
    data = load_dataset("folder:insects", place.parent, 16)
    assert (data.train.images.shape, data.test.images.shape) == ((18, 3, 16, 16), (6, 3, 16, 16))
    assert data.train.images[0].flatten(1).unique(dim=1).T.tolist() == [[200, 100, 50]]


def test_explicit_original_size_changes_no_pixel(place: Path) -> None:
    same = load_dataset("folder:insects", place.parent, 24)
    assert same.train.images.equal(load_dataset("folder:insects", place.parent).train.images)


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("L", "JPEG")]
)
def test_other_modes_become_rgb_as_in_pillow(place: Path, mode: str, kind: str) -> None:
    content = encoded(3, kind=kind, mode=mode)
    (place / "train/ant/000.png").write_bytes(content)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA").convert("RGB"))
    assert np.array_equal(load_dataset("folder:insects", place.parent).train.images[0].permute(1, 2, 0), expected)


def test_cmyk_becomes_rgb(place: Path) -> None:
    Image.new("CMYK", (24, 24), (0, 255, 255, 0)).save(place / "train/ant/000.jpg", "JPEG", quality=100)
    (place / "train/ant/000.png").unlink()
    assert load_dataset("folder:insects", place.parent).train.images[0].flatten(1).float().mean(
        1
    ).tolist() == pytest.approx([255, 0, 0], abs=3)


def test_gray_of_16_bits_keeps_the_upper_8_bits(place: Path) -> None:
    Image.fromarray(np.full((24, 24), 200 * 256 + 17, dtype=np.uint16)).save(place / "train/ant/000.png")
    assert load_dataset("folder:insects", place.parent).train.images[0].unique().tolist() == [200]


def test_images_are_rotated_by_their_exif_orientation(place: Path) -> None:
    image = Image.open(io.BytesIO(encoded(5)))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter clockwise
    image.save(place / "train/ant/000.png", exif=exif)
    turned = load_dataset("folder:insects", place.parent).train.images[0]
    assert np.array_equal(turned.permute(1, 2, 0), np.rot90(np.asarray(image), -1))


def empty_class(place: Path) -> None:
    shutil.rmtree(place / "test/bee")
    (place / "test/bee").mkdir()


def file_of_another_kind(place: Path) -> None:
    (place / "train/bee/labels.csv").write_text("a,b")


def loose_image(place: Path) -> None:
    (place / "train/000.png").write_bytes(encoded(0))


def renamed_class(place: Path) -> None:
    (place / "test/wasp").rename(place / "test/waps")


def one_class(place: Path) -> None:
    for name in ("ant", "bee"):
        shutil.rmtree(place / "train" / name)
        shutil.rmtree(place / "test" / name)


def cut_short(place: Path) -> None:
    path = place / "train/wasp/003.png"
    path.write_bytes(path.read_bytes()[:200])


def no_image(place: Path) -> None:
    (place / "test/ant/000.png").write_text("a image")


def other_size(place: Path) -> None:
    (place / "test/ant/001.png").write_bytes(encoded(0, (30, 40)))


def no_square(place: Path) -> None:
    (place / "train/ant/000.png").write_bytes(encoded(0, (30, 40)))


def fifo(place: Path) -> None:
    os.mkfifo(place / "train/ant/900.png")


def fifo_below(place: Path) -> None:
    (place / "train/ant/more").mkdir()
    os.mkfifo(place / "train/ant/more/pipe")


def loose_fifo(place: Path) -> None:
    os.mkfifo(place / "test/900.jpg")


def socket_file(place: Path) -> None:
    path = place / "train/ant/900.png"
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(path.parent):
        listener.bind(path.name)  # a whole path may be too long for a socket


def device(place: Path) -> None:
    (place / "test/ant/900.png").symlink_to("/dev/zero")


def folder_named_like_an_image(place: Path) -> None:
    (place / "train/ant/900.png").mkdir()
    (place / "train/ant/900.png/001.png").write_bytes(encoded(0))


def class_named_like_an_image(place: Path) -> None:
    (place / "train/900.JPG").mkdir()


def broken_link(place: Path) -> None:
    (place / "train/ant/900.png").symlink_to(place / "gone.png")


def class_that_is_a_broken_link(place: Path) -> None:
    (place / "train/zebra").symlink_to(place / "gone")


def link_to_itself(place: Path) -> None:
    (place / "train/ant/900.png").symlink_to("900.png")


def endless_link(place: Path) -> None:
    (place / "train/ant/all").symlink_to("..")


def loop_of_two(place: Path) -> None:
    (place / "train/ant/bees").symlink_to("../bee")
    (place / "train/bee/ants").symlink_to("../ant")


def class_that_is_the_split(place: Path) -> None:
    (place / "train/all").symlink_to(place / "train")


def two_forms_of_one_name(place: Path) -> None:
    for form in ("NFC", "NFD"):
        (place / "train" / unicodedata.normalize(form, "caf\u00e9")).mkdir()


def two_validation_splits(place: Path) -> None:
    (place / "test").rename(place / "val")
    (place / "dev").symlink_to("val")


def splits_of_other_names(place: Path) -> None:
    (place / "train").rename(place / "Training")


def images_of_12_bits(place: Path) -> None:
    for row, file in enumerate(sorted((place / "train").rglob("*.png"))):
        values = np.random.default_rng(row).integers(0, 4_000, (24, 24)).astype(np.uint16)
        Image.fromarray(values).save(file)


def one_color(place: Path) -> None:
    for file in (place / "train").rglob("*.png"):
        Image.new("RGB", (24, 24), (1, 2, 3)).save(file)


BAD: dict[Callable[[Path], None], str] = {
    empty_class: r"insects/test/bee: a class without images; add some, or remove the folder",
    file_of_another_kind: r"insects/train/bee/labels\.csv: is not a \.png or \.jpg or \.jpeg file; convert it",
    loose_image: r"insects/train/000\.png: is an image outside of the class folders; move it into one: train/<class>/",
    renamed_class: r"insects/test/waps: a class that train lacks; train's folders name .*; did you mean 'wasp'\?$",
    one_class: r"insects/train: has 1 folder of classes; at least two are required",
    cut_short: r"insects/train/wasp/003\.png is a PNG or JPEG that cannot be decoded \(.*\); copy or download it again",
    no_image: r"insects/test/ant/000\.png is no PNG or JPEG; store one of these",
    other_size: r"insects/test/ant/001\.png is 30x40 pixels; the first is 24x24, .* --set data.image_size=24",
    no_square: r"insects/train/ant/000\.png is 30x40 pixels, and a run requires squares .* --set data.image_size=30",
    fifo: r"insects/train/ant/900\.png: is a FIFO \(a named pipe\), not a file; remove it",
    fifo_below: r"insects/train/ant/more/pipe: is a FIFO",
    loose_fifo: r"insects/test/900\.jpg: is a FIFO",
    socket_file: r"insects/train/ant/900\.png: is a socket, not a file; remove it",
    device: r"insects/test/ant/900\.png: is a device, not a file; remove it",
    folder_named_like_an_image: r"insects/train/ant/900\.png: is a folder with the name of a file; rename it",
    class_named_like_an_image: r"insects/train/900\.JPG: is a folder with the name of a file; rename it",
    broken_link: r"insects/train/ant/900\.png: is a link to .*/gone\.png, which cannot be followed; remove",
    class_that_is_a_broken_link: r"insects/train/zebra: is a link to .*/gone, which cannot be followed",
    link_to_itself: r"insects/train/ant/900\.png: is a link to 900\.png, which cannot be followed",
    endless_link: r"insects/train/ant/all/ant: is a link to a folder above it, so that its files never end; remove",
    loop_of_two: r"insects/train/ant/bees/ants: is a link to a folder above it",
    class_that_is_the_split: r"insects/train/all/all: is a link to a folder above it",
    two_forms_of_one_name: r"insects/train/caf.*: has the same name as another folder there in another Unicode form",
    two_validation_splits: r"insects: has 'val' and 'dev' and no 'test'; rename the one to test on to 'test'",
    splits_of_other_names: r"insects: has no folder train; requires .*; there are: Training, test",
    images_of_12_bits: r"insects/train/ant/000\.png: its values of 16 bits go up to 3,9\d\d at most, .* 18 of 18 such",
    one_color: r"folder:insects: every training image has one and the same color",
    lambda place: shutil.rmtree(place / "test"): r"insects: has no folder test; requires train/<class>",
    shutil.rmtree: r"insects: no such folder; .*below --data-dir or an absolute path, with train/<class>/\*\.png",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_bad_folder_is_refused_in_one_line_and_not_cached(
    place: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(place)
    with pytest.raises(DataError, match=BAD[spoil]) as caught:
        load_dataset("folder:insects", place.parent, None, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_damaged_images_are_counted_with_the_command_that_leaves_them_out(place: Path) -> None:
    for name in ("003", "005"):
        file = place / "train/wasp" / f"{name}.png"
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(DataError, match=r"wasp/003\.png is a PNG or JPEG that cannot be decoded") as caught:
        load_dataset("folder:insects", place.parent)
    counted, _, remedy = str(caught.value).partition("; 2 of 18 images that were read cannot be decoded; ")
    assert counted and remedy.startswith("or leave out up to N damaged images (")
    assert f"pack folder:insects --data-dir {place.parent} --skip-damaged N) and set data.name" in remedy


def test_leftovers_of_file_managers_and_archives_are_skipped(place: Path) -> None:
    before = load_dataset("folder:insects", place.parent)
    for name in ("train/ant/Thumbs.db", "train/Desktop.ini", "test/bee/desktop.ini"):
        (place / name).write_text("[.ShellClassInfo]")
    (place / "train/__MACOSX/ant").mkdir(parents=True)
    (place / "train/__MACOSX/ant/._000.png").write_bytes(b"x")
    after = load_dataset("folder:insects", place.parent)
    assert (after.identity, after.class_names, len(after.train)) == (before.identity, before.class_names, 18)


def test_a_class_has_one_name_in_both_unicode_forms(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "drinks", classes=("caf\u00e9", "tea"))
    before = load_dataset("folder:drinks", tmp_path)
    (place / "test/caf\u00e9").rename(place / "test/cafe\u0301")
    after = load_dataset("folder:drinks", tmp_path)
    assert (after.class_names, after.identity) == (("caf\u00e9", "tea"), before.identity)
    assert after.test.labels.tolist() == before.test.labels.tolist()


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_published_validation_split_is_the_test_set_without_a_test_split(place: Path, name: str) -> None:
    before = load_dataset("folder:insects", place.parent)
    (place / "test").rename(place / name)
    after = load_dataset("folder:insects", place.parent)
    assert after.notes == (f"'{name}' is the test split, because there is no 'test'",)
    assert after.test.images.equal(before.test.images) and after.identity == before.identity and not before.notes


def test_validation_split_beside_a_test_split_is_not_read_and_noted(place: Path) -> None:
    before = load_dataset("folder:insects", place.parent)
    shutil.copytree(place / "train", place / "val")
    after = load_dataset("folder:insects", place.parent)
    assert after.notes == ("'val' is not read: 'test' is the test split, and validation images are taken from 'train'",)
    assert after.identity == before.identity


def test_images_in_both_splits_are_noted(place: Path) -> None:
    shutil.copy(place / "train/ant/000.png", place / "test/bee/900.png")
    (note,) = load_dataset("folder:insects", place.parent).notes
    assert note == f"1 of 7 test images are also training images, such as {place / 'test/bee/900.png'}"


@pytest.mark.parametrize("channel", range(3))
def test_constant_channel_is_noted_and_has_a_std_of_one(place: Path, channel: int) -> None:
    for file in place.rglob("*.png"):
        pixels = np.asarray(Image.open(file)).copy()
        pixels[..., channel] = 77
        Image.fromarray(pixels).save(file)
    data = load_dataset("folder:insects", place.parent)
    color = ("red", "green", "blue")[channel]
    assert data.notes == (f"the {color} channel is 77 in every pixel of every training image",)
    assert data.std[channel] == 1 and data.mean[channel] == pytest.approx(77 / 255)
    assert [spread < 0.5 for spread in data.std] == [row != channel for row in range(3)]


def test_gray_images_have_three_equal_channels_and_no_note(place: Path) -> None:
    for file in place.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    data = load_dataset("folder:insects", place.parent)
    assert len(set(data.std)) == 1 and not data.notes


def test_format_is_recognized_by_content_and_not_by_name(place: Path) -> None:
    before = load_dataset("folder:insects", place.parent)
    (place / "train/ant/000.png").rename(place / "train/ant/000.jpg")
    assert load_dataset("folder:insects", place.parent).train.images.equal(before.train.images)


def test_hidden_files_are_skipped_and_test_may_lack_a_class(place: Path) -> None:
    (place / "train/ant/.DS_Store").write_text("")
    (place / "train/.cache").mkdir()
    shutil.rmtree(place / "test/bee")
    data = load_dataset("folder:insects", place.parent)
    assert (len(data.train), data.num_classes, data.test.labels.unique().tolist()) == (18, 3, [0, 2])
