"""Packing that is killed, shared by processes, or short of space; damaged and changed sources; damaged packs."""

import itertools
import logging
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from packed_layouts import (
    IN_THIS_PROCESS,
    bytes_of,
    make_folder,
    make_parquet,
    make_webdataset,
    pack_small,
    plan_of,
    write_unfinished,
)
from small_images import encoded, write_folder, write_parquet

from raykd.config.codec import read_checked_json, write_checked_json
from raykd.data import sources
from raykd.data.load import load_dataset
from raykd.data.packs import shard
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.reader import Pack
from raykd.data.packs.shard import read_written, write_shard
from raykd.data.packs.space import required_bytes
from raykd.data.packs.writer import PackPlan, finish_pack, pack
from raykd.errors import COMMAND, ConfigError, DataError
from raykd.units import capacity

pytestmark = pytest.mark.usefixtures("small_units")
FORK = multiprocessing.get_context("fork")


# ---- Kills and side by side ----


def pack_until_killed(plan: PackPlan, num_calls: int) -> None:
    """Pack, and kill this process before the call number `num_calls` that prepares an image or changes the disk."""
    count = itertools.count(1)

    def counted(function: Callable) -> Callable:
        def call(*arguments, **options):
            if next(count) == num_calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    shard.prepare = counted(shard.prepare)
    for module, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir"), (Path, "write_bytes")):
        setattr(module, name, counted(getattr(module, name)))
    pack(plan, IN_THIS_PROCESS)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in (1, 2))])
def test_packs_of_killed_and_undisturbed_processes_are_equal_byte_by_byte(tmp_path: Path, seed: int) -> None:
    expected = bytes_of(pack_small(make_folder(tmp_path), tmp_path))
    plan, chance, exit_codes = plan_of("folder:insects", tmp_path, to=tmp_path / "killed"), random.Random(seed), []
    while not exit_codes or exit_codes[-1]:
        process = FORK.Process(target=pack_until_killed, args=(plan, chance.randint(1, 40)))
        process.start()
        process.join()
        exit_codes.append(process.exitcode)
    assert bytes_of(plan.folder) == expected
    assert len(exit_codes) > 3 and set(exit_codes) == {-signal.SIGKILL, 0}


@pytest.mark.nightly
def test_a_kill_at_any_call_leaves_a_pack_that_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path / "insects", 1, 1)
    expected = bytes_of(pack_small("folder:insects", tmp_path))
    plan, exit_codes = plan_of("folder:insects", tmp_path, to=tmp_path / "killed"), []
    while not exit_codes or exit_codes[-1]:
        process = FORK.Process(target=pack_until_killed, args=(plan, len(exit_codes) + 1))
        process.start()
        process.join()
        exit_codes.append(process.exitcode)
        assert (plan.folder / "pack.json").exists() or exit_codes[-1]
        pack(plan, IN_THIS_PROCESS)
        assert bytes_of(plan.folder) == expected
        shutil.rmtree(plan.folder)
    assert len(exit_codes) > 30 and set(exit_codes) == {-signal.SIGKILL, 0}


def test_two_processes_may_write_different_shards_side_by_side(tmp_path: Path) -> None:
    name = make_folder(tmp_path)
    expected = bytes_of(pack_small(name, tmp_path))
    plan = plan_of(name, tmp_path, to=tmp_path / "shared")
    processes = [FORK.Process(target=list, args=(map(write_shard, plan.tasks[part::2]),)) for part in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    finish_pack(plan, [written for task in plan.tasks if (written := read_written(task))])
    assert bytes_of(plan.folder) == expected


@pytest.mark.parametrize("suffix", [".json", ".index", ".arrow"])
@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: os.truncate(path, 99)])
def test_a_shard_with_a_missing_or_truncated_file_is_written_again(
    tmp_path: Path, suffix: str, spoil: Callable[[Path], None]
) -> None:
    name = make_folder(tmp_path)
    expected = bytes_of(pack_small(name, tmp_path))
    plan = plan_of(name, tmp_path, to=tmp_path / "other")
    write_unfinished(plan)
    spoil(plan.tasks[2].path.with_suffix(suffix))
    assert [task.file for task in plan.tasks if read_written(task) is None] == [plan.tasks[2].file]
    pack(plan, IN_THIS_PROCESS)
    assert bytes_of(plan.folder) == expected


