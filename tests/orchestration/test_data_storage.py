"""Whether a command reads its images from memory or from a pack, and when it packs them."""

import io
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from small_images import encoded, write_folder
from small_runs import NO_WEIGHTS, experiment, recipe

from raykd.cli import parser
from raykd.data import image_folder, load
from raykd.data.load import find_source, load_dataset
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.images import PackedImages
from raykd.data.packs.reader import Pack
from raykd.data.packs.record import read_pack_record
from raykd.data.packs.shard import write_shard
from raykd.data.packs.writer import discard_pack, pack, plan_pack
from raykd.data.sources import ImageSource
from raykd.data.types import Dataset
from raykd.errors import COMMAND, ConfigError, DataError, RunFailed
from raykd.orchestration import data_storage
from raykd.orchestration.data_storage import with_packs
from raykd.orchestration.options import Options, data_key, dataset_of
from raykd.orchestration.packing_processes import PackingKilled
from raykd.spec.experiment import Data
from raykd.spec.plan import make_plan

DATA = Data("folder:insects", val_images=6, image_size=24, crop_padding=0)
ON_DISK = replace(DATA, storage="disk")


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_folder(tmp_path / "data" / "insects")
    return Options(tmp_path / "results", tmp_path / "data")


@pytest.fixture
def lines() -> list[str]:
    return []


def packed(data: Data, options: Options, lines: list[str]) -> Options:
    return with_packs([data], options, lines.append, Console(file=io.StringIO()))


def test_small_data_is_decoded_into_memory_and_the_log_has_the_reason(options: Options, lines: list[str]) -> None:
    chosen = packed(DATA, options, lines)
    assert chosen.packs == ((data_key(DATA), None),)
    assert dataset_of(DATA, chosen).train.is_in_memory
    assert lines[0].startswith("folder:insects: images are decoded into memory: 24 images of 24x24 pixels take ")
    assert not options.results.exists()


def test_a_start_lists_custom_images_once(options: Options, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Path] = []

    def find(place: Path) -> ImageSource:
        listed.append(place)
        return image_folder.find(place)

    monkeypatch.setitem(load._SOURCES, "folder", find)
    for data in (DATA, ON_DISK):
        dataset_of(data, packed(data, options, lines))
    assert listed == [options.data_folder / "insects"] * 2
    (options.data_folder / "insects/train/bee/new.png").write_bytes(encoded(77))
    dataset_of.__globals__["_load_once"].cache_clear()  # as in another process
    assert len(dataset_of(DATA, packed(DATA, options, lines)).train) == 19


def test_data_that_does_not_fit_is_packed_once_below_the_results(
    options: Options, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_storage, "available_bytes", lambda: 100_000)  # 24 images have 41,472 bytes
    chosen = packed(DATA, options, lines)
    ((_, pack),) = chosen.packs
    assert pack is not None and pack.parent == options.decoded and (pack / "pack.json").is_file()
    assert "more than a quarter of 100 kB that are free" in lines[0] and lines[1].startswith("packing folder:insects")
    written = {path: path.stat().st_mtime_ns for path in pack.iterdir()}
    assert packed(DATA, options, lines) == chosen and len(lines) == 3
    assert {path: path.stat().st_mtime_ns for path in pack.iterdir()} == written


def test_images_on_disk_and_in_memory_are_the_same_data_set(options: Options, lines: list[str]) -> None:
    on_disk = dataset_of(ON_DISK, packed(ON_DISK, options, lines))
    in_memory = load_dataset(DATA.name, options.data_folder, DATA.image_size)
    assert not on_disk.train.is_in_memory
    assert on_disk.identity == in_memory.identity and on_disk.class_names == in_memory.class_names
    assert on_disk.train.images[0:18].equal(in_memory.train.pixels)
    assert on_disk.train.labels.equal(in_memory.train.labels)


