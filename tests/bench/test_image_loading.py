"""The benchmark of loading images: the same images for all implementations, on one core, and ratios within a round."""

import io
import os
from pathlib import Path

import pytest
import torch
from pack_of_images import write_pack
from PIL import Image
from rich.console import Console
from small_images import encoded, write_folder

from raykd.bench import image_loading
from raykd.bench.image_loading import benchmark_loading
from raykd.bench.photos import HEIGHT, WIDTH, first_images, generate_photos
from raykd.bench.run import benchmark_data
from raykd.bench.show import show
from raykd.cli import parser
from raykd.errors import ConfigError


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Four images, batches of two, and crops of 16 pixels."""
    monkeypatch.setattr(image_loading, "BATCH_SIZE", 2)
    monkeypatch.setattr(image_loading, "IMAGE_SIZE", 16)
    return [encoded(number, kind="JPEG" if number % 2 else "PNG") for number in range(4)]


def test_all_implementations_show_the_same_images_on_one_core_that_is_released(
    small: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    cores, num_threads, seen = os.sched_getaffinity(0), torch.get_num_threads(), []
    decode = image_loading._decode_all
    monkeypatch.setattr(
        image_loading, "_decode_all", lambda images: seen.append(len(os.sched_getaffinity(0))) or decode(images)
    )
    results = benchmark_loading(small, 2, lambda line: None)
    assert seen == [1, 1, 1]
    assert os.sched_getaffinity(0) == cores and torch.get_num_threads() == num_threads
    assert set(results["rounds"]) == {"decode", "raykd", "torchvision"}
    assert all(len(values) == 2 for values in results["rounds"].values())
    console = Console(file=io.StringIO(), width=120)
    show({"loading": results}, console)
    assert "raykd's loader, images/s" in console.file.getvalue()  # type: ignore[attr-defined]


def test_ratios_are_those_within_a_round() -> None:
    """The ratio of the medians would be 15 / 25 = 0.6."""
    rounds = {"decode": [20.0, 10.0, 40.0], "raykd": [10.0, 9.0, 30.0], "torchvision": [5.0, 3.0, 10.0]}
    results = image_loading._summarize([bytes(10), bytes(30)], rounds)
    assert results["raykd_over_decode"] == 0.75 and results["spread"]["raykd_over_decode"] == [0.5, 0.9]
    assert results["raykd_over_torchvision"] == 3.0
    assert results["images_per_s"] == {"decode": 20.0, "raykd": 10.0, "torchvision": 5.0}
    assert results["bytes_per_image"] == 20


def test_generated_photos_are_jpegs_of_the_usual_size_and_the_same_on_every_call() -> None:
    photos = generate_photos(3, num_different=2)
    assert photos[0] == photos[2] != photos[1]
    assert Image.open(io.BytesIO(photos[0])).size == (WIDTH, HEIGHT) and 30_000 < len(photos[0]) < 70_000
    assert generate_photos(1) == photos[:1]


def test_images_of_a_data_set_are_its_first_ones_packed_or_not(tmp_path: Path) -> None:
    write_folder(tmp_path / "bugs")
    images = [encoded(number) for number in range(5)]
    write_pack(tmp_path / "packed" / "insects", images, images[:1])
    assert first_images("packed:insects", tmp_path, 3) == images[:3]
    assert first_images("folder:bugs", tmp_path, 2) == [
        (tmp_path / "bugs" / "train" / "ant" / f"00{number}.png").read_bytes() for number in range(2)
    ]


def test_a_data_set_with_fewer_images_than_a_batch_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "bugs")
    with pytest.raises(ConfigError, match=r"--data folder:bugs: has 18 images, and 128 are required"):
        benchmark_data("folder:bugs", tmp_path, 1, lambda line: None)


@pytest.mark.parametrize("others", [["--device", "cuda"], ["--family", "cnn"], ["--student", "a", "--teacher", "b"]])
def test_options_of_other_benchmarks_are_refused(others: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.entry(["bench", "--data", *others]) == 2
    assert "bench: --data times the loading of images on the CPU" in capsys.readouterr().err
