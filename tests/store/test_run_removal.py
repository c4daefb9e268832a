"""Whole runs are removed, and never one that a process trains or a teacher that another run needs."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import children
import pytest
from small_runs import experiment
from written_results import finished, interrupt

from raykd.errors import ConfigError
from raykd.store.cleaning import find_removable
from raykd.store.results_folder import in_use
from raykd.store.run_catalog import read_catalog
from raykd.store.run_folder import RunFolder
from raykd.store.run_names import find_run
from raykd.store.run_removal import delete, removable_runs, remove_runs
from raykd.store.run_store import RunStore

UNPRIVILEGED_USER = 65_534


def folders_of(results: Path, stage: str) -> list[RunFolder]:
    store = RunStore(results)
    return [store.folder(run) for run in finished(results).runs if run.stage == stage]


def test_runs_are_removed_whole_and_others_are_kept(tmp_path):
    baselines = folders_of(tmp_path, "baseline")
    remove_runs(tmp_path, removable_runs(tmp_path, baselines))
    assert not any(folder.path.exists() for folder in baselines)
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "small").glob("*-*")) == ["distilled", "distilled"]
    assert not list(tmp_path.glob("*/.removed-*"))


def test_runs_are_removed_on_nfs_where_an_open_file_is_renamed_instead_of_removed(tmp_path, monkeypatch):
    def unlink(path, *, dir_fd=None):  # NFS clients: .nfs* until the last process of this machine closes the file
        status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        opened = [file for file in Path("/proc/self/fd").iterdir() if file.exists()]
        if any(os.path.samestat(file.stat(), status) for file in opened):
            return os.rename(path, f".nfs-{path}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        return remove(path, dir_fd=dir_fd)

    baselines, remove = folders_of(tmp_path, "baseline"), os.unlink
    monkeypatch.setattr(os, "unlink", unlink)
    remove_runs(tmp_path, removable_runs(tmp_path, baselines))
    assert not list(tmp_path.glob("*/.removed-*"))


def test_no_run_is_removed_if_one_cannot_be_renamed(tmp_path, monkeypatch):
    baselines, rename = folders_of(tmp_path, "baseline"), Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path == baselines[1].path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        remove_runs(tmp_path, removable_runs(tmp_path, baselines))
    assert all(folder.status() == "done" for folder in baselines) and not list(tmp_path.glob("*/.removed-*"))


def test_what_two_processes_delete_is_deleted(tmp_path, monkeypatch):
    """`raykd clean` deletes what an earlier removal left, and that removal may still be at work."""
    path, rmtree = tmp_path / ".removed-0123456789ab", shutil.rmtree
    (path / "usage").mkdir(parents=True)
    (path / "run.json").touch()

    def lose(folder: Path) -> None:
        (path / "run.json").unlink()
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        raise FileNotFoundError(errno.ENOENT, "gone", str(path / "run.json"))

    monkeypatch.setattr(shutil, "rmtree", lose)
    assert delete([path]) == [] and not path.exists()


def test_a_run_that_another_process_locks_is_refused_and_nothing_is_removed(tmp_path):
    free, held = folders_of(tmp_path, "baseline")
    allowed = removable_runs(tmp_path, [free, held])
    process = children.hold_lock(held.path)
    try:
        for attempt in (lambda: removable_runs(tmp_path, [free, held]), lambda: remove_runs(tmp_path, allowed, True)):
            with pytest.raises(ConfigError, match=rf"run '{held.path.name}' is locked by .*; wait for it to end"):
                attempt()
        assert free.path.is_dir() and held.path.is_dir()
    finally:
        process.kill()
        process.join()


def test_a_teacher_that_an_unfinished_or_planned_student_needs_is_refused_without_force(tmp_path):
    students = folders_of(tmp_path, "distilled")
    (teacher,) = (RunFolder(path) for path in (tmp_path / "teachers").iterdir())
    assert removable_runs(tmp_path, [teacher])
    interrupt(students[0])
    with pytest.raises(
        ConfigError, match=rf"teacher '{teacher.path.name}' is still needed by small/distilled-.*--force"
    ):
        removable_runs(tmp_path, [teacher])
    assert removable_runs(tmp_path, [teacher], force=True)
    assert len(removable_runs(tmp_path, [teacher, students[0]])) == 2, "its only student is removed with it"


def test_a_teacher_of_a_student_that_no_plan_names_is_needed_until_the_student_is_done(tmp_path):
    (student, _) = folders_of(tmp_path, "distilled")
    (teacher,) = (RunFolder(path) for path in (tmp_path / "teachers").iterdir())
    (tmp_path / "small" / "plan.json").unlink()
    interrupt(student)
    with pytest.raises(ConfigError, match="is still needed by"):
        removable_runs(tmp_path, [teacher])


def test_a_planned_teacher_is_refused_while_a_command_trains_in_the_results_folder(tmp_path):
    """The command has read that the teacher is done, and may be about to plan students."""
    (teacher,) = folders_of(tmp_path, "teacher")
    with in_use(tmp_path), pytest.raises(ConfigError, match=r"a command trains in .* now"):
        removable_runs(tmp_path, [teacher])
    assert removable_runs(tmp_path, [teacher])


def test_a_run_of_another_results_folder_is_refused(tmp_path):
    (baseline, _) = folders_of(tmp_path / "one", "baseline")
    finished(tmp_path / "two")
    with pytest.raises(ConfigError, match=r"run 'baseline-.*' is not below"):
        removable_runs(tmp_path / "two", [baseline])


def refuse_as_unprivileged_user(results: Path) -> None:
    """Check that nothing can be removed without permission. Runs in a child process without root's rights."""
    if os.getuid() == 0:
        os.setuid(UNPRIVILEGED_USER)
    baseline = find_run(results, "baseline")
    for attempt in (lambda: removable_runs(results, [baseline]), lambda: find_removable(results)):
        with pytest.raises(ConfigError, match=r"cannot be written: .* is not a folder that you may write"):
            attempt()
    with pytest.raises(ConfigError, match="cannot be read by you; name another with --results"):
        read_catalog(results.parent / "shut")


def test_a_results_folder_without_permission_is_refused_in_one_line() -> None:
    with tempfile.TemporaryDirectory() as temporary:  # pytest's folders cannot be entered by other users
        folder = Path(temporary)
        results, shut = folder / "results", folder / "shut"
        finished(results, experiment())
        shut.mkdir(mode=0o000)
        folder.chmod(0o755)
        paths = [path for path in (results, *results.rglob("*")) if path.is_dir()]
        for path in paths:
            path.chmod(0o555)
        try:
            assert children.wait(children.start(refuse_as_unprivileged_user, results)) == 0
        finally:
            for path in (*paths, shut):
                path.chmod(0o755)
        assert len(list(results.glob("*/*/checkpoint/last.safetensors"))) == 3


def test_a_process_that_waited_for_a_removed_run_starts_it_again_in_a_new_folder(tmp_path):
    (baseline, _) = folders_of(tmp_path, "baseline")
    waiting = RunFolder(baseline.path)
    remove_runs(tmp_path, removable_runs(tmp_path, [baseline]))
    with waiting.lock():
        assert waiting.status() == "not started" and (waiting.path / ".lock").is_file()
