"""Available memory, and data sets that do not fit: every failed allocation becomes a one-line error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_images import write_folder

from raykd.data import memory
from raykd.data.load import load_dataset
from raykd.errors import DataError

# Loads a folder of 24 images several times, with `extra` MB of address space beyond what is in use. `unknown`: as on a
# machine without /proc, so that the allocations themselves fail.
LOAD = """
import resource, sys
from pathlib import Path
from raykd.data import memory
from raykd.data.load import load_dataset
from raykd.errors import DataError

name, available_bytes = f"folder:{sys.argv[1]}", memory.available_bytes
load_dataset(name, None)
for case in sys.argv[2:]:
    extra, image_size, known = case.split()
    memory.available_bytes = available_bytes if known == "known" else lambda: None
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(extra) * 1_000_000, resource.RLIM_INFINITY))
    try:
        print(len(load_dataset(name, None, int(image_size)).train))
    except DataError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
# Extra MB, pixels per side, whether the limit is known -> part of what is printed.
CASES = {
    "1000 64 known": "18",
    "150 2000 known": "take 288 MB of memory, and 576 MB while they are decoded, but ",
    "100 2000 unknown": "there is not enough memory to read the images (Unable to allocate",
    "1000 48 known": "18",
}


def test_failed_allocation_is_a_one_line_error(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects")
    environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOAD, str(place), *CASES]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(CASES), done.stdout
    for line, expected in zip(lines, CASES.values(), strict=True):
        assert expected in line


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 2.01 GiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_every_librarys_memory_error_names_the_data_set(error: Exception) -> None:
    with (
        pytest.raises(DataError, match=r"^folder:ants: there is not enough memory .*--set data\.image_size$") as caught,
        memory.report_shortage("folder:ants"),
    ):
        raise error
    assert "\n" not in str(caught.value) and "alloc_cpu" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shape"), OSError(28, "No space left on device"), ValueError("x")])
def test_other_errors_are_passed_on(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory.report_shortage("folder:ants"):
        raise error
    assert caught.value is error


def test_images_that_do_not_fit_are_refused_with_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_folder(tmp_path / "insects")
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    load_dataset("folder:insects", place.parent, 83)
    with pytest.raises(
        DataError,
        match=r"insects: 24 images of 500x500 take 18 MB of memory, and 36 MB while .*, but 1 MB .*image_size=83",
    ):
        load_dataset("folder:insects", place.parent, 500)


def test_available_memory_is_limited_by_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available = memory.available_bytes()
    assert available is not None and available > 1e8
    assert str(memory._CGROUP_ROOT) == "/sys/fs/cgroup"
    monkeypatch.setattr(memory, "_CGROUP_ROOT", tmp_path)
    job = tmp_path / "slurm" / "job"
    job.mkdir(parents=True)
    for name, text in {"max": "900", "current": "700", "stat": "file 300\nshmem 100\n"}.items():
        (job / f"memory.{name}").write_text(text)
    assert memory._available_in_groups("3:cpu:/\n0::/slurm/job/step\n") == [900 - 700 + 300 - 100]
    (job / "memory.max").write_text("max\n")
    assert memory._available_in_groups("0::/slurm/job/step\n") == []
    assert memory._available_in_groups("4:memory:/slurm/job/step\n") == []
