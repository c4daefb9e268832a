"""Tests of the run store: the status of a run, its lock, and damaged files."""

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import children
import pytest
from small_runs import NO_WEIGHTS, digits, experiment, run_of
from written_records import record_of, run_record

from raykd.config import from_dict
from raykd.config.codec import read_checked_json
from raykd.disk.atomic import write_bytes
from raykd.disk.damage import DamagedFile
from raykd.disk.mounts import Mount
from raykd.errors import ConfigError, RunFailed
from raykd.provenance import command_line
from raykd.spec.plan import Run, make_plan
from raykd.store import run_store
from raykd.store.records import read_plan
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore

UNPRIVILEGED_USER = 65_534


def test_folder_lies_below_its_family(tmp_path: Path) -> None:
    run = run_of("baseline")
    assert RunStore(tmp_path).folder(run).path == tmp_path / "small" / run.name


def test_run_without_a_record_has_not_started(run_folder: RunFolder) -> None:
    assert run_folder.status() == "not started"
    assert not run_folder.path.exists(), "reading the status wrote something"
    with run_folder.lock():
        pass
    assert run_folder.status() == "not started"


def test_run_is_running_while_a_process_holds_its_lock_and_interrupted_after(run_folder: RunFolder) -> None:
    with run_folder.lock():
        run_folder.write_record(run_record(status="running"))
        assert RunFolder(run_folder.path).status() == "running"
    assert RunFolder(run_folder.path).status() == "interrupted"


@pytest.mark.parametrize(
    ("weights", "sha256", "status"),
    [
        (b"weights", hashlib.sha256(b"weights").hexdigest(), "done"),
        (b"weights", hashlib.sha256(b"others").hexdigest(), "damaged"),
        (b"weights", None, "damaged"),
        (None, hashlib.sha256(b"weights").hexdigest(), "damaged"),
    ],
)
def test_finished_run_is_done_only_with_its_weights(
    run_folder: RunFolder, weights: bytes | None, sha256: str | None, status: str
) -> None:
    run_folder.write_record(run_record(status="done", weights_sha256=sha256))
    if weights:
        write_bytes(run_folder.best, weights)
    assert run_folder.status() == status


def test_failed_run_is_failed_until_it_is_locked_again(run_folder: RunFolder) -> None:
    run_folder.write_record(run_record(status="failed", reason="NaN"))
    assert run_folder.status() == "failed"
    with run_folder.lock():
        assert RunFolder(run_folder.path).status() == "running"


def test_second_process_cannot_lock_a_run(run_folder: RunFolder) -> None:
    child = children.hold_lock(run_folder.path)
    try:
        run_folder.write_record(run_record(status="running", writer=f"process {child.pid}"))
        with pytest.raises(RunFailed, match=rf"run is locked by process {child.pid}; wait for it to end, or stop it"):
            run_folder.lock()
        with pytest.raises(RunFailed):
            run_folder.lock(wait_s=0.2)
        assert run_folder.status() == "running"
    finally:
        child.kill()
        children.wait(child)


def test_lock_of_a_killed_process_is_released(run_folder: RunFolder) -> None:
    child = children.hold_lock(run_folder.path)
    run_folder.write_record(run_record(status="running"))
    child.kill()
    assert children.wait(child) == -9
    assert run_folder.status() == "interrupted"
    with run_folder.lock():
        pass


def test_waiting_writer_acquires_the_lock_once_it_is_released(run_folder: RunFolder) -> None:
    child = children.hold_lock(run_folder.path)
    child.kill()
    with run_folder.lock(wait_s=30):
        assert children.wait(child) == -9


def test_lock_excludes_another_writer_in_the_same_process(run_folder: RunFolder) -> None:
    with run_folder.lock(), pytest.raises(RunFailed):
        RunFolder(run_folder.path).lock()


def test_unknown_fields_cannot_be_written(run_folder: RunFolder) -> None:
    run_folder.write_record(run_record())
    with pytest.raises(TypeError, match="statsu"):
        run_folder.update(statsu="failed")


def test_run_is_read_back_from_its_record(run_folder: RunFolder) -> None:
    run = run_of("distilled")
    run_folder.write_record(record_of(run))
    read_back = from_dict(Run, run_folder.require_record().config)
    assert read_back == run and read_back.fingerprint == run.fingerprint


def test_history_has_one_row_per_epoch(run_folder: RunFolder) -> None:
    assert run_folder.history() == []
    rows = [{"epoch": 0, "loss": 0.1 + 0.2}, {"epoch": 1, "loss": 1e-300}]
    run_folder.write_history(rows)
    assert run_folder.history() == rows, "a value has changed"


def test_pipe_in_place_of_the_history_is_damage_and_not_waited_for(run_folder: RunFolder) -> None:
    run_folder.path.mkdir(parents=True)
    os.mkfifo(run_folder.history_path)
    with pytest.raises(DamagedFile, match=r"history\.parquet' is damaged: it is not a regular file; remove it"):
        run_folder.history()


def test_loss_term_is_null_before_it_starts(run_folder: RunFolder) -> None:
    run_folder.write_history([{"epoch": 0, "loss": 1.0}, {"epoch": 1, "loss": 0.5, "feature": 2.0}])
    assert [row["feature"] for row in run_folder.history()] == [None, 2.0]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"status": "done"', b"null"])
def test_damaged_record_raises_one_line_with_its_path(run_folder: RunFolder, content: bytes) -> None:
    write_bytes(run_folder.path / "run.json", content)
    with pytest.raises(ConfigError, match=r"run\.json' is damaged: .*; move the folder '.*' away and rerun") as caught:
        run_folder.status()
    assert "\n" not in str(caught.value)


