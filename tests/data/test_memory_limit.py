"""Too little memory ends the load in one line, whichever library's allocation fails: tried under a real limit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_pictures import write_folder

from raykd.data import memory
from raykd.errors import DataError

# Loads a folder of 24 pictures several times, with `left` MB of address space more than is in use. `unknown`: as on a
# machine that does not say how much is left, so that the allocations themselves fail.
LOAD = """
import resource, sys
from pathlib import Path
from raykd.data import memory
from raykd.data.load import load
from raykd.errors import DataError

name, asked = f"folder:{sys.argv[1]}", memory.available_bytes
load(name, None)
for words in sys.argv[2:]:
    left, image_size, known = words.split()
    memory.available_bytes = asked if known == "known" else lambda: None
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + int(left) * 1_000_000, resource.RLIM_INFINITY))
    try:
        print(len(load(name, None, int(image_size)).train))
    except DataError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
# MB left, pixels on a side, whether the limit is known; and what is printed.
CASES = {
    "1000 64 known": "18",
    "150 2000 known": "take 0.3 GB of memory, and 0.6 GB while they are decoded, but 0.",
    "100 2000 unknown": "there is not enough memory to read the images (Unable to allocate",
    "1000 48 known": "18",
}


def test_an_allocation_that_fails_is_one_line(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects")
    environ = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, "-c", LOAD, str(place), *CASES]
    done = subprocess.run(words, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(CASES), done.stdout
    for line, says in zip(lines, CASES.values(), strict=True):
        assert says in line


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
def test_every_librarys_shortage_is_named(error: Exception) -> None:
    with (
        pytest.raises(DataError, match=r"^folder:ants: there is not enough memory .*--set data\.image_size$") as caught,
        memory.shortage_named("folder:ants"),
    ):
        raise error
    assert "\n" not in str(caught.value) and "alloc_cpu" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shape"), OSError(28, "No space left on device"), ValueError("x")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, memory.shortage_named("folder:ants"):
        raise error
    assert caught.value is error
