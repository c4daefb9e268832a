"""Whole searches are removed with their pages, and never one that a process uses or what other runs refer to."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from search_folders import finished_search, make_search, outcome_with_asha, write_cache
from written_results import finished

from raykd.errors import ConfigError, Interrupted
from raykd.report.read.search_summary import summarize_searches
from raykd.spec.search import Search, uniform
from raykd.store.cleaning import find_removable, remove_unneeded
from raykd.store.results_folder import in_use, search_paths
from raykd.store.run_catalog import read_catalog
from raykd.store.run_folder import RunFolder
from raykd.store.run_removal import removable_runs
from raykd.store.search_removal import removable_searches, remove_searches
from raykd.store.study import SearchFolder


def other_search(results: Path, name: str = "other") -> SearchFolder:
    """Write a search of one trial, whose name is `name`."""
    search = Search(space={"method.alpha": uniform(0, 1)}, trials=1, name=name, scheduler="none", confirm=0)
    return SearchFolder(make_search(results, search, outcome_with_asha).path)


def remove(results: Path, *folders: SearchFolder) -> None:
    remove_searches(results, removable_searches(results, folders))


def test_a_search_is_removed_with_its_trials_journal_and_page_and_others_are_kept(tmp_path):
    search, other = SearchFolder(finished_search(tmp_path).path), other_search(tmp_path)
    pages = [summary.page.parent for summary in summarize_searches(tmp_path)]
    assert pages == [other.page_folder, search.page_folder]
    for page in pages:
        page.mkdir(parents=True)
    remove(tmp_path, search)
    assert not search.path.exists() and not search.page_folder.exists()
    assert other.run(0).record_path.is_file() and other.page_folder.is_dir()


def test_runs_that_confirm_a_search_teachers_and_caches_outlive_it(tmp_path):
    search = SearchFolder(finished_search(tmp_path).path)
    plan = finished(tmp_path)
    write_cache(tmp_path, "0123", [2, 2])
    before = {path for path in tmp_path.rglob("*") if path.is_file() and search.path not in path.parents}
    remove(tmp_path, search)
    after = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert before <= after and len(read_catalog(tmp_path).runs) == len(plan.runs)


def test_a_search_is_refused_while_a_process_holds_its_lock_or_that_of_a_trial(tmp_path):
    search, other = SearchFolder(finished_search(tmp_path).path), other_search(tmp_path)
    with SearchFolder(search.path).lock(), pytest.raises(ConfigError, match=r"'cnn/search' is locked by .*wait"):
        remove(tmp_path, other, search)
    with RunFolder(search.run(3).path).lock(), pytest.raises(ConfigError, match="trial 'cnn/search/0003' is locked by"):
        remove(tmp_path, other, search)
    assert search.record_path.is_file() and other.record_path.is_file()
    remove(tmp_path, other, search)
    assert not search.path.exists() and not other.path.exists()


def test_a_search_is_refused_while_a_command_trains_in_the_results_folder_without_force(tmp_path):
    """A command holds the search's lock neither while it trains the teacher nor while it trains the winner."""
    search = SearchFolder(finished_search(tmp_path).path)
    with in_use(tmp_path):
        with pytest.raises(ConfigError, match=r"may be used by a command that trains in .* now; .* add --force"):
            removable_searches(tmp_path, [search])
        assert removable_searches(tmp_path, [search], force=True)


def test_a_teacher_of_an_unfinished_search_may_be_removed_with_the_search(tmp_path):
    finished(tmp_path)
    search = Search(space={"method.alpha": uniform(0, 1)}, trials=9, scheduler="none", confirm=0)
    path = make_search(tmp_path, search, outcome_with_asha, num_trials=1).path
    unfinished = SearchFolder(path.rename(tmp_path / "small" / path.name))
    (teacher,) = (RunFolder(path) for path in (tmp_path / "teachers").iterdir())
    with pytest.raises(ConfigError, match="is still needed by small/search"):
        removable_runs(tmp_path, [teacher])
    searches = removable_searches(tmp_path, [unfinished])
    assert removable_runs(tmp_path, [teacher], searches=searches)


def test_a_search_whose_record_is_damaged_can_be_removed(tmp_path):
    search = SearchFolder(finished_search(tmp_path).path)
    search.record_path.write_text("{")
    remove(tmp_path, search)
    assert not search.path.exists()


def test_an_interrupted_removal_leaves_folders_that_nothing_lists_and_clean_removes(tmp_path, monkeypatch):
    search = SearchFolder(finished_search(tmp_path).path)
    search.page_folder.mkdir(parents=True)

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(Interrupted, match=r"is removed were deleted; run '.*raykd clean' to delete the rest"):
            remove(tmp_path, search)
    left = [*(tmp_path / "cnn").glob(".removed-*"), *(tmp_path / "report").glob(".removed-*")]
    assert len(left) == 2 and not search.page_folder.exists()
    assert not search_paths(tmp_path) and not read_catalog(tmp_path).searches
    remove_unneeded(tmp_path, find_removable(tmp_path))
    assert not any(path.exists() for path in left)


def test_a_search_that_cannot_be_renamed_keeps_its_page(tmp_path, monkeypatch):
    search, rename = SearchFolder(finished_search(tmp_path).path), Path.rename
    search.page_folder.mkdir(parents=True)

    def fail(path: Path, target: Path) -> Path:
        if path == search.path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fail)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            remove(tmp_path, search)
    assert search.page_folder.is_dir() and search.journal.is_file()
    remove(tmp_path, search)
    assert not search.page_folder.exists() and not search.path.exists()


def test_a_search_of_another_results_folder_is_refused(tmp_path):
    search = SearchFolder(finished_search(tmp_path / "one").path)
    finished(tmp_path / "two")
    with pytest.raises(ConfigError, match="search 'cnn/search' is not below"):
        removable_searches(tmp_path / "two", [search])
