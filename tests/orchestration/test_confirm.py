"""Confirmation of a search: its candidates, their baselines, and failures that are results.

The tests write run folders like those of ended runs; nothing is trained and Ray is not started.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from search_runs import EXPERIMENT
from small_runs import recipe
from written_records import record_of

from raykd.config.codec import write_checked_json
from raykd.errors import ConfigError, RunFailed
from raykd.orchestration import confirm as confirmation
from raykd.orchestration.command import SearchCommand
from raykd.orchestration.confirm import Candidate, confirm, is_confirmed, make_candidates, winner_of
from raykd.orchestration.options import Options
from raykd.orchestration.run_queue import Job, JobStatus, State
from raykd.orchestration.runs_left import RunsLeft
from raykd.provenance import file_sha256
from raykd.spec.plan import Run
from raykd.spec.search import Search, choice, uniform
from raykd.store.records import Best
from raykd.store.run_store import RunStore
from raykd.store.study import SearchTrial

LR = "student.optimizer.lr"
ALPHAS = {"method.alpha": uniform(0.1, 0.9)}
RATES = {LR: choice(0.05, 0.2)}


def command(results: Path, space: Mapping[str, Any], confirm: int = 2) -> SearchCommand:
    """Return a search over `space` with two seeds; the default learning rate is 0.05, the default alpha 0.5."""
    search = Search(space=space, trials=2, sampler="random", scheduler="none", confirm=confirm)
    experiment = replace(EXPERIMENT, student=recipe(epochs=2), seeds=(0, 1), search=search)
    return SearchCommand(Options(results, Path("no-data-here")), Console(file=io.StringIO()), experiment)


def trials(*configurations: Mapping[str, Any]) -> list[SearchTrial]:
    return [
        SearchTrial(number, "done", configuration, (80.0,), {}, "")
        for number, configuration in enumerate(configurations)
    ]


class FakeRuns:
    """A replacement for the training. It ends each run with a configured result, and records the order of the runs."""

    def __init__(self, results: Path, tops: Mapping[str, Sequence[float | str]]) -> None:
        """tops: for 'stage learning-rate', the validation top-1 of each seed, or the failure with which it ends."""
        self._store, self._tops = RunStore(results), tops
        self.trained: list[list[str]] = []
        self.last: list[Run] = []

    def run_to_completion(self, left: RunsLeft, *_: Any) -> list[JobStatus]:
        statuses = [self._train(run) for run in left.runs if self._store.status(run) != "done"]
        self.trained.append([self._key(run) for run in left.runs])
        assert left.choose is not None
        self.last = list(left.choose(statuses))
        new = [run for run in self.last if run.stage == "baseline" and self._store.status(run) == "not started"]
        self.trained.append([self._key(run) for run in new])
        return statuses + [self._train(run) for run in new]

    def _key(self, run: Run) -> str:
        return f"{run.stage} {run.recipe.optimizer.lr:g}"  # type: ignore[union-attr]

    def _train(self, run: Run) -> JobStatus:
        result = self._tops[self._key(run)][run.seed]
        folder = self._store.folder(run)
        if isinstance(result, str):
            folder.write_record(record_of(run, status="failed", reason=f"{result}!", failure=result))
            return JobStatus(Job("train", run), State.FAILED, reason=f"{result}!")
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.best.write_bytes(b"weights")
        folder.write_record(record_of(run, best=Best(1, result), weights_sha256=file_sha256(folder.best)))
        return JobStatus(Job("train", run), State.DONE)


@pytest.fixture
def search_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that confirms a search with results `tops`, and returns the fake runs and confirmed.json."""

    def confirmed(tops: Mapping[str, Sequence[float | str]]) -> tuple[FakeRuns, dict[str, Any]]:
        search_command, runs = command(tmp_path, RATES), FakeRuns(tmp_path, tops)
        monkeypatch.setattr(confirmation, "run_to_completion", runs.run_to_completion)
        confirm(search_command, trials({LR: 0.2}, {LR: 0.05}), None, lambda: False)
        return runs, json.loads(search_command.folder.confirmed.read_text())

    return confirmed


def test_equal_configurations_of_several_trials_are_one_candidate_and_the_next_best_follows(tmp_path: Path) -> None:
    alphas = (0.7, 0.7, 0.5, 0.7, 0.3, 0.2)
    candidates = make_candidates(command(tmp_path, ALPHAS), trials(*({"method.alpha": alpha} for alpha in alphas)))
    assert [candidate.trial for candidate in candidates] == [None, 0, 4]
    assert [candidate.configuration["method.alpha"] for candidate in candidates] == [0.5, 0.7, 0.3]


def test_configurations_that_train_the_same_runs_are_one_candidate(tmp_path: Path) -> None:
    """'dkd' and 'DKD' name one method; 'kd' is the default."""
    search_command = command(tmp_path, {"method": choice("kd", "KD", "dkd", "DKD", "dist")}, confirm=3)
    methods = ("DKD", "KD", "dkd", "dist", "kd")
    candidates = make_candidates(search_command, trials(*({"method": method} for method in methods)))
    assert [candidate.configuration["method"] for candidate in candidates] == ["kd", "DKD", "dist"]


