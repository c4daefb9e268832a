"""A search on Ray: trials by the one loop, the best confirmed on fresh seeds, the test set read for that one alone."""

import contextlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from lab_runs import NO_DATA, curve, train_directly
from rich.console import Console
from small_runs import digits, experiment, recipe

from raykd.cli import guarded
from raykd.experiment import Experiment, Workers
from raykd.orchestration.lab import Options
from raykd.orchestration.tune_job import search
from raykd.run_folder import RunFolder
from raykd.runs import RunStore
from raykd.search import Search, loguniform, uniform
from raykd.study import SearchFolder, Trial

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

TRIALS, EPOCHS = 6, 9
SPACE = {"method.alpha": uniform(0.1, 0.9), "method.temperature": loguniform(1, 20)}
EXPERIMENT = experiment(
    student=recipe(epochs=EPOCHS),
    workers=Workers(cpus=1),
    seeds=(0, 1),
    search=Search(space=SPACE, trials=TRIALS, grace_epochs=1, confirm=1),
)


@dataclass(frozen=True)
class Ended:
    """How a search ended, and what it printed through its console."""

    exit_code: int
    lines: list[str]
    error: str


def run_search(results: Path, asked: Experiment = EXPERIMENT) -> Ended:
    log, error = io.StringIO(), io.StringIO()
    options = Options(results, NO_DATA)
    with contextlib.redirect_stderr(error):
        code = guarded(lambda: search(asked, options, Console(file=log, width=80)))
    return Ended(code, log.getvalue().splitlines(), error.getvalue())


def changed(**changes: Any) -> Experiment:
    """The experiment with another search."""
    assert EXPERIMENT.search is not None
    return replace(EXPERIMENT, search=replace(EXPERIMENT.search, **changes))


def trials_of(results: Path) -> list[Trial]:
    return SearchFolder(results / "small" / "search").trials()


def directly(setting: Mapping[str, Any], results: Path, elsewhere: Path) -> RunFolder:
    """The run of a trial with `setting`, trained by the loop alone under the search's table."""
    from raykd.orchestration.trial import run_of  # ray comes with it, which no test imports before its session

    assert EXPERIMENT.search is not None
    run = run_of(EXPERIMENT.with_setting(setting), EXPERIMENT.search, digits(), Options(results, NO_DATA))
    return train_directly(run, elsewhere, tables=RunStore(results).tables)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


def test_search_ends_with_the_confirmed_setting_in_the_report(
    cluster: str, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run_search(results)
    assert (ended.exit_code, ended.error) == (0, "")
    assert capfd.readouterr() == ("", ""), "Ray, Tune or Optuna printed something"
    trials = trials_of(results)
    assert [trial.is_ended for trial in trials] == [True] * TRIALS
    assert trials[0].setting == {"method.alpha": 0.5, "method.temperature": 4.0}, "the experiment's own is the first"
    assert {"done", "stopped"} == {trial.state for trial in trials}
    confirmed = json.loads((results / "small" / "search" / "confirmed.json").read_text())
    winner = confirmed["candidates"][confirmed["winner"]]
    assert len(confirmed["candidates"]) == 2 and len(winner["values"]) == 2
    assert sum(winner["values"]) == max(sum(row["values"]) for row in confirmed["candidates"])
    planned = json.loads((results / "small" / "plan.json").read_text())["stages"]
    assert planned["distilled"] == winner["runs"]
    report = json.loads((results / "report.json").read_text())
    assert None not in report["small"].values()


def test_test_set_is_read_for_the_report_alone(results: Path) -> None:
    planned = json.loads((results / "small" / "plan.json").read_text())["stages"]
    tested = {path.parent.name for path in results.rglob("test.json")}
    assert tested == {name for names in planned.values() for name in names}
    assert len(list((results / "small").glob("distilled-*"))) > len(planned["distilled"]), "no candidate lost"


def test_trial_is_the_run_with_its_setting_as_far_as_it_came(results: Path, tmp_path: Path) -> None:
    trials = trials_of(results)
    for state in ("done", "stopped"):
        trial = next(trial for trial in trials if trial.state == state)
        found, wanted = (
            SearchFolder(results / "small" / "search").run(trial.number),
            directly(trial.setting, results, tmp_path),
        )
        heard = [row["best_val_top1"] for row in running_best(wanted)][: len(trial.heard)]
        assert list(trial.heard.values()) == heard
        if state == "done":
            assert found.best.read_bytes() == wanted.best.read_bytes()
            assert curve(found) == curve(wanted)
            assert trial.values == (wanted.record()["best"]["val_top1"],)


def running_best(folder: RunFolder) -> list[dict[str, float]]:
    """The best validation accuracy up to each epoch."""
    best, rows = -1.0, []
    for row in folder.history():
        best = max(best, row["val_top1"])
        rows.append({"best_val_top1": best})
    return rows


def test_search_that_is_done_starts_no_ray_and_changes_nothing(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("raykd.orchestration.tune_job.ray_session", refuse)
    monkeypatch.setattr("raykd.orchestration.lab.ray_session", refuse)
    before = trials_of(results)
    weights = {
        path: path.stat().st_mtime_ns for path in results.rglob("*.safetensors") if "models_saved" not in str(path)
    }
    assert run_search(results).exit_code == 0
    assert trials_of(results) == before
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


def test_more_trials_go_on_with_the_same_search(cluster: str, results: Path) -> None:
    before = trials_of(results)
    assert run_search(results, changed(trials=TRIALS + 2)).exit_code == 0
    assert trials_of(results)[:TRIALS] == before
    assert len(trials_of(results)) == TRIALS + 2


def test_another_search_of_that_name_is_refused_with_the_difference(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    ended = run_search(results, changed(space=SPACE | {"method.temperature": loguniform(1, 10)}))
    assert ended.exit_code == 2
    assert "search.space.method.temperature.high was 20.0, and is 10.0" in ended.error
    assert "--set search.name=NAME" in ended.error
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before
