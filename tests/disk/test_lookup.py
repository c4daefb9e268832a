"""Lookups on a disk raise its errors, with every version of Python: a file that cannot be looked up is not missing."""

import ast
import errno
import os
from pathlib import Path

import pytest

import raykd
from raykd.disk.lookup import find, is_file, is_folder, is_there

PACKAGE = Path(raykd.__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of files, folders, and links to them."""
    for name in ("a/run.json", "b/run.json", "b/trials/0/run.json", ".c/run.json", "file"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("file", (True, False, True)),
        ("a", (False, True, True)),
        ("link", (False, True, True)),
        ("link/run.json", (True, False, True)),
        ("missing", (False, False, False)),
        ("missing/run.json", (False, False, False)),
        ("file/run.json", (False, False, False)),
        ("nowhere", (False, False, False)),
        ("loop", (False, False, False)),
        ("null\0", (False, False, False)),
    ],
)
def test_lookups_agree_with_pathlib_where_nothing_fails(folder: Path, name: str, expected: tuple[bool, ...]) -> None:
    path = folder / name
    assert (is_file(path), is_folder(path), is_there(path)) == expected
    assert (path.is_file(), path.is_dir(), path.exists()) == expected


@pytest.mark.parametrize(
    "pattern", ["*", "*/run.json", "*/*/run.json", "b/*/*", "*/trials/*/run.json", "file/*", "x/*"]
)
def test_find_agrees_with_glob_where_nothing_fails(folder: Path, pattern: str) -> None:
    assert find(folder, pattern) == sorted(folder.glob(pattern))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_an_error_of_the_disk_is_raised(folder: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "stat", fail)
    for look_up in (is_file, is_folder, is_there):
        with pytest.raises(OSError, match=os.strerror(code)):
            look_up(folder / "file")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "iterdir", fail)
    if code == errno.EACCES:
        assert find(folder, "*/run.json") == []
        return
    with pytest.raises(OSError, match=os.strerror(code)):
        find(folder, "*/run.json")


def test_no_module_asks_pathlib_whether_a_file_exists() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
                is_entry = isinstance(node.func.value, ast.Name) and node.func.value.id == "entry"  # of os.scandir
                if node.func.attr in ("is_file", "is_dir", "exists") and not is_entry:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == [], "these methods hide errors from Python 3.14 on; use raykd.disk.lookup"


def test_results_are_not_listed_with_glob() -> None:
    paths = [
        path for name in ("store", "training", "orchestration", "report") for path in (PACKAGE / name).rglob("*.py")
    ]
    found = [str(path.relative_to(PACKAGE)) for path in paths if ".glob(" in path.read_text(encoding="utf-8")]
    assert found == [], "glob hides errors from Python 3.13 on; use raykd.disk.lookup.find"
