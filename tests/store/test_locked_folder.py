"""What the folders of runs and searches share: a record and a lock."""

import errno
import fcntl
import os
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from written_records import run_record

from raykd.disk.damage import DamagedFile
from raykd.disk.file_lock import lock_at
from raykd.errors import RunFailed
from raykd.provenance import this_process
from raykd.store import cleaning, run_removal, run_store, search_removal
from raykd.store.cleaning import Cleaning, remove_unneeded
from raykd.store.locked_folder import LockedFolder
from raykd.store.results_folder import PLAN_LOCK
from raykd.store.run_folder import RunFolder
from raykd.store.run_removal import remove_runs
from raykd.store.run_store import RunStore
from raykd.store.search_removal import remove_searches
from raykd.store.study import SearchFolder

NOTHING = Cleaning((), (), is_used=False)


@pytest.fixture(params=[RunFolder, SearchFolder])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> LockedFolder:
    return request.param(tmp_path / "folder")


def test_a_lock_that_is_a_folder_is_a_damaged_file_with_the_remedy(folder: LockedFolder) -> None:
    (folder.path / ".lock").mkdir(parents=True)
    for access in (folder.lock, folder.is_held):
        with pytest.raises(DamagedFile, match=r"\.lock' is damaged: it is not a file; remove it and rerun"):
            access()


def test_a_filesystem_without_locks_is_reported_with_the_lock_file(folder: LockedFolder, monkeypatch) -> None:
    def flock(*_: object) -> None:  # Lustre without -o flock
        raise OSError(errno.ENOSYS, "Function not implemented")

    folder.path.mkdir()
    monkeypatch.setattr(fcntl, "flock", flock)
    for access in (folder.lock, folder.is_held, lambda: remove_unneeded(folder.path, NOTHING)):
        with pytest.raises(OSError, match=rf"Function not implemented: '{folder.path}/\.\w+(\.lock)?'"):
            access()


def test_a_folder_is_held_while_it_is_locked(folder: LockedFolder) -> None:
    other = type(folder)(folder.path)
    with folder.lock():
        assert folder.is_held() and other.is_held()
        with pytest.raises(RunFailed, match="is locked by another process; wait for it to end, or stop it"):
            other.lock()
    assert not folder.is_held() and not other.is_held()


def test_reading_a_record_that_was_never_written_creates_no_folder(folder: LockedFolder) -> None:
    assert folder.record() is None and not folder.path.exists()
    with pytest.raises(DamagedFile, match="it is missing"):
        folder.require_record()


def test_update_changes_only_its_fields(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_record(run_record(status="running", seed=3))
    folder.update(status="failed")
    assert folder.record() == run_record(status="failed", seed=3)


@pytest.mark.parametrize(
    "use",
    [
        lambda results: ExitStack().enter_context(RunStore(results).planning()),
        lambda results: remove_runs(results, []),
        lambda results: remove_searches(results, []),
        lambda results: remove_unneeded(results, Cleaning((), (), is_used=False)),
    ],
    ids=["a command that plans", "runs rm of a run", "runs rm of a search", "clean"],
)
def test_a_lock_of_the_plans_that_is_not_released_ends_a_command_with_one_line(
    use: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cleaning, run_removal, run_store, search_removal):
        monkeypatch.setattr(module, "PLAN_WAIT_S", 0.05)
    with lock_at(tmp_path / PLAN_LOCK).acquire(timeout=0), pytest.raises(RunFailed) as failure:
        use(tmp_path)
    expected = "was locked by another process for 0.05 s; end that process and rerun the same command"
    assert str(failure.value) == f"'{tmp_path / PLAN_LOCK}' {expected}"


@pytest.mark.parametrize(
    ("writer", "holder"),
    [
        ("process 7 on cn1 in Slurm job 4711_3", r"{} since \S+ \d\d:\d\d UTC \(to end it: scancel 4711_3\)"),
        ("process 7 on cn1", r"{} since \S+ \d\d:\d\d UTC \(to end it, on cn1: kill 7\)"),
    ],
)
def test_who_holds_a_run_is_described_with_the_time_and_how_to_end_it(tmp_path: Path, writer: str, holder: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    assert folder.holder == "another process, which has just started"
    folder.write_record(run_record(writer=writer, status="running"))
    assert re.fullmatch(holder.format(writer), folder.holder)


def test_a_process_of_a_job_is_described_with_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYKD_JOB", raising=False)
    alone = this_process()
    assert re.fullmatch(rf"process {os.getpid()} on \S+", alone)
    monkeypatch.setenv("RAYKD_JOB", "4711")
    assert this_process() == f"{alone} in Slurm job 4711"
