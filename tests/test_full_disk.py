"""A full disk, a real one: the job's reason is one line that names the file, and the run resumes when there is room."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raykd.errors import RESUME


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small filesystem, which only root may")
def test_a_job_on_a_full_disk_fails_in_one_line_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    script = Path(__file__).with_name("full_disk.py")
    command = ["unshare", "--mount", sys.executable, script, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ})
    if "unshare failed" in done.stderr or "permission denied" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    path = folder / "run" / "checkpoint" / "last.safetensors"
    assert done.stdout.splitlines() == [
        f"[Errno 28] No space left on device: '{path}'; {RESUME}",
        "failed",
        "done True",
    ], done.stderr
