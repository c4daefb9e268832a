"""Tests of a search's study: one that is killed at any write and resumed samples the same configurations."""

import errno
import os
import re
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from search_folders import DEFAULT_CONFIGURATION, SPACE

from raykd.disk.damage import DamagedFile
from raykd.errors import RunFailed
from raykd.spec.search import Search, choice, integer
from raykd.store.records import END_STATES
from raykd.store.study import STATES, SearchFolder, SearchStudy, SearchTrial, best_first

SEARCH = Search(SPACE, trials=20)
NO_INTERRUPTION: Callable[[SearchFolder, int], bool] = lambda folder, number: False  # noqa: E731


def study_in(
    folder: SearchFolder, search: Search = SEARCH, default_configuration: dict[str, Any] = DEFAULT_CONFIGURATION
) -> SearchStudy:
    folder.path.mkdir(parents=True, exist_ok=True)
    return SearchStudy(folder, search, default_configuration)


def run_trials(
    folder: SearchFolder, search: Search, interrupt: Callable[[SearchFolder, int], bool] = NO_INTERRUPTION
) -> list[SearchTrial]:
    """Run all trials of `search`, where every third is pruned, and return them.

    interrupt: called after each sampled configuration; if it returns True, a new SearchStudy resumes the search.
    """
    study = study_in(folder, search)
    for _ in range(search.trials):
        trial = study.start_trial()
        if interrupt(folder, trial.number):
            study = study_in(folder, search)
            (unfinished,) = (trial for trial in study.trials() if trial.state == "running")
            trial = study.resume_trial(unfinished.number)
        value = -((trial.configuration["method.alpha"] - 0.3) ** 2)
        study.report_value(trial.number, 1, value)
        study.finish_trial(trial.number, "pruned" if trial.number % 3 == 2 else "done", [value])
    return folder.trials()


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return SearchFolder(tmp_path / "small" / "search")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[SearchTrial]:
    return run_trials(SearchFolder(tmp_path_factory.mktemp("uninterrupted")), SEARCH)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_resumed_search_samples_the_same_configurations(tmp_path: Path, sampler: Any) -> None:
    search = replace(SEARCH, sampler=sampler)
    expected = run_trials(SearchFolder(tmp_path / "uninterrupted"), search)
    assert (
        run_trials(SearchFolder(tmp_path / "interrupted"), search, lambda _, number: number in (0, 7, 15)) == expected
    )


def test_partly_sampled_configuration_is_completed(folder: SearchFolder, uninterrupted: list[SearchTrial]) -> None:
    def truncate_last_line(folder: SearchFolder, number: int) -> bool:
        if number not in (4, 16):
            return False
        *complete, last = folder.journal.read_bytes().splitlines(keepends=True)
        assert b"method.temperature" in last, "the last line is that of the last field"
        folder.journal.write_bytes(b"".join(complete) + last[:9])
        return True

    assert run_trials(folder, SEARCH, truncate_last_line) == uninterrupted


