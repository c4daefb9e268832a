"""Several processes that pack into one folder: one writes, equal commands wait, and others are refused."""

import errno
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
from packed_layouts import IN_THIS_PROCESS, bytes_of, make_folder, pack_small, plan_of

from raykd.cli import parser
from raykd.data.load import load_dataset
from raykd.data.packs import shard
from raykd.data.packs.encoding import PackOptions
from raykd.data.packs.folder import LOCK, locked
from raykd.data.packs.reader import Pack
from raykd.data.packs.shard import ShardTask, WrittenShard, write_shard
from raykd.data.packs.writer import pack
from raykd.errors import DataError

pytestmark = pytest.mark.usefixtures("small_units")
FORK = multiprocessing.get_context("fork")
RESIZED = PackOptions(shorter_side=12)
DEADLINE_S = 30


class Command:
    """`raykd pack folder:insects` in a process of its own, in which each image takes some time."""

    def __init__(self, data: Path, *options: str, seconds: float = 0.02) -> None:
        self._log = data / f"{next(_numbers)}.log"
        arguments = ["pack", "folder:insects", "--data-dir", str(data), "--to", str(data / "pack"), "--jobs", "1"]
        self.process: ForkProcess = FORK.Process(target=_run, args=([*arguments, *options], self._log, seconds))
        self.process.start()

    def end(self) -> tuple[int | None, str]:
        """Wait for the end, and return the exit code and the output."""
        self.process.join(DEADLINE_S)
        assert not self.process.is_alive()
        return self.process.exitcode, self.log

    @property
    def log(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


_numbers = itertools.count()


def _run(arguments: Sequence[str], log: Path, seconds: float) -> None:
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    prepare = shard.prepare

    def slow(*arguments, **options):
        time.sleep(seconds)
        return prepare(*arguments, **options)

    shard.prepare = slow
    os._exit(parser.entry(arguments))


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.005)


def test_two_equal_concurrent_commands_both_end_well_with_one_good_pack(tmp_path: Path) -> None:
    expected = bytes_of(pack_small(make_folder(tmp_path), tmp_path, RESIZED))
    commands = [Command(tmp_path, "--resize", "12") for _ in range(2)]
    ends = [command.end() for command in commands]
    assert [code for code, _ in ends] == [0, 0]
    assert all("packed 18 train and 9 test images" in log for _, log in ends)
    assert sum("which writes the same pack to" in log for _, log in ends) == 1
    assert bytes_of(tmp_path / "pack") == expected


def test_of_two_concurrent_commands_with_other_options_one_is_refused_in_one_line(tmp_path: Path) -> None:
    make_folder(tmp_path)
    commands = [Command(tmp_path, *options) for options in (("--resize", "12"), ("--raw", "8"))]
    ends = [command.end() for command in commands]
    assert sorted(code or 0 for code, _ in ends) == [0, 2]
    (refused,) = (log for code, log in ends if code == 2)
    (line,) = (line for line in refused.splitlines() if line.startswith("raykd: "))
    assert f"{tmp_path}/pack: " in line and "Traceback" not in refused
    options = RESIZED if ends[0][0] == 0 else PackOptions(square_size=8)
    assert bytes_of(tmp_path / "pack") == bytes_of(pack_small("folder:insects", tmp_path, options))


def test_a_command_with_other_options_changes_nothing_while_another_one_packs(tmp_path: Path) -> None:
    expected = bytes_of(pack_small(make_folder(tmp_path), tmp_path, RESIZED))
    first = Command(tmp_path, "--resize", "12", seconds=0.05)
    wait_for(tmp_path / "pack" / "packing.json")
    code, log = Command(tmp_path, "--raw", "8", seconds=0).end()
    assert first.process.is_alive(), "the first command was too fast for this test"
    assert code == 2 and log.count("\n") == 1
    problem = "is packing other files into it, or with other options (with --resize 12); wait for it to end, or pack"
    assert f"process {first.process.pid} on " in log and problem in log
    assert first.end()[0] == 0 and bytes_of(tmp_path / "pack") == expected