# ---- Changed sources ----


def test_only_shards_of_changed_files_are_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = make_folder(tmp_path)
    write_unfinished(plan_of(name, tmp_path))
    (tmp_path / "insects/train/wasp/002.png").write_bytes(encoded(4_000))
    plan, new = plan_of(name, tmp_path), []
    with caplog.at_level(logging.WARNING):
        pack(plan, IN_THIS_PROCESS, lambda written, is_new: new.append(written.shard.file) if is_new else None)
    assert new == ["train-00003.arrow"] and "1 shard of changed files are packed again" in caplog.text
    assert load_dataset("packed:pack", tmp_path).identity == load_dataset(name, tmp_path).identity


def test_shards_beyond_those_of_a_smaller_source_are_removed(tmp_path: Path) -> None:
    name = make_folder(tmp_path)
    write_unfinished(plan_of(name, tmp_path))
    for file in (tmp_path / "insects/train").rglob("00[2-5].png"):
        file.unlink()
    pack_small(name, tmp_path)
    assert bytes_of(tmp_path / "packed/pack") == bytes_of(pack_small(name, tmp_path, to=tmp_path / "other"))


@pytest.mark.parametrize("make", [make_folder, make_parquet, make_webdataset])
def test_a_file_that_changes_while_it_is_packed_is_an_error(tmp_path: Path, make: Callable[[Path], str]) -> None:
    name = make(tmp_path)
    plan = plan_of(name, tmp_path)
    path = next(path for path in sorted(tmp_path.rglob("*")) if path.is_file())
    os.utime(path, ns=(0, 1))
    with pytest.raises(DataError, match=f"{path}: has changed since the command started; rerun the same command"):
        pack(plan, IN_THIS_PROCESS)


def test_a_complete_pack_of_a_changed_source_or_other_options_is_not_overwritten(tmp_path: Path) -> None:
    name = make_folder(tmp_path)
    before = bytes_of(pack_small(name, tmp_path))
    with pytest.raises(
        DataError, match="holds a pack of other files, other versions of them, or other options; remove"
    ):
        pack_small(name, tmp_path, PackOptions(square_size=8))
    pack_small(name, tmp_path)
    (tmp_path / "insects/train/wasp/002.png").write_bytes(encoded(4_000))
    with pytest.raises(DataError, match=r"packed/pack: holds a pack of other files"):
        pack_small(name, tmp_path)
    assert bytes_of(tmp_path / "packed/pack") == before


def test_a_folder_with_other_files_is_not_written_to(tmp_path: Path) -> None:
    name = make_folder(tmp_path)
    with pytest.raises(
        DataError, match=r"insects: has test, .* file of a pack; pack into another folder with --to FOLDER$"
    ):
        pack_small(name, tmp_path, to=tmp_path / "insects")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: is no folder, and the pack has to be written there"):
        pack_small(name, tmp_path, to=tmp_path / "file")


# ---- Damaged images ----


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Path]:
    """Write a folder with two damaged images, in different shards; return their paths."""
    name = make_folder(tmp_path)
    assert name == "folder:insects"
    first, second = (tmp_path / "insects" / file for file in ("train/ant/001.png", "train/wasp/004.png"))
    first.write_bytes(first.read_bytes()[:300])
    second.write_text("no image")
    return first, second


@pytest.mark.parametrize("options", [PackOptions(), PackOptions(square_size=8), PackOptions(shorter_side=8)])
def test_a_damaged_image_is_an_error_with_its_name(
    tmp_path: Path, damaged: tuple[Path, Path], options: PackOptions
) -> None:
    message = rf"{damaged[0]} is a PNG or JPEG that cannot be decoded .*; or leave out up to N .* --skip-damaged N"
    with pytest.raises(DataError, match=message):
        pack_small("folder:insects", tmp_path, options)


def test_damaged_images_beyond_the_limit_are_an_error_across_shards(tmp_path: Path, damaged: tuple[Path, Path]) -> None:
    message = rf"{damaged[1]} is no PNG or JPEG; .*it is damaged image 2, and --skip-damaged 1 leaves out 1"
    with pytest.raises(DataError, match=message):
        pack_small("folder:insects", tmp_path, PackOptions(skip_damaged=1))
    with pytest.raises(DataError, match="--skip-damaged N"):  # the shards that are written keep their damaged images
        pack_small("folder:insects", tmp_path)


