"""A full disk, a real one: the job's reason is one line that names the file, and the run resumes when there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.errors import RESUME


def run_on_small_disk(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script that mounts a small filesystem on `folder`, in a new mount namespace."""
    folder.mkdir()
    command = ["unshare", "--mount", sys.executable, Path(__file__).with_name(script), folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ})
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    return done


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small filesystem, which only root may")
def test_a_job_on_a_full_disk_fails_in_one_line_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    done = run_on_small_disk("full_disk.py", folder)
    path = folder / "run" / "checkpoint" / "last.safetensors"
    assert done.stdout.splitlines() == [
        f"[Errno 28] No space left on device: '{path}'; {RESUME}",
        "failed",
        "done True",
    ], done.stderr


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small filesystem, which only root may")
def test_packing_on_a_full_disk_fails_in_one_line_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    done = run_on_small_disk("full_disk_packing.py", tmp_path / "mount")
    (line,) = done.stderr.splitlines()
    assert line.startswith("raykd: [Errno 28]") and f"{tmp_path}/mount/pack/train-0000" in line
    assert line.endswith(RESUME)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("pack")]
    assert lines == ["1 3", "0 0", "True"]
