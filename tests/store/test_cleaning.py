"""`raykd clean` finds what no run needs, and keeps what a running or unfinished run, trial or search needs."""

import os
import threading
import time
from pathlib import Path

import pytest
from small_runs import experiment, plan_of, recipe
from written_records import search_record
from written_results import CHECKPOINT, finish, finished, interrupt, write_cache

from raykd.config import to_dict
from raykd.disk import atomic
from raykd.disk.atomic import replacing
from raykd.spec.search import Search, uniform
from raykd.store import cleaning
from raykd.store.cleaning import find_removable, remove_unneeded
from raykd.store.results_folder import in_use, is_in_use, unused
from raykd.store.run_folder import RunFolder
from raykd.store.run_store import RunStore
from raykd.store.study import SearchFolder, SearchStudy

DIGEST = "8c08f0388fc96f45"


def kinds(results: Path) -> dict[str, int]:
    """Return how many entries of each kind may be removed."""
    found = [item.kind for item in find_removable(results).removable]
    return {kind: found.count(kind) for kind in dict.fromkeys(found)}


def old(path: Path) -> Path:
    """Write a temporary file of a writer that was killed two hours ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 5000)
    moment = time.time() - 7200
    os.utime(path, (moment, moment))
    return path


def test_checkpoints_of_finished_runs_are_removed_and_their_results_kept(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    found = find_removable(tmp_path)
    assert found.size_of("checkpoints") >= 5 * len(CHECKPOINT)
    removed, remaining = remove_unneeded(tmp_path, found)
    assert len(removed) == 5 and remaining == []
    for run in runs:
        folder = store.folder(run)
        assert not folder.checkpoint.parent.exists() and folder.status() == "done" and folder.test.is_file()
    assert kinds(tmp_path) == {}


def test_finding_changes_nothing(tmp_path):
    finished(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*") if path.name != ".lock")
    find_removable(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before


def test_the_checkpoints_of_interrupted_damaged_and_running_runs_are_kept(tmp_path):
    store, (teacher, one, two, three, four) = RunStore(tmp_path), finished(tmp_path).runs
    interrupt(store.folder(one))
    store.folder(two).best.write_bytes(b"damaged")
    store.folder(three).update(status="failed")
    kept = [store.folder(run).checkpoint for run in (one, two, three)]
    assert {item.path for item in find_removable(tmp_path).removable} == {
        store.folder(run).checkpoint for run in (teacher, four)
    }
    assert all(path.is_file() for path in kept)


def test_a_run_that_starts_again_after_the_list_was_made_keeps_its_checkpoint(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    found = find_removable(tmp_path)
    locked, restarted = store.folder(runs[1]), store.folder(runs[2])
    interrupt(restarted)
    with RunFolder(locked.path).lock():
        removed, _ = remove_unneeded(tmp_path, found)
    assert len(removed) == 3 and locked.checkpoint.is_file() and restarted.checkpoint.is_file()


def test_a_logit_cache_is_kept_for_planned_students_and_removed_after_them(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    cache = write_cache(tmp_path, store.folder(runs[0]))
    assert kinds(tmp_path)["logit caches"] == 1
    longer = plan_of(experiment(student=recipe(epochs=5)))
    store.write_plan(longer)
    found = find_removable(tmp_path)
    assert [(path, names[0].split("-")[0]) for path, names in found.kept] == [(cache, "small/distilled")]
    assert "logit caches" not in kinds(tmp_path)
    finish(store, longer.runs[1])
    finish(store, longer.runs[2])
    assert remove_unneeded(tmp_path, find_removable(tmp_path))[0] and not cache.exists()


def test_a_logit_cache_is_kept_for_an_interrupted_student_that_no_plan_names(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    cache = write_cache(tmp_path, store.folder(runs[0]))
    (tmp_path / "small" / "plan.json").unlink()
    interrupt(store.folder(runs[-1]))
    assert [path for path, _ in find_removable(tmp_path).kept] == [cache]


def test_trials_that_ended_lose_their_checkpoints_and_an_unfinished_search_keeps_the_others(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    search = Search(space={"method.alpha": uniform(0, 1)}, trials=3, scheduler="none")
    folder = SearchFolder(tmp_path / "small" / "search")
    with folder.lock():
        folder.write_record(search_record(family="small", search=to_dict(search), cache="0123456789abcdef"))
        study = SearchStudy(folder, search, {"method.alpha": 0.5})
        for number in range(2):
            study.start_trial()
            trial = folder.run(number)
            trial.checkpoint.parent.mkdir(parents=True)
            trial.checkpoint.write_bytes(CHECKPOINT)
            trial.write_record(store.folder(runs[-1]).require_record())
            interrupt_trial(trial)
        study.finish_trial(0, "pruned")
    cache = write_cache(tmp_path, store.folder(runs[0]))
    found = find_removable(tmp_path)
    trials = [item.path for item in found.removable if "trials" in item.path.parts]
    assert trials == [folder.run(0).checkpoint] and [path for path, _ in found.kept] == [cache]
    remove_unneeded(tmp_path, found)
    assert not folder.run(0).checkpoint.exists() and folder.run(1).checkpoint.is_file()


def interrupt_trial(trial: RunFolder) -> None:
    trial.update(status="running", best=None, weights_sha256=None)


def test_decoded_data_is_removed_if_no_unfinished_run_reads_it(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    identity = runs[0].data_identity
    data = tmp_path / ".data"
    data.mkdir()
    mine, other = data / f"digits-8-{identity[:16]}.safetensors", data / f"cifar10-16-{DIGEST[::-1]}.safetensors"
    for path in (mine, other, data / "notes.txt"):
        path.write_bytes(b"d" * 9000)
    assert kinds(tmp_path)["decoded data"] == 2
    interrupt(store.folder(runs[1]))
    remove_unneeded(tmp_path, find_removable(tmp_path))
    assert mine.is_file() and not other.exists() and (data / "notes.txt").is_file()


def test_packs_are_removed_only_when_complete_and_nothing_is_unfinished(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    for name, files in {"flowers-01234567.pack": ["pack.json"], "birds-01234567.pack": ["packing.json"]}.items():
        (tmp_path / ".data" / name).mkdir(parents=True)
        (tmp_path / ".data" / name / files[0]).touch()
    assert kinds(tmp_path)["decoded data"] == 1
    interrupt(store.folder(runs[1]))
    assert "decoded data" not in kinds(tmp_path)


def test_leftovers_of_killed_commands_are_removed(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    (tmp_path / ".ray" / "0123456789ab").mkdir(parents=True)
    (tmp_path / "small" / ".removed-0123456789ab").mkdir()
    (tmp_path / ".before_migration" / "teacher").mkdir(parents=True)
    paths = [
        tmp_path / ".before_migration" / "teacher",
        old(store.folder(runs[1]).path / ".0123456789ab-best.safetensors"),
        old(tmp_path / "models_saved" / ".0123456789ab-small_teacher.safetensors"),
        tmp_path / ".ray" / "0123456789ab",
        tmp_path / "small" / ".removed-0123456789ab",
    ]
    recent = tmp_path / "models_saved" / ".ba9876543210-small_teacher.safetensors"
    recent.touch()  # its writer may be at work
    assert kinds(tmp_path)["leftovers"] == len(paths)
    remove_unneeded(tmp_path, find_removable(tmp_path))
    assert not any(path.exists() for path in paths) and recent.exists()


def test_temporary_files_that_another_command_is_writing_are_kept(tmp_path):
    """Evaluations and tags are written without the run's lock."""
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    folder = store.folder(runs[1])
    left = [old(folder.path / ".0123456789ab-test.json"), old(folder.usage(0).with_name(".0123456789ab-0.json"))]
    for name in ("test.json", "tags.json"):
        with replacing(folder.path / name) as temporary:
            temporary.write_text("written meanwhile")
            remove_unneeded(tmp_path, find_removable(tmp_path))
        assert (folder.path / name).read_text() == "written meanwhile"
    assert not any(path.exists() for path in left)


