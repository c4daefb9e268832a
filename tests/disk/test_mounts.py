"""On which file system a folder is, and whether its locks hold on one node only."""

from pathlib import Path

import pytest

from raykd.disk import mounts
from raykd.disk.mounts import Mount, mount_of

TABLE = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /data rw - lustre mgs@tcp:/old rw,localflock
31 22 0:41 / /data rw - lustre mgs@tcp:/new rw,flock,lazystatfs
32 22 0:42 /sub /data\\040two rw - tmpfs tmpfs rw,size=1g
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/ada/ray_results", ("/", "ext4")),
        ("/data/ada/not there", ("/data", "lustre")),
        ("/data two/x", ("/data two", "tmpfs")),
        ("/database", ("/", "ext4")),
    ],
)
def test_a_folder_is_on_the_last_file_system_mounted_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: tuple[str, str]
) -> None:
    (tmp_path / "mountinfo").write_text(TABLE)
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "mountinfo")
    mount = mount_of(Path(path))
    assert mount is not None and (mount.point, mount.kind) == expected
    assert not mount.has_local_locks, "a later mount hides the one with localflock"


def test_a_system_without_proc_has_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_TABLE", tmp_path / "none")
    assert mount_of(tmp_path) is None


@pytest.mark.parametrize(("line", "may_be_local"), [("true", False), ("false", True), (None, True)])
def test_locks_of_beegfs_are_of_one_node_by_default(tmp_path: Path, line: str | None, may_be_local: bool) -> None:
    config = tmp_path / "client.conf"
    if line:
        config.write_text(f"sysMgmtdHost = m\ntuneUseGlobalFileLocks       = {line}\n")
    mount = Mount("/b", "beegfs", frozenset({"rw", f"cfgFile={config}"}))
    assert mount.may_have_local_locks is may_be_local and not mount.has_local_locks
