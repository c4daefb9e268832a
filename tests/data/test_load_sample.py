"""A plan knows a data set without decoding it: identity, labels and first images are those of the decoded one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from packed_layouts import LAYOUTS, pack_small
from PIL import Image
from small_images import encoded, write_parquet

from raykd.data import image_decoding, undecoded
from raykd.data.load import load_dataset, load_sample
from raykd.data.types import Dataset
from raykd.errors import DataError

NUM_MANY = 300  # more images than a sample has


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the images that are decoded."""
    sources: list[str] = []
    original = image_decoding.decode

    def decode(where: str, content: bytes, target: image_decoding.TargetSize) -> image_decoding.DecodedImage:
        sources.append(where)
        return original(where, content, target)

    monkeypatch.setattr(image_decoding, "decode", decode)
    return sources


@pytest.fixture
def many(tmp_path: Path) -> str:
    """A folder of 300 training images of noise and 3 test images, of 8x8 pixels."""
    for part, count in (("train", NUM_MANY // 3), ("test", 1)):
        for label, name in enumerate(("ant", "bee", "wasp")):
            (tmp_path / "many" / part / name).mkdir(parents=True)
            for number in range(count):
                content = encoded(1000 * label + number + 500 * (part == "test"), (8, 8))
                (tmp_path / "many" / part / name / f"{number:03d}.png").write_bytes(content)
    return f"folder:{tmp_path / 'many'}"


def assert_described_as(sample: Dataset, whole: Dataset) -> None:
    """Assert that a plan on `sample` is that on `whole`."""
    assert (sample.identity, sample.class_names, sample.notes) == (whole.identity, whole.class_names, whole.notes)
    assert sample.description(3) == whole.description(3)
    for one, other in ((sample.train, whole.train), (sample.test, whole.test)):
        assert one.labels.equal(other.labels) and tuple(one.images.shape) == tuple(other.images.shape)
        assert torch.equal(one.images[:2], other.images[:2])
        assert one.images[:2].stride() == other.images[:2].stride()
    last = torch.tensor([len(sample.train) - 1, 0])
    assert torch.equal(sample.train.images[last], whole.train.images[last])
    assert torch.equal(sample.train.subset(last).images[:], whole.train.images[last])


@pytest.mark.parametrize("make", LAYOUTS)
def test_a_sample_of_a_small_data_set_describes_it_as_all_images_do(
    make: Callable[[Path], str], tmp_path: Path
) -> None:
    name = make(tmp_path)
    for size in (16, None):
        whole, sample = load_dataset(name, tmp_path, size), load_sample(name, tmp_path, size)
        assert_described_as(sample, whole)
        assert not sample.train.is_in_memory
        assert (sample.mean, sample.std) == (whole.mean, whole.std), "small data sets are sampled completely"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("layout", ["parquet_folder", "python_batches", "python_archive"])
def test_a_sample_of_cifar_describes_it_as_all_images_do(layout: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(layout)
    for size in (None, 16):
        whole, sample = load_dataset("cifar10", folder, size), load_sample("cifar10", folder, size)
        assert_described_as(sample, whole)
        assert (sample.mean, sample.std) == (whole.mean, whole.std)


def test_a_sample_of_a_pack_describes_it_as_all_images_do(tmp_path: Path) -> None:
    pack_small(LAYOUTS[0](tmp_path), tmp_path)
    assert_described_as(load_sample("packed:pack", tmp_path, 16), load_dataset("packed:pack", tmp_path, 16))


def test_no_more_images_are_decoded_than_the_sample(many: str, decoded: list[str], monkeypatch) -> None:
    sample = load_sample(many, None)
    assert len(decoded) == NUM_MANY // 2 + 2, "every second one of 300 and of 3"
    decoded.clear()
    _ = sample.train.images[:2], len(sample.test), sample.train.images.shape
    assert len(decoded) == 2
    monkeypatch.setattr(undecoded, "MAX_SAMPLED_BYTES", 0)  # as for photos of many MB
    decoded.clear()
    load_sample(many, None)
    assert len(decoded) <= undecoded._MIN_SAMPLED + 1
    assert load_dataset(many, None).identity == sample.identity


def test_an_image_that_is_not_in_the_sample_is_checked_by_its_header_and_end(many: str, tmp_path: Path) -> None:
    path = tmp_path / "many" / "train" / "bee" / "001.png"
    original = path.read_bytes()
    for content, message in (
        (b"<!doctype html>", "no PNG or JPEG; it is a web page"),
        (encoded(5, (9, 9)), "is 9x9 pixels; the first is 8x8"),
        (original[:-30], "cannot be decoded .*skip-damaged"),
        (encoded(5, (8, 8), "JPEG")[:-40], "cannot be decoded"),
    ):
        path.write_bytes(content)
        for _ in range(2):
            with pytest.raises(DataError, match=rf"bee/001\.png.*{message}"):
                load_sample("folder:many", tmp_path)
    path.write_bytes(original + b"appended by some program")
    assert load_sample(many, None).num_classes == 3


def test_a_damaged_image_of_the_sample_is_refused(many: str, tmp_path: Path) -> None:
    path = tmp_path / "many" / "train" / "ant" / "000.png"
    content = path.read_bytes()
    position = content.index(b"IDAT") + 10
    path.write_bytes(content[:position] + bytes(40) + content[position + 40 :])
    with pytest.raises(DataError, match=r"ant/000\.png is a PNG or JPEG that cannot be decoded"):
        load_sample(many, None)


def test_a_row_without_a_valid_label_is_refused_in_both_splits(tmp_path: Path) -> None:
    images = [encoded(row) for row in range(4)]
    write_parquet(tmp_path / "train.parquet", images, {"label": [0, 1, 0, 1]})
    write_parquet(tmp_path / "test.parquet", [encoded(row + 9) for row in range(4)], {"label": [0, 1, 2, 1]})
    with pytest.raises(DataError, match=r"test\.parquet: row 2 has label 2"):
        load_sample(f"parquet:{tmp_path}", None)


def test_images_that_seem_to_have_one_color_are_all_decoded(many: str, tmp_path: Path) -> None:
    """The sample does not show whether all training images have one color, or a constant channel."""
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    black = (tmp_path / "black.png").read_bytes()
    for number, path in enumerate(sorted((tmp_path / "many" / "train").rglob("*.png"))):
        if number % 2 == 0:
            path.write_bytes(black)
    sample, whole = load_sample(many, None), load_dataset(many, None)
    assert (sample.mean, sample.std, sample.notes) == (whole.mean, whole.std, whole.notes)
    for path in (tmp_path / "many" / "train").rglob("*.png"):
        path.write_bytes(black)
    with pytest.raises(DataError, match="one and the same color"):
        load_sample(many, None)
