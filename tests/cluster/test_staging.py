"""Staging of code and data to scratch space, and its removal."""

import errno
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from raykd.cluster import boot
from raykd.cluster.allocation import Allocation, Node
from raykd.cluster.private_folders import LOCK
from raykd.cluster.staging import Staging, planned_staging, scratch_folder
from raykd.data import memory
from raykd.disk import mounts
from raykd.errors import ConfigError
from raykd.provenance import git_revision


def allocation(repository: Path, restarts: int = 0) -> Allocation:
    return Allocation(7, (Node("cn1", 1, 0, None),), repository, restarts, "7")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Make a repository with code, a commit, data and other files."""
    folder = tmp_path / "repository"
    for name in (
        "raykd/cli/parser.py",
        "raykd/__pycache__/cli.pyc",
        "experiments/digits.py",
        "ray_results/cnn/run.json",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for name in ("cifar10/train.parquet", "weights/vit.safetensors", "imagenet/much.tar"):
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text("x" * 1000)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("0123abcd\n")
    return folder


def files(folder: Path) -> list[str]:
    """Return all files but the lock of the process that owns the folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


def staging_of(repository: Path, scratch: Path, with_code: bool = True, **environ: str) -> Staging:
    staging = planned_staging(allocation(repository), {"RAYKD_SCRATCH": str(scratch), **environ}, with_code)
    assert staging is not None
    return staging


def test_only_code_and_data_are_staged_and_all_of_it_is_removed(repository: Path, tmp_path: Path) -> None:
    staging = staging_of(repository, tmp_path / "scratch")
    with staging.filled() as line:
        assert files(staging.folder) == [
            "code/.git/HEAD",
            "code/experiments/digits.py",
            "code/raykd/cli/parser.py",
            "data/cifar10/train.parquet",
            "data/weights/vit.safetensors",
        ]
        assert git_revision(staging.folder / "code" / ".git") == "0123abcd"
        assert staging.folder.stat().st_mode & 0o777 == 0o700
        assert re.fullmatch(rf"code and data \([\d.]+ k?B\) staged to {staging.folder}", line)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_other_data_is_linked_so_that_custom_data_sets_are_in_the_same_folder(repository: Path, tmp_path: Path) -> None:
    with (staging := staging_of(repository, tmp_path / "scratch")).filled():
        link = staging.folder / "data" / "imagenet"
        assert link.is_symlink() and (link / "much.tar").read_text() == "x" * 1000
        assert not (staging.folder / "data" / "cifar10").is_symlink()
    assert (repository / "data" / "imagenet" / "much.tar").is_file(), "the link is removed, not its target"


def test_nodes_with_a_shared_scratch_share_the_folder(repository: Path, tmp_path: Path) -> None:
    staging = staging_of(repository, tmp_path / "scratch")
    with staging.filled():
        with staging.filled():
            assert [path.name for path in (tmp_path / "scratch").iterdir()] == [staging.folder.name]
        assert (staging.folder / "code" / "raykd" / "cli" / "parser.py").is_file(), "another node uses it"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_folder_open_to_other_users_is_refused_and_kept(repository: Path, tmp_path: Path) -> None:
    staging = staging_of(repository, tmp_path)
    (staging.folder / "code").mkdir(parents=True)
    staging.folder.chmod(0o777)
    with pytest.raises(ConfigError, match="it already exists and is open to other users"), staging.filled():
        pass
    assert (staging.folder / "code").is_dir()
    staging.folder.rename(tmp_path / "theirs")
    staging.folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="open to other users"), staging.filled():
        pass


def test_leftovers_of_earlier_runs_of_the_job_are_removed(repository: Path, tmp_path: Path) -> None:
    staging = planned_staging(allocation(repository, restarts=2), {"RAYKD_SCRATCH": str(tmp_path / "scratch")}, True)
    assert staging is not None
    for number in (0, 1):
        (staging.folder.with_name(staging.folder.name[:-1] + str(number)) / "data").mkdir(parents=True)
    with staging.filled():
        assert [path.name for path in (tmp_path / "scratch").iterdir()] == [staging.folder.name]


def test_locks_of_editors_are_not_copied(repository: Path, tmp_path: Path) -> None:
    (repository / "experiments" / ".#digits.py").symlink_to("ann@desk.4711:1")
    with (staging := staging_of(repository, tmp_path)).filled():
        assert files(staging.folder / "code" / "experiments") == ["digits.py"]


