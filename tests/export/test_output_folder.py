"""Exports to the same folder that run concurrently, and what a killed export leaves behind."""

import os
import time
from pathlib import Path

import pytest

from raykd.disk import atomic
from raykd.errors import ConfigError
from raykd.export import output_folder
from raykd.export.output_folder import require_replaceable, writing_folder

LEFTOVER = ".0123456789ab-out"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def write(output: Path, content: str) -> None:
    with writing_folder(output) as temporary:
        (temporary / "README.md").write_text(content)


def test_an_export_keeps_its_files_while_another_to_the_same_output_ends(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other export ends at each flush of the first, which is after its last file and before its rename."""
    flush, others = atomic._flush, []

    def end_another(path: Path) -> None:
        if not others:
            others.append(path)
            write(output, "other")
        flush(path)

    monkeypatch.setattr(atomic, "_flush", end_another)
    write(output, "first")
    assert others and (output / "README.md").read_text() == "first"
    assert [*output.parent.iterdir()] == [output] and [*output.iterdir()] == [output / "README.md"]


def test_an_export_that_is_just_starting_is_no_leftover(output: Path) -> None:
    leftover = output.with_name(LEFTOVER)
    leftover.mkdir()
    write(output, "another")
    assert leftover.is_dir()


def test_unlocked_folders_and_old_ones_without_a_lock_file_are_removed(output: Path) -> None:
    unlocked, old = output.with_name(LEFTOVER), output.with_name(LEFTOVER.replace("0", "1"))
    for folder in (unlocked, old):
        folder.mkdir()
    (unlocked / ".export.lock").touch()
    os.utime(old, (time.time() - 2 * output_folder._MAX_UNLOCKED_S,) * 2)
    write(output, "new")
    assert [*output.parent.iterdir()] == [output]


def test_an_export_that_was_killed_after_its_rename_can_be_overwritten(output: Path) -> None:
    write(output, "first")
    (output / ".export.lock").touch()
    require_replaceable(output, overwrite=True, export_files={"README.md"})
    with pytest.raises(ConfigError, match="is not empty"):
        require_replaceable(output, overwrite=False, export_files={"README.md"})
    write(output, "second")
    assert [*output.iterdir()] == [output / "README.md"]
