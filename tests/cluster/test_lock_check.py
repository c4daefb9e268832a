"""Whether locks exclude processes on other nodes: the head holds a lock, and another node tries to acquire it."""

import subprocess
import sys
from pathlib import Path

from raykd.cluster.lock_check import VARIABLE, locked_file

OTHER_NODE = "from raykd.cluster.lock_check import warning; print(warning('cn2'), end='')"


def warning(variable: dict[str, str]) -> str:
    command = [sys.executable, "-c", OTHER_NODE]
    return subprocess.run(command, env=variable, capture_output=True, text=True, timeout=30, check=True).stdout


def test_a_lock_that_excludes_other_processes_gives_no_warning(tmp_path: Path) -> None:
    with locked_file(tmp_path / "lock") as variable:
        assert variable == {VARIABLE: str(tmp_path / "lock")} and warning(variable) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_node_can_acquire_is_reported(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    text = warning({VARIABLE: str(tmp_path / "lock")})
    assert text.startswith(f"warning: file locks in {tmp_path} hold on one node only, as cn2 can acquire a lock")


def test_a_folder_without_the_file_is_not_tested(tmp_path: Path) -> None:
    with locked_file(tmp_path / "missing" / "lock") as variable:
        assert variable == {} and warning(variable) == ""
    assert warning({VARIABLE: str(tmp_path / "removed")}) == ""
