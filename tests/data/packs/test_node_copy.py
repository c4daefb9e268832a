"""A packed data set is copied to the node once, and read in place where it cannot be copied."""

import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from raykd.data.packs import node_copy
from raykd.data.packs.node_copy import NODE_DATA, copy_to_node


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A folder with the names of a pack's files; the copy does not look into them."""
    folder = tmp_path / "birds"
    folder.mkdir()
    for name in ("pack.json", "index.arrow", "train-00000.arrow"):
        (folder / name).write_text(name)
    return folder


def test_a_pack_is_copied_once_and_read_from_the_copy(pack: Path, tmp_path: Path) -> None:
    environ = {NODE_DATA: str(tmp_path / "node" / "packs")}
    copy = copy_to_node(pack / "pack.json", environ)
    assert copy.parent == tmp_path / "node" / "packs" and copy.name.startswith("birds-")
    assert {file.name: file.read_text() for file in copy.iterdir()} == {
        name: name for name in ("pack.json", "index.arrow", "train-00000.arrow")
    }
    inode = (copy / "pack.json").stat().st_ino
    assert copy_to_node(pack / "pack.json", environ) == copy and (copy / "pack.json").stat().st_ino == inode


def test_another_pack_of_the_same_name_has_its_copy(pack: Path, tmp_path: Path) -> None:
    environ = {NODE_DATA: str(tmp_path / "packs")}
    before = copy_to_node(pack / "pack.json", environ)
    (pack / "pack.json").write_text("packed again")
    after = copy_to_node(pack / "pack.json", environ)
    assert after != before and (after / "pack.json").read_text() == "packed again"


def test_without_a_scratch_space_a_pack_is_read_in_place(pack: Path) -> None:
    assert copy_to_node(pack / "pack.json", {}) == copy_to_node(pack / "pack.json", {NODE_DATA: ""}) == pack


def test_a_pack_that_does_not_fit_is_read_in_place_and_logged(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 60, 40))
    assert copy_to_node(pack / "pack.json", {NODE_DATA: str(tmp_path / "packs")}) == pack
    assert f"{pack} is read in place: it has 37 B, and 40 B are free" in caplog.text
    assert [entry.suffix for entry in (tmp_path / "packs").iterdir()] in ([".lock"], [])


def test_an_interrupted_copy_is_made_again(pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environ = {NODE_DATA: str(tmp_path / "packs")}
    copy = copy_to_node(pack / "pack.json", environ)
    temporary = copy.rename(copy.with_name(f".{copy.name}"))
    (temporary / "index.arrow").unlink()
    caplog.set_level(logging.INFO, node_copy.__name__)
    assert copy_to_node(pack / "pack.json", environ) == copy and (copy / "index.arrow").read_text() == "index.arrow"
    assert "copying" in caplog.text and not temporary.exists()


def test_a_disk_that_fills_meanwhile_leaves_no_part_behind(
    pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(source: Path, target: Path) -> None:
        Path(target).mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", fail)
    assert copy_to_node(pack / "pack.json", {NODE_DATA: str(tmp_path / "packs")}) == pack
    assert "cannot be copied" in caplog.text and "No space left on device" in caplog.text
    assert not [entry for entry in (tmp_path / "packs").iterdir() if entry.is_dir()]