def test_nothing_is_left_if_the_job_ends_while_it_copies(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("shutil.copytree", end)
    with pytest.raises(SystemExit), staging_of(repository, tmp_path / "scratch").filled():
        pass
    assert list((tmp_path / "scratch").iterdir()) == []


def test_each_requeue_has_another_folder(repository: Path, tmp_path: Path) -> None:
    environ = {"RAYKD_SCRATCH": str(tmp_path)}
    stagings = [planned_staging(allocation(repository, restarts), environ, True) for restarts in (0, 1)]
    assert len({staging.folder for staging in stagings if staging}) == 2


def test_code_is_not_staged_for_a_job_that_accepts_experiments(repository: Path, tmp_path: Path) -> None:
    staging = staging_of(repository, tmp_path, with_code=False)
    with staging.filled():
        assert not (staging.folder / "code").exists() and staging.code_path is None
        assert staging.data_path == staging.folder / "data" and staging.data_path.is_dir()


def test_data_is_staged_from_raykd_data_if_there_is_any(repository: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "cifar-10-batches-py").mkdir(parents=True)
    assert staging_of(repository, tmp_path, RAYKD_DATA=str(elsewhere)).data == elsewhere
    assert staging_of(repository, tmp_path, RAYKD_DATA=str(tmp_path / "none")).data_path is None


def test_without_code_and_data_the_folder_is_for_packed_data_sets(repository: Path, tmp_path: Path) -> None:
    """A project of `raykd init` whose data are packed contains neither raykd nor CIFAR."""
    none = str(tmp_path / "none")
    with (staging := staging_of(repository, tmp_path, with_code=False, RAYKD_DATA=none)).filled() as line:
        assert line == f"{staging.folder} made for packed data sets" and files(staging.folder) == []
        assert (staging.code_path, staging.data_path) == (None, None)
    assert str(staging_of(repository, tmp_path, RAYKD_DATA=none)) == "code"
    assert str(staging_of(repository, tmp_path)) == "code and data"


@pytest.mark.parametrize("with_code", [True, False])
def test_other_nodes_get_the_same_staging(repository: Path, tmp_path: Path, with_code: bool) -> None:
    staging = staging_of(repository, tmp_path, with_code)
    assert Staging.from_json(staging.to_json()) == staging


def test_without_scratch_nothing_is_staged_and_a_relative_path_is_refused(repository: Path) -> None:
    assert planned_staging(allocation(repository), {"RAYKD_SCRATCH": ""}, True) is None
    with pytest.raises(ConfigError, match="RAYKD_SCRATCH = 'scratch': must be an absolute path"):
        planned_staging(allocation(repository), {"RAYKD_SCRATCH": "scratch"}, True)


def test_without_a_name_scratch_is_a_tmpdir_on_a_local_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    monkeypatch.setattr(mounts, "_TABLE", table)
    table.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "2 1 0:5 / /dev/shm rw - tmpfs tmpfs rw\n"
        "3 1 0:6 / /lustre\\040me rw - lustre ost rw,flock\n"
    )
    assert scratch_folder({"TMPDIR": "/local"}) == ("/local", "")
    assert scratch_folder({"TMPDIR": "/dev/shm", "RAYKD_SCRATCH": "/dev/shm"}) == ("/dev/shm", ""), "it is named"
    assert scratch_folder({"TMPDIR": "/local", "RAYKD_SCRATCH": ""}) == scratch_folder({}) == ("", "")
    for place, state in (("/dev/shm/x", "in memory (tmpfs)"), ("/lustre me/x", "not on a local disk (lustre)")):
        start = f"nothing is staged: TMPDIR={place} is {state}; set RAYKD_SCRATCH in slurm/site.sh"
        scratch, reason = scratch_folder({"TMPDIR": place})
        assert scratch == "" and reason.startswith(start)


def test_what_does_not_fit_on_scratch_is_read_in_place(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = staging_of(repository, tmp_path / "scratch")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    expected = f"warning: code and data not staged to {staging.folder} but read in place (10 B are free, but"
    with staging.filled() as line:
        assert line.startswith(expected)
        assert (staging.folder / "data" / "cifar10").resolve() == repository / "data" / "cifar10"
        assert (staging.folder / "code" / "raykd" / "cli" / "parser.py").is_file()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert (repository / "raykd" / "cli" / "parser.py").is_file(), "the links are removed, not their targets"


def test_a_disk_that_is_filled_during_the_copy_does_not_end_the_job(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copytree", fails)
    with (staging := staging_of(repository, tmp_path / "scratch")).filled() as line:
        assert "read in place (No space left on device)" in line
        assert [path.name for path in (tmp_path / "scratch").iterdir()] == [staging.folder.name]


def test_a_job_without_the_folder_runs_without_it(repository: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    with boot._staged(staging_of(repository, tmp_path / "file" / "scratch"), boot.JobLog({})) as staging:
        assert staging is None
    assert "raykd: warning: cannot stage to " in capsys.readouterr().out


def test_a_copy_in_memory_leaves_half_of_it_to_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    assert memory.free_bytes(tmp_path) > 1000
    monkeypatch.setattr(memory, "mount_of", lambda _: mounts.Mount("/", "tmpfs", frozenset()))
    assert memory.free_bytes(tmp_path) == 500


def test_a_project_without_raykd_stages_its_data_only(repository: Path, tmp_path: Path) -> None:
    """Its jobs import the installed raykd."""
    shutil.rmtree(repository / "raykd")
    staging = staging_of(repository, tmp_path / "scratch")
    assert staging.code_path is None and staging.data_path is not None