def test_temporary_file_that_is_renamed_while_it_is_looked_at_is_kept(tmp_path, monkeypatch):
    finished(tmp_path)
    kept = tmp_path / "models_saved" / "small_teacher.safetensors"
    kept.parent.mkdir(exist_ok=True)
    temporary = old(kept.with_name(".0123456789ab-small_teacher.safetensors"))

    def is_leftover(name):
        if name == temporary.name and temporary.exists():
            temporary.rename(kept)
        return atomic.is_leftover(name)

    monkeypatch.setattr(cleaning, "is_leftover", is_leftover)
    assert "leftovers" not in kinds(tmp_path) and kept.is_file()


def test_the_file_of_a_lock_check_that_was_killed_is_removed_later(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", lambda *_, **__: None)
        RunStore(tmp_path).make_folder()
    (left,) = tmp_path.iterdir()
    old(left)
    remove_unneeded(tmp_path, find_removable(tmp_path))
    assert not left.exists()


def test_only_checkpoints_are_removed_while_a_command_trains_in_the_folder(tmp_path):
    store, runs = RunStore(tmp_path), finished(tmp_path).runs
    cache = write_cache(tmp_path, store.folder(runs[0]))
    found = find_removable(tmp_path)
    with in_use(tmp_path):
        assert is_in_use(tmp_path) and kinds(tmp_path) == {"checkpoints": 5}
        remove_unneeded(tmp_path, found)
        assert cache.is_dir()
    assert not is_in_use(tmp_path) and kinds(tmp_path) == {"logit caches": 1}


def test_a_command_that_starts_during_a_removal_waits_for_its_end(tmp_path):
    entered = threading.Event()

    def train() -> None:
        with in_use(tmp_path):
            entered.set()

    command = threading.Thread(target=train)
    with unused(tmp_path) as is_free:
        assert is_free
        command.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    command.join()


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_without_results_is_not_locked(tmp_path, name):
    (tmp_path / "file").touch()
    with in_use(tmp_path / name):
        assert not is_in_use(tmp_path / name)
