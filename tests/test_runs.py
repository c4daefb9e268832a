"""The run store: how far a run is, who may write it, and what is damaged."""

import errno
import fcntl
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import children
import pytest
from small_runs import NO_WEIGHTS, digits, experiment, run_of
from written_records import record_of, run_record

from raykd.atomic import write_bytes
from raykd.config import from_dict
from raykd.errors import ConfigError, RunFailed
from raykd.spec.plan import Run, make_plan
from raykd.store.codec import read_checked_json
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore

NOBODY = 65_534


def hold(path: Path, entered: Path) -> None:
    """In a child: take the run's lock and keep it until killed."""
    with RunFolder(path).writer():
        entered.touch()
        time.sleep(children.TIMEOUT_S)


def hold_in_child(path: Path) -> children.ForkServerProcess:
    entered = path.parent / "entered"
    process = children.start(hold, path, entered)
    while not entered.exists() and process.is_alive():
        time.sleep(0.01)
    return process


def test_folder_lies_below_its_family(tmp_path: Path) -> None:
    run = run_of("baseline")
    assert RunStore(tmp_path).folder(run).path == tmp_path / "small" / run.name


def test_run_without_a_record_has_not_started(run_folder: RunFolder) -> None:
    assert run_folder.status() == "not started"
    assert not run_folder.path.exists(), "asking for the status wrote something"
    with run_folder.writer():
        pass
    assert run_folder.status() == "not started"


def test_run_is_running_while_a_process_holds_its_lock_and_interrupted_after(run_folder: RunFolder) -> None:
    with run_folder.writer():
        run_folder.write_record(run_record(status="running"))
        assert RunFolder(run_folder.path).status() == "running"
    assert RunFolder(run_folder.path).status() == "interrupted"


@pytest.mark.parametrize(("has_best", "status"), [(True, "done"), (False, "interrupted")])
def test_run_is_done_when_its_weights_are_there(run_folder: RunFolder, has_best: bool, status: str) -> None:
    run_folder.write_record(run_record(status="done"))
    if has_best:
        write_bytes(run_folder.best, b"weights")
    assert run_folder.status() == status


def test_run_that_failed_says_so_and_runs_again_when_taken_up(run_folder: RunFolder) -> None:
    run_folder.write_record(run_record(status="failed", reason="NaN"))
    assert run_folder.status() == "failed"
    with run_folder.writer():
        assert RunFolder(run_folder.path).status() == "running"


def test_two_processes_never_write_one_run(run_folder: RunFolder) -> None:
    child = hold_in_child(run_folder.path)
    try:
        run_folder.write_record(run_record(status="running", writer=f"process {child.pid}"))
        with pytest.raises(RunFailed, match=rf"run is locked by process {child.pid}; wait for it"):
            run_folder.writer()
        with pytest.raises(RunFailed):
            run_folder.writer(wait_s=0.2)
        assert run_folder.status() == "running"
    finally:
        child.kill()
        children.wait(child)


def test_lock_is_freed_by_a_kill(run_folder: RunFolder) -> None:
    child = hold_in_child(run_folder.path)
    run_folder.write_record(run_record(status="running"))
    child.kill()
    assert children.wait(child) == -9
    assert run_folder.status() == "interrupted"
    with run_folder.writer():
        pass


def test_waiting_writer_gets_the_lock_when_it_comes_free(run_folder: RunFolder) -> None:
    child = hold_in_child(run_folder.path)
    child.kill()
    with run_folder.writer(wait_s=30):
        assert children.wait(child) == -9


def test_two_folders_in_one_process_exclude_each_other_too(run_folder: RunFolder) -> None:
    with run_folder.writer(), pytest.raises(RunFailed):
        RunFolder(run_folder.path).writer()


def test_update_changes_its_fields_alone(run_folder: RunFolder) -> None:
    run_folder.write_record(run_record(status="running", seed=3))
    run_folder.update(status="failed")
    assert run_folder.record() == run_record(status="failed", seed=3)


def test_unknown_fields_cannot_be_written(run_folder: RunFolder) -> None:
    run_folder.write_record(run_record())
    with pytest.raises(TypeError, match="statsu"):
        run_folder.update(statsu="failed")


def test_record_gives_the_run_back(run_folder: RunFolder) -> None:
    run = run_of("distilled")
    run_folder.write_record(record_of(run))
    again = from_dict(Run, run_folder.require_record().config)
    assert again == run and again.fingerprint == run.fingerprint


