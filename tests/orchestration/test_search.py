"""A search on Ray: each setting trained by the one loop, the best chosen by validation, and nothing else printed."""

import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from lab_runs import NO_DATA, assert_same_bits, train_directly
from rich.console import Console
from small_runs import NO_WEIGHTS, digits, experiment

from raykd.config import override
from raykd.experiment import Search, Workers, loguniform, uniform
from raykd.orchestration.lab import Options
from raykd.orchestration.trial import METRIC
from raykd.orchestration.tune_job import search
from raykd.plan import Run, make_plan
from raykd.run_folder import RunFolder
from raykd.runs import RunStore

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SPACE = {"method.alpha": uniform(0.1, 0.9), "method.temperature": loguniform(1, 20)}
TRIALS, EPOCHS = 3, 3
EXPERIMENT = experiment(workers=Workers(cpus=1), search=Search(space=SPACE, trials=TRIALS, grace_epochs=EPOCHS))


@dataclass(frozen=True)
class Found:
    """What a search left, and what it printed through its console and past it."""

    results: Path
    trials: list[dict]
    best: dict
    lines: list[str]
    past_console: str


def run_search(results: Path, capture: pytest.CaptureFixture[str]) -> Found:
    log = io.StringIO()
    capture.readouterr()
    search(EXPERIMENT, Options(results, NO_DATA), Console(file=log, width=80))
    out, err = capture.readouterr()
    folder = results / "small" / "search"
    trials, best = (json.loads((folder / name).read_text()) for name in ("trials.json", "best.json"))
    return Found(results, trials, best, log.getvalue().splitlines(), out + err)


def run_of(setting: dict[str, float]) -> Run:
    """The run that a trial with `setting` makes."""
    made = replace(EXPERIMENT, search=None)
    for path, value in setting.items():
        made = override(made, path, repr(value))
    return next(run for run in make_plan(made, digits(), NO_WEIGHTS).runs if run.stage == "distilled")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


def test_search_finds_the_best_by_validation(cluster: str, results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = run_search(results, capfd)
    assert len(found.trials) == TRIALS
    assert len({tuple(trial["setting"].values()) for trial in found.trials}) == TRIALS
    assert [trial[METRIC] for trial in found.trials] == sorted((t[METRIC] for t in found.trials), reverse=True)
    assert found.best == found.trials[0]
    for trial in found.trials:
        assert 0.1 <= trial["setting"]["method.alpha"] <= 0.9 and 1 <= trial["setting"]["method.temperature"] <= 20
        assert trial["epochs"] == EPOCHS
    flags = " ".join(f"--set {path}={value!r}" for path, value in found.best["setting"].items())
    assert f"best on validation, {found.best[METRIC]:.2f} %: {flags}" in found.lines
    assert found.past_console == "", "Ray, Tune or Optuna printed something"
    assert not any(re.search("experiment|trial id|status", line, re.IGNORECASE) for line in found.lines)


def test_no_trial_reads_the_test_set(results: Path) -> None:
    evaluated = [path.parent.name.split("-")[0] for path in results.rglob("test.json")]
    assert evaluated == ["teacher"], (
        "the teacher is the plan's own run; trials are chosen among, and stay on validation"
    )


def test_trial_gives_what_a_run_with_its_setting_gives(results: Path, tmp_path: Path) -> None:
    trials = json.loads((results / "small" / "search" / "trials.json").read_text())
    for trial in trials:
        directly = train_directly(run_of(trial["setting"]), tmp_path, tables=RunStore(results).tables)
        assert trial[METRIC] == directly.record()["best"]["val_top1"]


def test_search_that_was_done_before_gives_the_same_again(
    cluster: str, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = results / "small" / "search"
    before = json.loads((folder / "trials.json").read_text())
    for trial in before:
        run = run_of(trial["setting"])
        (tuned,) = results.glob(f"small/search-*/runs/{run.name}")
        assert RunFolder(tuned).status() == "done", "its last epoch was reached, and its weights are not there"
        directly = train_directly(run, tuned.parent.parent / "again", tables=RunStore(results).tables)
        assert_same_bits(directly, RunFolder(tuned))
    again = run_search(results, capfd)
    assert again.best[METRIC] >= before[0][METRIC]
    assert len(again.trials) == TRIALS
    assert "1 run, 1 of them done before" in again.lines[0]
