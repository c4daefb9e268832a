"""Private folders in a shared place: those of dead processes go, those of live ones and of other users stay."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raykd.cluster.private_folders import (
    LOCK,
    MAX_SESSION_S,
    MAX_UNLOCKED_S,
    claimed,
    remove_abandoned,
    remove_abandoned_below,
    remove_old_sessions,
    require_safe_place,
)
from raykd.cluster.private_ray import private_folder
from raykd.cluster.staging import Staging
from raykd.errors import ConfigError

HOLDER = (
    "import pathlib, sys, time\n"
    "from raykd.cluster.private_folders import claimed\n"
    "with claimed(pathlib.Path(sys.argv[1])):\n"
    "    print('claimed', flush=True)\n"
    "    time.sleep(60)\n"
)


def held(folder: Path) -> subprocess.Popen[str]:
    """Start a process that claims `folder`."""
    folder.mkdir(parents=True)
    (folder / "token").write_text("secret")
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "claimed\n"
    return process


def abandoned(folder: Path) -> Path:
    """Make a folder whose process was killed."""
    process = held(folder)
    process.kill()
    process.wait()
    return folder


def test_only_the_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "rk"
    process = held(folder)
    try:
        assert remove_abandoned([folder]) == [] and (folder / "token").exists()
    finally:
        process.kill()
        process.wait()
    assert remove_abandoned([folder]) == [folder] and not folder.exists()


@pytest.mark.parametrize("name", ["rk-{user}-7", "rk-{user}-7-1", "rk-{user}-7-files-0", "raykd-{user}/command-abc"])
def test_leftovers_of_jobs_and_commands_are_found(tmp_path: Path, name: str) -> None:
    folder = abandoned(tmp_path / name.format(user=os.getuid()))
    assert remove_abandoned_below(tmp_path) == [folder]


def test_folders_of_other_users_and_programs_stay(tmp_path: Path) -> None:
    for name in (f"rk-{os.getuid() + 1}-7", "something", f"rk-{os.getuid()}0-7"):
        abandoned(tmp_path / name)
    assert remove_abandoned_below(tmp_path) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_that_another_user_made_under_this_users_name_stays(tmp_path: Path) -> None:
    folder = abandoned(tmp_path / f"rk-{os.getuid()}-7")
    os.chown(folder, 12_345, 12_345)
    assert remove_abandoned_below(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = abandoned(tmp_path / "mine" / "command-abc")
    (tmp_path / f"raykd-{os.getuid()}").symlink_to(tmp_path / "mine")
    (tmp_path / f"rk-{os.getuid()}-7").symlink_to(elsewhere)
    assert remove_abandoned_below(tmp_path) == []
    (folder := tmp_path / f"rk-{os.getuid()}-8").mkdir()
    (folder / LOCK).symlink_to(elsewhere / LOCK)
    assert remove_abandoned_below(tmp_path) == [] and elsewhere.exists()


def test_a_folder_of_another_machine_on_a_shared_disk_stays(tmp_path: Path) -> None:
    folder = abandoned(tmp_path / f"rk-{os.getuid()}-7")
    (folder / LOCK).write_text("another-boot another-host")
    assert remove_abandoned_below(tmp_path) == []


def test_a_folder_from_before_a_reboot_is_removed(tmp_path: Path) -> None:
    folder = abandoned(tmp_path / f"rk-{os.getuid()}-7")
    (folder / LOCK).write_text(f"another-boot {os.uname().nodename}")
    assert remove_abandoned_below(tmp_path) == [folder]


def test_a_new_folder_without_a_lock_stays_for_a_while(tmp_path: Path) -> None:
    (folder := tmp_path / f"rk-{os.getuid()}-7").mkdir()
    assert remove_abandoned_below(tmp_path) == []
    long_ago = time.time() - 2 * MAX_UNLOCKED_S
    os.utime(folder, (long_ago, long_ago))
    assert remove_abandoned_below(tmp_path) == [folder]


def test_a_claim_ends_with_its_block(tmp_path: Path) -> None:
    with claimed(tmp_path):
        assert remove_abandoned([tmp_path]) == []
    assert remove_abandoned([tmp_path]) == [tmp_path]


def test_the_logs_of_old_sessions_are_removed_unless_their_driver_runs(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    old, new, running, other = (
        tmp_path / name
        for name in (
            f"session_2026-01-01_00-00-00_000001_{ended.pid}",
            f"session_2026-01-01_00-00-00_000002_{ended.pid}",
            f"session_2026-01-01_00-00-00_000003_{os.getpid()}",
            "prom_metrics",
        )
    )
    for folder in (old, new, running, other):
        (folder / "logs").mkdir(parents=True)
        if folder is not new:
            os.utime(folder, (0, time.time() - MAX_SESSION_S - 60))
    assert remove_old_sessions(tmp_path) == [old]
    assert sorted(tmp_path.iterdir()) == sorted([new, running, other])


def test_a_place_is_safe_if_it_is_this_users_or_roots_and_nobody_else_can_rename_in_it(tmp_path: Path) -> None:
    require_safe_place(tmp_path)
    tmp_path.chmod(0o1777)  # as /tmp
    require_safe_place(tmp_path)
    tmp_path.chmod(0o777)
    with pytest.raises(OSError, match="every user could replace what is put into"):
        require_safe_place(tmp_path)


def test_a_place_of_another_user_is_refused_and_nothing_is_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a scratch disk that everyone can write, another user may make the folder of this user first."""
    place = tmp_path / "scratch"
    place.mkdir()
    if os.geteuid() == 0:
        os.chown(place, 12_345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12_345)
    with (
        pytest.raises(ConfigError, match="belongs to another user, who could replace what is put there; set RAYKD_TMP"),
        private_folder(place / "rk-0-1", "token"),
    ):
        pass
    staging = Staging(place / "rk-0-1-files-0", Path(__file__).parent)
    with pytest.raises(ConfigError, match=r"belongs to another user.*; set RAYKD_SCRATCH"), staging.filled():
        pass
    assert not list(place.iterdir())
