"""Files are replaced atomically: old or new bytes after any kill, the user's permissions, nothing left behind."""

import errno
import json
import os
import signal
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest

from raykd.disk.atomic import replacing, replacing_folder, write_bytes, write_json


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.json"


def test_writing_replaces_the_file_and_leaves_no_other(path: Path) -> None:
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and [*path.parent.iterdir()] == [path]


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "file", b"x")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"x"


def test_an_error_while_writing_keeps_the_old_file_and_removes_the_new(path: Path) -> None:
    write_bytes(path, b"old")
    with pytest.raises(OSError, match="disk full"), replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        raise OSError("disk full")
    assert path.read_bytes() == b"old" and [*path.parent.iterdir()] == [path]


def test_a_block_that_writes_nothing_is_an_error(path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(path):
        pass


def test_the_temporary_file_has_the_same_suffix(path: Path) -> None:
    with replacing(path) as temporary:
        assert temporary.suffix == ".json" and temporary.parent == path.parent and temporary != path
        temporary.write_bytes(b"{}")


def test_bytes_are_flushed_before_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine crash after the rename must not leave an empty file."""
    calls = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append(("fsync", path.exists())), real_fsync(number)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("replace", path.exists())), real_replace(a, b)))
    write_bytes(path, b"x")
    assert calls == [("fsync", False), ("replace", False), ("fsync", True)]  # the file, its name, the folder


@pytest.mark.parametrize(("number", "raises"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_refusals_to_flush_a_folder_are_ignored_but_not_io_errors(path: Path, monkeypatch, number, raises) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError) if raises else nullcontext():
        write_bytes(path, b"x")
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0])
def test_permissions_follow_the_umask(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_bytes(path, b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o664 & ~umask, "never writable by all users"


@pytest.mark.parametrize("moment", ["open", "half", "fsync", "replace", "after"])
def test_a_kill_at_any_moment_leaves_the_old_or_the_new_bytes(path: Path, moment: str) -> None:
    write_bytes(path, b"old" * 1000)
    child = os.fork()
    if child == 0:  # only system calls happen here before the kill
        _write_until(path, moment)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert path.read_bytes() == (b"new" if moment == "after" else b"old") * 1000
    write_bytes(path, b"later")
    assert path.read_bytes() == b"later"


def _write_until(path: Path, moment: str) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    content = b"new" * 1000
    with replacing(path) as temporary:
        if moment == "open":
            die()
        temporary.write_bytes(content[: len(content) // 2] if moment == "half" else content)
        if moment == "half":
            die()
        if moment in ("fsync", "replace"):
            setattr(os, moment, die)
    die()


def test_json_is_read_back_and_has_no_nan(path: Path) -> None:
    write_json(path, {"a": [1, 2.5, None, "ü"]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2.5, None, "ü"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [1, 2.5, None, "ü"]}


def test_a_folder_is_replaced_as_a_whole_and_leaves_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for names in (("a", "b"), ("c",)):
        with replacing_folder(folder) as temporary:
            assert temporary.parent == tmp_path and not [*temporary.iterdir()]
            for name in names:
                (temporary / name).write_bytes(b"x")
        assert {path.name for path in folder.iterdir()} == {*names} and [*tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize("exists", [True, False])
def test_two_processes_may_replace_a_folder_concurrently_and_the_last_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    """Another process replaces the folder before the rename of this one, or after the old folder was moved away."""
    folder, rename, renames = tmp_path / "out", Path.rename, []
    if exists:
        folder.mkdir()

    def rename_after_another(self: Path, target: Path) -> Path:
        renames.append(target)
        if len(renames) == 1:
            with replacing_folder(folder) as temporary:
                (temporary / "other").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_after_another)
    with replacing_folder(folder) as temporary:
        (temporary / "mine").touch()
    assert [*tmp_path.iterdir()] == [folder] and [*folder.iterdir()] == [folder / "mine"]


def test_an_error_while_filling_keeps_the_old_folder_and_removes_the_new(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_bytes(b"x")
    with pytest.raises(OSError, match="disk full"), replacing_folder(folder) as temporary:
        (temporary / "new").write_bytes(b"half")
        raise OSError("disk full")
    assert [*tmp_path.rglob("*")] == [folder, folder / "old"]


def test_an_error_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, real = tmp_path / "folder", Path.rename
    folder.mkdir()
    (folder / "old").write_bytes(b"x")

    def rename(source: Path, target: Path) -> Path:
        if target == folder and (source / "new").exists():
            raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), replacing_folder(folder) as temporary:
        (temporary / "new").write_bytes(b"x")
    assert [*tmp_path.rglob("*")] == [folder, folder / "old"]
