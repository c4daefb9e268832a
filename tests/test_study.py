"""A search's study: one that is killed at any write and taken up again draws what it would have drawn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from raykd.errors import RunFailed
from raykd.spec.search import Search, choice, integer, loguniform, uniform
from raykd.store.study import SearchFolder, Study, Trial, best_first

SEARCH = Search({"method.alpha": uniform(0, 1), "method.temperature": loguniform(1, 20)}, trials=20)
DEFAULT_SETTING = {"method.alpha": 0.5, "method.temperature": 4.0}
NO_INTERRUPTION: Callable[[SearchFolder, int], bool] = lambda folder, number: False  # noqa: E731


def study_in(folder: SearchFolder, search: Search = SEARCH, default_setting: dict[str, Any] = DEFAULT_SETTING) -> Study:
    folder.path.mkdir(parents=True, exist_ok=True)
    return Study(folder, search, default_setting)


def run_out(
    folder: SearchFolder, search: Search, interrupt: Callable[[SearchFolder, int], bool] = NO_INTERRUPTION
) -> list[Trial]:
    """All trials of `search`, each told a value of its setting; every third is stopped early. A fresh Study whenever
    `interrupt`, called after each draw, says that it cut the command off.
    """
    study = study_in(folder, search)
    for _ in range(search.trials):
        trial = study.begin()
        if interrupt(folder, trial.number):
            study = study_in(folder, search)
            (unfinished,) = (trial for trial in study.trials() if trial.state == "running")
            trial = study.resume_trial(unfinished.number)
        value = -((trial.setting["method.alpha"] - 0.3) ** 2)
        study.report_value(trial.number, 1, value)
        study.end(trial.number, "pruned" if trial.number % 3 == 2 else "done", [value])
    return folder.trials()


@pytest.fixture
def folder(tmp_path: Path) -> SearchFolder:
    return SearchFolder(tmp_path / "small" / "search")


@pytest.fixture(scope="module")
def in_peace(tmp_path_factory: pytest.TempPathFactory) -> list[Trial]:
    return run_out(SearchFolder(tmp_path_factory.mktemp("peace")), SEARCH)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_search_that_is_taken_up_draws_the_same(tmp_path: Path, sampler: Any) -> None:
    search = replace(SEARCH, sampler=sampler)
    wanted = run_out(SearchFolder(tmp_path / "peace"), search)
    assert run_out(SearchFolder(tmp_path / "cut"), search, lambda _, number: number in (0, 7, 15)) == wanted


def test_setting_half_drawn_when_killed_is_drawn_to_the_end(folder: SearchFolder, in_peace: list[Trial]) -> None:
    def tear(folder: SearchFolder, number: int) -> bool:
        if number not in (4, 16):
            return False
        *whole, torn = folder.journal.read_bytes().splitlines(keepends=True)
        assert b"method.temperature" in torn, "the last line is the last field's"
        folder.journal.write_bytes(b"".join(whole) + torn[:9])
        return True

    assert run_out(folder, SEARCH, tear) == in_peace


@pytest.mark.parametrize("field", ["method.alpha", "method.temperature"])
def test_settings_lie_in_their_space_and_differ(in_peace: list[Trial], field: str) -> None:
    values = [trial.setting[field] for trial in in_peace]
    assert all(SEARCH.space[field].holds(value) for value in values)
    assert len(set(values)) == len(values)


def test_search_learns_from_what_it_heard(tmp_path: Path) -> None:
    def off_at_the_end(sampler: Any) -> float:
        trials = run_out(SearchFolder(tmp_path / sampler), replace(SEARCH, sampler=sampler, trials=50))
        return sum(abs(trial.setting["method.alpha"] - 0.3) for trial in trials[30:]) / 20

    assert off_at_the_end("tpe") < 0.7 * off_at_the_end("random")


def test_default_setting_is_tried_first(folder: SearchFolder) -> None:
    assert study_in(folder).begin().setting == DEFAULT_SETTING


def test_default_setting_outside_the_space_is_not_tried(folder: SearchFolder) -> None:
    assert (
        study_in(folder, default_setting=DEFAULT_SETTING | {"method.temperature": 40.0}).begin().setting
        != DEFAULT_SETTING
    )


def test_grid_is_tried_in_order_and_taken_up_where_it_stood(folder: SearchFolder) -> None:
    search = Search({"method.alpha": choice(0.1, 0.9), "student.batch_size": integer(25, 27)}, sampler="grid")
    first = study_in(folder, search, {"method.alpha": 0.5, "student.batch_size": 50})
    drawn = [dict(first.begin().setting) for _ in range(2)]
    again = study_in(folder, search)
    drawn += [dict(again.begin().setting) for _ in range(4)]
    assert drawn == search.grid


def test_fields_of_every_kind_are_read_back_as_they_were_drawn(folder: SearchFolder) -> None:
    space = {
        "method": choice("kd", "feature_kd"),
        "student.batch_size": integer(8, 64, log=True),
        "student.compile": choice(True, False),
    }
    study = study_in(
        folder, Search(space, scheduler="none", metric=("val_top1", "parameters")), dict.fromkeys(space, 0)
    )
    drawn = study.begin()
    study.end(drawn.number, "done", [81.5, 1000.0])
    (found,) = folder.trials()
    assert (found.setting, found.values, found.state) == (drawn.setting, (81.5, 1000.0), "done")
    assert {name: type(value) for name, value in found.setting.items()} == {
        "method": str,
        "student.batch_size": int,
        "student.compile": bool,
    }


def test_failed_trial_keeps_its_reason_and_counts_as_ended(folder: SearchFolder) -> None:
    study = study_in(folder)
    study.end(study.begin().number, "failed", reason="loss is NaN")
    (trial,) = folder.trials()
    assert (trial.state, trial.reason, trial.is_ended, trial.values) == ("failed", "loss is NaN", True, ())


def test_stopped_trial_is_a_pruned_one_of_optuna_with_its_last_value(folder: SearchFolder) -> None:
    study = study_in(folder)
    number = study.begin().number
    study.report_value(number, 1, 40.0)
    study.report_value(number, 2, 45.0)
    study.end(number, "pruned", [45.0])
    optunas = optuna.load_study(
        study_name="search",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder.journal))),
    )
    assert optunas.trials[0].state is optuna.trial.TrialState.PRUNED
    assert folder.trials()[0].intermediate_values == {1: 40.0, 2: 45.0}


def test_second_command_is_kept_out(folder: SearchFolder) -> None:
    with folder.lock():
        assert folder.is_held()
        with pytest.raises(RunFailed, match="another command is at the search"):
            SearchFolder(folder.path).lock()
    assert not folder.is_held()


def test_reading_a_search_that_never_began_makes_nothing(folder: SearchFolder) -> None:
    assert folder.trials() == [] and folder.record() is None
    assert not folder.path.exists()


def ended(number: int, *values: float) -> Trial:
    return Trial(number, "done", {}, values, {}, "")


def test_best_of_one_metric_comes_first_and_of_equals_the_earlier() -> None:
    trials = [ended(0, 80.0), ended(1, 82.0), ended(2, 82.0)]
    assert [trial.number for trial in best_first(trials, SEARCH)] == [1, 2, 0]
    loss = replace(SEARCH, metric="val_loss")
    assert [trial.number for trial in best_first(trials, loss)] == [0, 1, 2]


def test_best_of_two_metrics_are_those_that_none_beats_in_both() -> None:
    search = replace(SEARCH, metric=("val_top1", "parameters"), scheduler="none")
    trials = [ended(0, 80.0, 100), ended(1, 82.0, 300), ended(2, 81.0, 400), ended(3, 70.0, 50), ended(4, 80.0, 100)]
    assert [trial.number for trial in best_first(trials, search)] == [1, 0, 4, 3]
