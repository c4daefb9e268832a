"""A results folder of a group: two users of it train, lock and remove what the other has made."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

GROUP, USERS = 64_000, (64_001, 64_002)
# Locks a run and writes a file of it, as a worker that trains it does. Other users may not read this Python's folder.
TRAIN = """
import os, sys
from pathlib import Path
from raykd.store.results_folder import in_use
from raykd.store.run_folder import RunFolder
results, user, group = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
os.setgroups([group])
os.setgid(user)
os.setuid(user)
os.umask(0o022)
with in_use(results):
    folder = RunFolder(results / "cnn" / "run")
    folder.path.mkdir(parents=True, exist_ok=True)
    with folder.lock():
        (folder.path / "last.new").write_text("x")
        (folder.path / "last.new").rename(folder.path / "last.safetensors")
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that only a group may write. pytest's temporary folders are closed to other users."""
    if os.geteuid() != 0:
        pytest.skip("only root can become other users")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "shared"
        folder.mkdir()
        os.chown(folder, USERS[0], GROUP)
        folder.chmod(0o2770)
        Path(name).chmod(0o755)
        yield folder


def train(user: int, results: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TRAIN, str(results), str(user), str(GROUP)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_users_of_a_group_train_in_one_results_folder_with_any_umask(shared: Path) -> None:
    for user in USERS:
        done = train(user, shared)
        assert done.returncode == 0, done.stderr
    run = shared / "cnn" / "run"
    assert (run.stat().st_mode & 0o2777, run.stat().st_gid) == (0o2775, GROUP)
    assert (run / "last.safetensors").stat().st_uid == USERS[1]


def test_the_umask_is_that_of_the_user_outside_such_a_folder_and_after_it(shared: Path) -> None:
    shared.chmod(0o2750)
    assert train(USERS[0], shared).returncode == 0
    assert (shared / "cnn" / "run").stat().st_mode & 0o777 == 0o755


def test_a_lock_of_another_user_that_cannot_be_taken_is_an_error_with_the_remedy(shared: Path) -> None:
    """Without it, `raykd clean` would remove caches that this user's training reads."""
    (shared / ".in_use.lock").touch(mode=0o644)
    os.chown(shared / ".in_use.lock", USERS[0], GROUP)
    done = train(USERS[1], shared)
    assert done.returncode != 0 and "raykd.errors.ConfigError" in done.stderr
    assert f"belongs to {USERS[0]} and cannot be written by you" in done.stderr and "umask 002" in done.stderr