@pytest.mark.parametrize("image_size", [24, 80])
def test_images_on_disk_are_normalized_as_in_memory(options: Options, lines: list[str], image_size: int) -> None:
    data = replace(ON_DISK, image_size=image_size)
    chosen = packed(data, options, lines)
    in_memory = load_dataset(data.name, options.data_folder, image_size)
    for _ in range(2):  # computed, and read
        on_disk = dataset_of(data, chosen)
        assert (on_disk.mean, on_disk.std, on_disk.notes) == (in_memory.mean, in_memory.std, in_memory.notes)
    assert len(list(options.decoded.glob("statistics-*.json"))) == 1
    crops = replace(DATA, image_size=image_size, min_crop_area=0.5)
    dataset_of(crops, packed(crops, options, lines))
    assert len(list(options.decoded.glob("statistics-*.json"))) == 1, "random crops are on disk only"


def test_files_that_changed_are_packed_again(options: Options, lines: list[str]) -> None:
    before = dataset_of(ON_DISK, packed(ON_DISK, options, lines)).identity
    (options.data_folder / "insects" / "train" / "bee" / "new.png").write_bytes(encoded(77))
    dataset_of.__globals__["_open_once"].cache_clear()  # as in another process
    changed = dataset_of(ON_DISK, packed(ON_DISK, options, lines))
    assert changed.identity != before and len(changed.train) == 19
    assert any("its files have changed since they were packed; packing them again" in line for line in lines)


def test_a_plan_never_packs_and_names_the_command_that_does(options: Options, lines: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"folder:insects: .*have to be packed first; .*data\.name=packed:insects$"):
        with_packs([ON_DISK], options, lines.append)
    assert not options.results.exists()
    chosen = packed(ON_DISK, options, lines)
    assert with_packs([ON_DISK], options, lines.append) == chosen
    (options.data_folder / "insects" / "test" / "bee" / "000.png").write_bytes(encoded(78))
    with pytest.raises(ConfigError, match="have to be packed first"):
        with_packs([ON_DISK], options, lines.append)