def test_damaged_images_within_the_limit_are_left_out_and_listed(tmp_path: Path, damaged: tuple[Path, Path]) -> None:
    folder = pack_small("folder:insects", tmp_path, PackOptions(skip_damaged=2))
    lines = (folder / "skipped.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == [str(path) for path in damaged]
    assert Pack(folder).record.num_skipped == 2
    packed = load_dataset("packed:pack", tmp_path)
    for path in damaged:
        path.unlink()
    assert packed.identity == load_dataset("folder:insects", tmp_path).identity


def test_a_pack_without_some_rows_has_another_identity_than_its_parquet_files(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "test")):
        images = [encoded(10 * seed + row) for row in range(4)]
        images[2] = images[2][:200] if seed == 0 else images[2]
        write_parquet(tmp_path / "trees" / f"{part}.parquet", images, {"label": [0, 1] * 2})
    folder = pack_small("parquet:trees", tmp_path, PackOptions(skip_damaged=1))
    record = Pack(folder).record
    assert (folder / "skipped.txt").read_text().startswith(f"{tmp_path}/trees/train.parquet: row 2: ")
    whole = sources.identity_at_size(record.content, 24)
    assert len(load_dataset("packed:pack", tmp_path).train) == 3
    assert load_dataset("packed:pack", tmp_path).identity != whole


def test_a_shard_may_lose_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_UNIT_IMAGES", 1)
    place = write_folder(tmp_path / "insects", 2, 1)
    (place / "train/ant/001.png").write_bytes(b"x")
    pack_small("folder:insects", tmp_path, PackOptions(skip_damaged=1))
    packed = load_dataset("packed:pack", tmp_path)
    (place / "train/ant/001.png").unlink()
    whole = load_dataset("folder:insects", tmp_path)
    assert packed.train.pixels.equal(whole.train.pixels) and packed.identity == whole.identity


def test_a_class_that_loses_all_images_is_an_error(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects", 2, 1)
    for file in (place / "train/bee").iterdir():
        file.write_bytes(b"x")
    with pytest.raises(DataError, match="insects: all training images of class 'bee' are damaged; replace them"):
        pack_small("folder:insects", tmp_path, PackOptions(skip_damaged=5))


# ---- Space ----


def free(monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(num_bytes), total=10**12))