def test_the_baseline_has_the_winners_recipe_and_no_other_is_trained(search_confirmed) -> None:
    runs, confirmed = search_confirmed(
        {"distilled 0.05": [60, 61], "distilled 0.2": [84, 85], "baseline 0.2": [82, 83.2]}
    )
    assert runs.trained == [["distilled 0.05"] * 2 + ["distilled 0.2"] * 2, ["baseline 0.2"] * 2]
    assert confirmed["baseline"]["configuration"] == {LR: 0.2} and confirmed["baseline"]["values"] == [82, 83.2]
    assert confirmed["winner"] == 1 and confirmed["candidates"][1]["configuration"] == {LR: 0.2}
    planned = {run.name for run in runs.last}
    assert {*confirmed["baseline"]["runs"], *confirmed["candidates"][1]["runs"]} < planned, "all are tested"


def test_baselines_that_all_candidates_share_are_trained_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_command = command(tmp_path, ALPHAS)
    runs = FakeRuns(tmp_path, {"distilled 0.05": [60, 61], "baseline 0.05": [50, 51]})
    monkeypatch.setattr(confirmation, "run_to_completion", runs.run_to_completion)
    confirm(search_command, trials({"method.alpha": 0.7}), None, lambda: False)
    assert runs.trained == [["baseline 0.05"] * 2 + ["distilled 0.05"] * 4, []]


def test_a_configuration_that_diverges_with_one_of_the_seeds_cannot_win_and_ends_nothing(
    search_confirmed, tmp_path: Path
) -> None:
    _, confirmed = search_confirmed(
        {"distilled 0.05": [60, 61], "distilled 0.2": [99, "diverged"], "baseline 0.05": [50, 51]}
    )
    default, other = confirmed["candidates"]
    assert (confirmed["winner"], default["values"], default["failed"]) == (0, [60, 61], None)
    assert (other["values"], other["failed"]) == ([], "seed 1: diverged!")
    assert confirmed["baseline"]["configuration"] == {LR: 0.05}
    search_command = command(tmp_path, RATES)
    assert is_confirmed(search_command), "the failure is a result and is not trained again"


def test_a_baseline_that_diverges_is_recorded(search_confirmed) -> None:
    _, confirmed = search_confirmed(
        {"distilled 0.05": [60, 61], "distilled 0.2": [84, 85], "baseline 0.2": [82, "diverged"]}
    )
    assert confirmed["baseline"]["failed"] == "seed 1: diverged!" and confirmed["baseline"]["values"] == []


def test_failure_outside_of_the_configuration_confirms_nothing(search_confirmed, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="1 of 1 job failed"):
        search_confirmed({"distilled 0.05": [60, 61], "distilled 0.2": [99, "outside"], "baseline 0.05": [50, 51]})
    search_command = command(tmp_path, RATES)
    assert not search_command.folder.confirmed.exists() and not is_confirmed(search_command)
    assert not list(search_command.folder.path.parent.glob("baseline-*")), "another configuration may win yet"


def test_command_fails_with_the_reason_if_all_configurations_diverge(search_confirmed) -> None:
    every = {"distilled 0.05": ["diverged"] * 2, "distilled 0.2": ["diverged"] * 2}
    with pytest.raises(
        RunFailed,
        match=r"none of 2 configurations could be trained; the default configuration failed with: seed 0: diverged!",
    ):
        search_confirmed(every)


@pytest.mark.parametrize("stage", ["distilled", "baseline"])
def test_a_finished_run_whose_weights_are_gone_is_named_and_not_trained_again(
    search_confirmed, tmp_path: Path, stage: str
) -> None:
    tops = {"distilled 0.05": [60, 61], "distilled 0.2": [84, 85], "baseline 0.2": [82, 83]}
    search_confirmed(tops)
    folder = next(tmp_path.glob(f"*/{stage}-*"))
    (folder / "best.safetensors").unlink()
    assert not is_confirmed(command(tmp_path, RATES))
    with pytest.raises(ConfigError, match=rf"{folder.name}/best\.safetensors' is damaged: it is missing.*move the"):
        search_confirmed({})


@pytest.mark.parametrize("damage", ["candidates", "baseline", "winner"])
def test_a_damaged_confirmation_is_refused_in_one_line(search_confirmed, tmp_path: Path, damage: str) -> None:
    search_confirmed({"distilled 0.05": [60, 61], "distilled 0.2": [84, 85], "baseline 0.2": [82, 83]})
    search_command = command(tmp_path, RATES)
    path = search_command.folder.confirmed
    write_checked_json(path, {**json.loads(path.read_text()), damage: [7]})
    with pytest.raises(ConfigError, match=r"confirmed\.json' is damaged: .* remove it and rerun") as caught:
        is_confirmed(search_command)
        winner_of(search_command.folder)
    assert "\n" not in str(caught.value)


def test_candidates_have_their_runs_and_baselines(tmp_path: Path) -> None:
    (default, *_) = make_candidates(command(tmp_path, RATES), [])
    assert isinstance(default, Candidate)
    assert [run.stage for run in (*default.runs, *default.baselines)] == ["distilled"] * 2 + ["baseline"] * 2
