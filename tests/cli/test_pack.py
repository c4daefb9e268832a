"""`raykd pack`: the command, its processes and its progress."""

import io
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from small_images import encoded, write_folder

from raykd.cli import parser
from raykd.data.load import load_dataset
from raykd.data.pack import ShardRecord
from raykd.data.shard_writer import WrittenShard
from raykd.orchestration.packing import PackProgress

ROOT = Path(__file__).parents[2]


def pack(data: Path, *arguments: str) -> int:
    return parser.entry(["pack", "folder:insects", "--data-dir", str(data), *arguments])


def test_the_command_writes_a_pack_that_its_last_line_names(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_folder(tmp_path / "insects")
    for arguments, folder in ((), "insects"), (("--raw", "8"), "insects-8"), (("--resize", "16"), "insects-16"):
        assert pack(tmp_path, "--jobs", "1", *arguments) == 0
        assert (tmp_path / "packed" / folder / "pack.json").is_file()
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("packed 18 train and 6 test images") and last.endswith(f"data.name=packed:{folder}")
        name = last.rpartition("=")[2]
        assert len(load_dataset(name, tmp_path, 8).train) == 18


def test_a_pack_in_another_folder_is_named_by_its_path(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_folder(tmp_path / "insects")
    assert pack(tmp_path, "--jobs", "1", "--to", str(tmp_path / "else/where")) == 0
    assert capsys.readouterr().out.endswith(f"data.name=packed:{tmp_path}/else/where\n")


def test_damaged_images_are_exit_code_2_or_left_out(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    place = write_folder(tmp_path / "insects")
    (place / "train/bee/002.png").write_bytes(b"x")
    assert pack(tmp_path, "--jobs", "1") == 2
    line = capsys.readouterr().err
    assert line.startswith(f"raykd: {place}/train/bee/002.png is no PNG or JPEG") and line.count("\n") == 1
    assert pack(tmp_path, "--jobs", "1", "--skip-damaged", "1") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"1 damaged image left out; {tmp_path}/packed/insects/skipped.txt lists them"


def test_several_processes_write_the_same_bytes_and_their_errors_are_one_line(tmp_path: Path, capsys) -> None:
    place = write_folder(tmp_path / "insects")
    assert pack(tmp_path, "--jobs", "1") == 0
    assert pack(tmp_path, "--jobs", "2", "--to", str(tmp_path / "other")) == 0
    for path in (tmp_path / "packed/insects").iterdir():
        assert (tmp_path / "other" / path.name).read_bytes() == path.read_bytes()
    (place / "test/bee/000.png").write_bytes(b"x")
    capsys.readouterr()
    assert pack(tmp_path, "--jobs", "2", "--to", str(tmp_path / "third")) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.nightly
def test_killing_the_command_ends_its_processes_and_the_same_command_resumes(tmp_path: Path) -> None:
    place = write_folder(tmp_path / "insects", 1, 1)
    for number in range(1_500):
        (place / "train/ant" / f"{number}.png").write_bytes(encoded(number, (64, 64)))
    command = [sys.executable, "-m", "raykd", "pack", "folder:insects", "--data-dir", str(tmp_path), "--jobs", "2"]
    process = subprocess.Popen(command, cwd=ROOT)
    folder = tmp_path / "packed/insects"
    while not (folder.is_dir() and any(folder.iterdir())):
        time.sleep(0.01)
    children = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children):
        assert time.monotonic() < deadline, "a process of the pool is left"
        time.sleep(0.1)
    assert children and not (folder / "pack.json").exists()
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert not list(folder.glob(".*")) and (folder / "pack.json").exists()


def _children(pid: int) -> list[int]:
    """Return all processes below `pid`."""
    below = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return below + [more for child in below for more in _children(child)]


def test_the_progress_counts_the_images_of_this_attempt_for_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("raykd.orchestration.packing.time.monotonic", lambda: now[0])
    console = Console(record=True, width=100, file=io.StringIO())
    progress = PackProgress(10_000, console)
    shard = WrittenShard("", ShardRecord("train-00000.arrow", 2_000, 1), 0, {}, (), (), "")
    progress.report(shard, False)
    now[0] = 120.0
    progress.report(shard, True)
    assert console.export_text() == "4,000 of 10,000 images, 100 images/s, 1 min 00 s left\n"