def test_an_append_that_fails_half_way_leaves_the_study_intact(folder: SearchFolder) -> None:
    """A full disk leaves a part of a line. The search may leave the trial unfinished and start another one."""
    study = study_in(folder)
    trial = study.start_trial()
    before = folder.journal.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            study.report_value(trial.number, 1, 0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert folder.journal.read_bytes() == before
    other = study.start_trial()
    study.finish_trial(other.number, "done", [1.0])
    assert [one.state for one in folder.trials()] == ["running", "done"] == [one.state for one in study.trials()]


@pytest.mark.parametrize("field", ["method.alpha", "method.temperature"])
def test_configurations_lie_in_their_space_and_differ(uninterrupted: list[SearchTrial], field: str) -> None:
    values = [trial.configuration[field] for trial in uninterrupted]
    assert all(SEARCH.space[field].holds(value) for value in values)
    assert len(set(values)) == len(values)


def test_tpe_comes_closer_to_the_optimum_than_random_search(tmp_path: Path) -> None:
    def mean_distance(sampler: Any) -> float:
        trials = run_trials(SearchFolder(tmp_path / sampler), replace(SEARCH, sampler=sampler, trials=50))
        return sum(abs(trial.configuration["method.alpha"] - 0.3) for trial in trials[30:]) / 20

    assert mean_distance("tpe") < 0.7 * mean_distance("random")


def test_default_configuration_is_tried_first(folder: SearchFolder) -> None:
    assert study_in(folder).start_trial().configuration == DEFAULT_CONFIGURATION


def test_default_configuration_outside_the_space_is_not_tried(folder: SearchFolder) -> None:
    assert (
        study_in(folder, default_configuration=DEFAULT_CONFIGURATION | {"method.temperature": 40.0})
        .start_trial()
        .configuration
        != DEFAULT_CONFIGURATION
    )


def test_grid_is_tried_in_order_and_resumed_at_its_next_configuration(folder: SearchFolder) -> None:
    search = Search({"method.alpha": choice(0.1, 0.9), "student.batch_size": integer(25, 27)}, sampler="grid")
    first = study_in(folder, search, {"method.alpha": 0.5, "student.batch_size": 50})
    configurations = [dict(first.start_trial().configuration) for _ in range(2)]
    resumed = study_in(folder, search)
    configurations += [dict(resumed.start_trial().configuration) for _ in range(4)]
    assert configurations == search.grid


@pytest.mark.parametrize("sampler", ["grid", "tpe"])
def test_a_kill_while_trials_are_enqueued_loses_none_of_them(tmp_path: Path, sampler: Any) -> None:
    """Each write appends a line to the journal, so a kill leaves the first lines, and perhaps a part of the next."""
    space = {"method.alpha": choice(0.1, 0.9), "student.batch_size": integer(25, 27)}
    search, default = Search(space, sampler=sampler), {"method.alpha": 0.9, "student.batch_size": 26}
    expected = search.grid if sampler == "grid" else [default]
    study_in(complete := SearchFolder(tmp_path / "complete"), search, default)
    lines = complete.journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > len(expected), "a line for each enqueued trial, after those that make the study"
    for num_lines in range(len(lines)):
        folder = SearchFolder(tmp_path / f"killed-{num_lines}")
        folder.path.mkdir()
        folder.journal.write_bytes(b"".join(lines[:num_lines]) + lines[num_lines][:9])
        study = study_in(folder, search, default)
        assert [study.start_trial().configuration for _ in expected] == expected
        assert len(study.trials()) == len(expected)


def test_fields_of_every_kind_are_read_back_as_they_were_sampled(folder: SearchFolder) -> None:
    space = {
        "method": choice("kd", "feature_kd"),
        "student.batch_size": integer(8, 64, log=True),
        "student.compile": choice(True, False),
    }
    study = study_in(
        folder, Search(space, scheduler="none", metric=("val_top1", "parameters")), dict.fromkeys(space, 0)
    )
    started = study.start_trial()
    study.finish_trial(started.number, "done", [81.5, 1000.0])
    (trial,) = folder.trials()
    assert (trial.configuration, trial.values, trial.state) == (started.configuration, (81.5, 1000.0), "done")
    assert {name: type(value) for name, value in trial.configuration.items()} == {
        "method": str,
        "student.batch_size": int,
        "student.compile": bool,
    }


def test_failed_trial_keeps_its_reason_and_counts_as_ended(folder: SearchFolder) -> None:
    study = study_in(folder)
    study.finish_trial(study.start_trial().number, "failed", reason="loss is NaN")
    (trial,) = folder.trials()
    assert (trial.state, trial.reason, trial.is_ended, trial.values) == ("failed", "loss is NaN", True, ())


def test_pruned_trial_is_pruned_in_optuna_and_has_intermediate_values_only(folder: SearchFolder) -> None:
    study = study_in(folder)
    number = study.start_trial().number
    study.report_value(number, 1, 40.0)
    study.report_value(number, 2, 45.0)
    study.finish_trial(number, "pruned", [45.0])
    optuna_study = optuna.load_study(
        study_name="search",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.journal))),
    )
    assert optuna_study.trials[0].state is optuna.trial.TrialState.PRUNED
    (trial,) = folder.trials()
    assert (trial.state, trial.values, trial.intermediate_values) == ("pruned", (), {1: 40.0, 2: 45.0})


def test_search_is_locked_for_a_second_command(folder: SearchFolder) -> None:
    message = f"the search in {folder.path} is locked by another process; wait for it to end, or stop it"
    with folder.lock(), pytest.raises(RunFailed, match=re.escape(message)):
        SearchFolder(folder.path).lock()


def test_reading_a_search_that_has_not_started_creates_no_folder(folder: SearchFolder) -> None:
    assert folder.trials() == [] and folder.record() is None
    assert not folder.path.exists()


def done_trial(number: int, *values: float) -> SearchTrial:
    return SearchTrial(number, "done", {}, values, {}, "")


def test_pipe_in_place_of_the_journal_is_damage_and_not_waited_for(folder: SearchFolder) -> None:
    folder.path.mkdir(parents=True)
    os.mkfifo(folder.journal)
    for read in (folder.trials, lambda: study_in(folder)):
        with pytest.raises(DamagedFile, match=r"study\.journal' is damaged: it is not a regular file; move"):
            read()


def test_only_done_trials_are_among_the_best() -> None:
    others = [state for state in STATES.values() if state != "done"]
    trials = [SearchTrial(number, state, {}, (), {1: 99.0}, "") for number, state in enumerate(others)]
    trials += [done_trial(len(others), 80.0), done_trial(len(others) + 1, 81.0)]
    assert [trial.number for trial in best_first(trials, SEARCH)] == [len(others) + 1, len(others)]


def test_every_state_of_optuna_has_a_name() -> None:
    assert {*STATES} == {*optuna.trial.TrialState}
    assert {*END_STATES} == {STATES[state] for state in optuna.trial.TrialState if state.is_finished()}


def test_trials_are_ordered_by_one_metric_and_ties_by_number() -> None:
    trials = [done_trial(0, 80.0), done_trial(1, 82.0), done_trial(2, 82.0)]
    assert [trial.number for trial in best_first(trials, SEARCH)] == [1, 2, 0]
    loss = replace(SEARCH, metric="val_loss")
    assert [trial.number for trial in best_first(trials, loss)] == [0, 1, 2]


def test_best_trials_of_two_metrics_are_the_pareto_front() -> None:
    search = replace(SEARCH, metric=("val_top1", "parameters"), scheduler="none")
    trials = [
        done_trial(0, 80.0, 100),
        done_trial(1, 82.0, 300),
        done_trial(2, 81.0, 400),
        done_trial(3, 70.0, 50),
        done_trial(4, 80.0, 100),
    ]
    assert [trial.number for trial in best_first(trials, search)] == [1, 0, 4, 3]