def test_history_is_a_row_an_epoch(run_folder: RunFolder) -> None:
    assert run_folder.history() == []
    rows = [{"epoch": 0, "loss": 0.1 + 0.2}, {"epoch": 1, "loss": 1e-300}]
    run_folder.write_history(rows)
    assert run_folder.history() == rows, "a bit was lost"


def test_a_term_that_comes_in_later_is_null_before(run_folder: RunFolder) -> None:
    run_folder.write_history([{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5, "feature": 2.0}])
    assert [row["feature"] for row in run_folder.history()] == [None, 2.0]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"status": "done"', b"null"])
def test_damaged_record_is_named_in_one_line(run_folder: RunFolder, content: bytes) -> None:
    write_bytes(run_folder.path / "run.json", content)
    with pytest.raises(ConfigError, match=r"run\.json' is damaged: .*; move the folder '.*' away and rerun") as caught:
        run_folder.status()
    assert "\n" not in str(caught.value)


def test_leftovers_of_a_killed_writer_are_removed_and_nothing_else(run_folder: RunFolder) -> None:
    kept = [run_folder.path / name for name in (".lock", "run.json", ".nfs000123456789ab", ".hidden-file")]
    kept.append(run_folder.checkpoint)
    left = [run_folder.path / ".0123456789ab-run.json", run_folder.checkpoint.parent / ".abcdef012345-last.safetensors"]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run_folder.remove_leftovers()
    assert all(path.exists() for path in kept) and not any(path.exists() for path in left)


def test_plan_file_keeps_the_stages_that_were_not_planned(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    whole = make_plan(experiment(seeds=(0,)), digits(), NO_WEIGHTS, ("teacher", "baseline"))
    other = make_plan(experiment(seeds=(1,)), digits(), NO_WEIGHTS, ("baseline",))
    store.write_plan(whole)
    store.write_plan(other)
    written = json.loads((tmp_path / "small" / "plan.json").read_text(encoding="utf-8"))
    assert written["family"] == "small"
    assert written["stages"] == {"teacher": whole.stages["teacher"], "baseline": other.stages["baseline"]}


def test_results_folder_that_will_be_made_is_fine(tmp_path: Path) -> None:
    RunStore(tmp_path / "a" / "b").require_writable()
    assert not (tmp_path / "a").exists()


def test_results_below_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"results folder '.*file/results' cannot be written.*--results"):
        RunStore(tmp_path / "file" / "results").require_writable()


def refuse_as_nobody(folder: Path) -> None:
    """In a child without root's rights: the store is refused, and a run's status can still be read."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    for results in (folder / "closed", folder / "closed" / "new", folder / "shut" / "deep" / "results"):
        with pytest.raises(ConfigError, match="cannot be written"):
            RunStore(results).require_writable()
    assert RunFolder(folder / "closed" / "run").status() == "interrupted"


@pytest.fixture
def closed_folders() -> Iterator[Path]:
    """A folder that all may enter, with a store that nobody may write and a folder that nobody may enter."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        RunFolder(folder / "closed" / "run").write_record(run_record(status="running"))
        (folder / "shut").mkdir()
        modes = {"": 0o755, "closed/run": 0o555, "closed": 0o555, "shut": 0o000}
        for name, mode in modes.items():
            (folder / name).chmod(mode)
        yield folder
        for name in modes:
            (folder / name).chmod(0o755)


def test_read_only_results_folder_is_refused_and_can_still_be_read(closed_folders: Path) -> None:
    assert children.wait(children.start(refuse_as_nobody, closed_folders)) == 0


def test_missing_json_is_none(tmp_path: Path) -> None:
    assert read_checked_json(tmp_path / "none.json") is None


def test_stages_that_are_planned_at_once_all_stay_in_the_plan(tmp_path: Path) -> None:
    plans = [make_plan(experiment(), digits(), NO_WEIGHTS, (stage,)) for stage in ("teacher", "baseline")]
    for number in range(20):
        store = RunStore(tmp_path / str(number))
        threads = [threading.Thread(target=store.write_plan, args=(plan,)) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(read_checked_json(store.results / "small" / "plan.json")["stages"]) == {"teacher", "baseline"}


def test_filesystem_without_locks_is_refused_and_a_file_is_never_taken_for_one(tmp_path: Path, monkeypatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=r"Function not implemented.*name another with --results.*file locks"):
        RunStore(tmp_path).make_folder()
    assert list(tmp_path.iterdir()) == []


def test_folder_that_only_seems_writable_is_refused(tmp_path: Path, monkeypatch) -> None:
    def mkdir(path: Path, *arguments: object, **named: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ConfigError, match=r"Disk quota exceeded.*name another with --results"):
        RunStore(tmp_path / "new").make_folder()
