"""A data set several times as large as the memory is packed, trained and distilled, and killed and resumed exactly."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import large_photos
import numpy as np
import pytest
from memory_limit import LimitedMemory, has_limits, limited_memory
from safetensors.torch import load_file

from raykd.store.run_folder import RunFolder

PROGRAM = [sys.executable, large_photos.__file__]

pytestmark = pytest.mark.skipif(not has_limits(), reason="control groups of memory can be made by root only")


def start(data: Path, results: Path, group: LimitedMemory) -> subprocess.Popen[bytes]:
    return subprocess.Popen(group.command(*PROGRAM, str(data), str(results)), stdout=subprocess.DEVNULL)


def train(data: Path, results: Path, group: LimitedMemory, kill_after_s: list[float]) -> float:
    """Train to the end, and return the seconds. Kill the first processes, each after so many seconds."""
    started = time.monotonic()
    for seconds in kill_after_s:
        process = start(data, results, group)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert start(data, results, group).wait() == 0
    return time.monotonic() - started


def results_of(results: Path) -> dict[str, bytes]:
    """Return the weights of each run's best epoch, and of its last checkpoint with the optimizer's state."""
    folders = [RunFolder(path.parent) for path in sorted(results.rglob("run.json"))]
    assert len(folders) == 3
    weights = {f"{folder.path.name}, best": folder.best.read_bytes() for folder in folders}
    for folder in folders:
        tensors = load_file(folder.checkpoint)
        weights |= {f"{folder.path.name}, {name}": value.numpy().tobytes() for name, value in tensors.items()}
    return weights


def decoded_bytes(num_images: int, size: tuple[int, int]) -> int:
    return num_images * size[0] * size[1] * 3


def check(folder: Path, num_images: int, size: tuple[int, int], limit: int, kills: list[float]) -> None:
    """Train once undisturbed and once with kills at the fractions `kills` of the time, in a group of `limit` bytes."""
    large_photos.write_photos(folder / "data" / "photos", num_images, size)
    with limited_memory(limit) as group:
        assert group is not None
        seconds = train(folder / "data", folder / "undisturbed", group, [])
        train(folder / "data", folder / "killed", group, [fraction * seconds for fraction in kills])
        assert group.num_killed == 0
        print(f"{decoded_bytes(num_images, size):,} bytes decoded, limit {limit:,}, peak {group.peak_bytes or 0:,}")
        print(f"{seconds:.0f} s undisturbed")
    assert results_of(folder / "killed") == results_of(folder / "undisturbed")


@pytest.mark.nightly
def test_images_larger_than_the_memory_are_trained_on_and_a_killed_run_has_the_same_bits(tmp_path: Path) -> None:
    size, limit = (1600, 1200), 650_000_000
    assert decoded_bytes(160, size) > 1.4 * limit
    check(tmp_path, 160, size, limit, [0.7])


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_soak_of_20_000_images(tmp_path: Path) -> None:
    size, limit = (640, 480), 2_000_000_000
    assert decoded_bytes(20_000, size) > 8 * limit
    seed = int(os.environ.get("RAYKD_SOAK_SEED", random.randrange(10_000)))
    print(f"RAYKD_SOAK_SEED={seed}")
    check(tmp_path, 20_000, size, limit, np.random.default_rng(seed).uniform(0.05, 0.95, 5).tolist())
