"""`raykd pack`: the command, its processes and its progress."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from small_images import encoded, write_folder, write_parquet

from raykd.cli import parser
from raykd.data.load import load_dataset
from raykd.data.packs.record import ShardRecord
from raykd.data.packs.shard import WrittenShard
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
    _wait_until(lambda: any(folder.glob(".*.arrow")), "the command packs nothing")
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


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("while its processes start", signal.SIGINT),
        ("after the first shard", signal.SIGINT),
        ("after the first shard", signal.SIGTERM),
        ("after the first shard", signal.SIGHUP),
    ],
)
def test_signal_ends_the_command_and_its_processes_and_the_same_command_resumes(
    tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    write_slow_parquet(tmp_path / "trees", num_files=8, images_per_file=6)
    command = [sys.executable, "-m", "raykd", "pack", "parquet:trees", "--data-dir", str(tmp_path), "--jobs", "2"]
    with _ctrl_c_not_ignored():
        first = subprocess.Popen(
            [*command, "--to", str(tmp_path / "pack")],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # its process group is like that of a terminal's foreground job
        )
    is_due = {
        "while its processes start": lambda: len(_of_session(first.pid)) > 2,
        "after the first shard": lambda: any((tmp_path / "pack").glob("t*.json")),
    }[moment]
    _wait_until(is_due, "the command packs nothing")
    os.killpg(first.pid, number)
    _, errors = first.communicate(timeout=60)
    assert (first.returncode, errors.count("\n")) == (75, 1), errors
    assert errors == "raykd: stopped while packing; complete shards are kept; rerun the same command to resume\n"
    _wait_until(lambda: not _of_session(first.pid), "a process of the command is left")
    assert not (tmp_path / "pack/pack.json").exists()
    for to in ("pack", "undisturbed"):
        subprocess.run([*command, "--to", str(tmp_path / to)], cwd=ROOT, check=True, timeout=300)
    one, other = (
        {path.name: path.read_bytes() for path in (tmp_path / to).iterdir()} for to in ("pack", "undisturbed")
    )
    assert one == other


@contextmanager
def _ctrl_c_not_ignored() -> Iterator[None]:
    """Start processes that do not ignore Ctrl-C, even if this one does, as a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def write_slow_parquet(place: Path, num_files: int, images_per_file: int) -> None:
    """Write Parquet, each file of which is a shard. Its images are large, so that each takes 50 ms."""
    images = []
    for number in range(num_files * images_per_file):
        stream = io.BytesIO()
        Image.new("RGB", (2000, 2000), (number, 200 - number, 7)).save(stream, "PNG", compress_level=1)
        images.append(stream.getvalue())
    labels = {"label": [0, 1] * (images_per_file // 2)}
    for number in range(num_files):
        part = images[number * images_per_file : (number + 1) * images_per_file]
        write_parquet(place / f"train-0000{number}-of-0000{num_files}.parquet", part, labels)
    write_parquet(place / "test.parquet", [encoded(0), encoded(1)], {"label": [0, 1]})


def _wait_until(is_true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


def _of_session(session: int) -> list[int]:
    """Return the processes of a session that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, _, _, its_session = status.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(status.parent.name))
    return found


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
