"""What the folders of runs and searches share: a record and a lock."""

from pathlib import Path

import pytest
from written_records import run_record

from raykd.config.damage import DamagedFile
from raykd.errors import RunFailed
from raykd.store.locked_folder import LockedFolder
from raykd.store.run_folder import RunFolder
from raykd.store.study import SearchFolder


@pytest.fixture(params=[RunFolder, SearchFolder])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> LockedFolder:
    return request.param(tmp_path / "folder")


def test_a_lock_that_is_a_folder_is_a_damaged_file_with_the_remedy(folder: LockedFolder) -> None:
    (folder.path / ".lock").mkdir(parents=True)
    for access in (folder.lock, folder.is_held):
        with pytest.raises(DamagedFile, match=r"\.lock' is damaged: it is not a file; remove it and rerun"):
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