@pytest.mark.parametrize("options", [PackOptions(), PackOptions(square_size=20), PackOptions(shorter_side=80)])
def test_a_pack_that_does_not_fit_is_refused_with_the_largest_images_that_fit(
    tmp_path: Path, options: PackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_folder(tmp_path / "insects", 1, 1)
    for file in place.rglob("*.png"):
        file.write_bytes(encoded(len(str(file)), (120, 90)))
    plan = plan_of("folder:insects", tmp_path, options)
    required = required_bytes(plan.tasks, options)
    free(monkeypatch, required / 3)
    message = (
        rf"packing requires {capacity(required)}, and {capacity(required // 3)} are free on its disk; free some, or "
        r"pack onto another disk with --to FOLDER, or store smaller images with (--r\w+) (\d+)$"
    )
    with pytest.raises(DataError, match=message) as caught:
        pack(plan, IN_THIS_PROCESS)
    assert not plan.folder.exists()
    flag, side = str(caught.value).split()[-2:]
    assert flag == ("--raw" if options.square_size else "--resize")
    step = 1 if options.square_size else 16
    fits, too_large = (
        PackOptions(square_size=size) if options.square_size else PackOptions(shorter_side=size)
        for size in (int(side), int(side) + step)
    )
    assert required_bytes(plan.tasks, fits) <= required / 3 < required_bytes(plan.tasks, too_large)
    pack_small("folder:insects", tmp_path, fits)
    assert sum(map(len, bytes_of(tmp_path / "packed/pack").values())) < required / 3 + 4_000  # and the files' headers


def test_a_pack_that_just_fits_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(make_folder(tmp_path), tmp_path)
    required = required_bytes(plan.tasks, PackOptions())
    free(monkeypatch, required - 1)
    with pytest.raises(DataError, match="packing requires"):
        pack(plan, IN_THIS_PROCESS)
    free(monkeypatch, required)
    pack(plan, IN_THIS_PROCESS)


@pytest.mark.parametrize("options", [PackOptions(), PackOptions(square_size=20)])
def test_no_size_is_proposed_if_none_fits(
    tmp_path: Path, options: PackOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = make_folder(tmp_path)
    free(monkeypatch, 100)
    with pytest.raises(DataError, match=r"smaller images do not fit either; free some, or pack .* with --to FOLDER$"):
        pack_small(name, tmp_path, options)


def test_the_required_space_is_close_to_that_of_the_pack(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects", 20, 5)
    for number, file in enumerate(place.rglob("*.png")):
        file.with_suffix(".jpg").write_bytes(encoded(number, (120, 90), "JPEG"))
        file.unlink()
    for options in (PackOptions(), PackOptions(square_size=60), PackOptions(shorter_side=80)):
        plan = plan_of("folder:insects", tmp_path, options, tmp_path / options.encoding)
        pack(plan, IN_THIS_PROCESS)
        num_bytes = sum(map(len, bytes_of(plan.folder).values()))
        assert required_bytes(plan.tasks, options) == pytest.approx(num_bytes, rel=0.1)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(make_folder(tmp_path), tmp_path)
    monkeypatch.setattr("raykd.data.packs.space.os.access", lambda *_: False)
    with pytest.raises(DataError, match=f"packed/pack: cannot be written, for lack of permission in {tmp_path}; pack"):
        pack(plan, IN_THIS_PROCESS)


def test_resuming_requires_space_only_for_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(make_folder(tmp_path), tmp_path)
    write_unfinished(plan, 1)
    free(monkeypatch, required_bytes(plan.tasks[-1:], plan.options))
    pack(plan, IN_THIS_PROCESS)


# ---- Damaged packs ----


def changed_byte(folder: Path) -> None:
    path = folder / "train-00001.arrow"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 9] ^= 1
    path.write_bytes(content)


def changed_record(folder: Path) -> None:
    path = folder / "pack.json"
    path.write_text(path.read_text().replace('"bee"', '"bea"'))


def another_index(folder: Path) -> None:
    shutil.copy(folder / "train-00000.arrow", folder / "index.arrow")


def change_record(**fields: object) -> Callable[[Path], None]:
    """Return a function that sets fields of the record in the folder of a pack."""

    def change(folder: Path) -> None:
        content = read_checked_json(folder / "pack.json")
        assert content is not None
        write_checked_json(folder / "pack.json", content | fields)

    return change


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, f"packed/pack: no such folder; pack a data set with: {COMMAND} pack NAME"),
    "no pack": (lambda p: (p / "pack.json").unlink(), r"packed/pack: has no pack\.json; it is no packed data set"),
    "another version": (
        change_record(version=2),
        r"pack\.json' is damaged: version is 2, and this raykd reads version 1; remove",
    ),
    "fewer classes than labels": (
        change_record(class_names=["ant", "bee"]),
        r"index\.arrow: has label 2, and pack\.json names 2 classes, from label 0; remove the folder '.*pack' and pack",
    ),
    "no classes": (change_record(class_names=[]), r"pack\.json' is damaged: it names 0 classes, and at least two are"),
    "equal classes": (
        change_record(class_names=["ant", "bee", "ant"]),
        r"pack\.json' is damaged: 2 of its classes are called 'ant'; remove the folder '.*pack' and pack",
    ),
    "changed record": (changed_record, r"pack\.json' is damaged: its checksum does not match .*remove the folder"),
    "cut short": (lambda p: os.truncate(p / "train-00001.arrow", 999), r"train-00001\.arrow: has 999 bytes instead of"),
    "no shard": (lambda p: (p / "test-00000.arrow").unlink(), r"test-00000\.arrow: cannot be read \(No such file"),
    "changed byte": (
        changed_byte,
        r"train-00001\.arrow: row 0 does not match its checksum; remove the folder '.*pack'",
    ),
    "no index": (lambda p: (p / "index.arrow").unlink(), r"index\.arrow: is damaged .*pack the data set again"),
    "another index": (another_index, r"index\.arrow: is damaged"),
    "an index cut short": (lambda p: os.truncate(p / "index.arrow", 99), r"index\.arrow: is damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_pack_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    spoil, message = BAD[name]
    spoil(pack_small(make_folder(tmp_path), tmp_path))
    with pytest.raises(ConfigError, match=message) as caught:
        load_dataset("packed:pack", tmp_path)
    assert "\n" not in str(caught.value)
