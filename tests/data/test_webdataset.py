"""WebDataset shards: reading, completeness, and the error for each kind of bad shard."""

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_images import encoded, write_tar, write_webdataset

from raykd.data import sources, webdataset
from raykd.data.load import find_source, load_dataset
from raykd.errors import DataError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_webdataset(tmp_path / "pets")


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("head", ["", "pets-", "my_pets_"])
def test_images_and_labels_are_in_the_order_of_shards_and_members(tmp_path: Path, head: str) -> None:
    data = load_dataset(f"webdataset:{write_webdataset(tmp_path / 'pets', head)}", None)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2] * 2 and data.test.labels.tolist() == [0, 1, 2]
    expected = [encoded(100 * shard + row) for shard in range(2) for row in range(6)]
    assert all(map(np.array_equal, data.train.images.permute(0, 2, 3, 1).numpy(), map(pixels, expected)))
    expected = [encoded(500 + row, kind="JPEG") for row in range(3)]
    assert all(map(np.array_equal, data.test.images.permute(0, 2, 3, 1).numpy(), map(pixels, expected)))
    assert (data.class_names, data.image_size) == (("0", "1", "2"), 24)
    assert data.notes == ("'validation' is the test split, because there is no 'test'",)


@pytest.mark.parametrize("file", ["classes.txt", "classnames.txt"])
def test_a_file_beside_the_shards_names_the_classes(place: Path, file: str) -> None:
    (place / file).write_text("cat\ndog\nsea lion\n")
    assert load_dataset(f"webdataset:{place}", None).class_names == ("cat", "dog", "sea lion")


def test_identity_depends_on_bytes_but_not_on_names_of_shards(tmp_path: Path) -> None:
    one, same, other = (write_webdataset(tmp_path / name, name) for name in ("a-", "b-", "c-"))
    write_tar(other / "c-validation-00.tar", {"0.png": encoded(1), "0.cls": b"0"})
    identities = [load_dataset(f"webdataset:{folder}", None).identity for folder in (one, same, other)]
    assert identities[0] == identities[1] != identities[2]
    assert load_dataset(f"webdataset:{one}", None, 12).identity not in identities


def test_listing_reads_headers_and_labels_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "_read", lambda *_: pytest.fail("an image was read"))
    assert find_source(f"webdataset:{place}", None).num_images == (12, 3)


def test_a_large_shard_has_several_units_with_the_same_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_UNIT_IMAGES", 4)
    units, _ = find_source(f"webdataset:{place}", None).units()
    assert [unit.num_images for unit in units] == [4, 2, 4, 2]
    assert [unit.file and unit.file.name for unit in units] == ["train-0000.tar", None, "train-0001.tar", None]
    images = [image for unit in units for image in unit.images()]
    assert [image.encoded for image in images] == [encoded(100 * shard + row) for shard in range(2) for row in range(6)]
    assert [image.label for image in images] == [0, 1, 2, 0, 1, 2] * 2
    assert images[7].where == f"{place / 'train-0001.tar'}: 1_1" and len({unit.key for unit in units}) == 4


def shard(**members: bytes) -> Callable[[Path], None]:
    """Return a function that replaces the first shard by one with these members; '_' in a name stands for '.'."""
    return lambda place: [write_tar(place / "train-0000.tar", {k.replace("_", "."): v for k, v in members.items()})]


def cut_short(place: Path) -> None:
    path = place / "train-0001.tar"
    path.write_bytes(path.read_bytes()[:3000])


def changed_header(place: Path) -> None:
    path = place / "train-0001.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"1_0.cls") + 3] ^= 1
    path.write_bytes(content)


