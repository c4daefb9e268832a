"""A search on Ray: trials by the one loop, the best confirmed on fresh seeds, the test split read for it alone."""

import json
from pathlib import Path

import pytest
from search_runs import (
    SPACE,
    TRIALS,
    Ended,
    changed,
    confirmed_in,
    folder_in,
    run_search,
    trained_without_ray,
    trials_in,
)
from small_runs import curve

from raykd.spec.search import loguniform
from raykd.store.run_folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.xdist_group("ray")]


def test_search_ends_with_the_confirmed_configuration_in_the_report(searched: tuple[Path, Ended]) -> None:
    results, ended = searched
    assert (ended.exit_code, ended.error) == (0, "")
    trials = trials_in(results)
    assert [trial.is_ended for trial in trials] == [True] * TRIALS
    assert trials[0].configuration == {"method.alpha": 0.5, "method.temperature": 4.0}, "the default is the first trial"
    assert {"done", "pruned"} == {trial.state for trial in trials}
    confirmed = confirmed_in(results)
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


def test_trial_is_the_run_with_its_configuration_as_far_as_it_came(results: Path, tmp_path: Path) -> None:
    trials = trials_in(results)
    for state in ("done", "pruned"):
        trial = next(trial for trial in trials if trial.state == state)
        trained = folder_in(results).run(trial.number)
        without_ray = trained_without_ray(trial.configuration, results, tmp_path)
        expected = [row["best_val_top1"] for row in running_best(without_ray)][: len(trial.intermediate_values)]
        assert list(trial.intermediate_values.values()) == expected
        if state == "done":
            assert trained.best.read_bytes() == without_ray.best.read_bytes()
            assert curve(trained) == curve(without_ray)
            assert trial.values == (without_ray.require_record().best.val_top1,)


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

    monkeypatch.setattr("raykd.orchestration.run_search.ray_session", refuse)
    monkeypatch.setattr("raykd.orchestration.run_experiments.ray_session", refuse)
    before = trials_in(results)
    weights = {
        path: path.stat().st_mtime_ns for path in results.rglob("*.safetensors") if "models_saved" not in str(path)
    }
    assert run_search(results).exit_code == 0
    assert trials_in(results) == before
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


def test_more_trials_resume_the_same_search_and_print_nothing_past_its_console(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = trials_in(results)
    capfd.readouterr()
    assert run_search(results, changed(trials=TRIALS + 2)).exit_code == 0
    assert capfd.readouterr() == ("", ""), "Ray, Tune or Optuna printed something"
    assert trials_in(results)[:TRIALS] == before
    assert len(trials_in(results)) == TRIALS + 2


def test_another_search_of_that_name_is_refused_with_the_difference(results: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    ended = run_search(results, changed(space=SPACE | {"method.temperature": loguniform(1, 10)}))
    assert ended.exit_code == 2
    assert "search.space.method.temperature.high was 20.0, and is 10.0" in ended.error
    assert "--set search.name=NAME" in ended.error
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before