def test_an_unfinished_pack_of_other_options_is_not_changed_and_its_own_command_resumes(tmp_path: Path) -> None:
    expected = bytes_of(pack_small(make_folder(tmp_path), tmp_path, RESIZED))
    first = Command(tmp_path, "--resize", "12", seconds=0.05)
    wait_for(tmp_path / "pack" / "train-00000.json")
    first.kill()
    before = bytes_of(tmp_path / "pack")
    code, log = Command(tmp_path, "--raw", "8").end()
    assert code == 2 and log == (
        f"raykd: {tmp_path}/pack: holds an unfinished pack with --resize 12; finish it with the same command as "
        "before, remove the folder, or pack into another folder with --to FOLDER\n"
    )
    assert bytes_of(tmp_path / "pack") == before
    assert Command(tmp_path, "--resize", "12").end()[0] == 0
    assert bytes_of(tmp_path / "pack") == expected


def test_shards_that_no_file_describes_are_not_overwritten(tmp_path: Path) -> None:
    folder = pack_small(make_folder(tmp_path), tmp_path, RESIZED)
    content = (folder / "pack.json").read_bytes()
    (folder / "pack.json").unlink()
    before = bytes_of(folder)
    for options in (RESIZED, PackOptions(square_size=8)):
        with pytest.raises(DataError) as caught:
            pack_small("folder:insects", tmp_path, options)
        assert str(caught.value) == (
            f"{folder}: has test-00000.arrow, and neither pack.json nor packing.json, which state how it was packed; "
            "copy pack.json back, remove the folder to pack again, or pack into another folder with --to FOLDER"
        )
        assert bytes_of(folder) == before
    with pytest.raises(DataError, match=r"pack: has no pack\.json; it is no packed data set, or packing it was interr"):
        load_dataset("packed:pack", tmp_path)
    (folder / "pack.json").write_bytes(content)
    pack_small("folder:insects", tmp_path, RESIZED)


def test_a_complete_pack_is_read_without_changing_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(make_folder(tmp_path), tmp_path)
    record = pack(plan, IN_THIS_PROCESS)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for owner, name in ((Path, "unlink"), (Path, "mkdir"), (os, "replace"), (os, "open")):
        monkeypatch.setattr(owner, name, refuse)
    assert pack(plan, IN_THIS_PROCESS) == record


def test_a_waiting_command_stops_at_a_signal(tmp_path: Path) -> None:
    plan = plan_of(make_folder(tmp_path), tmp_path, RESIZED, tmp_path / "pack")
    with locked(plan.folder, plan.key, lambda: None):
        waiting = Command(tmp_path, "--resize", "12")
        deadline = time.monotonic() + DEADLINE_S
        while "waiting for another process, which writes" not in waiting.log:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert waiting.process.pid is not None
        os.kill(waiting.process.pid, signal.SIGINT)
        code, log = waiting.end()
    assert code == 75 and log.endswith("rerun the same command to resume\n") and "Traceback" not in log
    assert [path.name for path in plan.folder.iterdir()] == [LOCK]


def test_a_waiting_command_is_refused_a_pack_of_other_files(tmp_path: Path) -> None:
    plan = plan_of(make_folder(tmp_path), tmp_path, to=tmp_path / "pack")
    (tmp_path / "insects/train/bee/005.png").unlink()
    others = plan_of("folder:insects", tmp_path, to=tmp_path / "pack")

    def packed_meanwhile(tasks: Sequence[ShardTask]) -> Iterator[WrittenShard]:
        with pytest.raises(DataError, match=r"pack: process \d+ on .* is packing other files into it"):
            pack(plan, IN_THIS_PROCESS)
        return IN_THIS_PROCESS(tasks)

    pack(others, packed_meanwhile)
    with pytest.raises(DataError, match="holds a pack of other files, other versions of them, or other options"):
        pack(plan, IN_THIS_PROCESS)


def test_a_shard_that_something_else_has_written_is_never_in_a_pack(tmp_path: Path) -> None:
    name = make_folder(tmp_path)
    plan = plan_of(name, tmp_path)
    other = plan_of(name, tmp_path, PackOptions(square_size=8))

    def disturbed(tasks: Sequence[ShardTask]) -> Iterator[WrittenShard]:
        yield from IN_THIS_PROCESS(tasks)
        write_shard(other.tasks[1])  # as a process that holds no lock

    with pytest.raises(DataError, match=r"train-00001\.arrow: was changed while the data set was packed; end other"):
        pack(plan, disturbed)
    assert not (plan.folder / "pack.json").exists()
    pack(plan, IN_THIS_PROCESS)
    Pack(plan.folder)
    assert load_dataset("packed:pack", tmp_path).identity == load_dataset(name, tmp_path).identity
