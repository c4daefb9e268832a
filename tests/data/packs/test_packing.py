"""A pack has the pixels, labels and identity of its source, whatever its shards; options change them as documented."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from packed_layouts import IN_THIS_PROCESS, LAYOUTS, bytes_of, make_folder, pack_small, plan_of
from PIL import Image
from small_images import encoded, write_folder, write_parquet

from raykd.data import sources
from raykd.data.load import find_source, list_datasets, load_dataset
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.reader import Pack
from raykd.data.packs.writer import pack
from raykd.data.types import Dataset
from raykd.errors import ConfigError, DataError


def assert_equal_images(one: Dataset, other: Dataset) -> None:
    for split, other_split in ((one.train, other.train), (one.test, other.test)):
        assert np.array_equal(split.images, other_split.images) and split.labels.equal(other_split.labels)


VERSION_1 = Path(__file__).with_name("pack_of_version_1")  # 6 images of 6x6 pixels, changed at CHANGED_S
CHANGED_S = 1_700_000_000


def test_a_pack_of_an_earlier_raykd_is_read_and_written_again_byte_by_byte(tmp_path: Path) -> None:
    old = load_dataset(f"packed:{VERSION_1}", None)
    assert old.identity == "8e06c7306b1580f59c3a4efc1b2ba8a94d478bf64cd33341daf841251b3c7668"
    assert old.train.pixels.long().sum() == 54_800 and old.train.labels.tolist() == [0, 0, 1, 1]
    opened = Pack(VERSION_1)
    for split, images, count in (("train", opened.train, 2), ("test", opened.test, 1)):
        for row, label in enumerate(images.labels.tolist()):
            file = tmp_path / "insects" / split / ("ant", "bee")[label] / f"{row % count}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(images.read(row)[1])
            os.utime(file, (CHANGED_S, CHANGED_S))
    assert bytes_of(pack_small("folder:insects", tmp_path)) == bytes_of(VERSION_1)


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("make", LAYOUTS)
def test_a_pack_has_the_pixels_labels_and_identity_of_its_source(tmp_path: Path, make: Callable[[Path], str]) -> None:
    name = make(tmp_path)
    pack_small(name, tmp_path)
    for size in (None, 12):
        packed, source = load_dataset("packed:pack", tmp_path, size), load_dataset(name, tmp_path, size)
        assert_equal_images(packed, source)
        assert (packed.identity, packed.class_names) == (source.identity, source.class_names)
        assert packed.notes == source.notes
    assert "packed:pack" in list_datasets(tmp_path)


def test_a_shard_has_several_record_batches(tmp_path: Path) -> None:
    write_folder(tmp_path / "insects", 100, 1)
    opened = Pack(pack_small("folder:insects", tmp_path))
    assert [shard.num_images for shard in opened.record.train] == [300]
    assert_equal_images(load_dataset("packed:pack", tmp_path), load_dataset("folder:insects", tmp_path))


@pytest.mark.parametrize("make", LAYOUTS)
def test_statistics_are_those_of_the_images_in_memory_at_their_size(tmp_path: Path, make: Callable) -> None:
    name = make(tmp_path)
    pack_small(name, tmp_path)
    packed, source = load_dataset("packed:pack", tmp_path), load_dataset(name, tmp_path)
    assert (packed.mean, packed.std) == (source.mean, source.std)


@pytest.mark.parametrize("make", LAYOUTS)
def test_units_hold_each_image_once_and_in_order_within_the_limits(
    tmp_path: Path, make: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make(tmp_path)
    whole = [[image for unit in units for image in unit.images()] for units in find_source(name, tmp_path).units()]
    monkeypatch.setattr(sources, "MAX_UNIT_IMAGES", 4)
    monkeypatch.setattr(sources, "MAX_UNIT_BYTES", 6_000)
    for units, images in zip(find_source(name, tmp_path).units(), whole, strict=True):
        assert [image for unit in units for image in unit.images()] == images
        assert [unit.num_images for unit in units] == [len(list(unit.images())) for unit in units]
        assert all(unit.num_images <= 4 for unit in units)
        assert len({unit.key for unit in units}) == len(units)


@pytest.mark.parametrize("options", [PackOptions(), PackOptions(shorter_side=16), PackOptions(square_size=16)])
def test_the_order_of_the_shards_and_earlier_attempts_change_no_byte(
    tmp_path: Path, options: PackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_UNIT_IMAGES", 4)
    name = make_folder(tmp_path)
    expected = bytes_of(pack_small(name, tmp_path, options))
    plan = plan_of(name, tmp_path, options, tmp_path / "other")

    def interrupted(tasks):
        yield from IN_THIS_PROCESS(tasks[3:5])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(plan, interrupted)
    assert len(list(plan.folder.glob("t*.json"))) == 2
    reports: list[tuple[str, bool]] = []
    pack(
        plan,
        lambda tasks: IN_THIS_PROCESS(tasks[::-1]),
        lambda shard, is_new: reports.append((shard.shard.file, is_new)),
    )
    assert bytes_of(plan.folder) == expected
    assert [is_new for _, is_new in reports] == [False] * 2 + [True] * 6 and len(set(reports)) == 8


def test_mean_and_std_do_not_depend_on_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_folder(tmp_path / "insects", 4, 1)
    for number, size in enumerate([(40, 30), (9, 21), (150, 90), (64, 64)]):
        (place / "train/bee" / f"9{number}.jpg").write_bytes(encoded(number, size, "JPEG"))
    one = Pack(pack_small("folder:insects", tmp_path)).record
    monkeypatch.setattr(sources, "MAX_UNIT_IMAGES", 3)
    other = Pack(pack_small("folder:insects", tmp_path, to=tmp_path / "other")).record
    assert len(one.train) == 1 and len(other.train) == 6
    assert (one.mean, one.std) == (other.mean, other.std)


def test_raw_squares_are_the_pixels_in_memory_and_another_data_set(tmp_path: Path) -> None:
    name = make_folder(tmp_path)
    folder = pack_small(name, tmp_path, PackOptions(square_size=16))
    packed, source = load_dataset("packed:pack", tmp_path), load_dataset(name, tmp_path, 16)
    assert_equal_images(packed, source)
    assert (packed.mean, packed.std) == (source.mean, source.std) and packed.identity != source.identity
    assert len(Pack(folder).train.read(0)[1]) == 16 * 16 * 3
    smaller = load_dataset("packed:pack", tmp_path, 8)
    assert smaller.image_size == 8 and smaller.identity != load_dataset(name, tmp_path, 8).identity


def test_resized_images_are_never_enlarged_and_small_ones_keep_their_bytes(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects", 1, 1)
    sizes = {"0.png": (50, 40), "1.jpg": (40, 100), "2.png": (20, 90), "3.jpg": (20, 20), "4.jpg": (300, 200)}
    for number, (file, size) in enumerate(sizes.items()):
        kind = "PNG" if file.endswith("png") else "JPEG"
        (place / "train/ant" / file).write_bytes(encoded(number, size, kind))
    folder = pack_small("folder:insects", tmp_path, PackOptions(shorter_side=20, quality=80))
    opened = Pack(folder)
    assert opened.train.sizes[:6].tolist() == [[20, 25], [20, 20], [50, 20], [90, 20], [20, 20], [20, 30]]
    kept = [bytes(opened.train.read(index)[1]) for index in range(6)]
    assert kept[3] == encoded(2, (20, 90)) and kept[4] == encoded(3, (20, 20), "JPEG")
    for index in (0, 1, 2, 5):
        image = Image.open(io.BytesIO(kept[index]))
        assert (image.format, [image.height, image.width]) == ("JPEG", opened.train.sizes[index].tolist())
    record = opened.record
    assert (record.encoding, record.shorter_side, record.quality, record.square_size) == ("jpeg", 20, 80, None)


def test_re_encoded_packs_have_an_identity_of_their_options(tmp_path: Path) -> None:
    name = make_folder(tmp_path)
    options = [PackOptions(shorter_side=s, quality=q) for s, q in ((16, 95), (16, 90), (20, 95))]
    folders = [pack_small(name, tmp_path, o, tmp_path / str(i)) for i, o in enumerate(options)]
    identities = {load_dataset(f"packed:{folder}", None, 12).identity for folder in folders}
    assert len(identities | {load_dataset(name, tmp_path, 12).identity}) == 4


def test_sizes_are_those_after_the_rotation_of_exif(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects", 1, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter clockwise: the left side is then above
    image = Image.new("RGB", (40, 30), "white")
    image.paste("black", (0, 0, 20, 30))
    image.save(place / "train/ant/000.png", exif=exif)
    image.save(place / "train/ant/001.jpg", exif=exif)
    for options in (PackOptions(), PackOptions(shorter_side=15)):
        opened = Pack(pack_small("folder:insects", tmp_path, options, tmp_path / options.encoding))
        height, width = (40, 30) if options.encoding == "original" else (20, 15)
        assert opened.train.sizes[:2].tolist() == [[height, width]] * 2
        pixels = load_dataset(f"packed:{opened.folder}", None, 15).train.images[:2].float()
        assert pixels[:, :, :6].mean() < 10 and pixels[:, :, 9:].mean() > 245


def test_only_the_middle_square_of_a_pack_without_one_size_can_be_seen(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects", 1, 1)
    (place / "train/ant/000.png").write_bytes(encoded(0, (30, 40)))
    pack_small("folder:insects", tmp_path)
    with pytest.raises(DataError, match=r"no squares of one size \(the first has 30x40 pixels\).*data\.image_size=224"):
        load_dataset("packed:pack", tmp_path)


def test_equal_files_and_dark_images_are_refused_as_in_memory(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects")
    for number, file in enumerate(sorted((place / "train").rglob("*.png"))):
        values = np.random.default_rng(number).integers(0, 4_000, (24, 24)).astype(np.uint16)
        Image.fromarray(values).save(file)
    with pytest.raises(DataError, match=r"train/ant/000\.png: its values of 16 bits go up to 3,9\d\d at most"):
        pack_small("folder:insects", tmp_path)
    table = pq.read_table(_one_parquet_file(tmp_path / "trees" / "test.parquet"))
    for index in range(2):
        pq.write_table(table, tmp_path / "trees" / f"train-0000{index}-of-00002.parquet")
    with pytest.raises(DataError, match=r"train-00001-of-00002\.parquet: has the same content as train-00000-of-00002"):
        pack_small("parquet:trees", tmp_path, to=tmp_path / "other")


def _one_parquet_file(path: Path) -> Path:
    return write_parquet(path, [encoded(row) for row in range(4)], {"label": [0, 1] * 2})


def test_images_and_files_of_both_splits_are_noted(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects")
    (place / "test/bee/900.png").write_bytes((place / "train/ant/000.png").read_bytes())
    record = Pack(pack_small("folder:insects", tmp_path)).record
    assert record.notes == ("1 of 7 test images are also training images",)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shorter_side": 0}, r"--resize 0: must lie in \[1, 4096\] pixels"),
        ({"square_size": 5_000}, r"--raw 5000: must lie in \[1, 4096\] pixels"),
        ({"shorter_side": 64, "square_size": 64}, r"--resize and --raw exclude each other"),
        ({"quality": 0}, r"--quality 0: must lie in \[1, 100\]"),
        ({"quality": 101}, r"--quality 101: must lie in \[1, 100\]"),
        ({"quality": 90}, r"--quality 90: has no effect without --resize; leave it out"),
        ({"skip_damaged": -1}, r"--skip-damaged -1: must be 0 or more"),
    ],
)
def test_impossible_options_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PackOptions(**fields)


@pytest.mark.parametrize("name", ["digits", "cifar10", "packed:pack"])
def test_what_has_no_image_files_cannot_be_packed(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: has no image files that can be packed; name one of folder:PLACE, "):
        plan_of(name, tmp_path)


@pytest.mark.parametrize("position", [0.3, 0.5, 0.9])
def test_a_changed_byte_of_the_index_is_refused(tmp_path: Path, position: float) -> None:
    write_folder(tmp_path / "insects")
    folder = pack_small("folder:insects", tmp_path, PackOptions())
    content = bytearray((folder / "index.arrow").read_bytes())
    content[int(position * len(content))] ^= 1
    (folder / "index.arrow").write_bytes(content)
    with pytest.raises(DataError, match=r"index\.arrow: is damaged \(it does not match its checksum\); remove"):
        Pack(folder)


def test_packing_over_a_damaged_pack_is_refused_with_the_remedy(tmp_path: Path) -> None:
    write_folder(tmp_path / "insects")
    folder = pack_small("folder:insects", tmp_path, PackOptions())
    (folder / "train-00000.arrow").unlink()
    with pytest.raises(DataError, match=r"train-00000\.arrow: cannot be read .*remove the folder"):
        pack_small("folder:insects", tmp_path, PackOptions())