def test_a_pack_is_read_from_memory_or_disk_by_its_size(
    options: Options, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = options.data_folder / "packed" / "insects"
    plan = plan_pack(data_storage.find_source(DATA.name, options.data_folder), pack, data_storage.PackOptions())
    data_storage.write_pack(plan, Console(file=io.StringIO()), jobs=1)
    named = replace(DATA, name="packed:insects")
    assert packed(named, options, lines).packs == ((data_key(named), None),)
    monkeypatch.setattr(data_storage, "available_bytes", lambda: 100_000)
    chosen = packed(named, options, lines)
    assert chosen.packs == ((data_key(named), pack),)
    dataset = dataset_of(named, replace(chosen, loaders=3))
    assert isinstance(dataset.train.images, PackedImages) and dataset.train.images.threads.count == 3
    with pytest.raises(DataError, match=f"no such folder; pack a data set with: {COMMAND} pack NAME"):
        packed(replace(DATA, name="packed:other"), options, lines)


def pack_by_name(options: Options, name: str, pack_options: PackOptions | None = None) -> None:
    source = find_source("folder:insects", options.data_folder)
    plan = plan_pack(source, options.data_folder / "packed" / name, pack_options or PackOptions())
    pack(plan, partial(map, write_shard))


def run_name(data: Data, dataset: Dataset) -> str:
    small = experiment(data=data, student=recipe(batch_size=5))
    return make_plan(small, dataset, NO_WEIGHTS, ["baseline"]).runs[0].name


@pytest.mark.parametrize("change", [{"image_size": 80}, {"image_size": 80, "min_crop_area": 0.5}])
def test_runs_of_a_pack_have_other_names_since_its_normalization_is_that_of_small_squares(
    options: Options, lines: list[str], change: dict[str, Any]
) -> None:
    for number, file in enumerate((options.data_folder / "insects").rglob("*.png")):
        file.write_bytes(encoded(number, (100, 90)))
    pack_by_name(options, "insects")
    original = replace(ON_DISK, **change)
    named = replace(original, name="packed:insects")
    of_original, of_pack = (dataset_of(data, packed(data, options, lines)) for data in (original, named))
    assert of_pack.identity == of_original.identity
    assert of_pack.test.images[0:6].equal(of_original.test.images[0:6])
    is_equal = (of_pack.mean, of_pack.std) == (of_original.mean, of_original.std)
    assert is_equal == (original.min_crop_area is not None)  # crops are normalized by the values of a pack anyway
    assert run_name(named, of_pack) != run_name(original, of_original)


def test_raw_squares_are_another_data_set_than_whole_images_since_crops_and_normalization_differ(
    options: Options, lines: list[str]
) -> None:
    for number, file in enumerate((options.data_folder / "insects").rglob("*.png")):
        file.write_bytes(encoded(number, (40, 30)))
    pack_by_name(options, "whole")
    pack_by_name(options, "raw", PackOptions(square_size=24))
    for change in ({}, {"min_crop_area": 0.5}):
        whole, raw = (replace(ON_DISK, name=f"packed:{name}", **change) for name in ("whole", "raw"))
        of_whole, of_raw = (dataset_of(data, packed(data, options, lines)) for data in (whole, raw))
        assert of_whole.test.images[0:6].equal(of_raw.test.images[0:6]) and of_whole.mean != of_raw.mean
        assert run_name(whole, of_whole) != run_name(raw, of_raw)


def test_choices_of_one_command_are_made_once(options: Options, lines: list[str]) -> None:
    chosen = with_packs(
        [DATA, replace(DATA, val_images=3), ON_DISK], options, lines.append, Console(file=io.StringIO())
    )
    assert len(chosen.packs) == 2 and sum("decoded" in line for line in lines) == 2
    count = len(lines)
    assert packed(DATA, chosen, lines) == chosen and len(lines) == count


def test_errors_of_an_experiment_that_packs_name_the_whole_command_that_works(
    options: Options, lines: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (options.data_folder / "insects").rename(options.data_folder / "my insects")
    data = replace(ON_DISK, name="folder:my insects")
    (place / "train/bee/002.png").write_bytes(b"x")
    with pytest.raises(DataError) as caught:
        packed(data, options, lines)
    command = f"{COMMAND} pack 'folder:my insects' --data-dir {options.data_folder}"
    assert str(caught.value).endswith(
        f"or leave out up to N damaged images ({command} --skip-damaged N) and set data.name to the name that it prints"
    )
    arguments = shlex.split(command)[len(shlex.split(COMMAND)) :]
    assert parser.entry([*arguments, "--skip-damaged", "1", "--jobs", "1"]) == 0
    assert "--set 'data.name=packed:my insects'\n" in capsys.readouterr().out
    named = dataset_of(replace(data, name="packed:my insects"), options)
    assert len(named.train) == 17
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000, total=10**12))
    with pytest.raises(DataError) as caught:
        packed(data, replace(options, results=options.results / "other"), lines)
    assert f"free some, or pack onto another disk ({command} --to FOLDER) and set data.name to" in str(caught.value)


def test_a_killed_process_of_an_experiment_that_packs_is_an_error_with_the_whole_command(
    options: Options, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise PackingKilled

    monkeypatch.setattr(data_storage, "write_pack", killed)
    with pytest.raises(RunFailed, match=rf"pack in fewer processes \({COMMAND} pack folder:insects --data-dir .*"):
        packed(ON_DISK, options, lines)


def test_a_pack_below_the_results_that_was_replaced_meanwhile_is_kept(options: Options, lines: list[str]) -> None:
    ((_, folder),) = packed(ON_DISK, options, lines).packs
    assert folder is not None
    record = read_pack_record(folder)
    discard_pack(folder, "the key of an earlier pack")
    assert read_pack_record(folder) == record and Pack(folder).train.read(0)
    discard_pack(folder, record.source_key)
    assert [path.name for path in folder.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            Data("cifar10", storage="disk"),
            "storage = 'disk' in Data: requires images on disk, and those of cifar10 are",
        ),
        (
            Data("digits", image_size=8, crop_padding=0, min_crop_area=0.5),
            r"min_crop_area = 0.5 in Data: requires images on disk, .*use student\.augmentation\.crop_area",
        ),
    ],
)
def test_small_built_in_data_cannot_be_on_disk(data: Data, message: str, options: Options, lines: list[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        packed(data, options, lines)