def test_only_temporary_files_of_killed_writers_are_removed(run_folder: RunFolder) -> None:
    names = (".lock", "run.json", ".nfs000123456789ab", ".hidden-file")
    written_by_others = (".0123456789ab-test.json", ".0123456789ab-tags.json", ".0123456789ab-tracking.json")
    kept = [run_folder.path / name for name in (*names, *written_by_others)]
    kept.append(run_folder.checkpoint)
    left = [
        run_folder.path / ".0123456789ab-run.json",
        run_folder.checkpoint.parent / ".abcdef012345-last.safetensors",
    ]
    for path in (*kept, *left):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run_folder.remove_leftovers()
    assert all(path.exists() for path in kept) and not any(path.exists() for path in left)


def test_plan_file_keeps_the_stages_that_were_not_planned(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    both = make_plan(experiment(seeds=(0,)), digits(), NO_WEIGHTS, ("teacher", "baseline"))
    baseline = make_plan(experiment(seeds=(1,)), digits(), NO_WEIGHTS, ("baseline",))
    store.write_plan(both)
    store.write_plan(baseline)
    written = json.loads((tmp_path / "small" / "plan.json").read_text(encoding="utf-8"))
    assert written["family"] == "small"
    assert written["stages"] == {"teacher": both.stages["teacher"], "baseline": baseline.stages["baseline"]}


def test_plan_file_has_the_command_that_planned_it_quoted_for_a_shell(tmp_path: Path, monkeypatch) -> None:
    command = ["/usr/bin/python3.11", "-m", "raykd", "distill", "--set", "data.name=folder:my images", "--alpha\udcff"]
    monkeypatch.setattr("sys.orig_argv", command)
    RunStore(tmp_path).write_plan(make_plan(experiment(seeds=(0,)), digits(), NO_WEIGHTS, ("baseline",)))
    written = read_plan(tmp_path / "small" / "plan.json").command
    assert written == "python -m raykd distill --set 'data.name=folder:my images' '--alpha?'"
    monkeypatch.setattr("sys.orig_argv", ["/venv/bin/python", "/venv/bin/raykd", "run", "digits"])
    assert command_line() == "raykd run digits"


def test_missing_results_folder_is_accepted_and_not_made(tmp_path: Path) -> None:
    RunStore(tmp_path / "a" / "b").require_writable()
    assert not (tmp_path / "a").exists()


def test_results_below_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"results folder '.*file/results' cannot be written.*--results"):
        RunStore(tmp_path / "file" / "results").require_writable()


def refuse_as_unprivileged_user(folder: Path) -> None:
    """Check that the store is refused and a run's status can be read. Runs in a child process without root's rights."""
    if os.getuid() == 0:
        os.setuid(UNPRIVILEGED_USER)
    for results in (folder / "closed", folder / "closed" / "new", folder / "shut" / "deep" / "results"):
        with pytest.raises(ConfigError, match="cannot be written"):
            RunStore(results).require_writable()
    assert RunFolder(folder / "closed" / "run").status() == "interrupted"


@pytest.fixture
def closed_folders() -> Iterator[Path]:
    """A readable folder with a read-only store and a folder without any permissions."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        RunFolder(folder / "closed" / "run").write_record(run_record(status="running"))
        (folder / "shut").mkdir()
        modes = {"": 0o755, "closed/run": 0o555, "closed": 0o555, "shut": 0o000}
        for name, mode in modes.items():
            (folder / name).chmod(mode)
        yield folder
        for name in modes:
            (folder / name).chmod(0o755)


def test_read_only_results_folder_is_refused_and_can_still_be_read(closed_folders: Path) -> None:
    assert children.wait(children.start(refuse_as_unprivileged_user, closed_folders)) == 0


def test_missing_json_is_none(tmp_path: Path) -> None:
    assert read_checked_json(tmp_path / "none.json") is None


def test_stages_planned_concurrently_all_stay_in_the_plan(tmp_path: Path) -> None:
    plans = [make_plan(experiment(), digits(), NO_WEIGHTS, (stage,)) for stage in ("teacher", "baseline")]
    for number in range(20):
        store = RunStore(tmp_path / str(number))
        threads = [threading.Thread(target=store.write_plan, args=(plan,)) for plan in plans]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(read_checked_json(store.results / "small" / "plan.json")["stages"]) == {"teacher", "baseline"}


def test_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(ConfigError, match=r"Function not implemented.*name another with --results.*file locks"):
        RunStore(tmp_path).make_folder()
    assert list(tmp_path.iterdir()) == []


def test_lustre_whose_locks_are_of_one_node_is_refused_and_beegfs_logged(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(run_store, "mount_of", lambda _: Mount("/l", "lustre", frozenset({"rw", "localflock"})))
    with pytest.raises(ConfigError, match=r"/l is Lustre with locks of one node only \(localflock\).*-o flock"):
        RunStore(tmp_path / "r").make_folder()
    assert not (tmp_path / "r").exists() and not caplog.text
    monkeypatch.setattr(run_store, "mount_of", lambda _: Mount("/b", "beegfs", frozenset({"rw", "cfgFile=/none"})))
    RunStore(tmp_path / "r").make_folder()
    assert "is on BeeGFS (/b), whose file locks hold on one node only by default" in caplog.text


def test_results_folder_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch) -> None:
    def mkdir(path: Path, *arguments: object, **named: object) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ConfigError, match=r"Disk quota exceeded.*name another with --results"):
        RunStore(tmp_path / "new").make_folder()
