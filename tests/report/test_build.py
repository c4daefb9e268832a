"""The report writes all of its files or none, and imports neither torch nor ray."""

import json
import subprocess
import sys

import pytest
from report_files import contents

from raykd.disk.atomic import write_bytes
from raykd.errors import ConfigError, RaykdError
from raykd.report.build import build


def test_build_writes_exactly_its_files(two_families):
    folder = two_families.page.parent
    written = ["confusion.parquet", "index.html", "runs.csv", "runs.parquet", "summary.json"]
    assert sorted(path.name for path in folder.iterdir()) == written
    assert (folder.parent / "report.json").is_file()
    assert any(summary.missing for summary in two_families.summaries)
    assert not list(folder.parent.rglob("*.tmp"))


def test_a_damaged_run_leaves_the_old_report_untouched(results):
    results.family("cnn", [95.0], [87.0], [88.0])
    build(results.root)
    before = contents(results.root)
    (results.root / "cnn" / "baseline-net-s0-ab12" / "test.json").write_text("{")
    with pytest.raises(RaykdError, match=r"test\.json"):
        build(results.root)
    assert contents(results.root) == before


def test_without_a_plan_nothing_is_written(results):
    results.root.mkdir()
    with pytest.raises(ConfigError):
        build(results.root)
    assert list(results.root.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_bytes(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_report_imports_neither_torch_nor_ray():
    code = (
        "import json, sys, raykd.report.build, raykd.report.render.terminal\n"
        "print(json.dumps(sorted({'torch', 'ray', 'pandas', 'matplotlib.pyplot'} & set(sys.modules))))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(loaded) == []