def compressed(place: Path) -> None:
    path = place / "train-0001.tar"
    (place / "train-0001.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def third_shard_without_the_second(place: Path) -> None:
    (place / "train-0001.tar").rename(place / "train-0002.tar")


def first_shard_missing(place: Path) -> None:
    (place / "train-0000.tar").unlink()


def two_uploads(place: Path) -> None:
    shutil.copy(place / "train-0000.tar", place / "pets-train-0001.tar")


def one_number_twice(place: Path) -> None:
    shutil.copy(place / "train-0000.tar", place / "train-00001.tar")


def beyond_the_total(place: Path) -> None:
    for name in ("train-0000", "train-0001"):
        (place / f"{name}.tar").rename(place / f"{name}-of-0001.tar")


def equal_shards(place: Path) -> None:
    shutil.copy(place / "train-0000.tar", place / "train-0001.tar")


def fifo(place: Path) -> None:
    (place / "train-0001.tar").unlink()
    os.mkfifo(place / "train-0001.tar")


def labels_from_1(place: Path) -> None:
    for number in range(2):
        members = {
            f"{row}.{kind}": content
            for row in range(4)
            for kind, content in (("png", encoded(row + 9 * number)), ("cls", str(1 + row % 2).encode()))
        }
        write_tar(place / f"train-000{number}.tar", members)


def one_class(place: Path) -> None:
    for number in range(2):
        write_tar(place / f"train-000{number}.tar", {"a.png": encoded(number), "a.cls": b"0"})


def label_that_train_lacks(place: Path) -> None:
    write_tar(place / "validation-00.tar", {"x.png": encoded(1), "x.cls": b"3"})


def names(text: str) -> Callable[[Path], None]:
    return lambda place: [(place / "classes.txt").write_text(text)]


IMAGE = encoded(1)
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (cut_short, r"train-0001\.tar: truncated or damaged at byte \d,\d+; copy or download it again"),
    "a changed header": (changed_header, r"train-0001\.tar: truncated or damaged at byte 2,560; copy or download"),
    "no tar": (lambda p: (p / "train-0000.tar").write_bytes(b"x" * 2000), r"train-0000\.tar: truncated or no tar file"),
    "empty": (lambda p: (p / "train-0000.tar").write_bytes(b""), r"train-0000\.tar: truncated"),
    "compressed": (compressed, r"train-0001\.tar\.gz: is compressed, .*; run gunzip"),
    "a gap": (third_shard_without_the_second, r"has train-0000\.tar and no train-0001\.tar, of 3 numbered from 0"),
    "from 1": (first_shard_missing, r"has train-0001\.tar and no train-0000\.tar"),
    "two uploads": (two_uploads, r"pets-train-0001\.tar and train-000.\.tar are from two"),
    "one number": (one_number_twice, r"have the same number; keep the files of one upload"),
    "beyond": (beyond_the_total, r"train-0001-of-0001\.tar: is beyond the 1 files"),
    "equal": (equal_shards, r"train-0001\.tar: has the same content as train-0000\.tar"),
    "a FIFO": (fifo, r"train-0001\.tar: is a FIFO"),
    "no label": (shard(a_png=IMAGE), r"train-0000\.tar: a has no label; add a\.cls, or a\.json"),
    "webp": (shard(a_webp=IMAGE, a_cls=b"1"), r"a has a label and no \.jpg, .* but \.webp; convert the image"),
    "a label alone": (shard(a_cls=b"1"), r"a has a label and no \.jpg, \.jpeg or \.png, but nothing else"),
    "two images": (shard(a_png=IMAGE, a_jpg=IMAGE, a_cls=b"1"), r"a has two images; give each image another key"),
    "no images": (shard(a_txt=b"a cat"), r"train-0000\.tar: has no images; it requires KEY\.jpg and KEY\.cls"),
    "text label": (shard(a_png=IMAGE, a_cls=b"cat"), r"the label in a\.cls is b'cat', not an integer from 0"),
    "negative label": (shard(a_png=IMAGE, a_cls=b"-1"), r"a\.cls has label -1; leave images without a label out"),
    "text in JSON": (shard(a_png=IMAGE, a_json=b'{"label": "1"}'), r"the label in a\.json is .*, not an integer"),
    "no JSON": (shard(a_png=IMAGE, a_json=b"{"), r"the label in a\.json is b'\{', not an integer"),
    "JSON without": (shard(a_png=IMAGE, a_json=b'{"caption": "x"}'), r"a has no label; add a\.cls"),
    "no image": (shard(a_png=b"no image", a_cls=b"1"), r"train-0000\.tar: a is no PNG or JPEG"),
    "labels from 1": (labels_from_1, r"pets: no training image has label 0, of 3 classes"),
    "one class": (one_class, r"pets: its labels name 1 class, and at least two are required"),
    "unknown label": (label_that_train_lacks, r"validation-00\.tar: x has label 3; train's are 0 to 2"),
    "few names": (names("cat\ndog\n"), r"classes\.txt: names 2 classes, and label 2 has no name; add it"),
    "many names": (names("a\nb\nc\nd\n"), r"no training image has label 3, of 4 classes"),
    "equal names": (names("a\nb\na\n"), r"classes\.txt: two of its classes are called 'a'"),
    "no train": (
        lambda p: [f.unlink() for f in p.glob("train*")],
        r"pets: has no tar files of train; requires .*there",
    ),
    "no test": (lambda p: (p / "validation-00.tar").unlink(), r"pets: has no tar files of test; requires train-000000"),
    "no folder": (shutil.rmtree, r"pets: no such folder; .* with train-000000\.tar"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_shard_is_refused_in_one_line(place: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(place)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"webdataset:{place}", None, 24)
    assert "\n" not in str(caught.value)


def test_a_member_that_is_no_file_is_ignored(place: Path) -> None:
    before = load_dataset(f"webdataset:{place}", None).train.labels.tolist()
    with tarfile.open(place / "train-0001.tar", "a") as tar:
        folder = tarfile.TarInfo("more")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        tar.addfile(tarfile.TarInfo("notes.txt"))
    assert load_dataset(f"webdataset:{place}", None).train.labels.tolist() == before
